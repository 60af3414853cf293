"""prune --calib --cache: a run that was stopped goes on, and ends in the bytes of one that was not."""

import functools
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import nm2trt
from nm2trt.errors import InputError
from nm2trt.graph.quantize import preset
from nm2trt.graph.reconstruct import layer_walk
from nm2trt.graph.reconstruct.layer_cache import LayerCache
from nm2trt.nm.solver import array_namespace
from tests.graph.reconstruct.test_reconstruct_model import network, samples

LAYERS = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Give a model and samples that no test changes."""
    folder = tmp_path_factory.mktemp("made")
    return network(folder / "a.onnx"), samples(folder / "s.npz")


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """Give the bytes that a prune without a cache writes, which is run once for the same options."""
    model, calib = made

    @functools.cache
    def written(**options):
        path = tmp_path_factory.mktemp("whole") / "whole.onnx"
        nm2trt.prune(model, path, calib=calib, **options)
        return path.read_bytes()

    return written


@pytest.fixture(scope="module")
def _filled(made, whole, tmp_path_factory):
    model, calib = made

    @functools.cache
    def cache(**options):
        folder = tmp_path_factory.mktemp("filled")
        nm2trt.prune(model, folder / "b.onnx", calib=calib, cache=folder / "cache", **options)
        assert (folder / "b.onnx").read_bytes() == whole(**options)
        return folder / "cache"

    return cache


@pytest.fixture
def filled(_filled, tmp_path):
    """Give a cache of all layers of a prune with certain options, and its files; the test may damage them."""

    def copied(**options):
        cache = shutil.copytree(_filled(**options), tmp_path / "cache")
        paths = sorted(cache.rglob("*.npz"))
        assert len(paths) == LAYERS
        return cache, paths

    return copied


@pytest.fixture
def solved(monkeypatch):
    """Count the layers that are solved; `limit` stops the run as Ctrl-C does."""
    state = {"count": 0, "limit": 99}
    real = layer_walk.fit_layer

    def counted(*arguments, **keywords):
        state["count"] += 1
        if state["count"] > state["limit"]:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    monkeypatch.setattr(layer_walk, "fit_layer", counted)
    return state


@pytest.mark.parametrize(
    ("limit", "more"),
    [(3, {}), (1, {"to": "int8"}), (5, {"to": "int8", "max_loss": "7%"})],
    ids=["float", "int8", "int8-within-a-limit"],
)
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, made, whole, solved, limit, more):
    model, calib = made
    given = {"calib": calib, "cache": tmp_path / "cache", **more}
    solved["limit"] = limit
    with pytest.raises(KeyboardInterrupt):
        nm2trt.prune(model, tmp_path / "b.onnx", **given)
    assert not (tmp_path / "b.onnx").exists()
    solved.update(count=0, limit=99)
    report = nm2trt.prune(model, tmp_path / "b.onnx", **given)
    assert solved["count"] == LAYERS - limit
    assert (tmp_path / "b.onnx").read_bytes() == whole(**more)
    if not more:
        assert report.counts["pruned"] == 5


@pytest.mark.parametrize(
    ("kind", "more"),
    [(TensorProto.FLOAT16, {}), (TensorProto.BFLOAT16, {"to": "int8"})],
    ids=["float16", "bfloat16-int8"],
)
def test_layers_whose_weights_are_stored_in_16_bits_are_taken(tmp_path, solved, kind, more):
    model = onnx.load(network(tmp_path / "whole.onnx"))
    for stored in [tensor for tensor in model.graph.initializer if tensor.name.startswith("w")]:
        name = stored.name
        half = onnx.numpy_helper.to_array(stored).astype(helper.tensor_dtype_to_np_dtype(kind))
        stored.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
        model.graph.node.insert(0, helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    onnx.save(model, tmp_path / "a.onnx")
    given = {"calib": samples(tmp_path / "s.npz"), "cache": tmp_path / "cache", **more}
    written = []
    for wanted in (LAYERS, 0):
        solved["count"] = 0
        nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx", **given)
        assert solved["count"] == wanted
        written.append((tmp_path / "b.onnx").read_bytes())
    assert written[0] == written[1]


def stepped(change):
    return lambda arrays: {**arrays, "step": change(arrays["step"])}


OFF_THE_GRID = (
    lambda arrays: {name: array for name, array in arrays.items() if name != "step"},
    lambda arrays: {**arrays, "array0": arrays["array0"] * np.float32(1.003)},
    stepped(lambda step: step / 2),  # the integers would be larger than 127
    stepped(lambda step: step[:-1]),
    stepped(lambda step: step.astype(np.float32)),
    stepped(lambda step: -step),
    stepped(lambda step: step * np.inf),
    stepped(lambda step: step * np.nan),
    stepped(lambda step: step * 1e-300),
    stepped(lambda step: np.full(step.shape, "a")),
)


def test_integers_of_the_cache_that_fit_no_grid_are_solved_again(tmp_path, made, whole, filled, solved):
    model, calib = made
    cache, paths = filled(to="int8")
    for start in range(0, len(OFF_THE_GRID), len(paths)):
        pairs = list(zip(OFF_THE_GRID[start:], paths, strict=False))
        for damage, path in pairs:
            np.savez(path, **damage(dict(np.load(path))))
        solved["count"] = 0
        nm2trt.prune(model, tmp_path / "c.onnx", calib=calib, to="int8", cache=cache)
        assert solved["count"] == len(pairs)
        assert (tmp_path / "c.onnx").read_bytes() == whole(to="int8")


def test_a_solve_to_int8_and_one_in_float_do_not_share_layers(tmp_path, made, whole, filled, solved):
    model, calib = made
    cache, _ = filled()
    solved["count"] = 0
    nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, cache=cache, to="int8")
    assert solved["count"] == LAYERS
    assert (tmp_path / "b.onnx").read_bytes() == whole(to="int8")


def test_a_layer_that_int8_leaves_out_keeps_no_step(tmp_path, made, filled, solved, monkeypatch):
    """As a search that leaves another layer in float would; the layers of the first search are not taken."""
    model, calib = made
    cache, _ = filled(to="int8")
    real = preset.prepare

    def without_w3(*arguments):
        done = real(*arguments)
        return replace(done, axes={name: axis for name, axis in done.axes.items() if name != "w3"})

    monkeypatch.setattr(preset, "prepare", without_w3)
    for wanted in (LAYERS, 0):
        solved["count"] = 0
        nm2trt.prune(model, tmp_path / "c.onnx", calib=calib, to="int8", cache=cache)
        assert solved["count"] == wanted
    paths = [path for path in cache.rglob("*.npz") if "step" not in np.load(path)]
    assert [json.loads(str(np.load(path)["row"]))["weight"] for path in paths] == ["w3"]


def test_layers_that_were_solved_with_other_ranges_are_not_taken(tmp_path, made, filled, solved, monkeypatch):
    model, calib = made
    cache, _ = filled(to="int8")
    real = preset.prepare

    def with_another_scale(*arguments):
        done = real(*arguments)
        return replace(done, scales={**done.scales, "r1": done.scales["r1"] * (1 + 2**-20)})

    monkeypatch.setattr(preset, "prepare", with_another_scale)
    solved["count"] = 0
    nm2trt.prune(model, tmp_path / "c.onnx", calib=calib, to="int8", cache=cache)
    assert solved["count"] == LAYERS


def test_layers_of_a_model_with_other_numbers_in_its_data_file_are_not_taken(tmp_path, solved):
    calib, paths = samples(tmp_path / "s.npz"), []
    for factor in (1.0, 1.5):
        model = onnx.load(network(tmp_path / "whole.onnx"))
        (stored,) = (tensor for tensor in model.graph.initializer if tensor.name == "w1")
        weight = onnx.numpy_helper.to_array(stored) * np.float32(factor)
        stored.CopyFrom(onnx.numpy_helper.from_array(weight, "w1"))
        folder = tmp_path / str(factor)
        folder.mkdir()
        onnx.save(model, folder / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
        paths.append(folder / "a.onnx")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    for path in paths:
        solved["count"] = 0
        nm2trt.prune(path, tmp_path / "b.onnx", calib=calib, cache=tmp_path / "cache")
        assert solved["count"] == LAYERS


def test_no_damage_stops_a_run(filled):
    _, (path, *_) = filled()
    whole = path.read_bytes()
    cache = object.__new__(LayerCache)
    cache._folder = path.parent
    assert cache.read(0, "w1") is not None
    random = np.random.default_rng(0)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            # Headers are a small part of the file, and the ones that matter.
            at = random.integers(-400, 200) if random.random() < 0.7 else random.integers(len(data))
            data[at] = random.integers(256)
        path.write_bytes(data[: random.integers(len(data))] if random.random() < 0.1 else data)
        cache.read(0, "w1")
    for wrong in ("[]", '"text"', "null"):
        np.savez(path, row=np.array(wrong), names=np.array("[]"))
        assert cache.read(0, "w1") is None


def test_a_layer_that_is_dense_for_another_reason_says_so(tmp_path, made):
    model, calib = made
    given = {"calib": calib, "cache": tmp_path / "cache", "permute": False}
    first = nm2trt.prune(model, tmp_path / "b.onnx", exclude=["w3"], **given)
    again = nm2trt.prune(model, tmp_path / "c.onnx", include=["w1", "w4", "w5", "w6"], **given)
    told = [{row.weight: row.reason for row in report.weights}["w3"] for report in (first, again)]
    assert told == ["excluded by 'w3'", "not among the included weights"]


@pytest.mark.parametrize("change", ["samples", "seed", "pattern", "exclude", "damage"])
def test_a_result_of_another_task_is_not_taken(tmp_path, made, filled, solved, change):
    """Without a permutation: other samples and another seed would permute the model, which is a task of its own."""
    model, calib = made
    cache, paths = filled(permute=False)
    options = {"calib": calib, "cache": cache, "permute": False}
    if change == "samples":
        options["calib"] = samples(tmp_path / "t.npz", seed=5)
    elif change == "damage":
        for path in paths:
            path.write_bytes(path.read_bytes()[:200])
    else:
        options[change] = {"seed": 1, "pattern": "1:4", "exclude": ["w4"]}[change]
    solved["count"] = 0
    nm2trt.prune(model, tmp_path / "c.onnx", **options)
    assert solved["count"] == LAYERS


WRITTEN = (
    *({"names": names} for names in (["../../x"], ["w4"], [])),
    *(
        {"error": "small"},
        {"rows": [1]},
        {"status": "kept"},
        {"consumers": [3]},
        {"axis": 7},
        {"reason": None},
    ),
    {"ridge": True},
)


def test_a_cached_result_that_does_not_fit_its_layer_is_solved_again(tmp_path, made, whole, filled, solved):
    model, calib = made
    cache, paths = filled()
    for start in range(0, len(WRITTEN), len(paths)):
        pairs = list(zip(WRITTEN[start:], paths, strict=False))
        for told, path in pairs:
            arrays = dict(np.load(path))
            names = told.get("names", json.loads(str(arrays["names"])))
            row = {**json.loads(str(arrays["row"])), **told}
            row.pop("names", None)
            arrays |= {"names": np.array(json.dumps(names)), "row": np.array(json.dumps(row))}
            np.savez(path, **arrays)
        solved["count"] = 0
        nm2trt.prune(model, tmp_path / "c.onnx", calib=calib, cache=cache)
        assert solved["count"] == len(pairs)
        assert (tmp_path / "c.onnx").read_bytes() == whole()


def test_a_cached_weight_that_breaks_the_pattern_is_solved_again(tmp_path, made, whole, filled, solved):
    model, calib = made
    cache, (first, *_) = filled()
    arrays = dict(np.load(first))
    arrays["array0"] = np.ones_like(arrays["array0"])
    np.savez(first, **arrays)
    solved["count"] = 0
    nm2trt.prune(model, tmp_path / "c.onnx", calib=calib, cache=cache)
    assert solved["count"] == 1
    assert (tmp_path / "c.onnx").read_bytes() == whole()


@pytest.mark.parametrize("blas", ["openblas", "another"])
def test_another_thread_count_takes_what_one_blas_thread_solved(
    blas, tmp_path, made, filled, solved, monkeypatch
):
    """And solves again under a library that one_blas_thread cannot hold, whose sums may come out otherwise."""
    model, calib = made
    if blas == "another":
        monkeypatch.setattr(array_namespace, "_openblas", lambda: None)
        nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, cache=tmp_path / "cache")
    elif array_namespace.thread_count_counts():
        pytest.skip("numpy computes with another library than OpenBLAS")
    else:
        filled()
    solved["count"] = 0
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    nm2trt.prune(model, tmp_path / "c.onnx", calib=calib, cache=tmp_path / "cache")
    assert solved["count"] == (0 if blas == "openblas" else LAYERS)


def test_a_cache_needs_samples(tmp_path, made):
    with pytest.raises(InputError, match="give them with --calib"):
        nm2trt.prune(made[0], tmp_path / "b.onnx", cache=tmp_path / "cache")
