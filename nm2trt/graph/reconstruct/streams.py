"""Activations of one network for all calibration samples, computed segment by segment.

A stream stands at a cut: it holds the values that are made before the cut and read after it, for each chunk
of samples. Moving it on runs the nodes between two cuts once. Large arrays lie in files of a given folder.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.ort import OrtSession, open_onnx
from nm2trt.errors import ModelError, OutputError
from nm2trt.graph.execute.output_verdict import OutputVerdict, VerdictSum
from nm2trt.graph.reconstruct.activation_grid import IntegerGrid, with_pairs
from nm2trt.graph.reconstruct.network import Network

Spec = tuple[np.dtype[Any], int]

_IN_MEMORY_BYTES = 1 << 16


class Segments:
    """Cuts a network's main graph into pieces that ONNX Runtime runs.

    Args:
        network: The graph.
        keep: A value that stays alive to the end, beside the model's outputs; None for no other.
        grid: Values that are rounded to INT8 where they are made; None rounds nothing.
        limits_only: Bring these values within the limits of INT8, and round nothing.
    """

    def __init__(
        self,
        network: Network,
        keep: str | None = None,
        grid: IntegerGrid | None = None,
        *,
        limits_only: bool = False,
    ) -> None:
        self.network, self._limits_only = network, limits_only
        self._scales = {} if grid is None else dict(grid.scales)
        self._ends = {*network.outputs, keep}
        self._stored = {tensor.name: tensor for tensor in network.model.proto.graph.initializer}
        self._last_read: dict[str, int] = {}
        for index in network.dynamic:
            for name in network.reads[index]:
                self._last_read[name] = index

    def alive(self, value: str, cut: int) -> bool:
        """Tell whether a value is read by node `cut` or a later one, or is kept to the end."""
        return value in self._ends or self._last_read.get(value, -1) >= cut

    def open(self, start: int, end: int, weights: Arrays, at: Mapping[str, Spec]) -> OrtSession | None:
        """Return a session of the dynamic nodes `start` .. `end - 1`; None if none of them is needed.

        Args:
            start: First node.
            end: The node after the last.
            weights: Numbers that take the place of stored tensors.
            at: Dtype and rank of the values at the cut in front of `start`.
        """
        network = self.network
        chosen = [i for i in network.dynamic if start <= i < end]
        if not chosen:
            return None
        read = {name for i in chosen for name in network.reads[i]}
        constant = [
            i
            for i in network.constant_producers({name for name in read if network.is_constant(name)})
            if network.nodes[i].output[0] not in weights
        ]
        indices = sorted([*chosen, *constant])
        nodes = [network.nodes[i] for i in indices]
        made = {name for node in nodes for name in node.output if name}
        read |= {name for i in constant for name in network.reads[i]}
        # The file's own order of outputs is kept, so that the same segment is the same file again.
        outputs = [name for i in chosen for name in network.nodes[i].output if name and self.alive(name, end)]
        if not outputs:
            return None  # nothing reads what these nodes make
        given = sorted(name for name in read - made if name in at)
        rounded = {name: self._scales[name] for name in made if name in self._scales}
        nodes, constants = with_pairs(nodes, rounded, limits_only=self._limits_only)
        graph = helper.make_graph(
            nodes,
            "segment",
            [_value_info(name, at[name]) for name in given],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [*self._initializers(read - made - set(given), weights), *constants],
        )
        source = network.model.proto
        model = helper.make_model(graph, opset_imports=source.opset_import, functions=source.functions)
        model.ir_version = source.ir_version
        return open_onnx(model.SerializeToString(), weights_folder=network.model.root, flush_denormals=True)

    def _initializers(self, names: set[str], weights: Arrays) -> list[TensorProto]:
        kept = [self._stored[name] for name in sorted(names & self._stored.keys() - weights.keys())]
        return kept + [numpy_helper.from_array(weights[name], name) for name in sorted(names & set(weights))]


def _value_info(name: str, spec: Spec) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(spec[0])
    return helper.make_tensor_value_info(name, kind, [None] * spec[1])


class Stream:
    """Values of one network at a cut, for each chunk of samples.

    Args:
        folder: An empty folder for arrays that are too large to keep.
        chunks: The model's inputs by chunk.
    """

    def __init__(self, folder: Path, chunks: Iterable[Arrays]) -> None:
        self._folder = folder
        self._count = 0
        self._chunks: list[dict[str, Array | _OnDisk]] = [
            {name: self._kept(array) for name, array in chunk.items()} for chunk in chunks
        ]
        self.cut = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def __contains__(self, value: str) -> bool:
        return value in self._chunks[0]

    def fork(self, folder: Path) -> Stream:
        """Return a stream that stands at the same cut and shares no file with this one."""
        twin = Stream(folder, [])
        twin._chunks = [
            {name: twin._kept(_read(value)) for name, value in chunk.items()} for chunk in self._chunks
        ]
        twin.cut = self.cut
        return twin

    def read(self, chunk: int, value: str) -> Array:
        """Return a value of one chunk."""
        return _read(self._chunks[chunk][value])

    def shape(self, chunk: int, value: str) -> tuple[int, ...]:
        """Return the shape of a value of one chunk, without reading it."""
        return self._chunks[chunk][value].shape

    def specs(self) -> dict[str, Spec]:
        """Return dtype and rank of all values."""
        return {name: (value.dtype, len(value.shape)) for name, value in self._chunks[0].items()}

    def advance(
        self,
        segments: Segments,
        cut: int,
        weights: Arrays = MappingProxyType({}),
        step: Callable[[], None] = lambda: None,
    ) -> None:
        """Run every node in front of `cut` that has not run, and drop what is read no more.

        Args:
            segments: The network.
            cut: The node to stop in front of.
            weights: Numbers that take the place of stored tensors.
            step: Called after each chunk.

        Raises:
            ModelError: ONNX Runtime refuses the segment, or a value is not a tensor.
            OutputError: The disk is full.
        """
        session = segments.open(self.cut, cut, weights, self.specs())
        for chunk in self._chunks:
            if session is not None:
                made = session.run({spec.name: _read(chunk[spec.name]) for spec in session.inputs})
                for name, array in made.items():
                    if array.dtype.kind not in "biuf":
                        raise ModelError(
                            f"{name!r} is a sequence or text, which cannot be kept between cuts; export the "
                            "model without it"
                        )
                    chunk[name] = self._kept(array)
            for name in [name for name in chunk if not segments.alive(name, cut)]:
                dropped = chunk.pop(name)
                if isinstance(dropped, _OnDisk):
                    dropped.path.unlink()
            step()
        self.cut = cut

    def _kept(self, array: Array) -> Array | _OnDisk:
        if array.nbytes < _IN_MEMORY_BYTES:
            return array
        self._count += 1
        return _OnDisk(self._folder / f"{self._count}.bin", array)


def judge_outputs(
    names: Sequence[str], dense: Stream, pruned: Stream, chunks: Sequence[tuple[int, int]]
) -> tuple[OutputVerdict, ...]:
    """Compare the outputs of both streams, which stand at the end of the graph.

    Args:
        names: The model's outputs; those that are not floating point are left out.
        dense: The stream of the dense network.
        pruned: The stream of the pruned one.
        chunks: The chunks to compare: the number of the same samples in either stream.
    """
    found = []
    for name in names:
        if name not in dense or dense.specs()[name][0].kind != "f":
            continue
        total = VerdictSum(name)
        for mine, other in chunks:
            total.add(dense.read(mine, name), pruned.read(other, name))
        found.append(total.verdict())
    return tuple(found)


class _OnDisk:
    """An array in a file."""

    def __init__(self, path: Path, array: Array) -> None:
        self.path, self.dtype, self.shape = path, array.dtype, array.shape
        try:
            np.ascontiguousarray(array).tofile(path)
            short = path.stat().st_size != array.nbytes
        except OSError as error:
            short = error.errno in (errno.ENOSPC, errno.EDQUOT, None)
            if not short:
                raise
        if short:
            raise OutputError(
                f"the activations of the calibration samples do not fit on the disk of {path.parent}; give "
                "fewer samples, or set TMPDIR to a folder with more room"
            )


def _read(value: Array | _OnDisk) -> Array:
    if isinstance(value, _OnDisk):
        return np.fromfile(value.path, value.dtype).reshape(value.shape)
    return value
