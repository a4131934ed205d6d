"""Directories of tags: byte for byte, in both orders, whole and broken."""

import io
import struct

import pytest
from pictures import exif_block

from transportjax.apps import exif


@pytest.fixture(params=["<", ">"])
def order(request):
    return request.param


def with_preview(order):
    """A block whose first directory is followed by one for a preview."""
    block = bytearray(exif_block(6, order))
    preview = exif.directory_bytes(
        {259: exif.Tag(3, 1, struct.pack(order + "H", 6))},
        exif.Layout(order, False),
        len(block),
    )
    count = struct.unpack_from(order + "H", block, 8)[0]
    struct.pack_into(order + "I", block, 10 + 12 * count, len(block))
    return bytes(block) + preview


def test_blocks_come_back(order):
    block = exif_block(3, order)
    layout, tags = exif.read_block(block)
    assert layout == exif.Layout(order, False)
    assert exif.block(tags, order) == block
    assert tags[271] == exif.Tag(2, 7, b"Lumi\xe8r\0")
    assert tags[34665][37500].data == b"\0\xff maker "
    assert layout.numbers(tags[34853][2]) == [48, 1, 52, 1, 2, 1]


def test_big_directories_come_back(order):
    _, tags = exif.read_block(exif_block(3, order))
    layout = exif.Layout(order, True)
    file = io.BytesIO(bytes(16) + exif.directory_bytes(tags, layout, 16))
    assert exif.read_directory(file, layout, 16) == (tags, 0)


def test_upright_changes_three_things_only(order):
    block = with_preview(order)
    assert exif.read_directory(io.BytesIO(block), exif.Layout(order, False), 8)[1] > 0
    new, orientation = exif.upright(block)
    assert orientation == 6
    assert len(new) == len(block)
    layout, tags = exif.read_block(new)
    _, following = exif.read_directory(io.BytesIO(new), layout, 8)
    assert following == 0  # the preview is unlinked
    assert layout.numbers(tags[274]) == [1]
    below = tags[34665]  # width and height have changed places, with their types
    assert layout.numbers(below[40962]) == [480]
    assert layout.numbers(below[40963]) == [640]
    assert (below[40962].type, below[40963].type) == (4, 3)
    assert sum(a != b for a, b in zip(block, new, strict=True)) <= 14
    assert exif.upright(new) == (new, 1)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_impossible_orientations_are_none(order, orientation):
    new, found = exif.upright(exif_block(orientation, order))
    assert found == 1
    layout, tags = exif.read_block(new)
    assert layout.numbers(tags[274]) == [1]


def test_orientation_can_be_taken_out(order):
    block = exif_block(6, order)
    layout, tags = exif.read_block(exif.without_orientation(block))
    expected = exif.read_block(block)[1]
    del expected[274]
    assert tags == expected
    assert exif.without_orientation(b"junk") == b"junk"


def test_numbers_can_be_made_little_endian():
    _, big = exif.read_block(exif_block(5, ">"))
    _, little = exif.read_block(exif_block(5, "<"))
    assert exif.little_endian(big, ">") == little
    assert exif.little_endian(little, "<") == little


def test_resolution(order):
    for dpi in ((300.0, 72.0), (299.9994, 1e-3), (96.5, 25400.0)):
        tags = exif.resolution_tags(dpi, order)
        layout, found = exif.read_block(exif.block(tags, order))
        assert exif.resolution(layout, found) == pytest.approx(dpi, rel=1e-6)
    tags[296] = exif.Tag(3, 1, struct.pack(order + "H", 3))  # a centimetre
    metric = exif.resolution(layout, tags)
    assert metric == pytest.approx((96.5 * 2.54, 25400 * 2.54), rel=1e-6)
    tags[296] = exif.Tag(3, 1, struct.pack(order + "H", 1))  # only the ratio is known
    assert exif.resolution(layout, tags) is None
    assert exif.resolution(layout, {}) is None
    zero = exif.Tag(5, 1, bytes(8))
    assert exif.resolution(layout, {282: zero, 283: zero}) is None


def test_every_cut_of_a_block_is_survived(order):
    block = with_preview(order)
    for end in range(len(block)):
        cut = block[:end]
        new, orientation = exif.upright(cut)
        assert len(new) == end
        assert orientation in (1, 6)
        exif.without_orientation(cut)
        exif.block_resolution(cut)


def test_circles_and_overlaps_end():
    block = bytearray(exif_block())
    places = [at for at in range(10, len(block)) if block[at : at + 2] == b"\x69\x87"]
    struct.pack_into("<I", block, places[0] + 8, 8)  # points to the first directory
    _, tags = exif.read_block(bytes(block))
    assert isinstance(tags[34665], dict)
    whole = exif.Tag(7, 4, bytes(4))
    block = bytearray(exif.block({40000 + i: whole for i in range(9)}, "<"))
    for at in range(10, 10 + 9 * 12, 12):
        struct.pack_into("<II", block, at + 4, len(block) - 8, 8)
    with pytest.raises(ValueError, match="larger than the file"):
        exif.read_block(bytes(block))
