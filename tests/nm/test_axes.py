"""The table of reduction axes, and the torch side of it against the ONNX side."""

import numpy as np
import pytest

from nm2trt.nm.axes import TORCH_WEIGHTS, einsum_axis, onnx_weight


@pytest.mark.parametrize(
    ("operator", "index", "rank", "attributes", "axis"),
    [
        ("Conv", 1, 4, {}, 1),
        ("ConvTranspose", 1, 4, {}, 0),
        ("Gemm", 1, 2, {}, 0),
        ("Gemm", 1, 2, {"transB": 1}, 1),
        ("Gemm", 0, 2, {}, 1),
        ("Gemm", 0, 2, {"transA": 1}, 0),
        ("MatMul", 1, 2, {}, 0),
        ("MatMul", 1, 3, {}, 1),
        ("MatMul", 1, 1, {}, 0),
        ("MatMul", 0, 3, {}, 2),
        ("QLinearMatMul", 3, 2, {}, 0),
    ],
)
def test_axis_of_onnx_operands(operator, index, rank, attributes, axis):
    assert onnx_weight("", operator, index, rank, attributes).axis == axis


@pytest.mark.parametrize(
    ("attributes", "axis"), [({"transBatchB": 1}, 0), ({"transBatchB": 1, "transB": 1}, 2)]
)
def test_a_batch_between_the_two_dimensions(attributes, axis):
    assert onnx_weight("com.microsoft", "FusedMatMul", 1, 3, attributes).axis == axis


def test_inputs_that_are_no_weights():
    assert onnx_weight("", "Conv", 2, 1, {}) is None
    assert onnx_weight("", "Add", 1, 2, {}) is None
    assert onnx_weight("acme", "Conv", 1, 4, {}) is None


def test_groups_of_a_transposed_convolution_are_runs():
    assert onnx_weight("", "ConvTranspose", 1, 4, {"group": 4}).runs == 4


def contracted(equation, operand, shapes):
    """Find the contracted axis by numpy: the one over which shifting one-hot data changes nothing but zeros."""
    arrays = [np.ones(shape) for shape in shapes]
    base = np.einsum(equation, *arrays)
    found = []
    for axis, size in enumerate(shapes[operand]):
        taken = [a.copy() for a in arrays]
        index = [slice(None)] * len(shapes[operand])
        index[axis] = slice(1, size)
        taken[operand][tuple(index)] = 0.0
        result = np.einsum(equation, *taken)
        if (result != 0).all() and (result < base).all():
            found.append(axis)
    return found[0] if len(found) == 1 else None


@pytest.mark.parametrize(
    ("equation", "operand", "shapes"),
    [
        ("ij,jk->ik", 1, [(3, 4), (4, 5)]),
        ("ij,kj->ik", 1, [(3, 4), (5, 4)]),
        ("ij,jk", 0, [(3, 4), (4, 5)]),
        ("bhqd,hdk->bhqk", 1, [(2, 3, 4, 5), (3, 5, 6)]),
        ("bhd,hdo->bo", 1, [(2, 3, 4), (3, 4, 5)]),
        ("...i,oi->...o", 1, [(2, 3, 4), (5, 4)]),
    ],
)
def test_einsum_axis_agrees_with_numpy(equation, operand, shapes):
    assert einsum_axis(equation, operand, len(shapes[operand])) == contracted(equation, operand, shapes)


@pytest.mark.parametrize("equation", ["", "ij", "ii,ij->j", "ij,kl->ijkl"])
def test_einsum_without_one_contracted_axis(equation):
    assert einsum_axis(equation, 0, 2) is None


def test_torch_layers_sum_over_the_axis_of_the_table():
    torch = pytest.importorskip("torch")
    layers = {
        "Linear": (torch.nn.Linear(6, 5), (1, 6), 1),
        "Conv1d": (torch.nn.Conv1d(6, 5, 2), (1, 6, 2), 1),
        "Conv2d": (torch.nn.Conv2d(6, 5, 2), (1, 6, 2, 2), 1),
        "Conv3d": (torch.nn.Conv3d(6, 5, 2), (1, 6, 2, 2, 2), 1),
        "ConvTranspose1d": (torch.nn.ConvTranspose1d(6, 5, 2), (1, 6, 1), 1),
        "ConvTranspose2d": (torch.nn.ConvTranspose2d(6, 5, 2), (1, 6, 1, 1), 1),
        "ConvTranspose3d": (torch.nn.ConvTranspose3d(6, 5, 2), (1, 6, 1, 1, 1), 1),
    }
    for name, (layer, shape, channels) in layers.items():
        (entry,) = TORCH_WEIGHTS[name]
        x = torch.zeros(shape)
        x.select(channels, 2).fill_(1.0)  # only input channel 2 is fed
        layer(x).sum().backward()
        gradient = getattr(layer, entry.name).grad
        touched = gradient.movedim(entry.axis, 0).flatten(1).abs().sum(1)
        assert [bool(t) for t in touched] == [i == 2 for i in range(6)], name
