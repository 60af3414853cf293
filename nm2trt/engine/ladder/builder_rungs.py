"""The builder's rungs of the ladder, from an engine's evidence on one ONNX node: listed, chosen, gained.

Trusted in this order: a kernel that a profiler saw in the node's layer, the tactic that the inspector names,
the builder's list. A source that does not name the node says nothing of it.

The list of eligible layers does not say what was tried. TensorRT 8.6.0 on an H200 wrote it from the plan
that won: of 53 FP16 weights in 2:4 it named the 39 whose layer a `CaskConvolution` ran in the end, and left
out the 14 that a dense `CaskGemmConvolution` ran, though sparse kernels were timed for them. It also named
three INT8 layers with a float output, for which it timed not one sparse kernel. So a timing counts for more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nm2trt.engine.evidence.evidence import (
    Autotuned,
    Evidence,
    SparsityList,
    is_sparse_kernel,
    is_stub,
)
from nm2trt.engine.evidence.layer_names import is_region, onnx_nodes, split_list
from nm2trt.figures import counted

Answer = Literal["yes", "no", "unknown", "not measured", "not reached"]

NOT_MEASURED = "not measured"
TIMED = "when the builder timed it"
GEMM_WON = "not listed: a GEMM kernel won"
FROM_CACHE = "an equal layer, or the timing cache, had its timings"
NOT_LISTED_IN_REGION = "not listed: inside a foreign node"
# What TensorRT 8.6.0 leaves out of its list, see above.
_UNLISTED_KIND = "CaskGemmConvolution"
BY_LAYER = "by the layer's time"
# Two runs of one kernel differ by less than this share under a layer profiler's events.
_NOISE = 0.02


@dataclass(frozen=True, slots=True)
class Rung:
    """One answer.

    Args:
        answer: "yes", "no", "unknown", "not measured" (this machine cannot answer) or "not reached" (an
            earlier rung said no).
        detail: The answer in a few words, for a table's cell.
    """

    answer: Answer
    detail: str


def listed(node: str, evidence: Evidence) -> Rung:
    """Say whether the builder lists a node as eligible."""
    named = _named(node, evidence.eligible)
    if named:
        return Rung("yes", "listed")
    if any(item.sparse_ms is not None and node in item.nodes for item in evidence.autotuned):
        return Rung("yes", "timed" if evidence.eligible is None else "timed, though not listed")
    if named is None:
        if evidence.eligible is not None and evidence.eligible.count:
            return Rung("unknown", f"{counted(evidence.eligible.count, 'layer')}, not named")
        return Rung("not measured", NOT_MEASURED)
    if any(layer.kind == _UNLISTED_KIND and node in layer.nodes for layer in evidence.layers):
        return Rung("unknown", GEMM_WON)
    if in_region(node, evidence):
        return Rung("no", NOT_LISTED_IN_REGION)
    return Rung("no", "not listed")


def in_region(node: str, evidence: Evidence) -> bool:
    """Tell whether a node has no layer of its own, and the engine has a region whose nodes nothing names."""
    own = {name for layer in evidence.layers if not is_region(layer.name) for name in layer.nodes}
    return bool(node) and node not in own and any(is_region(layer.name) for layer in evidence.layers)


def asked(node: str, evidence: Evidence) -> Rung:
    """Say whether a sparse kernel was chosen for a node."""
    for answer in (_kernel(node, evidence), _tactic(node, evidence), _line(node, evidence)):
        if answer is not None:
            return answer
    if evidence.kernels and not any(is_sparse_kernel(kernel.name) for kernel in evidence.kernels):
        return Rung("no", "no sparse kernel ran at all")
    if any(layer.sparse_weights and node in layer.nodes for layer in evidence.layers):
        return Rung("no", "not chosen: HasSparseWeights does not prove it")
    return Rung("not measured", NOT_MEASURED)


def gained(node: str, evidence: Evidence) -> Rung:
    """Say what the builder measured when it timed the node's sparse kernels against its dense ones."""
    best = _best(node, evidence)
    if best is None or best.speedup is None:
        return Rung("not measured", NOT_MEASURED)
    if best.speedup > 1.0:
        return Rung("yes", f"{best.speedup:.2f}x {TIMED}: {_times(best)}")
    return Rung("no", f"dense was {1 / best.speedup:.2f}x as fast {TIMED}: {_times(best)}")


def gained_by_layer(off_ms: float, on_ms: float) -> Rung:
    """Say what the flag saved of the layer that runs a node, from its times in two engines.

    Args:
        off_ms: Time without sparse kernels, in milliseconds.
        on_ms: Time with them allowed.
    """
    if not (off_ms > 0 and on_ms > 0):
        return Rung("not measured", NOT_MEASURED)
    speed = off_ms / on_ms
    if abs(speed - 1) <= _NOISE:
        return Rung("no", f"{speed:.2f}x {BY_LAYER}: no difference")
    return Rung("yes" if speed > 1 else "no", f"{speed:.2f}x {BY_LAYER}")


def _kernel(node: str, evidence: Evidence) -> Rung | None:
    names = [kernel.name for kernel in evidence.kernels if node in kernel.nodes]
    sparse = next((name for name in names if is_sparse_kernel(name)), None)
    if sparse is not None:
        return Rung("yes", f"ran {sparse}")
    return Rung("no", "its kernels were dense") if names else None


def _tactic(node: str, evidence: Evidence) -> Rung | None:
    tactics = [
        layer.tactic
        for layer in evidence.layers
        # A region runs many kernels, of which its tactic is one.
        if node in layer.nodes and layer.computes and layer.tactic and not is_region(layer.name)
    ]
    sparse = next((tactic for tactic in tactics if is_sparse_kernel(tactic)), None)
    if sparse is not None:
        return Rung("yes", sparse)
    if not tactics or any(is_stub(tactic) for tactic in tactics):
        return None
    return Rung("no", f"not chosen{_because(node, evidence)}")


def _line(node: str, evidence: Evidence) -> Rung | None:
    named = _named(node, evidence.chosen)
    if named is None:
        return None
    return (
        Rung("yes", "the builder chose it") if named else Rung("no", f"not chosen{_because(node, evidence)}")
    )


def _because(node: str, evidence: Evidence) -> str:
    gain = gained(node, evidence)
    if gain.answer == "no":
        return f": {gain.detail}"
    if gain.answer == "yes":
        return f", though sparse was {gain.detail} (changes of format around a layer count too)"
    return f": {FROM_CACHE}" if node in evidence.cached else ""


def _best(node: str, evidence: Evidence) -> Autotuned | None:
    """Return the timing of a node with the greatest speed-up; None if no layer of it has both times."""
    timed = [item for item in evidence.autotuned if node in item.nodes and item.speedup is not None]
    return max(timed, key=lambda item: item.speedup or 0.0, default=None)


def _times(item: Autotuned) -> str:
    return f"sparse {item.sparse_ms:.4g} ms, dense {item.dense_ms:.4g} ms"


def _named(node: str, found: SparsityList | None) -> bool | None:
    """Tell whether a line names a node; None if it does not say which layers it means."""
    if found is None:
        return None
    if found.count == 0:
        return False
    if found.layers is None or not node:
        return None
    if any(node in onnx_nodes(layer) for layer in found.layers):
        return True
    # A region names only its ends, and Myelin's own names say nothing: the node may be among them.
    hidden = any(is_region(layer) or not onnx_nodes(layer) for layer in found.layers)
    # A name that reads as a list of layers cannot be found in one.
    hidden = hidden or split_list(node) != (node,) or onnx_nodes(node) != (node,)
    return None if hidden else False
