import contextlib
import hashlib
import json
import os
import stat
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import transportjax
from transportjax.maps import (
    AbstractBijection,
    Affine,
    Chain,
    Invert,
    ModelFileError,
    MonotoneLinear,
    RationalQuadraticSpline,
    Scan,
    SlicedMap,
    container,
    load,
    read_header,
    save,
)


def nested():
    knots = jnp.linspace(-1, 1, 5)[None] + jnp.zeros((2, 1))
    layer = SlicedMap(
        jnp.eye(2, 3), jax.vmap(MonotoneLinear.from_knots)(knots, 2 * knots)
    )
    stack = Scan(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), layer))
    return Chain((Affine(3 * jnp.eye(3), jnp.ones(3)), stack, Invert(stack)))


@pytest.fixture
def path(tmp_path):
    """A file that holds a nested map."""
    save(tmp_path / "map.tjmap", nested(), metadata={"note": "for the test"})
    return tmp_path / "map.tjmap"


def pack(header: bytes, data: bytes, version: int = 1) -> bytes:
    """A file with a right checksum around any header."""
    numbers = struct.pack("<II", version, len(header))
    digest = hashlib.sha256(numbers + header).digest()
    return container._MAGIC + numbers + digest + header + data


def unpack(content: bytes) -> tuple[dict, bytes]:
    length = struct.unpack("<I", content[12:16])[0]
    return json.loads(content[48 : 48 + length]), content[48 + length :]


