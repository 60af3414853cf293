"""The functions in Python: signatures, values in memory, results, errors, and a plain installation."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import nm2trt
from nm2trt.backends.options import BuildOptions
from nm2trt.errors import DataError, InputError
from nm2trt.extras import install_line
from nm2trt.options.engines import BuildCommand
from nm2trt.options.field import options_of
from tests.engine.nets import conv_net

DRAWN = np.random.default_rng(0).standard_normal((16, 256)).astype(np.float32)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        ("build", ("model", "sparsity", "targets", "precision", "calib", "require_sparse", "options")),
        ("prove", ("model", "dense", "targets", "runs", "options")),
        ("prune", ("model", "calib", "pattern")),
        ("quantize", ("model", "calib", "method")),
        ("validate", ("model", "against", "data", "labels", "max_drop")),
    ],
)
def test_editors_see_every_keyword(function, names):
    parameters = inspect.signature(getattr(nm2trt, function)).parameters
    assert set(names) <= set(parameters)
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters.values())


def test_build_takes_every_option_of_its_command():
    parameters = inspect.signature(nm2trt.build).parameters
    # How to reach a precision is a `Lowering` in Python.
    alone = {known.name for known in options_of(BuildCommand) if known.keyword and not known.group}
    assert len(alone) > 10
    assert alone <= set(parameters)


def test_build_takes_truth_keywords_or_options(tmp_path):
    model = conv_net(tmp_path / "m.onnx")
    told = nm2trt.build(
        model, sparsity=True, targets="sm86", profiles=["x:1,2,4"], dry_run=True, backend="trt-rtx"
    )
    old = nm2trt.build(
        model, options=BuildOptions(sparsity="enable", targets=("sm86",)), dry_run=True, backend="trt-rtx"
    )
    assert (told.options.sparsity, told.options.targets) == ("enable", ("sm86",))
    assert told.options.profiles[0][0].opt[0] == 2
    assert old.options.sparsity == "enable"
    dense = nm2trt.build(model, sparsity=False, dry_run=True, backend="trt-rtx")
    assert dense.options.sparsity == "disable"
    with pytest.raises(InputError, match="given twice: leave out options=, or sparsity, targets"):
        nm2trt.build(model, options=BuildOptions(), sparsity=True, targets="sm86")


def test_a_precision_by_its_name_takes_the_samples(tmp_path):
    """As on the command line, where both are options of one command."""
    proto = onnx.load(conv_net(tmp_path / "m.onnx", dtype="float32"))
    x = np.random.default_rng(0).standard_normal((16, 16, 8, 8)).astype(np.float32)
    told = nm2trt.build(
        proto, tmp_path / "m.rtx", sparsity=True, precision="int8", calib=x, backend="trt-rtx", dry_run=True
    )
    assert any("ranges by minmax over 16 samples" in note for note in told.notes)
    with pytest.raises(InputError, match="int8 needs samples that choose its ranges"):
        nm2trt.build(tmp_path / "m.onnx", precision="int8", backend="trt-rtx")


def test_protobufs_and_arrays_are_taken_for_files(tmp_path):
    path = conv_net(tmp_path / "m.onnx", dtype="float32", sparse=False)
    proto = onnx.load(path)
    kept = proto.SerializeToString()
    rng = np.random.default_rng(0)
    shape = (24, 16, 8, 8)
    x = rng.standard_normal(shape).astype(np.float32)
    assert nm2trt.verify(proto).counts == nm2trt.verify(path).counts
    with pytest.raises(InputError, match="the model is in memory and has no folder; give output=PATH"):
        nm2trt.prune(proto)
    from_memory = nm2trt.prune(proto, tmp_path / "a.onnx", calib=x)
    from_file = tmp_path / "x.npz"
    np.savez(from_file, x=x)
    nm2trt.prune(path, tmp_path / "b.onnx", calib=from_file)
    assert from_memory.counts["pruned"] == 2
    one, two = (onnx.load(tmp_path / name).graph.initializer for name in ("a.onnx", "b.onnx"))
    assert [t.raw_data for t in one] == [t.raw_data for t in two]
    assert proto.SerializeToString() == kept, "the caller's model is not changed"
    report = nm2trt.validate(tmp_path / "a.onnx", proto, {"x": x}, runs=0)
    assert report.comparison.n == len(x)
    with pytest.raises(InputError, match="labels go with arrays"):
        nm2trt.validate(path, path, from_file, labels=[1])
    with pytest.raises(InputError, match="model is of type list; give a path, an onnx"):
        nm2trt.verify([1])


def test_a_wrong_keyword_is_told_with_the_name_of_the_function():
    with pytest.raises(TypeError, match=r"prune\(\) got an unexpected keyword argument 'calibration'"):
        nm2trt.prune("m.onnx", calibration="x.npz")
    with pytest.raises(TypeError, match=r"quantize\(\) missing 1 required keyword-only argument: 'calib'"):
        nm2trt.quantize("m.onnx")


def test_modules_are_taken_with_an_example_or_with_arrays(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).eval()
    x = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    with torch.no_grad():
        labels = module(torch.from_numpy(x)).argmax(1)
    pruned = nm2trt.prune(module, tmp_path / "p.onnx", example=(torch.tensor(x),), min_channels=8)
    assert pruned.counts["pruned"] == 2
    told = nm2trt.build(module, example={"input": torch.tensor(x)}, dry_run=True, backend="trt-rtx")
    assert [spec.shape[1] for spec in told.inputs] == [16]
    report = nm2trt.validate(tmp_path / "p.onnx", module, x, labels=labels, runs=0)
    (metric,) = [m for m in report.comparison.metrics if m.name == "top-1"]
    assert metric.reference.value == 1 > metric.candidate.value
    with pytest.raises(InputError, match="model is a module, and nothing says what its inputs are"):
        nm2trt.verify(module)
    with pytest.raises(InputError, match="example says what a torch module takes, and model is not a module"):
        nm2trt.verify(tmp_path / "p.onnx", example=x)


def test_other_functions_take_protobufs_and_arrays_too(tmp_path):
    proto = onnx.load(conv_net(tmp_path / "m.onnx", dtype="float32"))
    x = np.zeros((4, 16, 8, 8), np.float32)
    assert nm2trt.info(proto).inputs[0].name == "x"
    assert len(nm2trt.explain(proto).to_dict()["ladder"]) == 2
    assert nm2trt.infer(proto, tmp_path / "o.npz", data=x).tensors[0].shape[0] == 4
    timed = nm2trt.bench([proto, tmp_path / "m.onnx"], data={"x": x}, runs=2, warmup=1)
    assert [timing.latency.runs for timing in timed.benchmark.timings] == [2, 2]
    assert len(nm2trt.bench(str(tmp_path / "m.onnx"), runs=2, warmup=1).benchmark.timings) == 1


def linear(path, name, classes=3):
    """Write y = x times a matrix of ones, of an input called `name`."""
    infos = [onnx.helper.make_tensor_value_info(n, 1, ["n", s]) for n, s in ((name, 2), ("y", classes))]
    weight = onnx.numpy_helper.from_array(np.ones((2, classes), np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", [name, "w"], ["y"])], "g", infos[:1], infos[1:], [weight]
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path


@pytest.mark.parametrize("name", ["x", "file", "allow_pickle"])
def test_samples_are_whatever_numpy_makes_an_array_of(tmp_path, name):
    torch = pytest.importorskip("torch")
    path, rows = linear(tmp_path / "m.onnx", name), [[0.5, 1.0], [2.0, 3.0]]
    for data in (rows, tuple(map(np.array, rows)), {name: rows}, torch.tensor(rows).bfloat16()):
        nm2trt.infer(path, tmp_path / "o.npz", data=data)
        assert np.load(tmp_path / "o.npz")["y"][:, 0].tolist() == [1.5, 5.0]


@pytest.mark.parametrize(
    ("data", "labels", "sentence"),
    [
        ([[1.0, 2.0], [3.0]], None, r"numpy makes no array of 'x': setting an array element"),
        ({"x": [{"x": 1.0}]}, None, r"'x' holds objects of Python; give numbers or text"),
        ([[1.0, 2.0]], [[1], [1, 2]], r"numpy makes no array of 'labels': "),
        ({"x": [[1j, 2j]]}, None, r"holds 'x' of dtype complex128"),
        ({"x": [[1.0, 2.0]], "labels": [0]}, [0], r"labels are given twice"),
    ],
    ids=["ragged", "objects", "ragged labels", "complex", "twice"],
)
def test_samples_that_are_no_arrays_are_one_sentence(tmp_path, data, labels, sentence):
    path = linear(tmp_path / "m.onnx", "x")
    with pytest.raises((DataError, InputError), match=sentence):
        nm2trt.validate(path, path, data, labels=labels, runs=0)


@pytest.mark.parametrize("traced", [False, True], ids=["script", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit itself
def test_a_module_that_torch_jit_has_compiled_is_refused_in_one_sentence(tmp_path, traced):
    torch = pytest.importorskip("torch")
    module, x = torch.nn.Sequential(torch.nn.Linear(16, 16)).eval(), torch.ones(2, 16)
    compiled = torch.jit.trace(module, x) if traced else torch.jit.script(module)
    calls = [
        lambda: nm2trt.export(compiled, x, tmp_path / "m.onnx"),
        lambda: nm2trt.verify(compiled, example=x),
        lambda: nm2trt.quantize(compiled, tmp_path / "m.onnx", calib=x.numpy()),
        lambda: nm2trt.permute(compiled, x),
    ]
    for call in calls:
        with pytest.raises(
            InputError, match=r"the model is compiled by torch\.jit, which export cannot trace"
        ):
            call()
    with pytest.raises(nm2trt.SparsifyError, match="has no weight with zeros to keep"):
        nm2trt.keep_zeros(compiled)
    with pytest.raises(nm2trt.SparsifyError, match="no linear layer can take torch's 2:4 kernels"):
        nm2trt.to_semi_structured(compiled)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, out: nm2trt.verify(model),
        lambda model, out: nm2trt.info(model),
        lambda model, out: nm2trt.explain(model),
        lambda model, out: nm2trt.fuse(model, out),
        lambda model, out: nm2trt.permute(model, out),
        lambda model, out: nm2trt.prune(model, out),
        lambda model, out: nm2trt.cast(model, out),
        lambda model, out: nm2trt.infer(model, out.with_suffix(".npz")),
        lambda model, out: nm2trt.validate(model, against=model, data=DRAWN, runs=0),
        lambda model, out: nm2trt.quantize(model, out, calib=DRAWN),
        lambda model, out: nm2trt.build(model, out, dry_run=True, backend="ort"),
    ],
    ids="verify info explain fuse permute prune cast infer validate quantize build".split(),
)
def test_a_protobuf_of_the_callers_keeps_its_weights(tmp_path, call):
    """Its large ones too, which leave a model while it is written."""
    draw = np.random.default_rng(0)
    stored = {"w": draw.standard_normal((256, 256)), "k": draw.standard_normal((64, 256))}
    weights = [onnx.numpy_helper.from_array(value.astype("f4"), name) for name, value in stored.items()]
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w"], ["a"], transB=1),
        onnx.helper.make_node("Gemm", ["a", "k"], ["y"], transB=1),
    ]
    infos = [
        onnx.helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", 256), ("y", 64))
    ]
    graph = onnx.helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    before = model.SerializeToString(deterministic=True)
    call(model, tmp_path / "out.onnx")
    assert model.SerializeToString(deterministic=True) == before


def test_what_was_in_memory_is_called_so(tmp_path):
    proto = onnx.load(conv_net(tmp_path / "m.onnx", dtype="float32", sparse=False))
    x = np.zeros((4, 16, 8, 8), np.float32)
    dry = nm2trt.build(proto, dry_run=True, backend="trt-rtx")
    assert (str(dry.model), str(dry.engine)) == ("model (in memory)", "model.rtx")
    found = [
        dry,
        nm2trt.verify(proto),
        nm2trt.explain(proto),
        nm2trt.validate(proto, proto, x, runs=0),
        nm2trt.bench([proto, proto], data=x, runs=2, warmup=1),
        nm2trt.permute(proto, tmp_path / "p.onnx"),
    ]
    for result in found:
        assert "nm2trt-" not in f"{result}{result._repr_html_()}{result.to_dict()}"
    with pytest.raises(nm2trt.SparsityError, match=r"^model \(in memory\): none of its weights holds 2:4"):
        nm2trt.build(proto, tmp_path / "m.rtx", sparsity=True)


def results(folder):
    """Yield results of functions that need neither a server nor a GPU."""
    path = conv_net(folder / "m.onnx", dtype="float32")
    yield nm2trt.verify(path)
    yield nm2trt.info(path)
    yield nm2trt.doctor()
    yield nm2trt.bench([path], runs=2, warmup=1)
    yield nm2trt.infer(path, folder / "o.npz")
    yield nm2trt.prune(path, folder / "p.onnx")
    yield nm2trt.build(path, dry_run=True, backend="trt-rtx")


def test_results_are_shown_short(tmp_path):
    for result in results(tmp_path):
        assert len(str(result)) > 10
        assert repr(result).startswith(f"<{type(result).__name__}>\n")
        assert len(repr(result)) < 2000
        assert result._repr_html_().startswith(("<table>", "<div>"))
        assert result.to_dict() == result.to_json()
        json.dumps(result.to_dict())


# Not a finding but a thing to go on working with.
HANDLES = {"KeptZeros", "RunningServer", "SparseSession", "torch.nn.Module", "tuple[str, ...]"}


def test_every_function_returns_a_result_that_prints():
    returned = {
        name.strip()
        for function in (getattr(nm2trt, name) for name in nm2trt.__all__)
        if inspect.isfunction(function)
        for name in str(inspect.signature(function).return_annotation).split(" | ")
    }
    sources = "".join(path.read_text() for path in Path(nm2trt.__file__).parent.rglob("*.py"))
    known = set(re.findall(r"^class (\w+)\((?:\w+, )?(?:Result|BudgetPoints|PassReport)\):", sources, re.M))
    assert len(returned) > 15
    assert returned - HANDLES <= known


def test_errors_and_run_are_public():
    assert issubclass(nm2trt.ModelError, nm2trt.Nm2trtError)
    assert nm2trt.run.__doc__


BASE = """
import importlib.util, sys
absent = {absent!r}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in absent else found(name, package)
"""
ABSENT = ("pydantic yaml PIL torch onnxruntime jinja2 matplotlib tritonclient tensorrt tensorrt_rtx polygraphy "
          "onnxscript safetensors jiwer pycocotools").split()  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sparsify", "r.yaml"], "pip install"),
        (["calib", "check", "r.yaml"], f"pydantic is not installed: {install_line('recipes')}"),
        (["init", "m.onnx"], install_line("recipes")),
        (["run", "r.yaml"], install_line("recipes")),
        (["infer", "m.onnx"], f"ONNX Runtime is not installed: {install_line('ort')}"),
        (["build", "m.onnx", "--sparsity"], f"TensorRT for RTX is not installed: {install_line('rtx')}"),
        (
            ["probe", "--url", "127.0.0.1:1", "--name", "m", "--reference", "m.onnx"],
            install_line("serving"),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_missing_extra_is_one_sentence_with_its_line(tmp_path, words, sentence):
    conv_net(tmp_path / "m.onnx")
    (tmp_path / "r.yaml").write_text("version: 1\n")
    code = f"{BASE.format(absent=ABSENT)}\nfrom nm2trt.cli import main\nsys.exit(main({words!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_next_command_installs_first_what_it_needs(tmp_path):
    conv_net(tmp_path / "m.onnx", dtype="float32")
    code = f"{BASE.format(absent=ABSENT)}\nfrom nm2trt.cli import main\nmain(['verify', 'm.onnx'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    build = "nm2trt build m.onnx --sparsity --precision int8 --calib SAMPLES.npz"
    assert done.stdout.splitlines()[-1] == f"next:    {install_line('ort,rtx')} && {build}"


def test_functions_name_the_extra_too(tmp_path):
    code = f"{BASE.format(absent=ABSENT)}\nimport nm2trt\ntry:\n    nm2trt.sparsify(type('Module', (), {{}})())\nexcept nm2trt.BackendMissingError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"PyTorch is not installed: {install_line('torch')}\n"


def test_deploy_takes_a_model_in_memory(tmp_path):
    model = conv_net(tmp_path / "m.onnx")
    placed = nm2trt.deploy(onnx.load(model), tmp_path / "models", "net")
    assert onnx.load(placed.folder / "model.onnx") == onnx.load(model)
    with pytest.raises(InputError, match=r"artefact is of type int; give a path, an onnx\.ModelProto or a"):
        nm2trt.deploy(3, tmp_path / "models", "net")
