"""Tactic timings and layer lines of TensorRT's verbose build log, as 8.x and 10.x write them.

    --------------- Timing Runner: conv0 + relu0 (CaskConvolution[0x80000009])
    Tactic Name: sm80_xmma_fprop_... Tactic: 0x5deb29b7a8e275f7 Time: 0.0521752
    >>>>>>>>>>>>>>> Chose Runner Type: CaskConvolution Tactic: 0x5deb29b7a8e275f7
    Layer(CaskConvolution): conv0 + relu0, Tactic: 0x5deb29b7a8e275f7, x (Half[8,64,56,56]) -> y (...)

Until 8.4 the kernel's name comes on a line of its own (`conv0 Set Tactic Name: K Tactic: 0x..`), its time on
the next (`Tactic: 0x.. Time: T`). The wording is that of the strings in TensorRT 8.6.0's library and of
public logs of 8.0, 8.2, 8.6 and 10.4. A timing that the timing cache answers leaves no line: then the kernel
is known only if another layer timed the same tactic. The cache also serves layers that equal an earlier one
of the same build.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from nm2trt.engine.evidence.evidence import Autotuned, LayerRecord, is_sparse_kernel
from nm2trt.engine.evidence.layer_names import is_of_a_later_profile, onnx_nodes

_RUNNER = "--------------- Timing Runner: "
# 64 bits; without a bound, each shorter run of digits of a hostile line would be tried with all that follows.
_ID = r"Tactic: (?P<id>(?:0x)?-?[0-9a-fA-F]{1,20})(?![0-9a-fA-F])"
# A GEMM's name is followed by its parameters: `numSplitK: 1 numBuffers: 0 numKernels: 1`.
_NAMED = re.compile(
    rf"Tactic Name: (?P<kernel>\S+)(?: \w{{1,32}}: -?\d{{1,9}}){{0,8}} {_ID}(?:.*? Time: (?P<ms>\S+))?"
)
_TIMED = re.compile(rf"^\s*{_ID}(?:.*? Time: (?P<ms>\S+))")
_LAYER = re.compile(r"^\s*Layer\((?P<kind>\w+)\): ")
_LAYER_TACTIC = re.compile(rf", {_ID}(?:,|$)")


@dataclass(slots=True)
class TacticTimings:
    """What the lines that were taken say; `records` and `timed` tell it."""

    _runner: str = ""
    _nodes: tuple[str, ...] = ()
    _best: dict[str, Autotuned] = field(default_factory=dict)
    _kernels: dict[tuple[str, str], str] = field(default_factory=dict)
    _by_id: dict[str, set[str]] = field(default_factory=dict)
    _layers: list[tuple[str, str, str]] = field(default_factory=list)
    _tuned: dict[str, None] = field(default_factory=dict)

    def take(self, line: str) -> None:
        """Read one line, without its logger's prefix."""
        if _RUNNER in line:
            layer, _, runner = line.partition(_RUNNER)[2].rstrip().rpartition(" (")
            # Reformatting has no products, and its layer is named after two tensors.
            left_out = runner.startswith("Reformat") or is_of_a_later_profile(layer)
            self._runner = "" if left_out else layer
            self._nodes = onnx_nodes(self._runner)  # once, since a name may be long and have many timings
            self._tuned[self._runner] = None
            return
        if "Tactic" not in line:
            return
        kind = _LAYER.match(line)
        if kind is not None:
            self._layer(line[kind.end() :], kind["kind"])
        elif self._runner:
            self._timing(line)

    def timed(self) -> tuple[Autotuned, ...]:
        """Return the fastest sparse and dense time of every layer that was timed."""
        return tuple(self._best.values())

    def cached(self) -> tuple[str, ...]:
        """Return the ONNX nodes of the engine's layers that were tuned without a timing of their own."""
        untimed = [name for _, name, _ in self._layers if name in self._tuned and name not in self._best]
        return tuple(node for name in untimed for node in onnx_nodes(name))

    def records(self) -> Iterator[LayerRecord]:
        """Yield the engine's layers, each with its kernel's name if a timing told it."""
        for kind, name, tactic in self._layers:
            yield LayerRecord(name, kind, onnx_nodes(name), self._kernel(name, tactic))

    def _timing(self, line: str) -> None:
        found = _NAMED.search(line) or _TIMED.match(line)
        if found is None:
            return
        known = found.groupdict()
        tactic, kernel, ms = known["id"], known.get("kernel"), known["ms"]
        if kernel is not None:
            self._kernels[self._runner, tactic] = kernel
            self._by_id.setdefault(tactic, set()).add(kernel)
        if ms is not None:
            self._time(self._kernels.get((self._runner, tactic), ""), ms)

    def _time(self, kernel: str, text: str) -> None:
        try:
            ms = float(text)
        except ValueError:
            return
        if not 0 < ms < math.inf:
            return  # the tactic failed
        new = timing(self._runner, self._nodes, kernel, ms)
        known = self._best.get(self._runner)
        self._best[self._runner] = new if known is None else faster(known, new)

    def _layer(self, text: str, kind: str) -> None:
        found = _LAYER_TACTIC.search(text)
        if found is not None:
            self._layers.append((kind, text[: found.start()], found["id"]))

    def _kernel(self, layer: str, tactic: str) -> str:
        own = self._kernels.get((layer, tactic))
        if own is not None:
            return own
        alike = self._by_id.get(tactic, set())
        return next(iter(alike)) if len(alike) == 1 else ""


def timing(layer: str, nodes: tuple[str, ...], kernel: str, ms: float) -> Autotuned:
    """Return the timing of one kernel of a layer."""
    sparse, dense = (ms, None) if is_sparse_kernel(kernel) else (None, ms)
    return Autotuned(layer, nodes, sparse, dense)


def faster(one: Autotuned, other: Autotuned) -> Autotuned:
    """Return the fastest time of each kind, of two timings of one layer."""

    def least(a: float | None, b: float | None) -> float | None:
        known = [value for value in (a, b) if value is not None]
        return min(known) if known else None

    return Autotuned(
        one.layer, one.nodes, least(one.sparse_ms, other.sparse_ms), least(one.dense_ms, other.dense_ms)
    )
