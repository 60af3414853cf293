"""Ranges: each method against numpy over all samples at once; the cache; interruption; samples in pieces."""

import numpy as np
import pytest

from nm2trt.backends.protocol import TensorSpec
from nm2trt.calibration import collectors
from nm2trt.calibration.ranges import Observed, _without_pads, calibrate
from nm2trt.calibration.stream import SampleHash, SampleStream, fitted, open_sample_stream
from nm2trt.errors import DataError, Interrupted
from nm2trt.limits import bounds

MODEL = "a" * 64


class FakeSession:
    """Gives its input back: whole, or its extremes."""

    def __init__(self, whole, opened, fixed):
        self.inputs = (TensorSpec("x", "float32", (fixed or "n", 50)),)
        self.outputs = ()
        self.whole = whole
        self.largest_batch = 0
        opened.append(self)

    def run(self, feeds):
        x = feeds["x"]
        self.largest_batch = max(self.largest_batch, len(x))
        return {"all": x} if self.whole else {"low": x.min(), "high": x.max()}

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Calibration:
    def __init__(self, data, method="minmax", percentile=99.0, batch=8, fixed=0):
        self.data, self.method, self.percentile, self.batch = data, method, percentile, batch
        self.opened, self.fixed = [], fixed

    def read(self, size, stop_at=None):
        for start in range(0, len(self.data), size):
            if stop_at is not None and start >= stop_at:
                raise KeyboardInterrupt
            yield {"x": self.data[start : start + size]}

    def __call__(self, cache=None, *, stop_at=None, model=MODEL):
        whole = self.method != "minmax"
        observed = (
            {"all": Observed("v", "all")}
            if whole
            else {"low": Observed("v", "min"), "high": Observed("v", "max")}
        )
        samples = SampleStream("s", len(self.data), self.batch, lambda size: self.read(size, stop_at))
        return calibrate(
            lambda: FakeSession(whole, self.opened, self.fixed),
            observed,
            samples,
            method=self.method,
            percentile=self.percentile,
            model_sha256=model,
            cache=cache,
        )


def normal(count=64, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 50)).astype(np.float32)


METHODS = ["minmax", "percentile", "entropy"]


def test_minmax_is_the_extremes():
    data = normal()
    ranges = Calibration(data)()
    assert (ranges.low["v"], ranges.high["v"]) == (data.min(), data.max())
    assert ranges.largest("v") == np.abs(data).max()


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_a_percentile_is_that_of_all_magnitudes_to_the_width_of_a_bin(percentile):
    data = normal()
    ranges = Calibration(data, "percentile", percentile)()
    wanted = np.percentile(np.abs(data), percentile)
    assert ranges.largest("v") == pytest.approx(wanted, abs=float(np.abs(data).max()) / 512)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [1e-42, 2e-38, 1e-6, 7e4])
@pytest.mark.parametrize("ulps", [0, 100])
def test_numbers_that_hardly_differ_have_a_range_all_the_same(method, value, ulps):
    """A histogram of the numbers between the least and the largest would have bins without width."""
    least = np.float32(value)
    data = np.full((24, 50), least, np.float32)
    data[3] = least + ulps * np.spacing(least)
    high = Calibration(data, method, 99.999)().largest("v")
    assert high <= (1 if value < 1e-34 else 1.01 * value)
    assert method == "entropy" or value < 1e-34 or high >= 0.99 * value


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_what_fills_up_a_fixed_batch_is_not_counted(method):
    data = normal(3)
    data[2] *= 50
    wanted = Calibration(data, method, batch=3)().largest("v")
    assert Calibration(data, method, batch=3, fixed=32)().largest("v") == wanted


@pytest.mark.parametrize("real", [1, 2, 3])
def test_pads_are_found_on_the_axis_on_which_they_repeat(real):
    """Time first, batch second: eight steps are a multiple of four samples too, and none of them is a pad."""
    values = np.random.default_rng(0).standard_normal((8, 4, 5)).astype(np.float32)
    values[:, real:] = values[:, real - 1 : real]
    np.testing.assert_array_equal(_without_pads(values, real, 4), values[:, :real])
    heads = np.moveaxis(values, 1, 0).reshape(32, 5)  # eight rows per sample
    np.testing.assert_array_equal(_without_pads(heads, real, 4), heads[: 8 * real])


