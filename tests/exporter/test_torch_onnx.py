"""export: what is written, that it computes the same, what is refused, and what stays untouched."""

import copy
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from nm2trt.errors import DataError, DifferenceError, InputError, OutputError, SparsifyError
from nm2trt.exporter.torch_onnx import export
from nm2trt.nm.plan import PLAN_ATTRIBUTE, Plan
from tests.packed_tensor import packed

EXAMPLE = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Classifier(nn.Module):
    """Conv + BatchNorm twice, pooling, a Linear on rank 2 and one on rank 3."""

    def __init__(self):
        super().__init__()
        self.stem = Block(4, 16)
        self.body = Block(16, 16)
        self.tokens = nn.Linear(16, 8, bias=False)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.body(self.stem(x)).flatten(2).transpose(1, 2)
        return self.head(self.tokens(x).mean(1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = Classifier()
    for _ in range(3):
        made(torch.rand(8, 4, 8, 8))  # running statistics that are not 0 and 1
    return made


def run_onnx(path, **feeds):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


@pytest.mark.usefixtures("one_export")
def test_keeps_parameter_names_and_frees_the_batch(model, tmp_path):
    result = export(model, EXAMPLE, tmp_path / "model.onnx")

    written = onnx.load(result.path)
    onnx.checker.check_model(written, full_check=True)
    names = {tensor.name for tensor in written.graph.initializer}
    assert {"stem.conv.weight", "body.conv.weight", "tokens.weight", "head.weight"} <= names
    assert [value.name for value in written.graph.input] == ["x"] == list(result.inputs)
    assert [value.name for value in written.graph.output] == ["output"] == list(result.outputs)
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert written.opset_import[0].version == 18
    other = torch.rand(5, 4, 8, 8)
    expected = copy.deepcopy(model).eval()(other).detach().numpy()
    np.testing.assert_allclose(run_onnx(result.path, x=other.numpy())[0], expected, atol=1e-5)
    assert len(result.differences) == 2


@pytest.mark.usefixtures("one_export")  # the export is that of the next test, which comes after it
def test_callers_model_is_untouched(model, tmp_path):
    mine = copy.deepcopy(model).train()
    mine.body.bn.eval()
    mine.head.weight.requires_grad_(requires_grad=False)
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    flags = {name: module.training for name, module in mine.named_modules()}

    export(mine, EXAMPLE, tmp_path / "model.onnx", dtype="float16")

    assert {name: module.training for name, module in mine.named_modules()} == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())
    assert all(tensor.dtype == before[name].dtype for name, tensor in mine.state_dict().items())
    assert not mine.head.weight.requires_grad


@pytest.mark.usefixtures("one_export")
@pytest.mark.parametrize("dtype", ["float16", torch.float16], ids=["name", "torch-dtype"])
def test_half_precision_is_half_throughout(model, tmp_path, dtype):
    result = export(model, EXAMPLE, tmp_path / "model.onnx", dtype=dtype)

    graph = onnx.load(result.path).graph
    floating = {t.data_type for t in graph.initializer} & {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    assert floating == {onnx.TensorProto.FLOAT16}
    ends = (*graph.input, *graph.output)
    assert {value.type.tensor_type.elem_type for value in ends} == {onnx.TensorProto.FLOAT16}
    assert result.dtype == "float16"
    # The reference is float32, so a half-precision model cannot agree exactly.
    assert 0 < max(item.max_relative for item in result.differences) < 0.02


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def emit(self, record):
        self.kept.append(record)


@pytest.fixture
def records():
    """Give what reaches the root logger during a test."""
    handler = Records()
    logging.root.addHandler(handler)
    logging.getLogger("nm2trt.tests").error("heard")
    assert [record.getMessage() for record in handler.kept] == ["heard"]
    handler.kept.clear()
    yield handler.kept
    logging.root.removeHandler(handler)


def test_prints_and_logs_nothing(tmp_path, capfd, records):
    export(Block(4, 16), EXAMPLE, tmp_path / "model.onnx", opset=17)

    assert capfd.readouterr() == ("", "")
    assert [record for record in records if record.levelno >= logging.INFO] == []
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.usefixtures("one_export")
def test_file_holds_no_source_paths(model, tmp_path):
    result = export(model, EXAMPLE, tmp_path / "model.onnx")

    assert b"test_torch_onnx" not in result.path.read_bytes()


class TwoInputs(nn.Module):
    def forward(self, image, scale, bias=None, *, power=1):
        scaled = image.mean((2, 3)) * scale[:, None] ** power
        return {"scaled": scaled if bias is None else scaled + bias, "total": scaled.sum(1)}


@pytest.mark.parametrize(
    ("example", "inputs"),
    [
        pytest.param((EXAMPLE, torch.ones(3), torch.ones(4)), ("image", "scale", "bias"), id="tuple"),
        pytest.param({"image": EXAMPLE, "scale": torch.ones(3)}, ("image", "scale"), id="dict"),
        pytest.param(
            {"scale": torch.full((3,), 2.0), "image": EXAMPLE, "bias": None, "power": 2},
            ("scale", "image"),
            id="dict-with-constants",
        ),
    ],
)
def test_forms_of_example(example, inputs, tmp_path):
    result = export(TwoInputs(), example, tmp_path / "model.onnx")

    graph = onnx.load(result.path).graph
    assert result.inputs == inputs
    assert {value.name for value in graph.input} == set(inputs)
    assert result.outputs == ("scaled", "total")
    free = {v.name: v.type.tensor_type.shape.dim[0].dim_param for v in graph.input}
    assert free == {name: "" if name == "bias" else "batch" for name in inputs}


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 10))


