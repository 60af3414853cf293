"""The verifier against ONNX Runtime: which weights respond to one-hot input, and are they N:M?

The oracle knows nothing of reduction axes. It feeds the model one unit at a time; an output element that
responds has a non-zero weight on that input element. The operator sums over the input's channels, so for
every output element, four consecutive channels at one place may draw at most two responses.
"""

import itertools

import numpy as np
import onnxruntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from nm2trt.graph.storage.model import load
from nm2trt.graph.verify.verify_model import verify_model, without_verdicts

NODE = helper.make_node


def responses(proto, shape):
    """Return (inputs, outputs): which output elements respond to each input element."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = []
    for place in range(int(np.prod(shape))):
        unit = np.zeros(shape, np.float32)
        unit.flat[place] = 1.0
        rows.append(session.run(None, {"x": unit})[0].reshape(-1) != 0)
    return np.array(rows)


def oracle(proto, shape, channel_axis, conv_groups, n, m):
    """Return "holds", "broken" or "not-groupable" from responses alone."""
    channels = shape[channel_axis]
    if (channels // conv_groups) % m:
        return "not-groupable"
    answer = responses(proto, shape).reshape(*shape, -1)
    answer = np.moveaxis(answer, channel_axis, 0)
    groups = answer.reshape(channels // m, m, -1)
    return "holds" if (groups.sum(1) <= n).all() else "broken"


@st.composite
def cases(draw):
    """Draw an operator, its weight's shape, and where the input's channels are."""
    kind = draw(
        st.sampled_from(
            [
                "conv1",
                "conv2",
                "conv3",
                "transposed",
                "gemm",
                "matmul",
                "batched",
                "left",
                "left-batched",
                "einsum",
            ]
        )
    )
    channels = draw(st.sampled_from([4, 6, 8, 12, 16]))
    out = draw(st.sampled_from([2, 4, 6]))
    groups = draw(st.sampled_from([1, 2])) if kind in ("conv2", "transposed") else 1
    kernel = [draw(st.sampled_from([1, 2, 3])) for _ in range(3)]
    if kind.startswith("conv"):
        rank = int(kind[-1])
        shape = (out, channels // groups, *kernel[:rank])
        node = ("Conv", ["x", "v"], {"group": groups, "strides": [draw(st.sampled_from([1, 2]))] * rank})
        return node, shape, (1, channels, *kernel[:rank]), 1, groups
    if kind == "transposed":
        return (
            ("ConvTranspose", ["x", "v"], {"group": groups}),
            (channels, out, *kernel[:2]),
            (1, channels, 2, 2),
            1,
            groups,
        )
    if kind == "gemm":
        turned, flipped = draw(st.booleans()), draw(st.booleans())
        shape = (out, channels) if turned else (channels, out)
        node = ("Gemm", ["x", "v"], {"transB": int(turned), "transA": int(flipped)})
        return node, shape, (channels, 3) if flipped else (3, channels), 0 if flipped else 1, 1
    if kind == "matmul":
        return ("MatMul", ["x", "v"], {}), (channels, out), (2, 3, channels), 2, 1
    if kind == "batched":
        return ("MatMul", ["x", "v"], {}), (2, channels, out), (2, 3, channels), 2, 1
    if kind == "left":
        return ("MatMul", ["v", "x"], {}), (out, channels), (2, channels, 3), 1, 1
    if kind == "left-batched":
        return ("MatMul", ["v", "x"], {}), (2, out, channels), (2, channels, 3), 1, 1
    return ("Einsum", ["x", "v"], {"equation": "bki,ok->bio"}), (out, channels), (2, channels, 3), 1, 1


CHAINS = ["plain", "identity", "transpose", "reshape", "mask", "constant"]


def behind(chain, weight):
    """Return nodes and initializers that leave `weight` in the value "v"."""
    if chain == "constant":
        return [NODE("Constant", [], ["v"], value=numpy_helper.from_array(weight))], []
    if chain == "identity":
        return [NODE("Identity", ["w"], ["v"])], [("w", weight)]
    if chain == "transpose":
        return [NODE("Transpose", ["w"], ["v"])], [("w", np.ascontiguousarray(weight.T))]
    if chain == "reshape":
        shape = ("s", np.array(weight.shape, np.int64))
        return [NODE("Reshape", ["w", "s"], ["v"])], [("w", weight.reshape(-1)), shape]
    if chain == "mask":
        return [NODE("Mul", ["w", "m"], ["v"])], [
            ("w", np.ones_like(weight)),
            ("m", (weight != 0).astype(np.float32)),
        ]
    return [NODE("Identity", ["w"], ["v"])], [("w", weight)]


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    case=cases(),
    chain=st.sampled_from(CHAINS),
    pattern=st.sampled_from([(2, 4), (1, 4), (1, 2), (2, 8)]),
    zeroed_axis=st.integers(0, 4),
    faults=st.sampled_from([0, 0, 1]),
    seed=st.integers(0, 2**16),
)
def test_agrees_with_one_hot_responses(case, chain, pattern, zeroed_axis, faults, seed):
    (operator, inputs, attributes), shape, x_shape, channel_axis, conv_groups = case
    n, m = pattern
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.5, 1.0, shape).astype(np.float32)
    # Zeros are laid along any axis, the right one among them, so that both answers come up.
    axis = zeroed_axis % len(shape)
    lines = np.moveaxis(weight, axis, -1)
    for place in itertools.product(*map(range, lines.shape[:-1])):
        for start in range(0, lines.shape[-1], m):
            drop = rng.permutation(m)[: m - n] + start
            lines[place][drop[drop < lines.shape[-1]]] = 0.0
    for _ in range(faults):
        weight.flat[rng.integers(weight.size)] = 1.0
    nodes, tensors = behind(chain, weight)
    graph = helper.make_graph(
        [*nodes, NODE(operator, inputs, ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in tensors],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    report = verify_model(proto, pattern=f"{n}:{m}")
    (verdict,) = report.weights
    assert without_verdicts(load(proto)).mask_sha256 == report.mask_sha256
    assert verdict.pattern == oracle(proto, x_shape, channel_axis, conv_groups, n, m)


def test_the_oracle_itself_tells_the_axes_apart():
    weight = np.tile(np.array([1, 1, 0, 0], np.float32), (4, 1))
    graph = helper.make_graph(
        [NODE("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert oracle(proto, (1, 4), 1, 1, 2, 4) == "broken"
    graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight.T), "w"))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert oracle(proto, (1, 4), 1, 1, 2, 4) == "holds"