def test_without_an_axis_that_repeats_nothing_is_lost():
    values = np.random.default_rng(0).standard_normal((8, 4, 5)).astype(np.float32)
    assert _without_pads(values, 1, 4) is values


def test_entropy_cuts_a_lone_outlier_off():
    data = normal()
    data[3, 7] = 40.0
    assert 2.0 < Calibration(data, "entropy")().largest("v") < 20.0


@pytest.mark.parametrize("method", METHODS[1:])
def test_values_that_grow_a_millionfold_do_not_exhaust_memory(method):
    data = normal()
    data[:8] *= 1e-6
    ranges = Calibration(data, method)()
    assert 1.0 < ranges.largest("v") <= np.abs(data).max() * 1.001


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_a_constant_has_a_range_that_reaches_it(method, value):
    ranges = Calibration(np.full((16, 50), value, np.float32), method)()
    assert ranges.largest("v") == pytest.approx(abs(value), rel=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_one_batch_at_a_time_is_run(method):
    calibration = Calibration(normal(), method, batch=3)
    calibration()
    assert calibration.opened[0].largest_batch == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_second_calibration_runs_nothing(tmp_path, method, monkeypatch):
    monkeypatch.setitem(collectors._BINS, "entropy", 144)
    first = Calibration(normal(), method)
    wanted = first(tmp_path / "cache.npz")
    second = Calibration(normal(), method)
    found = second(tmp_path / "cache.npz")
    assert not second.opened
    assert (found.low, found.high, found.reused) == (wanted.low, wanted.high, 64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop_at", [8, 40])
def test_an_interrupted_calibration_goes_on_where_it_stopped(tmp_path, method, stop_at):
    cache = tmp_path / "cache.npz"
    with pytest.raises(Interrupted, match=f"stopped after {stop_at} of 64 samples; what was found is in .*cache.npz, run again"):  # fmt: skip
        Calibration(normal(), method)(cache, stop_at=stop_at)
    found = Calibration(normal(), method)(cache)
    assert found.reused == stop_at
    whole = Calibration(normal(), method)()
    assert found.low["v"] == pytest.approx(whole.low["v"], rel=1e-6)
    assert found.high["v"] == pytest.approx(whole.high["v"], rel=1e-6)


DAMAGE = {
    "shape": lambda kept: {name: a if a.ndim == 0 and a.dtype.kind == "U" else np.zeros(7) for name, a in kept.items()},
    "text": lambda kept: {name: a if name == "head" else np.array("?") for name, a in kept.items()},
    "nan": lambda kept: {name: a if name == "head" else a * np.nan for name, a in kept.items()},
    "head": lambda kept: {**kept, "head": np.array("[]")},
    "count": lambda kept: {**kept, "head": np.array(str(kept["head"]).replace('"samples": 64', '"samples": -64'))},
    "many": lambda kept: {**kept, "head": np.array(str(kept["head"]).replace('"samples": 64', '"samples": 1e400'))},
    "empty": lambda _kept: {},
}  # fmt: skip


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_counts_as_empty(tmp_path, method, damage, monkeypatch):
    monkeypatch.setitem(collectors._BINS, "entropy", 144)
    cache = tmp_path / "cache.npz"
    wanted = Calibration(normal(), method)(cache)
    with np.load(cache) as archive:
        kept = dict(archive)
    np.savez(cache, **DAMAGE[damage](kept))
    found = Calibration(normal(), method)(cache)
    assert (found.low, found.high, found.reused) == (wanted.low, wanted.high, 0)


def test_a_cache_that_unpacks_to_more_than_the_bound_counts_as_empty(tmp_path):
    cache = tmp_path / "cache.npz"
    wanted = Calibration(normal())(cache)
    with np.load(cache) as archive:
        kept = dict(archive)
    np.savez_compressed(cache, **kept, more=np.zeros(1 << 22))
    bounds.use(sample_gb=0.01)
    try:
        found = Calibration(normal())(cache)
    finally:
        bounds.use()
    assert (found.low, found.reused) == (wanted.low, 0)


def test_an_interruption_before_the_first_batch_leaves_no_cache(tmp_path):
    with pytest.raises(Interrupted, match="after 0 of 64 samples; no model was written"):
        Calibration(normal())(tmp_path / "cache.npz", stop_at=0)
    assert not list(tmp_path.iterdir())


def test_more_samples_of_the_same_go_on_from_the_cache(tmp_path):
    Calibration(normal()[:32])(tmp_path / "cache.npz")
    found = Calibration(normal())(tmp_path / "cache.npz")
    assert (found.reused, found.samples, found.high["v"]) == (32, 64, normal().max())


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda cache: Calibration(normal(seed=1))(cache), id="other-samples"),
        pytest.param(lambda cache: Calibration(normal()[:32])(cache), id="fewer-samples"),
        pytest.param(lambda cache: Calibration(normal())(cache, model="b" * 64), id="other-model"),
        pytest.param(lambda cache: Calibration(normal(), "percentile")(cache), id="other-method"),
    ],
)
def test_a_cache_of_something_else_is_not_used(tmp_path, again):
    Calibration(normal())(tmp_path / "cache.npz")
    assert again(tmp_path / "cache.npz").reused == 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_a_damaged_cache_is_replaced(tmp_path, content):
    (tmp_path / "cache.npz").write_bytes(content)
    assert Calibration(normal())(tmp_path / "cache.npz").reused == 0
    assert Calibration(normal())(tmp_path / "cache.npz").reused == 64


