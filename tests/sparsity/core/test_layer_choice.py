"""Which weights become sparse, and the reason that each of the others gets."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from nm2trt.errors import PatternError, SparsifyError
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.core.layer_choice import select
from tests.packed_tensor import packed


class Conv1D(nn.Module):
    """Hugging Face's layer of that name: weight (in, out), y = x W + b."""

    def __init__(self, out_features, in_features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x):
        return x @ self.weight + self.bias


def only(model, pattern="2:4", **arguments):
    (choice,) = select(model, pattern, **arguments)
    return choice.entry


def reasons(model, pattern="2:4", **arguments):
    return {c.entry.weight: (c.entry.pattern, c.entry.reason) for c in select(model, pattern, **arguments)}


@pytest.mark.parametrize(
    ("layer", "axis"),
    [
        pytest.param(nn.Linear(32, 8), 1, id="linear"),
        pytest.param(nn.Conv1d(32, 8, 3), 1, id="conv1d"),
        pytest.param(nn.Conv2d(32, 8, (1, 3)), 1, id="conv2d"),
        pytest.param(nn.Conv3d(32, 8, 2), 1, id="conv3d"),
        pytest.param(nn.ConvTranspose1d(32, 8, 3), 0, id="conv-transpose1d"),
        pytest.param(nn.ConvTranspose2d(32, 8, 3), 0, id="conv-transpose2d"),
        pytest.param(nn.ConvTranspose3d(32, 8, 3), 0, id="conv-transpose3d"),
        pytest.param(Conv1D(8, 32), 0, id="hf-conv1d"),
        pytest.param(nn.Conv2d(32, 8, 3, groups=4), 1, id="grouped"),
        pytest.param(nn.ConvTranspose2d(32, 8, 3, groups=4), 0, id="grouped-transpose"),
    ],
)
def test_every_kind_of_layer_is_sparse_along_its_reduction_axis(layer, axis):
    entry = only(layer)
    assert (entry.pattern, entry.axis) == (NMPattern(2, 4), axis)


@pytest.mark.parametrize(
    ("layer", "pattern", "reason"),
    [
        pytest.param(nn.Conv2d(3, 64, 7), "2:4", "3 input channels are fewer than 16", id="few-channels"),
        pytest.param(nn.Linear(18, 8), "2:4", "18 input channels are not a multiple of 4", id="length"),
        pytest.param(nn.Linear(24, 8), "1:16", "24 input channels are not a multiple of 16", id="large-m"),
        pytest.param(
            nn.Conv2d(32, 32, 3, groups=32), "2:4", "depthwise: one input channel per filter", id="depthwise"
        ),
        pytest.param(
            nn.Conv2d(24, 24, 3, groups=4),
            "2:4",
            "6 input channels in each of 4 groups are not a multiple of 4",
            id="grouped",
        ),
        pytest.param(
            nn.ConvTranspose2d(24, 8, 3, groups=4),
            "2:4",
            "6 input channels in each of 4 groups are not a multiple of 4",
            id="grouped-transpose",
        ),
    ],
)
def test_says_why_a_layer_stays_dense(layer, pattern, reason):
    entry = only(layer, pattern)
    assert (entry.pattern, entry.reason) == (None, reason)


def test_an_empty_layer_stays_dense():
    layer = nn.Linear(32, 1)
    layer.weight = nn.Parameter(layer.weight[:0])
    test_says_why_a_layer_stays_dense(layer, "2:4", "its shape (0, 32) holds no values")


def test_a_packed_weight_stays_dense_and_a_mere_subclass_does_not():
    class Named(torch.Tensor):
        """Plain but for its name."""

    test_says_why_a_layer_stays_dense(
        packed(nn.Linear(32, 8)), "2:4", "it is of class Packed, not a plain tensor"
    )
    layer = nn.Linear(32, 8)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Named))
    assert str(only(layer, "2:4").pattern) == "2:4"


def test_attention_projections_are_sparse_packed_or_apart():
    packed = reasons(nn.MultiheadAttention(32, 4))
    assert [n for n, (p, _) in packed.items() if p] == ["in_proj_weight", "out_proj.weight"]
    apart = reasons(nn.MultiheadAttention(32, 4, kdim=16, vdim=64))
    assert [n for n, (p, _) in apart.items() if p] == [
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
        "out_proj.weight",
    ]


def test_patterns_by_name_take_the_first_glob_and_leave_the_rest_dense():
    model = nn.ModuleDict({"a": nn.Linear(32, 32), "b": nn.Linear(32, 32), "c": nn.Linear(32, 32)})
    found = reasons(model, {"a": "1:8", "b.weight": NMPattern(2, 4)})
    assert found["a.weight"][0] == NMPattern(1, 8)
    assert found["b.weight"][0] == NMPattern(2, 4)
    assert found["c.weight"] == (None, "no pattern is given for its name")
    assert reasons(model, {"a": None, "*": "2:4"})["a.weight"] == (None, "no pattern is given for its name")


def test_include_and_exclude_are_globs_on_names():
    model = nn.ModuleDict(
        {"body": nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)), "head": nn.Linear(32, 8)}
    )
    found = reasons(model, include="body.*", exclude=["body.1"])
    assert found["body.0.weight"][0] == NMPattern(2, 4)
    assert found["body.1.weight"] == (None, "excluded by 'body.1'")
    assert found["head.weight"] == (None, "not among the included layers")


