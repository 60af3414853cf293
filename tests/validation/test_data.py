"""Labelled sets: what is read, refused and converted, and how samples are cut into batches."""

import numpy as np
import pytest

from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import DataError, InputError
from nm2trt.validation.data import LabelledSet, fit_to, load_labelled, predict


class FakeSession:
    """Returns its input's mean per sample, and records the batches it was given."""

    def __init__(self, *specs, output=None):
        self.inputs = specs or (TensorSpec("x", "float32", ("batch", 2)),)
        self.outputs = (TensorSpec("y", "float32", ("batch",)),)
        self.seen = []
        self.output = output

    def run(self, feeds):
        self.seen.append({name: array.copy() for name, array in feeds.items()})
        first = next(iter(feeds.values()))
        return {"y": first.reshape(len(first), -1).mean(1) if self.output is None else self.output}


def labelled(n=5, **inputs):
    arrays = inputs or {"x": np.arange(2 * n, dtype=np.float32).reshape(n, 2)}
    return LabelledSet(arrays, np.zeros(n, np.int64))


def test_reads_what_savez_wrote(tmp_path):
    x = np.random.default_rng(0).random((4, 2), dtype=np.float32)
    np.savez(tmp_path / "test.npz", x=x, labels=np.array([0, 1, 2, 1], np.uint8))

    data = load_labelled(tmp_path / "test.npz")
    assert len(data) == 4
    np.testing.assert_array_equal(data.inputs["x"], x)


X = np.zeros((3, 2), np.float32)
LABELS = np.zeros(3, np.int64)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        pytest.param({"x": X}, r"no array 'labels'; it holds \['x'\]", id="no-labels"),
        pytest.param({"labels": LABELS}, r"no input", id="no-input"),
        pytest.param({"x": X, "labels": np.zeros(4, int)}, r"\(3, 2\), but there are 4 labels", id="lengths"),
        pytest.param({"x": X, "labels": np.zeros(3)}, r"dtype float64.*integer", id="float-labels"),
        pytest.param({"x": X, "labels": np.zeros((3, 10), int)}, r"shape \(3, 10\)", id="one-hot-labels"),
        pytest.param({"x": X[:0], "labels": LABELS[:0]}, r"holds no sample", id="empty-set"),
        pytest.param({"x": X + np.nan, "labels": LABELS}, r"'x' holds NaN or infinity", id="nan"),
        pytest.param({"x": np.array([{}] * 3, object), "labels": LABELS}, r"Python objects", id="pickled"),
    ],
)
def test_refuses_arrays(arrays, match, tmp_path):
    path = tmp_path / "test.npz"
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(DataError, match=match) as caught:
        load_labelled(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param(b"not a zip file", r"not a sound \.npz", id="garbage"),
        pytest.param(b"PK\x03\x04truncated", r"not a sound \.npz", id="truncated-zip"),
        pytest.param(b"", r"is empty", id="empty-file"),
    ],
)
def test_refuses_files(content, match, tmp_path):
    path = tmp_path / "test.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        load_labelled(path)


def test_refuses_a_damaged_member(tmp_path):
    path = tmp_path / "test.npz"
    np.savez(path, x=np.random.default_rng(0).random((50, 2)), labels=np.zeros(50, int))
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a sound \.npz"):
        load_labelled(path)


def test_refuses_a_plain_npy(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(DataError, match="single array"):
        load_labelled(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("given", "taken", "sentences"),
    [
        pytest.param("float32", "float32", (), id="same"),
        pytest.param("float32", "float16", ("x: float32 -> float16",), id="to-half"),
        pytest.param("float64", "float32", ("x: float64 -> float32",), id="from-double"),
        pytest.param("int32", "int64", ("x: int32 -> int64",), id="wider-integer"),
    ],
)
def test_converts_and_says_so(given, taken, sentences):
    feeds = fit_to(FakeSession(TensorSpec("x", taken, ("n", 2))), labelled(x=np.ones((5, 2), given)))
    assert feeds.conversions == sentences
    assert feeds.arrays["x"].dtype == taken


@pytest.mark.parametrize(
    ("array", "spec", "match"),
    [
        pytest.param(np.ones((5, 2), np.uint8), ("float32", ("n", 2)), r"uint8; scale", id="bytes-to-float"),
        pytest.param(
            np.ones((5, 2), np.int64), ("int32", ("n", 2)), r"takes int32.*int64", id="narrower-integer"
        ),
        pytest.param(np.ones((5, 2), np.float32), ("int64", ("n", 2)), r"takes int64", id="float-to-integer"),
        pytest.param(
            np.full((5, 2), 1e5, np.float32), ("float16", ("n", 2)), r"too large for float16", id="overflow"
        ),
        pytest.param(
            np.ones((5, 3), np.float32), ("float32", ("n", 2)), r"shape nx2, the data has \(5, 3\)", id="size"
        ),
        pytest.param(np.ones((5, 2, 1), np.float32), ("float32", ("n", 2)), r"nx2.*\(5, 2, 1\)", id="rank"),
        pytest.param(np.ones((5, 2), np.float32), ("float32", ()), r"batch as its first", id="no-batch"),
    ],
)
def test_refuses_samples_that_do_not_fit(array, spec, match):
    with pytest.raises(DataError, match=match):
        fit_to(FakeSession(TensorSpec("x", *spec)), labelled(x=array))


def test_refuses_other_names():
    with pytest.raises(DataError, match=r"inputs are \['x'\], the data has \['pixels'\]"):
        fit_to(FakeSession(), labelled(pixels=X[[0] * 5]))


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_every_sample_runs_once_in_order(batch):
    session, data = FakeSession(), labelled(5)
    parts = list(predict(session, fit_to(session, data, batch=batch), what="candidate"))
    assert sum(count for count, _ in parts) == 5
    np.testing.assert_array_equal(np.concatenate([out["y"] for _, out in parts]), data.inputs["x"].mean(1))
    assert max(len(feeds["x"]) for feeds in session.seen) == min(batch, 5)


def test_a_fixed_batch_is_filled_up_and_cut_again():
    session, data = FakeSession(TensorSpec("x", "float32", (3, 2))), labelled(5)
    parts = list(predict(session, fit_to(session, data), what="candidate"))
    assert [len(feeds["x"]) for feeds in session.seen] == [3, 3]
    np.testing.assert_array_equal(np.concatenate([out["y"] for _, out in parts]), data.inputs["x"].mean(1))


def test_refuses_another_batch_than_the_fixed_one():
    with pytest.raises(DataError, match="fixed to 3; it cannot run a batch of 8"):
        fit_to(FakeSession(TensorSpec("x", "float32", (3, 2))), labelled(5), batch=8)


def test_refuses_an_output_without_batch():
    session = FakeSession(output=np.float32(3.0))
    with pytest.raises(DataError, match=r"'y' of candidate has shape \(\) for a batch of 5"):
        list(predict(session, fit_to(session, labelled(5)), what="candidate"))