@pytest.mark.parametrize("method", METHODS)
def test_infinity_inside_the_model_is_refused(method):
    calibration = Calibration(normal(), method)
    session = FakeSession.run
    try:
        FakeSession.run = lambda self, feeds: {name: value * np.float32(np.inf) for name, value in session(self, feeds).items()}  # fmt: skip
        with pytest.raises(DataError, match="'v' is NaN or infinite in the model"), np.errstate(all="ignore"):  # fmt: skip
            calibration()
    finally:
        FakeSession.run = session


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("size", [1, 5, 100])
def test_an_npz_is_read_in_pieces(tmp_path, save, size):
    arrays = {"a": normal(23), "b": np.arange(46, dtype=np.int64).reshape(23, 2), "labels": np.zeros(3)}
    save(tmp_path / "x.npz", **arrays)
    stream = open_sample_stream(tmp_path / "x.npz")
    pieces = list(stream.read(size))
    assert stream.count == 23
    assert {len(piece["a"]) for piece in pieces[:-1]} <= {size}
    for name in "ab":
        assert np.array_equal(np.concatenate([piece[name] for piece in pieces]), arrays[name])


def test_an_npz_that_is_cut_short_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=normal())
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a sound"):
        open_sample_stream(tmp_path / "x.npz")


def test_objects_are_refused_and_columns_read(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([{}, {}], dtype=object))
    with pytest.raises(DataError, match="Python objects, which are not read"):
        open_sample_stream(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", x=np.array(["a", "b"]))
    with pytest.raises(DataError, match="of dtype <U1, which no input takes"):
        open_sample_stream(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", x=np.asfortranarray(normal()))
    read = [batch["x"] for batch in open_sample_stream(tmp_path / "x.npz").read(7)]
    assert np.array_equal(np.concatenate(read), normal())


def test_the_hash_does_not_depend_on_the_size_of_batches():
    data = normal()
    hashes = set()
    for size in (1, 7, 64):
        digest = SampleHash()
        for start in range(0, 64, size):
            digest.update(
                {"x": data[start : start + size], "y": data[start : start + size, :1].astype(np.int64)}
            )
        hashes.add(digest.hexdigest())
    assert len(hashes) == 1
    changed = data.copy()
    changed[63, 49] += 1
    digest = SampleHash()
    digest.update({"x": changed, "y": data[:, :1].astype(np.int64)})
    assert digest.hexdigest() not in hashes


SPEC = (TensorSpec("x", "float32", (None, 2)), TensorSpec("i", "int64", (None,)))


@pytest.mark.parametrize("x", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("i", [np.int64, np.int32])
def test_floats_become_the_models_and_integers_may_widen(x, i):
    batch = fitted({"x": np.ones((3, 2), x), "i": np.ones(3, i)}, SPEC, "s")
    assert (batch["x"].dtype, batch["i"].dtype) == (np.float32, np.int64)


def test_a_float_is_no_integer():
    with pytest.raises(DataError, match="input 'i' takes int64, the samples have float32"):
        fitted({"x": np.ones((3, 2), np.float32), "i": np.ones(3, np.float32)}, SPEC, "s")


class Stops(FakeSession):
    """Is interrupted at one of its runs."""

    def __init__(self, *arguments, stop):
        super().__init__(*arguments)
        self.left = stop

    def run(self, feeds):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().run(feeds)


@pytest.mark.parametrize("method", METHODS)
def test_a_calibration_stopped_inside_any_batch_goes_on_as_if_it_had_not(method, tmp_path, monkeypatch):
    """A fixed batch of 3 cuts each batch of 8 in three runs; the stop comes at every one of them."""
    monkeypatch.setitem(collectors._BINS, "entropy", 144)  # the search over 512 is the same, and takes long
    data = normal(24)
    data[17] *= 7
    observed = Calibration(data, method, fixed=3)
    wanted = observed()
    whole = method != "minmax"
    reads = (
        {"all": Observed("v", "all")}
        if whole
        else {"low": Observed("v", "min"), "high": Observed("v", "max")}
    )
    samples = SampleStream("s", len(data), 8, observed.read)
    for stop in range(9):
        cache = tmp_path / f"{stop}.npz"
        with pytest.raises(Interrupted):
            calibrate(
                lambda: Stops(whole, [], 3, stop=stop),  # noqa: B023 - called at once
                reads,
                samples,
                method=method,
                percentile=99.0,
                model_sha256=MODEL,
                cache=cache,
            )
        found = observed(cache)
        assert (found.low, found.high, found.samples) == (wanted.low, wanted.high, 24)


@pytest.mark.parametrize("heads", [1, 4], ids="{}-rows-per-sample".format)
def test_pads_are_not_counted_where_each_sample_has_several_rows(heads):
    class Heads(FakeSession):
        def run(self, feeds):
            return {"all": np.repeat(feeds["x"], heads, axis=0)}

    data = normal(3)
    data[2] *= 50
    counts = []
    for fixed in (3, 32):
        calibration = Calibration(data, "percentile", fixed=fixed)
        found = calibrate(
            lambda: Heads(True, [], fixed),  # noqa: B023 - called at once
            {"all": Observed("v", "all")},
            SampleStream("s", 3, 8, calibration.read),
            method="percentile",
            percentile=90.0,
            model_sha256=MODEL,
        )
        counts.append(found.largest("v"))
    assert counts[0] == counts[1]


STATEFUL = (
    TensorSpec("x", "float32", ("n", 16)),
    TensorSpec("state", "float32", (2, "n", 8)),
    TensorSpec("rate", "int64", ()),
)
FIXED = (
    TensorSpec("x", "float32", (1, 16)),
    TensorSpec("state", "float32", (2, 1, 8)),
    TensorSpec("rate", "int64", ()),
)


@pytest.mark.parametrize(
    ("inputs", "state"),
    [(STATEFUL, (2, 6, 8)), (FIXED, (2, 1, 8)), (FIXED, (2, 6, 8))],
    ids=["batch second", "one state for all", "batch second, fixed to 1"],
)
def test_states_and_scalars_are_fed_as_the_model_takes_them(tmp_path, inputs, state):
    """Each sample's run against the rows of the file, by hand."""
    random = np.random.default_rng(0)
    x, states = random.standard_normal((6, 16)), random.standard_normal(state)
    np.savez(tmp_path / "x.npz", x=x, state=states, rate=np.array(16000))
    stream = open_sample_stream(tmp_path / "x.npz", inputs=inputs)
    assert stream.count == 6
    (batch,) = stream.read(6)
    for at in range(6):
        one = fitted({name: array[at : at + 1] for name, array in batch.items()}, inputs, "s")
        assert one["rate"].shape == ()
        assert one["rate"] == 16000
        assert one["x"] == pytest.approx(x[at : at + 1])
        mine = states[:, at : at + 1] if state[1] == 6 else states
        assert one["state"] == pytest.approx(mine)
    if inputs is STATEFUL:
        assert fitted(batch, inputs, "s")["state"] == pytest.approx(states)


def test_one_state_for_all_cannot_differ_within_a_batch():
    inputs = (TensorSpec("x", "float32", ("n", 4)), TensorSpec("rate", "int64", ()))
    batch = {"x": np.zeros((2, 4), np.float32), "rate": np.array([8000, 16000])}
    with pytest.raises(DataError, match="input 'rate' is one for the whole batch"):
        fitted(batch, inputs, "s")