def test_a_full_name_in_include_overrides_min_channels_but_a_glob_does_not():
    model = nn.ModuleDict({"stem": nn.Conv2d(8, 16, 3), "body": nn.Conv2d(16, 16, 3)})
    assert reasons(model, include=["stem", "body"])["stem.weight"][0] == NMPattern(2, 4)
    assert reasons(model, include="*")["stem.weight"] == (None, "8 input channels are fewer than 16")
    assert reasons(model, min_channels=8)["stem.weight"][0] == NMPattern(2, 4)


class Tied(nn.Module):
    def __init__(self, *, by_data=False):
        super().__init__()
        self.embedding = nn.Embedding(20, 32)
        self.head = nn.Linear(32, 20, bias=False)
        if by_data:
            self.head.weight.data = self.embedding.weight.data
        else:
            self.head.weight = self.embedding.weight


@pytest.mark.parametrize("by_data", [False, True], ids=["same-parameter", "same-memory"])
def test_a_weight_tied_to_an_embedding_stays_dense(by_data):
    entry = only(Tied(by_data=by_data))
    assert (entry.pattern, entry.reason) == (
        None,
        "tied to embedding.weight, which does not multiply a matrix",
    )


def test_layers_that_share_a_weight_are_one_entry():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    model[1].weight = model[0].weight
    (choice,) = select(model, "2:4")
    assert choice.entry.pattern == NMPattern(2, 4)
    assert [site.weight_name for site in choice.sites] == ["0.weight", "1.weight"]


def test_layers_that_share_a_weight_over_different_axes_stay_dense():
    model = nn.ModuleDict({"a": nn.Linear(32, 32, bias=False), "b": Conv1D(32, 32)})
    model["b"].weight = model["a"].weight
    assert only(model).reason == "tied to b.weight, which reduces over another axis"


def test_layers_that_share_a_weight_but_not_a_pattern_stay_dense():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    model[1].weight = model[0].weight
    assert only(model, exclude="1").reason == "tied to 1.weight, which was given another pattern"


def test_a_weight_under_another_parametrisation_stays_dense():
    layer = parametrizations.weight_norm(nn.Linear(32, 8))
    assert only(layer).reason == "it is computed by another parametrisation"
    two = nn.Sequential(layer, parametrizations.weight_norm(nn.Linear(32, 8)))
    assert list(reasons(two)) == ["0.weight", "1.weight"]


def test_a_weight_that_pytorch_prune_still_holds_is_named_with_its_remedy():
    layer = prune.l1_unstructured(nn.Linear(32, 8), "weight", amount=0.25)
    assert "call torch.nn.utils.prune.remove(module, 'weight'), which keeps the zeros" in only(layer).reason
    prune.remove(layer, "weight")
    assert only(layer).pattern is not None
    bias = prune.l1_unstructured(nn.Linear(32, 8), "bias", amount=0.25)
    assert only(bias).pattern is not None


@pytest.mark.parametrize("traced", [False, True], ids=["script", "trace"])
def test_layers_that_torch_jit_has_compiled_stay_dense_and_are_named(traced):
    inner = nn.Sequential(nn.Linear(32, 32), nn.Conv1d(32, 16, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit itself
        compiled = torch.jit.trace(inner, torch.ones(32, 32)) if traced else torch.jit.script(inner)
    found = reasons(nn.Sequential(compiled, nn.Linear(32, 8)))
    told = "its layer is compiled by torch.jit, which no method can change; sparsify first, then compile"
    assert found["0.0.weight"] == found["0.1.weight"] == (None, told)
    assert found["1.weight"][0] == NMPattern(2, 4)


def test_subclasses_of_layers_count():
    class Own(nn.Conv2d):
        pass

    assert only(Own(32, 8, 3)).pattern == NMPattern(2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exclude": "haed"}, r"exclude: 'haed' matches no layer; the model has body, body.weight, head"),
        ({"include": ["body", "tail*"]}, r"include: 'tail\*' matches no layer"),
        ({"pattern": {"tail": "2:4"}}, r"pattern: 'tail' matches no layer"),
        ({"pattern": {}}, r"the patterns by name are empty"),
    ],
)
def test_refuses_globs_that_match_nothing(arguments, message):
    model = nn.ModuleDict({"body": nn.Linear(32, 32), "head": nn.Linear(32, 8)})
    with pytest.raises(SparsifyError, match=message):
        select(model, **{"pattern": "2:4", **arguments})


def test_refuses_a_text_that_is_no_pattern():
    with pytest.raises(PatternError, match="is not an N:M pattern"):
        select(nn.Linear(32, 8), "2/4")


def test_a_quantised_layer_whose_weight_is_a_method_is_no_candidate():
    class Linear(nn.Module):  # as in torch.ao.nn.quantized
        def weight(self):
            return torch.zeros(32, 32)

    assert only(nn.Sequential(Linear(), nn.Linear(32, 8))).weight == "1.weight"


def test_refuses_a_parameter_without_a_shape():
    with pytest.raises(SparsifyError, match="weight has no shape yet; run one batch"):
        select(nn.LazyLinear(8), "2:4")