def test_a_batch_of_one_is_freed_too(tmp_path):
    result = export(
        linear(), EXAMPLE[:1], tmp_path / "model.onnx", input_names=["pixels"], output_names=["logits"]
    )

    assert run_onnx(result.path, pixels=EXAMPLE.numpy())[0].shape == (3, 10)


def test_fixed_batch_on_request(tmp_path):
    result = export(linear(), EXAMPLE, tmp_path / "model.onnx", dynamic_batch=False)

    assert onnx.load(result.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert len(result.differences) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # importing torch.compile raises it
@pytest.mark.parametrize(
    "wrap",
    [torch.compile, nn.DataParallel, torch.optim.swa_utils.AveragedModel],
    ids=["torch-compile", "data-parallel", "average"],
)
def test_wrappers_leave_no_prefix(wrap, tmp_path):
    result = export(wrap(nn.Linear(4, 4)), torch.rand(2, 4), tmp_path / "model.onnx", dynamic_batch=False)

    assert {tensor.name for tensor in onnx.load(result.path).graph.initializer} == {"weight", "bias"}


def test_plan_is_handed_on(tmp_path):
    model, plan = nn.Linear(4, 4), Plan((), "sr-ste")
    setattr(model, PLAN_ATTRIBUTE, plan)

    assert export(model, torch.rand(2, 4), tmp_path / "model.onnx", dynamic_batch=False).plan == plan


class FakeSparsity(nn.Module):
    nm2trt_method = "sr-ste"

    def forward(self, weight):
        return weight * (weight > 0)


def test_attached_model_is_refused(model, tmp_path):
    attached = copy.deepcopy(model)
    parametrize.register_parametrization(attached.body.conv, "weight", FakeSparsity())

    with pytest.raises(SparsifyError, match=r"sr-ste is still attached to body\.conv; call finalize\(\)"):
        export(attached, EXAMPLE, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_other_parametrisations_are_exported(norm, tmp_path):
    normed = linear()
    norm(normed[1])
    with torch.no_grad():  # the weight that torch keeps beside its parts is now an old one
        next(p for p in normed[1].parameters() if p.shape == (normed[1].out_features, 1)).mul_(2)

    export(normed, EXAMPLE, tmp_path / "model.onnx", dynamic_batch=False)  # compares with PyTorch's outputs
    assert normed[1](torch.ones(1, normed[1].in_features)).requires_grad


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def test_different_outputs_are_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    with pytest.raises(
        DifferenceError, match=r"ONNX Runtime against PyTorch \(batch 3\): output 'output' differs"
    ):
        export(Noisy(), EXAMPLE, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


class Unexportable(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class OneBatch(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] == 3 else x * 3


class Wrapper(nn.Module):
    """What adapters and other wrappers look like: any arguments, given to the model inside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Bilinear(4, 4, 3)

    def forward(self, *args, **keywords):
        return self.inner(*args, **keywords)


@pytest.mark.skipif(
    torch.__version__.startswith("2.9."), reason="PyTorch 2.9 cannot export *args with a free batch"
)
def test_arguments_that_a_wrapper_hands_on_have_a_free_batch(tmp_path):
    x = torch.randn(3, 4)
    result = export(Wrapper(), (x, x + 1), tmp_path / "model.onnx")
    assert [difference.name for difference in result.differences] == ["output"] * 2, "another batch ran too"
    named = {"input1": x, "input2": x + 1}
    with pytest.raises(InputError, match=r"Wrapper takes input1, input2 through \*\*keywords.*as a tuple"):
        export(Wrapper(), named, tmp_path / "named.onnx")
    export(Wrapper(), named, tmp_path / "fixed.onnx", dynamic_batch=False)


class IgnoresInput(nn.Module):
    def forward(self, x, unused):
        return x * 2


@pytest.mark.parametrize(
    ("model", "example", "error", "match"),
    [
        pytest.param(
            Unexportable(), EXAMPLE, InputError, r"cannot export Unexportable.*_linalg_svd", id="operator"
        ),
        pytest.param(
            Branching(), EXAMPLE, InputError, r"cannot export Branching.*data-dependent", id="control-flow"
        ),
        pytest.param(
            OneBatch(),
            EXAMPLE,
            InputError,
            r"OneBatch works only for the example's batch of 3",
            id="fixed-batch",
        ),
        pytest.param(
            nn.Conv2d(5, 4, 1), EXAMPLE, DataError, r"fails on the example \(batch 3\)", id="channels"
        ),
        pytest.param(
            nn.Identity(), [[1]], DataError, r"argument 0 of the example is of type list", id="nested"
        ),
        pytest.param(
            lambda: packed(nn.Linear(8, 8)),  # made here it would load all of torch.distributed to collect
            EXAMPLE,
            InputError,
            r"weight is of class Packed, not a plain",
            id="subclass",
        ),
        pytest.param(nn.Identity(), (1, 2), DataError, r"holds no tensor", id="no-tensor"),
        pytest.param(nn.Identity(), 3, DataError, r"example is of type int", id="number"),
    ],
)
def test_refuses_models_and_examples(model, example, error, match, tmp_path, capfd):
    model = model if isinstance(model, nn.Module) else model()
    with pytest.raises(error, match=match) as caught:
        export(model, example, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param({"opset": 16}, r"opset 16 cannot be written; choose 17 to", id="opset-16"),
        pytest.param({"opset": "18"}, r"opset '18'", id="opset-text"),
        pytest.param({"dtype": "bfloat16"}, r"bfloat16 cannot be exported", id="bfloat16"),
        pytest.param({"dtype": "half-ish"}, r"half-ish cannot be exported", id="dtype-text"),
        pytest.param({"input_names": ["a", "b"]}, r"input_names .* must be 1 different", id="input-names"),
        pytest.param({"output_names": []}, r"output_names \[\] must be 1 different", id="output-names"),
        pytest.param({"dynamic_batch": ["y"]}, r"dynamic_batch names \['y'\]", id="batch-names"),
    ],
)
def test_refuses_options(options, match, tmp_path):
    with pytest.raises(InputError, match=match):
        export(nn.Identity(), EXAMPLE, tmp_path / "model.onnx", **options)


def test_refuses_a_missing_folder_before_any_work(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        export(nn.Identity(), EXAMPLE, tmp_path / "none" / "model.onnx")


@pytest.mark.usefixtures("one_export")
def test_exports_and_passes_in_turn_leave_no_data_file_behind(model, tmp_path):
    from nm2trt.pipeline.prune import prune

    path, source = tmp_path / "m.onnx", tmp_path / "source.onnx"
    export(model, EXAMPLE, source)
    for _ in range(2):
        for _ in range(2):
            export(model, EXAMPLE, path, external_data=True)
            assert len(list(tmp_path.glob("m.onnx*.data"))) == 1
        prune(source, path)  # over a model whose data file has a number in its name
        assert list(tmp_path.glob("m.onnx*.data")) == []


@pytest.mark.usefixtures("one_export")
def test_folders_of_killed_exports_go_with_the_next_good_one(model, tmp_path, monkeypatch):
    """As onnx_ir names them; a folder that holds anything else, and a link to one, stay."""
    made, mkdtemp = [], tempfile.mkdtemp
    monkeypatch.setattr(
        tempfile, "mkdtemp", lambda *given, **named: made.append(mkdtemp(*given, **named)) or made[-1]
    )
    first = export(model, EXAMPLE, tmp_path / "m.onnx", external_data=True)
    left = next((Path(one) for one in made if Path(one).parent == tmp_path), None)
    if left is None:
        pytest.skip("before 1.1 onnx_ir makes no folder beside the file")
    others = [tmp_path / f".m.onnx.data.{name}" for name in ("abcdefgh", "short", "abcd_123")]
    for folder in (left, *others[:2]):
        folder.mkdir()
    others[2].symlink_to(others[0])
    (left / "m.onnx.data").write_text("weights")
    (others[0] / "more").write_text("somebody's")
    second = export(model, EXAMPLE, tmp_path / "m.onnx", external_data=True)
    assert first.data_path != second.data_path
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "m.onnx", second.data_path])
    assert (others[0] / "more").exists()


@pytest.mark.usefixtures("one_export")
def test_external_data_lies_beside_and_old_data_goes(model, tmp_path):
    path = tmp_path / "model.onnx"
    first = export(model, EXAMPLE, path, external_data=True)
    assert first.data_path == tmp_path / "model.onnx.data"

    with pytest.raises(RuntimeError, match="planted"):
        export(model, EXAMPLE, path, external_data=True, finish=_fail)
    assert sorted(tmp_path.iterdir()) == [path, first.data_path]

    second = export(model, EXAMPLE, path, external_data=True)
    assert sorted(tmp_path.iterdir()) == sorted([path, second.data_path])
    assert run_onnx(path, x=EXAMPLE.numpy())[0].shape == (3, 10)


def _fail(path, plan):
    assert path.is_file()
    raise RuntimeError("planted")


def test_pytorch_prune_masks_that_are_still_attached_are_named_with_their_remedy(tmp_path):
    from torch.nn.utils import prune

    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU()).eval()
    mask = torch.zeros(32, 32)
    mask[:, ::4] = mask[:, 1::4] = 1
    prune.custom_from_mask(model[0], "weight", mask)
    with pytest.raises(SparsifyError, match=r"holds 'weight' of 0; call torch.nn.utils.prune.remove"):
        export(model, torch.randn(2, 32), tmp_path / "m.onnx")
    prune.remove(model[0], "weight")
    export(model, torch.randn(2, 32), tmp_path / "m.onnx", dynamic_batch=False)
