"""ASC colour decisions: the map, the fit, the XML files."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, images

from transportjax.apps import CdlError, fit_cdl, read_cdl, write_cdl
from transportjax.maps import ColourDecision

GRADE = {
    "slope": [1.2, 0.9, 0.7],
    "offset": [-0.05, 0.02, 0.1],
    "power": [0.8, 1.1, 1.3],
    "saturation": 0.6,
}


@pytest.fixture
def grade():
    return ColourDecision.from_numbers(**GRADE)


def test_by_hand():
    plain = ColourDecision.from_numbers(slope=[2, 1, 1], power=[3, 1, 1])
    assert_close(plain(jnp.array([0.25, -1.0, 0.5])), [0.125, -1.0, 0.5])
    grey = ColourDecision.from_numbers(saturation=1e-6)
    assert_close(grey(jnp.array([1.0, 0.0, 0.0])), [0.2126] * 3, atol=2e-6)


@pytest.mark.parametrize("suffix", [".cdl", ".ccc", ".cc"])
def test_opencolorio_reads_our_files_and_gives_our_colours(grade, suffix, tmp_path):
    ocio = pytest.importorskip("PyOpenColorIO")
    path = tmp_path / f"grade{suffix}"
    write_cdl(path, grade)
    transform = ocio.FileTransform(str(path), "0", ocio.INTERP_LINEAR)
    transform.setCDLStyle(ocio.CDL_NO_CLAMP)
    config = ocio.Config.CreateRaw()
    processor = config.getProcessor(transform).getDefaultCPUProcessor()
    colours = np.array(jr.uniform(jr.key(0), (64, 3), minval=-0.2, maxval=1.4))
    expected = colours.copy()
    processor.applyRGB(expected)
    assert_close(images(grade, colours), expected, atol=2e-5)


@pytest.mark.parametrize("suffix", [".cdl", ".ccc", ".cc", ".CDL"])
def test_files_come_back(grade, suffix, tmp_path):
    path = tmp_path / f"grade{suffix}"
    write_cdl(path, grade, name="scene-1")
    for name, value in read_cdl(path).numbers.items():
        assert_close(value, GRADE[name])
    assert "scene-1" in path.read_text()


def test_a_file_of_another_program(tmp_path):
    """Other order, names, comments, and only a part of the numbers."""
    path = tmp_path / "other.cc"
    path.write_text(
        '<?xml version="1.0"?><!-- a comment -->\n'
        '<ColorCorrection id="x"><SATNode><Saturation> 0.5\n</Saturation></SATNode>'
        "<SOPNode><Description>warm</Description><Power>1 1\t2</Power></SOPNode>"
        "</ColorCorrection>"
    )
    numbers = read_cdl(path).numbers
    assert_close(numbers["power"], [1.0, 1.0, 2.0])
    assert_close(numbers["slope"], [1.0, 1.0, 1.0])
    assert_close(numbers["saturation"], 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not XML"),
        ("<ColorCorrection>", "is not XML"),
        ("<a/>", "no ColorCorrection"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "not a plain one"),
        ("<ColorCorrection><Slope>1 2</Slope></ColorCorrection>", "`slope` must be"),
        ("<ColorCorrection><Slope>1 2 x</Slope></ColorCorrection>", "not numbers"),
        ("<ColorCorrection><Power>1 0 1</Power></ColorCorrection>", "positive"),
        ("<ColorCorrection><Offset>nan 0 1</Offset></ColorCorrection>", "`offset`"),
        ("<ColorCorrection><Saturation/></ColorCorrection>", "`saturation`"),
    ],
)
def test_bad_files_are_refused(text, message, tmp_path, user_errors):
    path = tmp_path / "bad.cdl"
    path.write_text(text)
    with pytest.raises(CdlError, match=message) as caught:
        read_cdl(path)
    assert str(path) in str(caught.value)


def test_bad_names_are_refused(grade, tmp_path):
    with pytest.raises(ValueError, match="`path` must be one of"):
        write_cdl(tmp_path / "grade.xml", grade)
    with pytest.raises(ValueError, match="`name` must be an XML identifier"):
        write_cdl(tmp_path / "grade.cdl", grade, name='a"b')
    assert not list(tmp_path.iterdir())


def test_the_fit_finds_a_known_grade(grade):
    source = jr.beta(jr.key(0), 2.0, 3.0, (1500, 3))
    palette = images(grade, jr.beta(jr.key(1), 2.0, 3.0, (1500, 3)))
    fitted = fit_cdl(source, palette, key=jr.key(2))
    error = images(fitted, source) - images(grade, source)
    assert float(jnp.sqrt(jnp.mean(error**2))) < 0.02
    assert float(jnp.abs(fitted.numbers["saturation"] - 0.6)) < 0.1
