import io

import matplotlib.figure
import numpy as np

from transportjax.apps.table_plots import sampling_figure


def test_all_of_few_whole_numbers_are_shown(monkeypatch):
    kept = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *args, **options: (
            kept.append(self),
            save(self, *args, **options),
        ),
    )
    rng = np.random.default_rng(0)
    data = np.stack([rng.integers(0, 2, 400), rng.integers(18, 90, 400)], axis=1)
    sampling_figure(io.BytesIO(), data.astype(float), data.astype(float))
    flags, _, pair, ages = kept[0].axes
    dots = pair.collections[0].get_offsets()
    low, high = pair.get_xlim()
    assert low < dots[:, 0].min() < -0.2
    assert 1.2 < dots[:, 0].max() < high
    np.testing.assert_array_equal(flags.patches[0].get_data().edges, [-0.5, 0.5, 1.5])
    # each bar has as many whole numbers as the next
    edges = ages.patches[0].get_data().edges
    np.testing.assert_array_equal(np.diff(edges), 2)
    assert np.all(edges % 1 == 0.5)
