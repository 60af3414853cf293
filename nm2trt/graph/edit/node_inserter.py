"""An `Editor` that also inserts new nodes, each after the node whose value it reads."""

from __future__ import annotations

from typing import Any

from nm2trt.graph.analysis.pinned_values import numbered_name
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model


class Inserter(Editor):
    """The main graph, open to new nodes.

    Args:
        model: The model; its protobuf is changed by `finish`.
        suffix: Added to the name of a new tensor if the one it should have is taken.

    Raises:
        ModelError: As `Editor`.
    """

    def __init__(self, model: Model, suffix: str) -> None:
        super().__init__(model)
        self._suffix = suffix
        self._original = len(self.nodes)
        self._after: dict[int, list[int]] = {}
        self._labels = {node.name for node in self.nodes if node.name}

    def unique(self, wanted: str) -> str:
        """Return a name for a value that is not taken, and take it."""
        return numbered_name(wanted, self._names)

    def insert(
        self, operator: str, inputs: list[str], output: str, *, after: int, label: str, **attributes: Any
    ) -> int:
        """Add a node of one output.

        Args:
            operator: Its type.
            inputs: What it reads.
            output: What it gives; a name from `unique`.
            after: The node of the file after which it goes, or -1 for the front. Nodes after one
                another stand in the order in which they were added.
            label: Its name, made unique.
            attributes: Its attributes.
        """
        name = numbered_name(label, self._labels)
        index = len(self.nodes)
        self.nodes.append(onnx.helper.make_node(operator, inputs, [output], name, **attributes))
        self._after.setdefault(after, []).append(index)
        self.producers[output] = index
        self._note_readers(index)
        return index

    def finish(self) -> dict[str, str]:
        """Apply everything to the protobuf; see `Editor.finish`."""
        finals = super().finish()
        if not self._after:
            return finals
        kept = list(self.graph.node)
        live = [index for index in range(self._original) if index not in self.dead]
        order = self._added(-1)
        for index, node in zip(live, kept, strict=True):
            order += [node, *self._added(index)]
        # Copies, since clearing the list would take the nodes in it along.
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        return finals

    def _added(self, after: int) -> list[onnx.NodeProto]:
        return [self.nodes[index] for index in self._after.get(after, ()) if index not in self.dead]
