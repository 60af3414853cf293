"""Samples batch by batch: what is read, refused, and how little of it is held."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from nm2trt.calibration.array_files import read_archive
from nm2trt.errors import DataError, InputError
from nm2trt.validation.samples.npz import NpzSamples
from nm2trt.validation.samples.open_samples import RecipeSamples, open_samples
from nm2trt.validation.samples.samples import ArraySamples

X = np.zeros((3, 2), np.float32)
LABELS = np.zeros(3, np.int64)


def collected(samples, size):
    batches = list(samples.batches(size))
    assert [one.start for one in batches] == list(range(0, len(samples), size))
    inputs = {name: np.concatenate([one.inputs[name] for one in batches]) for name in batches[0].inputs}
    truth = {name: np.concatenate([one.truth[name] for one in batches]) for name in batches[0].truth}
    return inputs, truth


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_an_npz_is_read_as_numpy_reads_it(save, size, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.random((7, 2, 3), dtype=np.float32),
        "big_endian": rng.random((7, 2)).astype(">f8"),
        "fortran": np.asfortranarray(rng.integers(0, 9, (7, 4))),
        "bools": rng.random(7) > 0.5,
        "labels": np.array(["a", "bc", "", "d", "e", "f", "ghi"]),
        "labels_boxes": rng.random((7, 2, 4)),
    }
    save(tmp_path / "test.npz", **arrays)
    samples = open_samples(tmp_path / "test.npz")
    inputs, truth = collected(samples, size)
    assert set(truth) == {"labels", "labels_boxes"} == set(samples.truth)
    for name, array in {**inputs, **truth}.items():
        np.testing.assert_array_equal(array, arrays[name])
    assert {spec.name: (spec.dtype, spec.shape) for spec in samples.inputs} == {
        "x": ("float32", ("n", 2, 3)),
        "big_endian": ("float64", ("n", 2)),
        "fortran": ("int64", ("n", 4)),
        "bools": ("bool", ("n",)),
    }


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_an_array_header_is_read(version, tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array(member, x, version=version)
    inputs, _ = collected(open_samples(tmp_path / "x.npz"), 3)
    np.testing.assert_array_equal(inputs["x"], x)


def test_memory_does_not_grow_with_the_samples(tmp_path):
    peaks = []
    for count in (200, 4000):
        np.savez_compressed(tmp_path / "x.npz", x=np.zeros((count, 1000), np.float32))
        samples = NpzSamples(tmp_path / "x.npz")
        tracemalloc.start()
        for _ in samples.batches(50):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 4000 * 4000 / 4


def test_one_large_sample_is_held_once(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.ones((1, 1 << 23), "f4"))
    samples = NpzSamples(tmp_path / "x.npz")
    tracemalloc.start()
    try:
        (batch,) = samples.batches(1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert batch.inputs["x"].all()
    assert peak < 1.5 * batch.inputs["x"].nbytes


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        pytest.param({"labels": LABELS}, r"has \['labels'\] but no input", id="no-input"),
        pytest.param(
            {"x": X, "labels": np.zeros(4, int)}, r"'labels' has shape \(4,\), but input 'x'", id="lengths"
        ),
        pytest.param({"x": X, "s": np.float32(1)}, r"'s' has shape \(\)", id="scalar"),
        pytest.param({"x": X[:0], "labels": LABELS[:0]}, r"holds no sample", id="empty-set"),
        pytest.param({"x": np.array([{}] * 3, object), "labels": LABELS}, r"Python objects", id="pickled"),
        pytest.param({"x": np.zeros(3, [("a", "f4")])}, r"'x' of dtype \[\('a'", id="structured"),
        pytest.param(
            {"x": np.array(["a", "b"])}, r"'x' has dtype <U1; inputs must be numbers", id="text-input"
        ),
    ],
)
def test_refuses_arrays(arrays, match, tmp_path):
    path = tmp_path / "test.npz"
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(DataError, match=match) as caught:
        NpzSamples(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param(None, r"does not exist", id="missing"),
        pytest.param(b"not a zip file", r"not a sound \.npz", id="garbage"),
        pytest.param(b"PK\x03\x04truncated", r"not a sound \.npz", id="truncated-zip"),
        pytest.param(b"", r"is empty", id="empty-file"),
    ],
)
def test_refuses_files(content, match, tmp_path):
    path = tmp_path / "test.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        open_samples(path)


@pytest.mark.parametrize("member", ["README.txt", "__MACOSX/._x.npy", "calib/"])
def test_a_member_that_is_no_array_is_named(member, tmp_path):
    path = tmp_path / "test.npz"
    np.savez(path, x=X)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, b"" if member.endswith("/") else b"\x00\x05\x16\x07 of a folder")
    with pytest.raises(DataError, match=f"test.npz holds '{member}', which is not an array; delete it"):
        NpzSamples(path)
    with pytest.raises(DataError, match=f"holds '{member}'"):
        read_archive(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_a_damaged_member_is_found_before_the_last_batch_is_given(save, tmp_path):
    path = tmp_path / "test.npz"
    save(path, x=np.random.default_rng(0).random((50, 2)))
    content = bytearray(path.read_bytes())
    content[400] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a sound \.npz"):
        list(NpzSamples(path).batches(7))


def test_refuses_a_plain_npy(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(DataError, match="holds a single array"):
        open_samples(tmp_path / "x.npy")


def test_nan_names_the_samples():
    samples = ArraySamples({"x": np.where(np.arange(10)[:, None] == 7, np.nan, np.zeros((10, 2)))})
    with pytest.raises(DataError, match="input 'x' holds NaN in samples 6 to 8"):
        list(samples.batches(3))


def recipe(folder, extra=""):
    pytest.importorskip("pydantic")
    np.savez(folder / "data.npz", x=np.arange(60, dtype=np.float32).reshape(20, 3), labels=np.arange(20) % 4)
    (folder / "r.yaml").write_text(f"source: {{kind: npz, path: data.npz}}\ncount: 8\nbatch: 3\n{extra}")
    return folder / "r.yaml"


def test_a_recipe_gives_the_samples_it_chooses_and_their_labels(tmp_path):
    samples = open_samples(recipe(tmp_path))
    inputs, truth = collected(samples, 5)
    assert len(samples) == 8
    chosen = (inputs["x"][:, 0] / 3).astype(int)
    np.testing.assert_array_equal(inputs["x"], np.arange(60).reshape(20, 3)[chosen])
    np.testing.assert_array_equal(truth["labels"], chosen % 4)


def test_a_recipes_hash_is_that_of_the_calibration_set(tmp_path):
    pytest.importorskip("pydantic")
    from nm2trt.calibration.recipe import load_recipe

    digest = load_recipe(recipe(tmp_path)).sha256
    assert len(RecipeSamples(recipe(tmp_path, f"sha256: {digest}\n"))) == 8
    with pytest.raises(DataError, match=f"the samples have the hash {digest}, not the aa"):
        RecipeSamples(recipe(tmp_path, f"sha256: {'a' * 64}\n"))
