import numpy as np
import pytest
from clips import flickering

from transportjax.apps.frame_folders import (
    folder_frames,
    frame_files,
    rewrite_folder,
)
from transportjax.apps.images import (
    Metadata,
    Picture,
    PictureError,
    read_picture,
    write_picture,
)


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, pixels in enumerate(flickering(12)):
        write_picture(folder / f"shot{number}.png", Picture(pixels))
    (folder / "notes.txt").write_text("no frame")
    (folder / ".hidden.png").write_text("no frame")
    (folder / "more").mkdir()
    return folder


def test_frames_are_in_the_order_of_their_numbers(frames):
    names = [path.name for path in frame_files(frames)]
    assert names == [f"shot{number}.png" for number in range(12)]
    read = np.stack([picture.pixels for picture in folder_frames(frames)])
    np.testing.assert_array_equal(read, flickering(12))


def test_all_else_of_a_frame_is_kept(tmp_path):
    pytest.importorskip("imagecodecs")
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (8, 9, 3), np.uint16)
    alpha = rng.integers(0, 65536, (8, 9), np.uint16)
    meta = Metadata(dpi=(300.0, 300.0), text=(("Author", "somebody"),))
    write_picture(tmp_path / "in" / "a.png", Picture(pixels, alpha, meta))
    assert rewrite_folder(tmp_path / "in", tmp_path / "out", lambda i, p: p // 2) == ()
    read = read_picture(tmp_path / "out" / "a.png")
    np.testing.assert_array_equal(read.pixels, pixels // 2)
    np.testing.assert_array_equal(read.alpha, alpha)
    assert read.meta.text == meta.text


def test_a_folder_is_whole_or_not_there(frames, tmp_path):
    def interrupted(number, pixels):
        if number == 7:
            raise KeyboardInterrupt
        return pixels

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        rewrite_folder(frames, tmp_path / "out", interrupted)
    assert sorted(tmp_path.iterdir()) == before

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.png").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="not empty"):
        rewrite_folder(frames, tmp_path / "out", lambda i, p: p)
    rewrite_folder(frames, tmp_path / "out", lambda i, p: p, overwrite=True)
    assert (tmp_path / "out" / "precious.png").read_bytes() == b"precious"
    assert len(list((tmp_path / "out").iterdir())) == 13
    with pytest.raises(FileExistsError, match="is a file"):
        rewrite_folder(frames, frames / "notes.txt", lambda i, p: p)
    with pytest.raises(FileNotFoundError, match="no folder"):
        rewrite_folder(frames, tmp_path / "a" / "b", lambda i, p: p)


def test_frames_must_be_alike(frames, tmp_path):
    write_picture(
        frames / "shot5.png", Picture(np.zeros((9, 9, 3), np.uint8)), overwrite=True
    )
    with pytest.raises(PictureError, match=r"shot5.png: is 9 x 9 .* shot0.png is 64"):
        list(folder_frames(frames))
    (frames / "shot3.png").write_bytes(b"")
    with pytest.raises(PictureError, match=r"shot3.png: is empty"):
        list(folder_frames(frames))
    (tmp_path / "none").mkdir()
    with pytest.raises(PictureError, match="holds no frames"):
        frame_files(tmp_path / "none")
