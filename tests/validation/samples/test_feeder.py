"""What a session is fed: conversions, refusals, and batches cut to its own size."""

import numpy as np
import pytest

from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import DataError
from nm2trt.validation.samples.feeder import Feeder, common_batch, first_batch
from nm2trt.validation.samples.samples import ArraySamples


class Mean:
    """Returns its first input's mean per sample, and records what it was given."""

    def __init__(self, *specs, output=None):
        self.inputs = specs or (TensorSpec("x", "float32", ("batch", 2)),)
        self.outputs = (TensorSpec("y", "float32", ("batch",)),)
        self.seen, self.output = [], output

    def run(self, feeds):
        self.seen.append({name: array.copy() for name, array in feeds.items()})
        first = next(iter(feeds.values()))
        return {"y": first.reshape(len(first), -1).mean(1) if self.output is None else self.output}


def samples(n=5, **inputs):
    return ArraySamples(inputs or {"x": np.arange(2 * n, dtype=np.float32).reshape(n, 2)})


@pytest.mark.parametrize(
    ("given", "taken", "sentences"),
    [
        pytest.param("float32", "float32", (), id="same"),
        pytest.param("float32", "float16", ("x: float32 -> float16",), id="to-half"),
        pytest.param("float64", "float32", ("x: float64 -> float32",), id="from-double"),
        pytest.param("int32", "int64", ("x: int32 -> int64",), id="wider-integer"),
        pytest.param("int64", "int32", ("x: int64 -> int32",), id="narrower-integer"),
    ],
)
def test_converts_and_says_so(given, taken, sentences):
    data = samples(x=np.ones((5, 2), given))
    feeder = Feeder(Mean(TensorSpec("x", taken, ("n", 2))), data, what="model")
    assert feeder.conversions == sentences
    assert feeder.feeds(next(data.batches(5)).inputs)["x"].dtype == taken


@pytest.mark.parametrize(
    ("array", "spec", "match"),
    [
        pytest.param(np.ones((5, 2), np.uint8), ("float32", ("n", 2)), r"uint8; scale", id="bytes-to-float"),
        pytest.param(np.full((5, 2), 2**40), ("int32", ("n", 2)), r"values too large for int32", id="beyond-32-bits"),
        pytest.param(np.ones((5, 2), np.float32), ("int64", ("n", 2)), r"takes int64", id="float-to-integer"),
        pytest.param(np.full((5, 2), 1e5, np.float32), ("float16", ("n", 2)), r"too large for float16", id="overflow"),
        pytest.param(np.ones((5, 3), np.float32), ("float32", ("n", 2)), r"shape nx2, the data has \(5, 3\)", id="size"),
        pytest.param(np.ones((5, 2, 1), np.float32), ("float32", ("n", 2)), r"nx2.*\(5, 2, 1\)", id="rank"),
        pytest.param(np.ones((5, 2), np.float32), ("float32", ()), r"samples of shape \(\), the data has \(5, 2\)", id="no-batch"),
        pytest.param(np.ones((5, 2), np.float32), ("tensor(string)", ("n", 2)), r"which no array", id="strings"),
    ],
)  # fmt: skip
def test_refuses_samples_that_do_not_fit(array, spec, match):
    data = samples(x=array)
    with pytest.raises(DataError, match=match):
        Feeder(Mean(TensorSpec("x", *spec)), data, what="model").run(next(data.batches(5)).inputs)


def test_refuses_other_names():
    with pytest.raises(DataError, match=r"the candidate's inputs are \['x'\], the data has \['pixels'\]"):
        Feeder(Mean(), samples(pixels=np.ones((5, 2), np.float32)), what="candidate")
    pixels = np.ones((5, 2), np.float32)
    with pytest.raises(DataError, match=r"\['t', 'x'\]; leave out 't', or call true answers 'labels'"):
        Feeder(Mean(), samples(x=pixels, t=pixels), what="candidate")
    with pytest.raises(DataError, match=r"'x' missing, 'extra', 'pixels' unknown: rename what is misnamed"):
        Feeder(Mean(), samples(pixels=pixels, extra=pixels), what="candidate")


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_every_sample_runs_once_in_order(size):
    session, data = Mean(), samples(5)
    feeder = Feeder(session, data, what="model")
    found = np.concatenate([feeder.run(one.inputs)["y"] for one in data.batches(size)])
    np.testing.assert_array_equal(found, np.arange(10).reshape(5, 2).mean(1))
    assert max(len(feeds["x"]) for feeds in session.seen) == min(size, 5)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_a_fixed_batch_is_filled_up_and_cut_again(size):
    session, data = Mean(TensorSpec("x", "float32", (3, 2))), samples(5)
    feeder = Feeder(session, data, what="model")
    found = np.concatenate([feeder.run(one.inputs)["y"] for one in data.batches(size)])
    assert {len(feeds["x"]) for feeds in session.seen} == {3}
    np.testing.assert_array_equal(found, np.arange(10).reshape(5, 2).mean(1))


@pytest.mark.parametrize(
    ("sizes", "asked", "length", "found"),
    [
        pytest.param([None, None], None, 1000, 64, id="free"),
        pytest.param([None, None], None, 5, 5, id="few-samples"),
        pytest.param([None, None], 7, 1000, 7, id="asked"),
        pytest.param([3, None], None, 1000, 3, id="one-fixed"),
        pytest.param([4, 6], None, 1000, 12, id="both-fixed"),
        pytest.param([4097, 2], None, 10000, 4097, id="no-common-size"),
        pytest.param([3, None], 3, 1000, 3, id="asked-is-fixed"),
    ],
)
def test_common_batch(sizes, asked, length, found):
    feeders = [
        Feeder(Mean(TensorSpec("x", "float32", (size or "n", 2))), samples(), what="m") for size in sizes
    ]
    assert common_batch(feeders, asked, length) == found


@pytest.mark.parametrize(
    ("asked", "match"),
    [(8, "fixed to 3; it cannot run a batch of 8"), (0, "a batch of 0 cannot be run")],
    ids=["another", "zero"],
)
def test_refuses_batches(asked, match):
    feeder = Feeder(Mean(TensorSpec("x", "float32", (3, 2))), samples(), what="model")
    with pytest.raises(DataError, match=match):
        common_batch([feeder], asked, 5)


def test_a_server_is_asked_for_no_more_than_it_takes():
    session = Mean()
    session.max_batch = 4
    feeder = Feeder(session, samples(), what="model")
    assert common_batch([feeder], None, 1000) == 4


def test_an_output_without_batch_is_returned_whole_and_never_joined():
    data = samples(5)
    feeder = Feeder(Mean(output=np.float32(3.0)), data, what="candidate")
    parts = [feeder.run(one.inputs) for one in data.batches(3)]
    assert parts[0]["y"] == 3
    with pytest.raises(DataError, match="'y' of the candidate has no batch dimension"):
        feeder.joined(parts)


def test_the_first_batch_repeats_where_there_are_few():
    np.testing.assert_array_equal(first_batch(Mean(), samples(2), 5)["x"][:, 0], [0, 2, 0, 2, 0])
    fixed = Mean(TensorSpec("x", "float32", (3, 2)))
    assert len(first_batch(fixed, samples(2), 5)["x"]) == 3
