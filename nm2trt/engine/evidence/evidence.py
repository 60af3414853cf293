"""Evidence on an engine's layers and kernels, from whatever builder or profiler.

`build_log`, `inspector_json` and `kernel_trace` beside this module read it; `nm2trt.engine.ladder.ladder`
judges it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Pieces of names that only 2:4 kernels have, and where each was read.
SPARSE_KERNEL_NAMES: tuple[tuple[str, str], ...] = (
    (r"xmma_(\w+_)?sparse_(conv|gemm|fprop|int8|i8|f16|bf16|e4m3)", "names in TensorRT for RTX 1.7.1.116"),
    (r"xmma_sparse_(conv|gemm)", "lists of tensor core kernels in PyTorch's and TensorFlow's profilers"),
    (
        r"_sptensor\d+x\d+x\d+",
        "suffix of cuSPARSELt's and TensorRT's kernels for sparse tensor cores",
    ),
    (r"(^|[_\d])spgemm(_|$)", "CUTLASS profiler, NVIDIA/cutlass issue 103"),
    (r"spmma", "NVIDIA/Model-Optimizer pull request 1664"),
)
_SPARSE = re.compile("|".join(f"(?:{pattern})" for pattern, _ in SPARSE_KERNEL_NAMES), re.IGNORECASE)
# The kernel is chosen where the engine is loaded; measured with TensorRT for RTX 1.7.1.116.
_STUBS = frozenset({"__myelin_CASK_STUB"})


def is_sparse_kernel(name: str) -> bool:
    """Tell whether a tactic's or kernel's name is that of a kernel for sparse tensor cores."""
    return _SPARSE.search(name) is not None


def is_stub(tactic: str) -> bool:
    """Tell whether a tactic stands for a choice that is made later, on the GPU that loads the engine."""
    return tactic in _STUBS


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer of an engine.

    Args:
        name: Its name in the engine.
        kind: Its type, e.g. "CaskConvolution", "gemm".
        nodes: The ONNX nodes that it runs, as far as its metadata or name tells.
        tactic: Name of its kernel; "" if that is not told.
        sparse_weights: What `HasSparseWeights` says, which does not prove a sparse kernel; None if unknown.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    tactic: str
    sparse_weights: bool | None = None

    @property
    def computes(self) -> bool:
        """Whether it may hold a matrix product: anything but moves, constants and point-wise kernels."""
        return not re.search(r"reformat|noop|constant|shuffle|pointwise|^kgen$|signal|wait", self.kind, re.I)

    @property
    def multiplies(self) -> bool:
        """Whether its type is that of a matrix product or convolution."""
        return re.search(r"conv|gemm|correlation|matmul|matrix|fully", self.kind, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class SparsityList:
    """One of the builder's "(Sparsity)" lines.

    Args:
        count: How many layers it speaks of.
        layers: Their names in the engine; None if the line gives only the number.
    """

    count: int
    layers: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Autotuned:
    """One layer as the builder timed it.

    Args:
        layer: Its name.
        nodes: The ONNX nodes that it runs.
        sparse_ms: Time of the fastest sparse kernel; None if none was timed.
        dense_ms: Time of the fastest dense kernel; None if none was timed.
    """

    layer: str
    nodes: tuple[str, ...]
    sparse_ms: float | None
    dense_ms: float | None

    @property
    def speedup(self) -> float | None:
        """Time of the fastest dense kernel over that of the fastest sparse one."""
        if not self.sparse_ms or not self.dense_ms:
            return None
        return self.dense_ms / self.sparse_ms

    @property
    def dense_only(self) -> bool:
        """Whether kernels were timed, and not one of them sparse."""
        return self.sparse_ms is None and self.dense_ms is not None


@dataclass(frozen=True, slots=True)
class KernelUse:
    """One kernel of a profiler's trace.

    Args:
        name: Its name.
        launches: How often it ran.
        total_us: Its time in all, in microseconds.
        nodes: The ONNX nodes of the layer that launched it; () if the trace does not say.
    """

    name: str
    launches: int
    total_us: float
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was said of one engine.

    Args:
        layers: Its layers.
        eligible: Layers that the builder lists as eligible; None if no such line was found.
        chosen: Layers that it chose sparse kernels for; None if no such line was found.
        autotuned: What it timed.
        kernels: What a profiler saw.
        notes: What could not be read and why; one sentence each.
        cached: The ONNX nodes of layers that the builder tuned without timing a kernel: the timing cache, or
            an equal layer before them, answered.
    """

    layers: tuple[LayerRecord, ...] = ()
    eligible: SparsityList | None = None
    chosen: SparsityList | None = None
    autotuned: tuple[Autotuned, ...] = ()
    kernels: tuple[KernelUse, ...] = ()
    notes: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()

    @property
    def deferred(self) -> bool:
        """Whether kernels are chosen where the engine is loaded, so that no build can name them."""
        return any(is_stub(layer.tactic) for layer in self.layers)

    @classmethod
    def merged(cls, parts: Iterable[Evidence]) -> Evidence:
        """Put what several sources say of one engine together; the later of two lists stands."""
        whole = cls()
        for part in parts:
            whole = cls(
                (*whole.layers, *part.layers),
                part.eligible or whole.eligible,
                part.chosen or whole.chosen,
                (*whole.autotuned, *part.autotuned),
                (*whole.kernels, *part.kernels),
                tuple(dict.fromkeys((*whole.notes, *part.notes))),
                (*whole.cached, *part.cached),
            )
        return whole
