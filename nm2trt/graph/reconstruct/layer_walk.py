"""The walk over the layers: two streams are moved to each layer, which is solved and takes its new weight."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.errors import SparsityError
from nm2trt.figures import counted
from nm2trt.graph.reconstruct.activation_grid import IntegerGrid, rounded_feeds
from nm2trt.graph.reconstruct.chunks import Chunks
from nm2trt.graph.reconstruct.layer_cache import LayerCache, SolvedLayer
from nm2trt.graph.reconstruct.layers import Layer, shares_done
from nm2trt.graph.reconstruct.network import Network
from nm2trt.graph.reconstruct.report import RebuiltLayer, ReconstructOptions
from nm2trt.graph.reconstruct.statistics import gather_moments
from nm2trt.graph.reconstruct.streams import Segments, Stream
from nm2trt.graph.storage.threads import beside
from nm2trt.nm.mask import check
from nm2trt.nm.solver.layer_solver import LayerFit, fit_layer

# What is shown while the walk goes on: part done (0..1) and words.
Show = Callable[[float, str], None]


@dataclass
class LayerWalk:
    """One pass over a network.

    Args:
        network: The dense network.
        options: How.
        chunks: The samples.
        folder: An empty folder for activations.
        show: Called as the walk goes on.
        cache: Keeps solved layers, and gives those of an earlier run; None solves all.
        grid: What computes in INT8 in the pruned network; its steps are filled in. None keeps floats.

    Attributes:
        weights: New numbers by name of the stored tensor, weights and biases.
        layers: What was done, in the order of the graph.
        dense: The stream of the dense network; with a grid, of one whose values stay within its limits.
        pruned: The stream of the pruned one; the same object as `dense` until something is pruned.
    """

    network: Network
    options: ReconstructOptions
    chunks: Chunks
    folder: Path
    show: Show
    cache: LayerCache | None = None
    grid: IntegerGrid | None = None
    weights: dict[str, Array] = field(default_factory=dict)
    layers: list[RebuiltLayer] = field(default_factory=list)

    def __post_init__(self) -> None:
        keep, grid = self.options.valid, self.grid
        if grid is None:
            self.segments = Segments(self.network, keep)
            self.dense = self._stream("dense", self.chunks.feeds())
            self.pruned, self._pruned_segments = self.dense, self.segments
        else:
            # No layer should restore what INT8 clips: that would cost errors everywhere else.
            self.segments = Segments(self.network, keep, grid, limits_only=True)
            limited = (rounded_feeds(feeds, grid, limits_only=True) for feeds in self.chunks.feeds())
            self.dense = self._stream("dense", limited)
            rounded = (rounded_feeds(feeds, grid) for feeds in self.chunks.feeds())
            self.pruned = self._stream("rounded", rounded)
            self._pruned_segments = Segments(self.network, keep, grid)
        self._start = time.monotonic()

    def _stream(self, name: str, feeds: Iterable[Arrays]) -> Stream:
        folder = self.folder / name
        folder.mkdir()
        return Stream(folder, feeds)

    def run(self, layers: Sequence[Layer], dense: Mapping[str, str], kept: Mapping[str, str]) -> None:
        """Solve every layer, then move both streams to the end.

        Args:
            layers: In the order of the graph.
            dense: Reasons by weight of layers that are not pruned.
            kept: Reasons by weight of layers that are left as they are.
        """
        if self.grid is not None:
            solved = {layer.weight for layer in layers}
            self._round(name for name in self.grid.weights if name not in solved)
        shares = shares_done(layers, kept)
        for number, layer in enumerate(layers):
            prune = layer.weight not in dense
            untouched = self.pruned is self.dense and not prune
            if layer.weight in kept or untouched:
                status = "kept" if layer.weight in kept else "dense"
                reason = kept.get(layer.weight) or dense.get(layer.weight, "")
                self.layers.append(self._row(layer, status, reason))
                self._round([layer.weight])
                continue
            words = f"{number + 1}/{len(layers)} {layer.label}, {counted(layer.inputs, 'input')}"
            self._advance(layer.index, words, shares[number])
            self._solve(number, layer, prune=prune, reason=dense.get(layer.weight, ""))
        self._advance(len(self.network.nodes), "outputs", 1.0)

    def reference(self, chunks: Sequence[int]) -> tuple[Stream, Sequence[int]]:
        """Return a stream at the end of the dense network, and the numbers that these chunks have in it."""
        if self.grid is None:
            return self.dense, chunks
        plain = self._stream("reference", self.chunks.feeds(chunks))
        plain.advance(Segments(self.network), len(self.network.nodes))
        return plain, range(len(chunks))

    def _advance(self, cut: int, words: str, done: float) -> None:
        took = time.monotonic() - self._start
        left = f", about {math.ceil(took * (1 - done) / done)} s left" if done else ""
        step = functools.partial(self.show, done, f"{words}{left}")
        step()
        self.dense.advance(self.segments, cut, step=step)
        if self.pruned is not self.dense:
            self.pruned.advance(self._pruned_segments, cut, self.weights, step)

    def _solve(self, number: int, layer: Layer, *, prune: bool, reason: str) -> None:
        solved = None if self.cache is None else self.cache.read(number, layer.weight)
        if solved is not None and solved.row.status == "refitted":
            # The same layers may be dense for another reason this time.
            solved = replace(solved, row=replace(solved.row, reason=reason))
        if solved is None or not self._fits(solved, layer):
            # In a thread of its own: one call of numpy may take minutes, and Ctrl-C does not wait for it.
            solved = beside(lambda: self._solved(number, layer, prune=prune, reason=reason))()
            if self.cache is not None:
                self.cache.write(number, solved)
        if solved.weights and self.pruned is self.dense:
            folder = self.folder / "pruned"
            folder.mkdir()
            self.pruned = self.dense.fork(folder)
        self.weights.update(solved.weights)
        if self.grid is not None and solved.step is not None:
            self.grid.steps[layer.weight] = solved.step
        if not solved.weights:
            self._round([layer.weight])
        self.layers.append(solved.row)

    def _round(self, names: Iterable[str]) -> None:
        """Round weights that no layer solves as the network that is written will have them."""
        if self.grid is None:
            return
        for name in names:
            stored = self.network.stored(name)
            if (
                name in self.grid.weights
                and stored is not None
                and len(self.network.real_readers(stored)) == 1
            ):
                self.weights[stored] = self.grid.nearest(name, self.network.read(stored))

    def _fits(self, solved: SolvedLayer, layer: Layer) -> bool:
        """Tell whether a result of the cache is one that this layer can take; anybody may have written it."""
        row, facts = solved.row, ("weight", "consumers", "shape", "dtype", "axis")
        own = self._row(layer, row.status, row.reason)
        if any(getattr(row, name) != getattr(own, name) for name in facts):
            return False
        names = set(solved.weights)
        if not names <= {layer.weight, layer.bias} or (layer.weight in names) is (row.status == "dense"):
            return False
        sound = all(
            array.shape == self.network.shape(name)
            and array.dtype == self.network.dtype(name)
            and np.isfinite(array).all()
            for name, array in solved.weights.items()
        )
        if not sound or not self._fits_grid(solved, layer):
            return False
        if row.status != "pruned":
            return True
        return check(solved.weights[layer.weight], self.options.pattern, axis=layer.axis).holds

    def _fits_grid(self, solved: SolvedLayer, layer: Layer) -> bool:
        rounded = layer.weight in solved.weights and self._is_rounded(layer)
        if solved.step is None or self.grid is None or not rounded:
            return solved.step is None and not rounded
        return self.grid.holds(layer.rows(solved.weights[layer.weight]), solved.step)

    def _is_rounded(self, layer: Layer) -> bool:
        return self.grid is not None and layer.weight in self.grid.weights

    def _solved(self, number: int, layer: Layer, *, prune: bool, reason: str) -> SolvedLayer:
        stored = self.network.read(layer.weight)
        rows = layer.rows(stored)
        random = np.random.default_rng([self.options.seed, number])
        try:
            moments = gather_moments(
                layer, rows, self.dense, self.pruned, valid=self.options.valid, random=random
            )
            fit = fit_layer(
                moments.fitted,
                moments.held_out,
                rows.astype(np.float64),
                self.options.pattern if prune else None,
                bias=layer.bias is not None,
                largest=self.grid.largest if self.grid is not None and self._is_rounded(layer) else None,
            )
            weights = layer.rebuilt(self.network, fit.weight, fit.bias_change)
            new = weights[layer.weight]
            if fit.mask is not None and not check(new, self.options.pattern, axis=layer.axis).holds:
                raise SparsityError(f"its solution does not hold {self.options.pattern}")
        except SparsityError as error:
            return SolvedLayer(self._row(layer, "dense", str(error)), {})
        words = f"{counted(layer.inputs, 'input')}, {counted(moments.rows, 'row')}" if prune else reason
        return SolvedLayer(
            self._row(layer, "pruned" if prune else "refitted", words, fit, moments.rows), weights, fit.step
        )

    def _row(
        self, layer: Layer, status: Any, reason: str, fit: LayerFit | None = None, rows: int = 0
    ) -> RebuiltLayer:
        return RebuiltLayer(
            weight=layer.weight,
            consumers=(layer.label,),
            shape=layer.shape,
            dtype=str(self.network.dtype(layer.weight)),
            axis=layer.axis,
            status=status,
            reason=reason,
            ridge=None if fit is None else fit.ridge,
            held_out=fit is not None and fit.held_out,
            rows=rows,
            dense_error=None if fit is None else fit.dense_error,
            error=None if fit is None else fit.error,
            magnitude_error=None if fit is None else fit.magnitude_error,
            chosen="" if fit is None else fit.chosen,
            inputs=0 if fit is None else layer.inputs,
        )
