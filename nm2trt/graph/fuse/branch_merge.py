"""Find parallel branches that meet in an Add or Sum, and merge them.

A tree of Add and Sum nodes is one sum: its leaves are the values that go in. Leaves that are convolutions
of the same x, or BatchNormalizations of it, or x itself, are branches; the convolution with the largest
kernel takes the others in, one by one, and those that it cannot take stay leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.edit.graph_view import Declined
from nm2trt.graph.fuse.batchnorm import read_batchnorm, rounded
from nm2trt.graph.fuse.branches import Branch, diagonal, held_pattern, merge
from nm2trt.graph.fuse.kernel_geometry import read_geometry
from nm2trt.graph.storage.light_onnx import is_default
from nm2trt.graph.storage.model import opset
from nm2trt.graph.storage.model_info import fixed_size
from nm2trt.nm.mask import check
from nm2trt.nm.plan import Plan

_FIRST_NUMPY_ADD_OPSET = 7


@dataclass(frozen=True, slots=True)
class Merging:
    """Branches that became one convolution.

    Args:
        node: The convolution that stays.
        branches: The nodes that it took in; "identity of x" for x itself.
        weight: The new weight's name, as `Editor.add_tensor` gave it.
        names: Names of the stored weights that it is made of.
        patterns: The patterns that were held, as texts.
        broken: Whether `allow_broken` let a pattern go.
    """

    node: str
    branches: tuple[str, ...]
    weight: str
    names: tuple[str, ...]
    patterns: tuple[str, ...]
    broken: bool


@dataclass(frozen=True, slots=True)
class _Leaf:
    node: int
    slot: int
    value: str


class Merger:
    """Merges the branches of one graph.

    Args:
        editor: The graph.
        plan: What each weight should hold, or None.
        allow_broken: Whether a merge may lose a pattern.
    """

    def __init__(self, editor: Editor, plan: Plan | None, *, allow_broken: bool) -> None:
        self.editor = editor
        self.plan = {entry.weight: entry for entry in plan or ()}
        self.allow_broken = allow_broken
        self.declined: list[tuple[str, str]] = []
        self.sums: set[str] = set()
        self.partial: set[str] = set()
        self._sizes = _spatial_sizes(editor)
        self._numpy_add = (opset(editor.model.proto) or 1) >= _FIRST_NUMPY_ADD_OPSET

    def run(self) -> list[Merging]:
        """Merge whatever can be merged.

        `declined` says what was not, and why; `sums` names the values that merged branches add up to, and
        `partial` those of branches that now hold others too.
        """
        merged: list[Merging] = []
        for index, _ in list(self.editor.live()):
            if index not in self.editor.dead and self._is_sum(index) and not self._inside_sum(index):
                merged.extend(self._merge_sum(index))
        return merged

    def _is_sum(self, index: int) -> bool:
        node = self.editor.nodes[index]
        return (
            self._numpy_add and node.op_type in ("Add", "Sum") and is_default(node) and len(node.input) >= 2
        )

    def _inside_sum(self, index: int) -> bool:
        """Tell whether a sum's only reader is another sum, so that it belongs to that one's tree."""
        value = self.editor.nodes[index].output[0]
        readers = self.editor.readers.get(value, set())
        if len(readers) != 1 or value in self.editor.pinned:
            return False
        return self._is_sum(next(iter(readers))[0])

    def _merge_sum(self, root: int) -> list[Merging]:
        inner, leaves = self._tree(root)
        by_input: dict[str, list[_Leaf]] = {}
        for leaf in leaves:
            conv = self.editor.producer(leaf.value, "Conv")
            if conv is not None and len(self.editor.nodes[conv].input) > 1:
                by_input.setdefault(self.editor.nodes[conv].input[0], []).append(leaf)
        merged: list[Merging] = []
        gone: set[_Leaf] = set()
        for x, convs in by_input.items():
            norms = [leaf for leaf in leaves if self._norm_of(leaf, x) is not None]
            plain = [leaf for leaf in leaves if leaf.value == x]
            if len(convs) + len(norms) + len(plain) < 2:
                continue
            found, taken = self._merge_branches(x, convs, norms, plain)
            gone.update(taken)
            merged += found
        if gone:
            self.sums.add(self.editor.nodes[root].output[0])
            self._collapse(root, inner, gone)
        return merged

    def _tree(self, root: int) -> tuple[list[int], list[_Leaf]]:
        """Return the sums of a tree, root last, and its leaves in the order of their slots."""
        order: list[int] = []
        leaves: list[_Leaf] = []
        stack = [root]
        while stack:
            index = stack.pop()
            order.append(index)
            for slot, value in enumerate(self.editor.nodes[index].input):
                made = self.editor.producer(value, "Add", "Sum")
                if made is not None and self._is_sum(made) and not self.editor.obstacle(value, index):
                    stack.append(made)
                else:
                    leaves.append(_Leaf(index, slot, value))
        return order[::-1], leaves

    def _norm_of(self, leaf: _Leaf, x: str) -> int | None:
        made = self.editor.producer(leaf.value, "BatchNormalization")
        return made if made is not None and list(self.editor.nodes[made].input[:1]) == [x] else None

    def _merge_branches(
        self, x: str, convs: list[_Leaf], norms: list[_Leaf], plain: list[_Leaf]
    ) -> tuple[list[Merging], list[_Leaf]]:
        found: list[tuple[_Leaf, int, Branch]] = []
        for leaf in convs:
            index = self.editor.producers[leaf.value]
            try:
                found.append((leaf, index, self._convolution(leaf, index, x)))
            except Declined as why:
                self._decline(self.editor.label(index), why)
        if not found:
            return [], []
        # The largest kernel first; of equals the first in the file.
        found.sort(key=lambda item: -int(np.prod(item[2].kernel)))
        _, anchor, total = found[0]
        first, taken, labels = total, [], []
        rest: list[tuple[_Leaf, str, Branch | None]] = [
            (leaf, branch.label, branch) for leaf, _, branch in found[1:]
        ]
        rest += [(leaf, self.editor.label(self.editor.producers[leaf.value]), None) for leaf in norms]
        rest += [(leaf, f"identity of {x}", None) for leaf in plain]
        for leaf, label, branch in rest:
            try:
                total = merge(
                    total, branch or self._diagonal(first, leaf, label, x), allow_broken=self.allow_broken
                )
            except Declined as why:
                self._decline(label, why)
                continue
            taken.append(leaf)
            labels.append(label)
        return [self._apply(anchor, total, labels)] if taken else [], taken

    def _apply(self, anchor: int, total: Branch, labels: list[str]) -> Merging:
        editor, node = self.editor, self.editor.nodes[anchor]
        self.partial.add(node.output[0])
        old = node.input[1]
        numbers = rounded(total.weight, total.dtype, "the merged weight")
        weight = editor.add_tensor(numbers, editor.source_name(old), like=old)
        bias = editor.add_tensor(
            rounded(total.bias, total.dtype, "the merged bias"), editor.bias_name(anchor), like=old
        )
        editor.set_input(anchor, 2, bias)
        editor.set_input(anchor, 1, weight)
        # Otherwise `merge` has declined what would break one.
        broken = self.allow_broken and not all(
            check(numbers, pattern, axis=1).holds for pattern in total.patterns
        )
        return Merging(
            editor.label(anchor),
            tuple(labels),
            weight,
            total.names,
            tuple(map(str, total.patterns)),
            broken,
        )

    def _convolution(self, leaf: _Leaf, index: int, x: str) -> Branch:
        editor, node = self.editor, self.editor.nodes[index]
        obstacle = editor.obstacle(leaf.value, leaf.node)
        if obstacle:
            raise Declined(obstacle)
        weight = editor.array(node.input[1], "weight")
        if weight.ndim < 3:
            raise Declined(f"its weight has shape {list(weight.shape)}")
        given = editor.bias(index, weight)
        bias = np.zeros(len(weight)) if given is None else given.astype(np.float64)
        if bias.shape != weight.shape[:1]:
            raise Declined(f"its bias has shape {list(bias.shape)}, its weight {list(weight.shape)}")
        sizes = self._sizes.get(x, ())
        sizes = sizes if len(sizes) == weight.ndim - 2 else (None,) * (weight.ndim - 2)
        geometry = read_geometry(editor.attributes(index), weight.shape[2:], sizes)
        name = editor.source_name(node.input[1])
        pattern = held_pattern(weight, self.plan.get(name))
        return Branch(
            label=editor.label(index),
            weight=weight.astype(np.float64),
            dtype=weight.dtype,
            bias=bias,
            geometry=geometry,
            patterns=() if pattern is None else (pattern,),
            names=(name,),
            sizes=sizes,
        )

    def _diagonal(self, like: Branch, leaf: _Leaf, label: str, x: str) -> Branch:
        norm = self._norm_of(leaf, x)
        if norm is None:
            return diagonal(like, label, None)
        obstacle = self.editor.obstacle(leaf.value, leaf.node)
        if obstacle:
            raise Declined(obstacle)
        return diagonal(like, label, read_batchnorm(self.editor, norm))

    def _collapse(self, root: int, sums: list[int], gone: set[_Leaf]) -> None:
        """Take leaves out of a tree; a sum of one is that one."""
        editor = self.editor
        stands_for: dict[str, str | None] = {}
        for index in sums:
            node = editor.nodes[index]
            values = [
                stands_for.get(value, value)
                for slot, value in enumerate(node.input)
                if _Leaf(index, slot, value) not in gone
            ]
            left = [value for value in values if value is not None]
            for slot, value in enumerate(node.input):
                if _Leaf(index, slot, value) in gone:
                    self._remove_leaf(value)
            if index == root and len(left) == 1:
                editor.take_output(editor.producers[left[0]], index)
            elif len(left) > 1:
                if left != list(node.input):
                    editor.set_inputs(index, left)
            else:
                stands_for[node.output[0]] = left[0] if left else None
                editor.remove(index)

    def _remove_leaf(self, value: str) -> None:
        index = self.editor.producer(value, "Conv", "BatchNormalization")
        still_read = value in self.editor.pinned or len(self.editor.readers.get(value, ())) > 1
        if index is not None and index not in self.editor.dead and not still_read:
            self.editor.remove(index)

    def _decline(self, label: str, why: Declined) -> None:
        self.declined.append((label, str(why)))


def _spatial_sizes(editor: Editor) -> dict[str, tuple[int | None, ...]]:
    """Return the spatial sizes that the model tells of its values."""
    graph = editor.graph
    sizes: dict[str, tuple[int | None, ...]] = {}
    for value in [*graph.input, *graph.value_info]:
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            sizes[value.name] = tuple(map(fixed_size, tensor.shape.dim[2:]))
    return sizes
