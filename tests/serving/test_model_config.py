"""Configurations from artefacts, read back, and judged by the real server's own parser."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.errors import BackendError, InputError
from nm2trt.pipeline.served_artefact import describe_artefact
from nm2trt.serving.options import DeployOptions
from nm2trt.serving.repository import place
from tests.serving import served_nets as nets

pytest.importorskip("tritonclient")

from nm2trt.serving.config_message import served_differences
from nm2trt.serving.repository import served_config


def deployed(tmp_path, artefact, options=None, **extras):
    """Return the configuration that a deployment wrote, read from its file."""
    place(describe_artefact(artefact), tmp_path / "models", "m", options, **extras)
    return served_config(tmp_path / "models", "m")


def shapes(entries):
    return {entry.name: (entry.data_type, list(entry.dims)) for entry in entries}


def test_tensorrt_plan(tmp_path):
    config = deployed(tmp_path, nets.plan(tmp_path / "m.engine"))
    assert (config.name, config.backend, config.default_model_filename) == ("m", "tensorrt", "model.plan")
    assert config.max_batch_size == 32
    fp16 = 10
    assert shapes(config.input) == {"x": (fp16, [16, 8, 8])}
    assert shapes(config.output) == {"y": (fp16, [10])}
    assert [(g.kind, list(g.profile)) for g in config.instance_group] == [(1, ["0"])]
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert list(config.version_policy.specific.versions) == [1]
    told = {key: value.string_value for key, value in config.parameters.items()}
    assert told["nm2trt.pattern"] == "2:4"
    assert told["nm2trt.mask_sha256"] == "cd" * 32
    assert told["nm2trt.model_sha256"] == "ab" * 32


def test_a_free_batch_that_an_output_has_second_is_not_called_fixed(tmp_path):
    def noted(nodes, output, stored):
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
            [numpy_helper.from_array(value, name) for name, value in stored.items()],
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(made, tmp_path / "m.onnx")
        return place(describe_artefact(tmp_path / "m.onnx"), tmp_path / "models", "m").notes

    unsqueeze = helper.make_node("Unsqueeze", ["x", "z"], ["y"])
    (note,) = noted([unsqueeze], [1, "n", 4], {"z": np.array([0])})
    assert "first dimension of output 'y' is not a batch" in note
    assert "fixed" not in note


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [(TensorProto.STRING, ["n"], "'x' of .* text for example"), (TensorProto.FLOAT, None, "rank of 'x'")],
)
def test_what_a_server_cannot_be_told_is_named(kind, shape, words, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "m.onnx",
    )
    with pytest.raises(InputError, match=words):
        describe_artefact(tmp_path / "m.onnx")


def test_profiles_that_take_the_same_get_a_group_each(tmp_path):
    config = deployed(tmp_path, nets.plan(tmp_path / "m.engine", profiles=((1, 4, 32), (1, 32, 32))))
    assert [list(g.profile) for g in config.instance_group] == [["0"], ["1"]]
    assert config.max_batch_size == 32
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 32]


def test_profiles_that_take_different_batches_share_a_group(tmp_path):
    engine = nets.plan(tmp_path / "m.engine", profiles=((1, 4, 8), (8, 32, 64)))
    config = deployed(tmp_path, engine)
    assert [list(g.profile) for g in config.instance_group] == [["0", "1"]]
    assert config.max_batch_size == 64


def test_a_group_each_on_request_takes_what_every_profile_takes(tmp_path):
    engine = nets.plan(tmp_path / "m.engine", profiles=((1, 4, 8), (1, 32, 64)))
    config = deployed(tmp_path, engine, DeployOptions(profile_groups="each"))
    assert [list(g.profile) for g in config.instance_group] == [["0"], ["1"]]
    assert config.max_batch_size == 8


def test_a_batch_above_the_profile_is_refused(tmp_path):
    engine = describe_artefact(nets.plan(tmp_path / "m.engine"))
    with pytest.raises(InputError, match="max_batch 64 is more than the engine's profiles take, which is 32"):
        place(engine, tmp_path / "models", "m", DeployOptions(max_batch=64))
    assert not (tmp_path / "models").exists()


def test_a_static_plan_is_served_as_it_is(tmp_path):
    config = deployed(tmp_path, nets.plan(tmp_path / "m.engine", profiles=()))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [8, 16, 8, 8]
    assert not config.HasField("dynamic_batching")
    assert [list(g.profile) for g in config.instance_group] == [[]]


def test_onnx(tmp_path):
    options = DeployOptions(max_batch=16, instances=2, preferred_batches=(4, 8), queue_delay_us=500)
    config = deployed(tmp_path, nets.linear(tmp_path / "m.onnx", mask="ef" * 32), options)
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 16)
    assert shapes(config.input) == {"x": (11, [4])}
    assert [(g.kind, g.count) for g in config.instance_group] == [(0, 2)]
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.parameters["nm2trt.mask_sha256"].string_value == "ef" * 32
    assert config.parameters["nm2trt.pattern"].string_value == "dense"


def test_onnx_of_a_fixed_batch(tmp_path):
    model = nets.linear(tmp_path / "m.onnx", batch=2)
    config = deployed(tmp_path, model)
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 4])
    with pytest.raises(InputError, match="the first dimension of 'x' is not free, so the server cannot form"):
        place(describe_artefact(model), tmp_path / "models", "n", DeployOptions(max_batch=4))


def test_scalars_a_sample_travel_as_one_element(tmp_path):
    config = deployed(tmp_path, nets.two_inputs(tmp_path / "m.onnx"))
    scalar = next(entry for entry in config.input if entry.name == "s")
    assert list(scalar.dims) == [1]
    assert scalar.HasField("reshape")
    assert list(scalar.reshape.shape) == []


def test_warmup_holds_the_real_sample(tmp_path):
    sample = {"x": np.arange(8, dtype=np.float64).reshape(2, 4)}
    config = deployed(tmp_path, nets.linear(tmp_path / "m.onnx"), sample=sample)
    assert [(w.name, w.batch_size) for w in config.model_warmup] == [("batch_1", 1), ("batch_32", 32)]
    file = config.model_warmup[0].inputs["x"].input_data_file
    stored = np.fromfile(tmp_path / "models" / "m" / "warmup" / file, np.float32)
    np.testing.assert_array_equal(stored, [0, 1, 2, 3])


def test_labels(tmp_path):
    config = deployed(tmp_path, nets.linear(tmp_path / "m.onnx"), labels={"y": ["cat", "dog", "eel"]})
    file = tmp_path / "models" / "m" / config.output[0].label_filename
    assert file.read_text() == "cat\ndog\neel\n"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"z": ["a"]}, "labels are given for 'z'; the model's outputs are 'y'"),
        ({"y": ["a", "b"]}, "2 labels are given for output 'y', which has 3 classes"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, labels, message):
    with pytest.raises(InputError, match=message):
        deployed(tmp_path, nets.linear(tmp_path / "m.onnx"), labels=labels)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"z": np.zeros((1, 4))}, r"the sample: the model's inputs are \['x'\], the data has \['z'\]"),
        ({"x": np.zeros((1, 5))}, r"input 'x' takes samples of shape nx4, the data has \(1, 5\)"),
        ({"x": np.zeros((1, 4), np.int64)}, "input 'x' takes float32, the data has int64"),
        ({"x": np.zeros((0, 4))}, "do not hold the same number of samples, at least one"),
    ],
)
def test_samples_that_do_not_fit(tmp_path, sample, message):
    with pytest.raises(InputError, match=message):
        deployed(tmp_path, nets.linear(tmp_path / "m.onnx"), sample=sample)


def test_settings_and_parameters(tmp_path):
    options = DeployOptions(
        parameters={"team": "vision"},
        settings=("optimization.priority=PRIORITY_MAX", "response_cache.enable=true"),
    )
    config = deployed(tmp_path, nets.linear(tmp_path / "m.onnx"), options)
    assert config.parameters["team"].string_value == "vision"
    assert config.optimization.priority == 1
    assert config.response_cache.enable


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("deployed", "specific"), ("latest:3", "latest"), ("all", "all")],
)
def test_version_policy(tmp_path, policy, expected):
    config = deployed(tmp_path, nets.linear(tmp_path / "m.onnx"), DeployOptions(version_policy=policy))
    assert config.version_policy.WhichOneof("policy_choice") == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "torch"}, "backend 'torch' is unknown"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"profile_groups": "none"}, "profile groups 'none' are unknown"),
        ({"max_batch": -1}, "max_batch -1 is out of range"),
        ({"instances": 0}, "instances 0 is out of range"),
        ({"keep": 0}, "keep 0 is out of range; give 1 to 2147483647"),
        ({"preferred_batches": (0,)}, "preferred_batches 0 is out of range"),
        ({"version_policy": "latest"}, "version policy 'latest' is unknown"),
        ({"version_policy": "latest:0"}, "version policy 'latest:0' is unknown"),
        ({"parameters": {"nm2trt.pattern": "1:4"}}, "parameter 'nm2trt.pattern' is not yours to set"),
        ({"device": "cpu", "gpus": (0,)}, "GPUs are named for a model that is to run on the CPU"),
    ],
)
def test_options_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        DeployOptions(**changes)


def test_preferred_batches_above_the_largest(tmp_path):
    with pytest.raises(InputError, match="preferred batch 9 is more than the largest batch, 8"):
        deployed(
            tmp_path, nets.linear(tmp_path / "m.onnx"), DeployOptions(max_batch=8, preferred_batches=(9,))
        )


def test_preferred_batches_above_the_largest_by_a_setting(tmp_path):
    options = DeployOptions(max_batch=8, settings=("dynamic_batching.preferred_batch_size=4,9",))
    with pytest.raises(InputError, match="preferred batch 9 is more than the largest batch, 8"):
        deployed(tmp_path, nets.linear(tmp_path / "m.onnx"), options)


@pytest.mark.parametrize(
    ("batch", "changes", "message"),
    [
        (2, {"queue_delay_us": 5}, "dynamic batching, which is not possible here: the batch is fixed in the"),
        (2, {"preferred_batches": (2,)}, "dynamic batching, which is not possible here: the batch is fixed"),
        ("n", {"max_batch": 0, "queue_delay_us": 5}, "dynamic batching, which is switched off"),
        ("n", {"dynamic_batching": False, "queue_delay_us": 5}, "dynamic batching, which is switched off"),
        ("n", {"backend": "python", "device": "gpu"}, "the python backend runs ONNX models on the CPU"),
        ("n", {"backend": "python", "gpus": (0,)}, "the python backend runs ONNX models on the CPU"),
    ],
)
def test_options_that_would_come_to_nothing(tmp_path, batch, changes, message):
    with pytest.raises(InputError, match=message):
        deployed(tmp_path, nets.linear(tmp_path / "m.onnx", batch=batch), DeployOptions(**changes))


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        ("float32", (), "'x' of .* is a scalar, which Triton takes only as one per sample of a batch"),
        ("float32", ("n", 0), r"'x' of .* has shape \('n', 0\); Triton takes no tensor without elements"),
        ("bfloat16", ("n", 4), "'x' of .* has type bfloat16, which the python backend cannot hand to numpy"),
    ],
)
def test_tensors_that_cannot_be_served(tmp_path, dtype, shape, message):
    model = nets.identity(tmp_path / "m.onnx", dtype, shape)
    with pytest.raises(InputError, match=message):
        deployed(tmp_path, model, DeployOptions(backend="python"))


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_a_model_without_inputs_or_outputs(tmp_path, what):
    import onnx

    proto = onnx.load(nets.identity(tmp_path / "m.onnx"))
    if what == "inputs":
        proto.graph.node[0].CopyFrom(onnx.helper.make_node("Constant", [], ["y"], value_floats=[1.0]))
        del proto.graph.input[:]
    else:
        del proto.graph.output[:]
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=f"has no {what}, so there is nothing to request of it"):
        deployed(tmp_path, tmp_path / "m.onnx", DeployOptions(max_batch=4))


@pytest.mark.parametrize(
    ("kind", "backend", "message"),
    [
        (
            "trt-rtx",
            "tensorrt",
            "TensorRT for RTX plan, which Triton's tensorrt backend cannot read.*use python",
        ),
        ("trt", "onnxruntime", "is a TensorRT plan: the backend 'onnxruntime' does not run it; use tensorrt"),
    ],
)
def test_backends_that_do_not_run_an_artefact(tmp_path, kind, backend, message):
    engine = nets.plan(tmp_path / "m.engine", backend=kind)
    with pytest.raises(InputError, match=message):
        deployed(tmp_path, engine, DeployOptions(backend=backend))


def test_an_engine_on_the_cpu(tmp_path):
    with pytest.raises(InputError, match="is an engine, which runs on a GPU only"):
        deployed(tmp_path, nets.plan(tmp_path / "m.engine"), DeployOptions(device="cpu"))


def test_first_dimensions_of_different_names_are_taken_for_no_batch(tmp_path):
    import onnx

    model = onnx.load(nets.linear(tmp_path / "m.onnx"))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "tokens"
    onnx.save(model, tmp_path / "m.onnx")
    assert deployed(tmp_path, tmp_path / "m.onnx").max_batch_size == 0
    (tmp_path / "other").mkdir()
    assert deployed(tmp_path / "other", tmp_path / "m.onnx", DeployOptions(max_batch=4)).max_batch_size == 4


ENGINES = {
    "one-profile": {},
    "two-alike": {"profiles": ((1, 4, 32), (1, 32, 32))},
    "two-different": {"profiles": ((1, 4, 8), (8, 32, 64))},
    "static": {"profiles": ()},
}
RICH = DeployOptions(
    instances=2,
    preferred_batches=(4,),
    queue_delay_us=100,
    version_policy="latest:2",
    parameters={"team": "vision"},
    settings=("optimization.priority=PRIORITY_MIN", "metric_tags.a=b"),
)


def load_by_server(server, artefact, name, options=None, **extras):
    """Deploy into the running server's repository and load it there; return what it says."""
    from nm2trt.backends.triton import TritonServer

    place(describe_artefact(artefact), server.repository, name, options, **extras)
    with TritonServer(f"http://{server.http}") as client:
        client.load(name)


