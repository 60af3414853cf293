"""prune --calib --cache: a run that was stopped goes on, and ends in the bytes of one that was not."""

import json
import os
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


@pytest.fixture
def made(tmp_path):
    return network(tmp_path / "a.onnx"), samples(tmp_path / "s.npz")


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


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, made, solved):
    model, calib = made
    nm2trt.prune(model, tmp_path / "whole.onnx", calib=calib)
    every = solved["count"]
    solved.update(count=0, limit=3)
    with pytest.raises(KeyboardInterrupt):
        nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, cache=tmp_path / "cache")
    assert not (tmp_path / "b.onnx").exists()
    solved.update(count=0, limit=99)
    report = nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, cache=tmp_path / "cache")
    assert solved["count"] == every - 3
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert [row.status for row in report.weights].count("pruned") == 5


@pytest.mark.parametrize("more", [{}, {"max_loss": "7%"}], ids=["free", "limit"])
@pytest.mark.parametrize("limit", [1, 5])
def test_a_stopped_solve_to_int8_goes_on_to_the_same_bytes(tmp_path, made, solved, limit, more):
    model, calib = made
    given = {"calib": calib, "to": "int8", **more}
    nm2trt.prune(model, tmp_path / "whole.onnx", **given)
    every = solved["count"]
    solved.update(count=0, limit=limit)
    with pytest.raises(KeyboardInterrupt):
        nm2trt.prune(model, tmp_path / "b.onnx", cache=tmp_path / "cache", **given)
    assert not (tmp_path / "b.onnx").exists()
    solved.update(count=0, limit=99)
    nm2trt.prune(model, tmp_path / "b.onnx", cache=tmp_path / "cache", **given)
    assert solved["count"] == every - limit
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


@pytest.mark.parametrize("more", [{}, {"to": "int8"}], ids=["float", "int8"])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=["float16", "bfloat16"])
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
    for wanted in (6, 0):
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


def test_integers_of_the_cache_that_fit_no_grid_are_solved_again(tmp_path, made, solved):
    model, calib = made
    given = {"calib": calib, "to": "int8", "cache": tmp_path / "cache"}
    nm2trt.prune(model, tmp_path / "b.onnx", **given)
    paths = sorted((tmp_path / "cache").rglob("*.npz"))
    for start in range(0, len(OFF_THE_GRID), len(paths)):
        pairs = list(zip(OFF_THE_GRID[start:], paths, strict=False))
        for damage, path in pairs:
            np.savez(path, **damage(dict(np.load(path))))
        solved["count"] = 0
        nm2trt.prune(model, tmp_path / "c.onnx", **given)
        assert solved["count"] == len(pairs)
        assert (tmp_path / "c.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_solve_to_int8_and_one_in_float_do_not_share_layers(tmp_path, made, solved):
    model, calib = made
    for more in ({}, {"to": "int8"}):
        nm2trt.prune(model, tmp_path / "alone.onnx", calib=calib, **more)
        solved["count"] = 0
        nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, cache=tmp_path / "cache", **more)
        assert solved["count"] == 6
        assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "alone.onnx").read_bytes()


def test_a_layer_that_int8_leaves_out_keeps_no_step(tmp_path, made, solved, monkeypatch):
    """As a search that leaves another layer in float would; the layers of the first search are not taken."""
    model, calib = made
    given = {"calib": calib, "to": "int8", "cache": tmp_path / "cache"}
    nm2trt.prune(model, tmp_path / "b.onnx", **given)
    real = preset.prepare

    def without_w3(*arguments):
        done = real(*arguments)
        return replace(done, axes={name: axis for name, axis in done.axes.items() if name != "w3"})

    monkeypatch.setattr(preset, "prepare", without_w3)
    for wanted in (6, 0):
        solved["count"] = 0
        nm2trt.prune(model, tmp_path / "c.onnx", **given)
        assert solved["count"] == wanted
    paths = [path for path in (tmp_path / "cache").rglob("*.npz") if "step" not in np.load(path)]
    assert [json.loads(str(np.load(path)["row"]))["weight"] for path in paths] == ["w3"]