def test_a_nested_map_comes_back(path):
    map, loaded = nested(), load(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(map)
    for old, new in zip(jax.tree.leaves(map), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(old, new)
    x = jnp.array([0.3, -2.0, 5.0])
    np.testing.assert_array_equal(loaded(x), map(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_is_kept(dtype, tmp_path):
    with jax.enable_x64(True):
        map = RationalQuadraticSpline.identity(7, low=-0.3).astype(dtype)
        save(tmp_path / "map", map)
        loaded = load(tmp_path / "map")
        for old, new in zip(jax.tree.leaves(map), jax.tree.leaves(loaded), strict=True):
            assert new.dtype == dtype
            assert np.asarray(old).tobytes() == np.asarray(new).tobytes()


def test_wide_leaves_are_never_rounded_in_silence(tmp_path):
    with jax.enable_x64(True):
        save(tmp_path / "map", RationalQuadraticSpline.identity(4))
    with pytest.raises(ModelFileError, match="holds float64 arrays.*enable_x64"):
        load(tmp_path / "map")
    with pytest.raises(ModelFileError, match="holds float64 arrays.*enable_x64"):
        load(tmp_path / "map", dtype="float64")
    narrow = load(tmp_path / "map", dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype("float32")}
    assert_close(narrow(0.7), 0.7)


def test_the_header_tells_what_is_inside(path):
    header = read_header(path)
    assert header["transportjax"] == transportjax.__version__
    assert header["metadata"] == {"note": "for the test"}
    assert header["tree"]["class"] == "Chain"
    assert header["arrays"][0] == {"dtype": "float32", "shape": [3, 3], "offset": 0}
    assert (path.read_bytes()[12] | path.read_bytes()[13] << 8) % 64 == 16
    assert len(path.read_bytes()) % 4 == 0


def test_files_are_equal_byte_for_byte(path, tmp_path):
    save(tmp_path / "again", nested(), metadata={"note": "for the test"})
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_the_format_of_version_1_is_still_read(tmp_path):
    # written out by hand, so that a change of the format fails here
    data = np.array([[0.0, 2.0], [1.0, 0.0]], "<f4").tobytes()
    data += np.array([5.0, 6.0], "<f4").tobytes()
    header = {
        "transportjax": "0.1.0",
        "metadata": {},
        "tree": {
            "class": "Affine",
            "fields": {"matrix": {"array": 0}, "offset": {"array": 1}},
        },
        "arrays": [
            {"dtype": "float32", "shape": [2, 2], "offset": 0},
            {"dtype": "float32", "shape": [2], "offset": 16},
        ],
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    content = pack(json.dumps(header).encode(), data)
    assert content.startswith(b"\x93TJMAP\r\n\x01\x00\x00\x00")
    (tmp_path / "map").write_bytes(content)
    assert_close(load(tmp_path / "map")(jnp.array([1.0, 10.0])), [25, 7])


BROKEN = {
    "empty": (lambda c: b"", "it is empty"),
    "a picture": (
        lambda c: b"\x89PNG\r\n\x1a\n" + c[8:],
        "not written by transportjax",
    ),
    "short and foreign": (lambda c: b"hi", "not written by transportjax"),
    "cut in the magic": (lambda c: c[:5], "cut short"),
    "cut in the preamble": (lambda c: c[:30], "cut short"),
    "cut in the header": (lambda c: c[:100], "cut short"),
    "cut in the arrays": (lambda c: c[:-1], "cut short, by 1 bytes"),
    "longer": (lambda c: c + b"12", "goes on after its arrays, by 2 bytes"),
    "flipped in the header": (lambda c: flip(c, 60), "header was altered"),
    "flipped in the digest": (lambda c: flip(c, 20), "header was altered"),
    "flipped in the arrays": (lambda c: flip(c, len(c) - 1), "arrays were altered"),
    "newer": (lambda c: pack(b"?", b"", version=2), "version 2 is newer than 1"),
    "older": (lambda c: pack(b"?", b"", version=0), "version 0 is unknown"),
    "not JSON": (lambda c: pack(b"?", b""), "not JSON"),
    "not text": (lambda c: pack(b"\xff\xfe", b""), "not JSON"),
    "deep": (lambda c: pack(b"[" * 10**5, b""), "not JSON"),
    "long number": (lambda c: pack(b"9" * 10**5, b""), "not JSON"),
    "a list": (lambda c: pack(b"[]", b""), "other entries"),
    "huge header": (lambda c: c[:12] + b"\xff\xff\xff\xff" + c[16:], "cut short"),
}


def flip(content, index):
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_clear_errors(case, path):
    breaks, message = BROKEN[case]
    path.write_bytes(breaks(path.read_bytes()))
    with pytest.raises(ModelFileError, match=message) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"Cannot read {str(path)!r} as a map: ")
    assert "\n" not in text


def set_at(*keys, to):
    def change(header):
        node = header
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = to

    return change


FIRST = ("tree", "fields", "maps", "tuple", 0)
FORGED = {
    "unknown class": set_at("tree", "class", to="os.system"),
    "class is a list": set_at("tree", "class", to=["Chain"]),
    "unknown entry": set_at("more", to=1),
    "metadata is a list": set_at("metadata", to=[]),
    "tree is a string": set_at("tree", to="Affine"),
    "tree is one array": set_at("tree", to={"array": 0}),
    "tree is static": set_at("tree", to={"static": 1}),
    "array for a map": set_at(*FIRST, to={"array": 0}),
    "static for an array": set_at(*FIRST, "fields", "matrix", to={"static": 1}),
    "tuple for an array": set_at(*FIRST, "fields", "matrix", to={"tuple": []}),
    "missing field": set_at(*FIRST, "fields", to={"matrix": {"array": 0}}),
    "array twice": set_at(*FIRST, "fields", "offset", to={"array": 0}),
    "array out of range": set_at(*FIRST, "fields", "matrix", to={"array": 99}),
    "array true": set_at(*FIRST, "fields", "offset", to={"array": True}),
    "arrays left over": set_at("tree", "fields", "maps", to={"tuple": []}),
    "negative shape": set_at("arrays", 0, "shape", to=[-3, -3]),
    "shape of floats": set_at("arrays", 0, "shape", to=[3.0, 3.0]),
    "shape of bools": set_at("arrays", 0, "shape", to=[True, True]),
    "huge shape": set_at("arrays", 0, "shape", to=[2**31, 2**31]),
    "huge empty shape": set_at("arrays", 0, "shape", to=[2**30] * 9 + [0]),
    "many axes": set_at("arrays", 0, "shape", to=[1] * 100),
    "wrong size": set_at("arrays", 0, "shape", to=[3, 4]),
    "unknown dtype": set_at("arrays", 0, "dtype", to="object"),
    "dtype is a list": set_at("arrays", 0, "dtype", to=["f4"]),
    "wrong offset": set_at("arrays", 1, "offset", to=0),
    "offset true": set_at("arrays", 0, "offset", to=False),
    "array is null": set_at("arrays", 0, to=None),
    "too many arrays": lambda h: h["arrays"].extend([h["arrays"][0]] * 5000),
    "wrong checksum": set_at("sha256", to="0" * 64),
    "checksum is a number": set_at("sha256", to=0),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_headers_are_refused(case, path):
    header, data = unpack(path.read_bytes())
    FORGED[case](header)
    path.write_bytes(pack(json.dumps(header).encode(), data))
    with pytest.raises(ModelFileError):
        load(path)


def test_a_tree_that_goes_on_is_refused(path):
    header, data = unpack(path.read_bytes())
    for _ in range(200):
        header["tree"] = {"class": "Invert", "fields": {"map": header["tree"]}}
    path.write_bytes(pack(json.dumps(header).encode(), data))
    with pytest.raises(ModelFileError, match="does not describe a map"):
        load(path)


def test_mutated_files_raise_one_kind_of_error(path):
    rng = np.random.default_rng(0)
    content = path.read_bytes()
    header, data = unpack(content)
    text = json.dumps(header).encode()
    num_loaded = 0
    for trial in range(600):
        # anywhere, found by the checksums; or in the header, with a right checksum
        anywhere = trial % 2
        path.write_bytes(
            mutate(content, rng) if anywhere else pack(mutate(text, rng), data)
        )
        with contextlib.suppress(ModelFileError):
            assert isinstance(load(path), AbstractBijection)
            num_loaded += 1  # only the metadata, the version or spaces are different
            assert not anywhere
    assert num_loaded < 100


def mutate(content, rng):
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = rng.integers(0, len(content))
        kind = rng.integers(0, 5)
        if kind == 0:
            content[at] ^= 1 << rng.integers(0, 8)
        elif kind == 1:
            content[at] = rng.integers(32, 127)
        elif kind == 2:
            del content[at : at + rng.integers(1, 20)]
        elif kind == 3:
            content[at:at] = content[at : at + rng.integers(1, 20)]
        else:
            content = content[: max(at, 1)]
    return bytes(content)


def test_what_is_not_a_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")
    with pytest.raises(ModelFileError, match="not a regular file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_header(tmp_path / "pipe")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    content = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            with pytest.raises(OSError, match="disk full"):
                save(path, nested())
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == [path.name]
    with pytest.raises(FileNotFoundError):
        save(path.parent / "no folder" / "map", nested())
    with pytest.raises(IsADirectoryError):
        save(path.parent, nested())
    assert os.listdir(path.parent) == [path.name]


def test_saving_replaces_follows_links_and_takes_odd_names(path, monkeypatch):
    affine = Affine(np.eye(2), np.zeros(2))
    link = path.parent / "link"
    link.symlink_to(path.name)
    save(link, affine)
    assert link.is_symlink()
    assert isinstance(load(path), Affine)
    for name in ("-x", "a b\n", "é" * 127, ".hidden"):
        save(path.parent / name, affine)
        assert isinstance(load(str(path.parent / name)), Affine)
    monkeypatch.chdir(path.parent)
    save("relative", affine)
    assert isinstance(load("relative"), Affine)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(os.stat("relative").st_mode) == 0o666 & ~umask


def test_another_process_reads_the_map(path):
    code = (
        "import sys, transportjax as tj; "
        "print(tj.load(sys.argv[1])([0.25, 0.0, 1.0]).tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        **{"capture_output": True, "text": True, "check": True},
    )
    assert_close(json.loads(out.stdout), nested()(jnp.array([0.25, 0.0, 1.0])), 1e-6)


def test_what_cannot_be_saved(tmp_path, user_errors):
    class Mine(AbstractBijection):
        def transform_and_log_det(self, x):
            return x, 0 * x

        def inverse_and_log_det(self, y):
            return y, 0 * y

    affine = Affine(np.eye(2), np.zeros(2))
    target = tmp_path / "map"
    for map, match in [
        (lambda x: x, "`map` must be a map"),
        (Mine(), "`map` holds an object of type Mine; a file can hold Affine"),
        (Chain((affine, Mine())), "type Mine"),
        (jax.tree.map(lambda _: jnp.sin, affine), "`map` holds an object of type"),
        (jax.tree.map(lambda a: a.astype(complex), affine), "dtype complex64"),
        (Chain((affine,) * 2100), "`map` needs 4200 arrays; a file holds 4096"),
    ]:
        with pytest.raises(ValueError, match=match):
            save(target, map)
    with pytest.raises(ValueError, match="must not be traced"):
        jax.jit(lambda a: save(target, a))(affine)
    for metadata in ([1], {1: "a"}, {"a": np.nan}, {"a": {1, 2}}, {"a": (1,)}, "text"):
        with pytest.raises(ValueError, match="`metadata` must"):
            save(target, affine, metadata=metadata)
    with pytest.raises(ValueError, match="`metadata` needs .* bytes in the header"):
        save(target, affine, metadata={"a": "x" * 2**20})
    with pytest.raises(ValueError, match="`dtype` must be a floating-point type"):
        load(target, dtype="int32")
    with pytest.raises(ValueError, match="`dtype` must be a floating-point type"):
        load(target, dtype="wide")
    assert not os.listdir(tmp_path)