@pytest.mark.parametrize("changes", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("options", [None, DeployOptions(gpus=(0, 1))], ids=["plain", "more"])
def test_the_servers_parser_takes_tensorrt_configurations(tmp_path, tritonserver, changes, options):
    engine = nets.plan(tmp_path / "m.engine", **changes)
    name = f"plan-{len(str(changes))}-{0 if options is None else 1}"
    with pytest.raises(BackendError, match="unable to find backend library for backend 'tensorrt'"):
        load_by_server(tritonserver, engine, name, options, sample={"x": np.zeros((8, 16, 8, 8), np.float32)})


@pytest.mark.parametrize("options", [DeployOptions(), RICH], ids=["plain", "rich"])
def test_the_servers_parser_takes_onnxruntime_configurations(tmp_path, tritonserver, options):
    model = nets.linear(tmp_path / "m.onnx")
    name = f"onnx-{options.instances}"
    labels = {"y": ["a", "b", "c"]}
    with pytest.raises(BackendError, match="unable to find backend library for backend 'onnxruntime'"):
        load_by_server(tritonserver, model, name, options, sample={"x": np.zeros((1, 4))}, labels=labels)


def test_the_servers_parser_refuses_a_planted_fault(tmp_path, tritonserver):
    from nm2trt.backends.triton import TritonServer

    place(describe_artefact(nets.plan(tmp_path / "m.engine")), tritonserver.repository, "broken")
    config = tritonserver.repository / "broken" / "config.pbtxt"
    config.write_text(config.read_text() + "no_such_field: 1\n")
    with (
        TritonServer(f"http://{tritonserver.http}") as client,
        pytest.raises(BackendError, match="failed to poll from model repository"),
    ):
        client.load("broken")


def test_the_server_reports_the_configuration_as_it_was_deployed(tmp_path, tritonserver):
    from nm2trt.backends.triton import TritonServer

    options = DeployOptions(backend="python", max_batch=8, queue_delay_us=7, settings=("metric_tags.a=b",))
    load_by_server(
        tritonserver, nets.linear(tmp_path / "m.onnx"), "same", options, sample={"x": np.zeros((1, 4))}
    )
    for protocol in ("http", "grpc"):
        with TritonServer(f"{protocol}://{getattr(tritonserver, protocol)}") as client:
            served = client.model_config("same")
        assert served_differences(served_config(tritonserver.repository, "same"), served) == [], protocol
    place(describe_artefact(nets.linear(tmp_path / "m.onnx")), tritonserver.repository, "same", options)
    differences = served_differences(served_config(tritonserver.repository, "same"), served)
    assert "version_policy.specific.versions[0] is '2' as deployed, and '1' on the server" in differences


def test_a_record_says_what_was_deployed(tmp_path):
    model = nets.linear(tmp_path / "m.onnx")
    placed = place(describe_artefact(model), tmp_path / "models", "m")
    record = json.loads((placed.folder / "deployment.json").read_text())
    assert record["artefact_sha256"] == placed.artefact_sha256
    assert record["config"] == Path(tmp_path, "models", "m", "config.pbtxt").read_text()
    assert (record["version"], record["previous"]) == (1, None)