@pytest.mark.parametrize("factor", [1 + 2**-20, 2.0])
def test_layers_that_were_solved_with_other_ranges_are_not_taken(tmp_path, made, solved, monkeypatch, factor):
    model, calib = made
    given = {"calib": calib, "to": "int8", "cache": tmp_path / "cache"}
    nm2trt.prune(model, tmp_path / "b.onnx", **given)
    real = preset.prepare

    def with_another_scale(*arguments):
        done = real(*arguments)
        return replace(done, scales={**done.scales, "r1": done.scales["r1"] * factor})

    monkeypatch.setattr(preset, "prepare", with_another_scale)
    solved["count"] = 0
    nm2trt.prune(model, tmp_path / "c.onnx", **given)
    assert solved["count"] == 6


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
        assert solved["count"] == 6


def test_no_damage_stops_a_run(tmp_path, made):
    model, calib = made
    nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, cache=tmp_path / "cache")
    path = sorted((tmp_path / "cache").rglob("*.npz"))[0]
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


@pytest.mark.parametrize("change", ["samples", "seed", "damage"])
def test_a_result_of_another_task_is_not_taken(tmp_path, made, solved, change):
    model, calib = made
    nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, cache=tmp_path / "cache")
    every = solved["count"]
    options = {"calib": calib, "cache": tmp_path / "cache"}
    if change == "samples":
        options["calib"] = samples(tmp_path / "t.npz", seed=5)
    elif change == "seed":
        options["seed"] = 1
    else:
        for path in (tmp_path / "cache").rglob("*.npz"):
            path.write_bytes(path.read_bytes()[:200])
    solved["count"] = 0
    nm2trt.prune(model, tmp_path / "c.onnx", **options)
    assert solved["count"] == every


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


def test_a_cached_result_that_does_not_fit_its_layer_is_solved_again(tmp_path, made, solved):
    model, calib = made
    nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, cache=tmp_path / "cache")
    paths = sorted((tmp_path / "cache").rglob("*.npz"))
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
        nm2trt.prune(model, tmp_path / "c.onnx", calib=calib, cache=tmp_path / "cache")
        assert solved["count"] == len(pairs)
        assert (tmp_path / "c.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_cached_weight_that_breaks_the_pattern_is_solved_again(tmp_path, made, solved):
    model, calib = made
    nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, cache=tmp_path / "cache")
    first = next((tmp_path / "cache").rglob("layer00000.npz"))
    arrays = dict(np.load(first))
    arrays["array0"] = np.ones_like(arrays["array0"])
    np.savez(first, **arrays)
    solved["count"] = 0
    nm2trt.prune(model, tmp_path / "c.onnx", calib=calib, cache=tmp_path / "cache")
    assert solved["count"] == 1
    assert (tmp_path / "c.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("blas", ["openblas", "another"])
def test_another_thread_count_takes_what_one_blas_thread_solved(blas, tmp_path, made, solved, monkeypatch):
    """And solves again under a library that one_blas_thread cannot hold, whose sums may come out otherwise."""
    if blas == "another":
        monkeypatch.setattr(array_namespace, "_openblas", lambda: None)
    elif array_namespace.thread_count_counts():
        pytest.skip("numpy computes with another library than OpenBLAS")
    model, calib = made
    nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, cache=tmp_path / "cache")
    every = solved["count"]
    solved["count"] = 0
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    nm2trt.prune(model, tmp_path / "c.onnx", calib=calib, cache=tmp_path / "cache")
    assert solved["count"] == (0 if blas == "openblas" else every)


def test_a_cache_needs_samples(tmp_path, made):
    with pytest.raises(InputError, match="give them with --calib"):
        nm2trt.prune(made[0], tmp_path / "b.onnx", cache=tmp_path / "cache")
