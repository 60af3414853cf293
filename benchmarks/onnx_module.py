"""An ONNX file as a torch module whose layers are `nn.Conv2d` and `nn.Linear`, for tools that prune modules.

Convolutions and products with a stored weight become modules with the same numbers; every other node runs
in ONNX Runtime as it stands, one node at a time. So the module computes what the file computes, a tool that
looks for layers finds them all, and their weights go back into the file that they came from. Forward only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

__all__ = ["OnnxModule"]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


class OnnxModule(nn.Module):
    """A model whose stored weights are tensors of the main graph.

    Args:
        path: The file.

    Attributes:
        layers: The modules, in the order of the graph.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.model = onnx.load(path)
        graph = self.model.graph
        self.numbers = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        self.stored = dict.fromkeys(self.numbers)
        self.nodes = []
        for node in graph.node:
            if node.op_type == "Constant":
                self.numbers[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
            else:
                self.nodes.append(node)
        self.layers = nn.ModuleList()
        self._layer: dict[int, tuple[int, str, bool]] = {}
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self._last = {name: at for at, node in enumerate(self.nodes) for name in node.input}
        for at, node in enumerate(self.nodes):
            made = self._module(node)
            if made is not None:
                self._layer[at] = (len(self.layers), node.input[1], made[1])
                self.layers.append(made[0])

    def _module(self, node: onnx.NodeProto) -> tuple[nn.Module, bool] | None:
        """Return a layer and whether its file holds the weight transposed; None for any other node."""
        if node.op_type not in {"Conv", "MatMul", "Gemm"} or node.input[1] not in self.stored:
            return None
        weight, found = self.numbers[node.input[1]], attributes(node)
        if node.op_type == "Conv":
            if weight.ndim != 4 or found.get("auto_pad", b"NOTSET") != b"NOTSET":
                return None
            pads = found.get("pads", [0, 0, 0, 0])
            if pads[:2] != pads[2:]:
                return None
            layer: nn.Module = nn.Conv2d(
                weight.shape[1] * found.get("group", 1),
                weight.shape[0],
                weight.shape[2:],
                found.get("strides", [1, 1]),
                pads[:2],
                found.get("dilations", [1, 1]),
                found.get("group", 1),
                bias=len(node.input) > 2,
            )
            turned = False
        elif (
            weight.ndim != 2 or found.get("alpha", 1) != 1 or found.get("beta", 1) != 1 or found.get("transA")
        ):
            return None
        else:
            turned = not found.get("transB", 0)
            weight = weight.T if turned else weight
            layer = nn.Linear(*weight.shape[::-1], bias=len(node.input) > 2)
        layer.weight.data = torch.from_numpy(np.array(weight))
        if layer.bias is not None:
            layer.bias.data = torch.from_numpy(self.numbers[node.input[2]].reshape(-1).copy())
        return layer.eval(), turned

    @torch.no_grad()
    def forward(self, feeds: Mapping[str, Any]) -> Tensor:
        """Return the first output for inputs by name, arrays or tensors."""
        values: dict[str, Any] = {name: np.asarray(array) for name, array in feeds.items()}
        for at, node in enumerate(self.nodes):
            if at in self._layer:
                x = torch.from_numpy(np.ascontiguousarray(values[node.input[0]]))
                values[node.output[0]] = self.layers[self._layer[at][0]](x.clone()).numpy()
            else:
                values.update(zip(filter(None, node.output), self._run(at, node, values), strict=True))
            for name in node.input:
                if self._last[name] == at:
                    values.pop(name, None)
        return torch.from_numpy(values[self.model.graph.output[0].name])

    def _run(self, at: int, node: onnx.NodeProto, values: Mapping[str, Any]) -> list[Any]:
        feeds = {name: values[name] for name in node.input if name in values}
        if at not in self._sessions:
            inputs = [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
                for name, array in feeds.items()
            ]
            constants = [
                numpy_helper.from_array(self.numbers[name], name)
                for name in dict.fromkeys(node.input)
                if name in self.numbers
            ]
            outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
            graph = helper.make_graph([node], "node", inputs, outputs, constants)
            model = helper.make_model(
                graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
            )
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._sessions[at] = onnxruntime.InferenceSession(
                model.SerializeToString(), options, ["CPUExecutionProvider"]
            )
        return self._sessions[at].run(None, feeds)

    def save(self, path: Path) -> None:
        """Write the file with the weights that the layers have now."""
        new = {}
        for number, name, turned in self._layer.values():
            weight = self.layers[number].weight.detach().numpy()
            new[name] = np.ascontiguousarray(weight.T if turned else weight)
        for item in self.model.graph.initializer:
            if item.name in new:
                item.CopyFrom(numpy_helper.from_array(new[item.name], item.name))
        onnx.save(self.model, path)
