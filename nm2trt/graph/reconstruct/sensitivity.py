"""Sensitivity of the outputs to each layer pruned alone, and the choice of the layers that stay dense.

The KL divergence of the outputs is measured on samples that the layer was not fitted on. A layer's own error
does not predict it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.errors import ModelError, SparsityError
from nm2trt.figures import counted, percent
from nm2trt.graph.execute.output_verdict import VerdictSum
from nm2trt.graph.reconstruct.chunks import Chunks
from nm2trt.graph.reconstruct.layers import Layer, shares_done
from nm2trt.graph.reconstruct.network import Network
from nm2trt.graph.reconstruct.report import ReconstructOptions
from nm2trt.graph.reconstruct.statistics import gather_moments, held_out, positions
from nm2trt.graph.reconstruct.streams import Segments, Stream
from nm2trt.graph.storage.threads import beside
from nm2trt.nm.solver.layer_solver import SolverOptions, fit_layer
from nm2trt.progress import bar

_FITTED, _JUDGED, _ROWS = 96, 64, 8_192
_ITERATIONS = 40


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What pruning one layer costs and brings.

    Args:
        divergence: KL divergence of the outputs with this layer pruned and all others dense, in nats; without
            scores per class, the share of the outputs' variance that is lost. None if it cannot be measured.
        work: Multiply-accumulates of one sample.
    """

    divergence: float | None
    work: float


def layer_sensitivities(
    network: Network,
    layers: Sequence[Layer],
    chunks: Chunks,
    options: ReconstructOptions,
    kept: Collection[str],
) -> dict[str, Sensitivity]:
    """Prune each layer alone, and measure how far the outputs move; by weight name.

    Args:
        network: The dense network.
        layers: The layers to measure, in the order of the graph.
        chunks: Calibration samples; at most 96 are fitted, at most 64 others are judged.
        options: Pattern, mask input and seed.
        kept: Weights that hold the pattern already, of which only the work is measured.

    Raises:
        OutputError: The disk cannot hold the activations.
    """
    found: dict[str, Sensitivity] = {}
    with (
        tempfile.TemporaryDirectory(prefix="nm2trt-sensitivity-") as folder,
        bar("sensitivity", 1.0) as shown,
    ):
        trial = _Trial(network, chunks, options, Path(folder))
        for number, (layer, done) in enumerate(zip(layers, shares_done(layers, kept), strict=True)):
            words = f"{number + 1}/{len(layers)} {layer.weight}, {counted(layer.inputs, 'input')}"
            shown.update(done, description=words)
            found[layer.weight] = trial.measure(layer, number, holds=layer.weight in kept)
    return found


class _Trial:
    """Streams of the dense network: fitted samples, judged samples, and the outputs for the judged ones."""

    def __init__(self, network: Network, chunks: Chunks, options: ReconstructOptions, folder: Path) -> None:
        self.network, self.options = network, options
        self.segments = Segments(network, options.valid)
        self.end = len(network.nodes)
        outside = [number for number in range(chunks.count) if held_out(number)]
        inside = [number for number in range(chunks.count) if not held_out(number)]
        fitted = chunks.first(inside, _FITTED)
        judged = chunks.first(outside or inside, _JUDGED)
        streams = []
        for name, numbers in (("fitted", fitted), ("judged", judged), ("outputs", judged)):
            (folder / name).mkdir()
            streams.append(Stream(folder / name, chunks.feeds(numbers)))
        self.fitted, self.judged, self.outputs = streams
        self.outputs.advance(self.segments, self.end)

    def measure(self, layer: Layer, number: int, *, holds: bool) -> Sensitivity:
        """Move on to a layer, prune it alone and compare the outputs."""
        for stream in (self.fitted, self.judged):
            stream.advance(self.segments, layer.index)
        first = layer.multiplied(self.fitted.read(0, layer.x))
        samples = first.shape[0] if first.ndim else 1
        work = layer.outputs * layer.inputs * positions(layer, first.shape) / max(samples, 1)
        if holds:
            return Sensitivity(0.0, work)
        try:
            pruned = beside(partial(self._pruned, layer, number))()
            return Sensitivity(self._divergence(layer, pruned), work)
        except (SparsityError, ModelError):
            return Sensitivity(None, work)

    def _pruned(self, layer: Layer, number: int) -> dict[str, Array]:
        rows = layer.rows(self.network.read(layer.weight))
        moments = gather_moments(
            layer,
            rows,
            self.fitted,
            self.fitted,
            valid=self.options.valid,
            random=np.random.default_rng([self.options.seed, number]),
            least_rows=_ROWS,
            outside=(),
        )
        fit = fit_layer(
            moments.fitted,
            None,
            rows.astype(np.float64),
            self.options.pattern,
            bias=layer.bias is not None,
            options=SolverOptions(iterations=_ITERATIONS),
        )
        return layer.rebuilt(self.network, fit.weight, fit.bias_change)

    def _divergence(self, layer: Layer, weights: Arrays) -> float | None:
        session = self.segments.open(layer.index, self.end, weights, self.judged.specs())
        if session is None:
            return None
        names = [name for name in self.network.outputs if self.outputs.specs()[name][0].kind == "f"]
        sums = {name: VerdictSum(name) for name in names}
        with session:
            for chunk in range(len(self.judged)):
                made = session.run({x.name: self.judged.read(chunk, x.name) for x in session.inputs})
                for name in names:
                    dense = self.outputs.read(chunk, name)
                    sums[name].add(dense, made.get(name, dense))
        found = [total.verdict().divergence for total in sums.values()]
        known = [value for value in found if value is not None]
        return sum(known) if known else None


def dense_by_sensitivity(
    found: Mapping[str, Sensitivity],
    share: float,
    *,
    gains: Mapping[str, float] | None = None,
    sparse: Collection[str] = (),
) -> dict[str, str]:
    """Choose the layers that stay dense, and say why: those of the largest divergence per gain come first.

    Args:
        found: Cost and work of each layer that can be pruned, by weight name.
        share: Share of their work that must stay prunable, over 0 and up to 1.
        gains: What pruning each layer brings, such as measured seconds; None takes its work.
        sparse: Layers that hold the pattern already: their work counts, and they are never chosen.
    """
    total = sum(item.work for item in found.values())
    left = total
    chosen: dict[str, str] = {}

    def cost(name: str) -> float:
        divergence = found[name].divergence
        gain = found[name].work if gains is None else gains.get(name, 0.0)
        return float("inf") if divergence is None or gain <= 0 else divergence / gain

    for name in sorted((name for name in found if name not in sparse), key=cost, reverse=True):
        # Rounding must not drop the last layer that the share allows exactly.
        if left - found[name].work >= share * total * (1 - 1e-9):
            left -= found[name].work
            divergence = found[name].divergence
            told = "unknown" if divergence is None else f"{divergence:.3g}"
            chosen[name] = (
                f"pruned alone it moves the outputs by {told}, "
                f"for {percent(found[name].work / total)} of the work"
            )
    return chosen
