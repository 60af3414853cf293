"""Moments of one layer from both streams: rows of the pruned network's inputs, outputs of the dense network.

The wanted output is W0 x_d, with W0 the dense weight and x_d the dense network's input at the same position.
If an Add joins the output with a skip tensor, its difference between the streams is wanted too, so that the
layer repairs the error that the skip brings along.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import SparsityError
from nm2trt.graph.reconstruct.layers import Layer
from nm2trt.graph.reconstruct.rows import conv_rows, matrix_rows, output_rows
from nm2trt.graph.reconstruct.streams import Stream
from nm2trt.nm.solver.array_namespace import one_blas_thread
from nm2trt.nm.solver.kept_rows import ROWS, KeptRows, are_kept, rows_to_draw
from nm2trt.nm.solver.layer_moments import Moments, Sums, sums_of

# Every eighth chunk is held out.
_HELD_OUT = 8


@dataclass(frozen=True, slots=True, eq=False)
class LayerMoments:
    """What a layer is fitted to, and what lambda and the mask are judged on.

    Args:
        fitted: Moments of the rows that are fitted, or the rows.
        held_out: The same of the rows that are not; None if there are too few chunks.
        rows: Rows of both.
    """

    fitted: Sums
    held_out: Sums | None
    rows: int


def held_out(chunk: int) -> bool:
    """Tell whether a chunk is never fitted."""
    return chunk % _HELD_OUT == _HELD_OUT - 1


@one_blas_thread()
def gather_moments(
    layer: Layer,
    weight: Array,
    dense: Stream,
    pruned: Stream,
    *,
    valid: str | None,
    random: np.random.Generator,
    least_rows: int = ROWS,
    outside: Collection[int] | None = None,
    crossed: bool = True,
) -> LayerMoments:
    """Read a layer's inputs in both streams, which stand in front of it.

    Args:
        layer: The layer.
        weight: Its dense weight, float32 (outputs, inputs).
        dense: The stream of the dense network.
        pruned: The stream of the network as it is so far.
        valid: An input of the model that is not 0 at real tokens; rows are drawn from those.
        random: Draws the rows.
        least_rows: Rows that are drawn at least, if there are as many.
        outside: Chunks that are held out; None takes every eighth.
        crossed: False may leave the products of outputs and inputs 0.

    Raises:
        SparsityError: No row reaches the layer, or its inputs have other shapes in the pruned network.
    """
    found: dict[bool, Sums] = {}
    means: tuple[Array, Array] | None = None
    wanted = rows_to_draw(layer.inputs, least_rows // (4 if layer.depthwise else 1))
    per_chunk = math.ceil(wanted / len(dense))
    shapes = (dense.shape(chunk, layer.x) for chunk in range(len(dense)))
    at_most = sum(min(per_chunk, positions(layer, shape)) for shape in shapes)
    kept = not layer.depthwise and are_kept(layer.inputs, at_most)
    for chunk in range(len(dense)):
        x = layer.multiplied(pruned.read(chunk, layer.x))
        mask = dense.read(chunk, valid) if valid is not None and valid in dense else None
        picked = _pick(positions(layer, x.shape), per_chunk, mask, random)
        x_dense = x if dense is pruned else layer.multiplied(dense.read(chunk, layer.x))
        if x_dense.shape != x.shape:
            raise SparsityError("the shape of its input depends on values that pruning changes")
        if not len(picked):
            continue
        rows = _rows(layer, x, picked)
        wanted_rows = rows if dense is pruned else _rows(layer, x_dense, picked)
        with np.errstate(over="ignore", invalid="ignore"):  # the solver looks for NaN and infinity
            skip = _skip(layer, x.shape, dense, pruned, chunk, picked)
            # Subtracted before the float32 products, and added back in float64 at the end.
            means = means or (rows.mean(0), wanted_rows.mean(0))
            moments: Sums
            if layer.depthwise:
                moments = _depthwise_moments(rows, wanted_rows, weight, means)
            else:
                moments = _moments(rows, wanted_rows, weight, skip, means, crossed=crossed, kept=kept)
            kind = held_out(chunk) if outside is None else chunk in outside
            found[kind] = found[kind] + moments if kind in found else moments
    if False not in found or means is None:
        raise SparsityError("no calibration sample reaches it")
    with np.errstate(over="ignore", invalid="ignore"):
        x0, y0 = _moved_by(layer, weight, means)
        moved = {kind: sums.moved(x0, y0) for kind, sums in found.items()}
    return LayerMoments(moved[False], moved.get(True), sum(item.rows for item in found.values()))


def _moved_by(layer: Layer, weight: Array, means: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return what was taken off the inputs, and so off the wanted outputs, as `Moments.moved` takes it."""
    x0, x1 = means
    if layer.depthwise:
        return np.ascontiguousarray(x0.T), (weight.astype(np.float64) * x1.T).sum(1)
    return x0, weight.astype(np.float64) @ x1.astype(np.float64)


def positions(layer: Layer, shape: tuple[int, ...]) -> int:
    """Return how many rows a layer multiplies for an input of a shape, transposed or not."""
    if layer.window is None:
        return math.prod(shape) // layer.inputs
    return shape[0] * math.prod(layer.window.placed(shape[2:])[1])


def _pick(positions: int, count: int, mask: Array | None, random: np.random.Generator) -> Array:
    """Draw output positions, sorted; of a mask with one entry per position, as many real ones per sample."""
    if mask is not None and mask.size == positions and mask.ndim > 1 and mask.any():
        real = mask.reshape(len(mask), -1) != 0
        lengths = real.sum(1)
        # More rows than the longest sample has would repeat it.
        per_sample = min(math.ceil(count / len(real)), int(lengths.max()))
        # Each sample in its own order; a short one is repeated, so that it weighs as much as a long one.
        order = np.argsort(np.where(real, random.random(real.shape), 2), axis=1)
        turns = np.arange(per_sample) % np.maximum(lengths, 1)[:, None]
        drawn = np.take_along_axis(order, turns, 1) + np.arange(len(real))[:, None] * real.shape[1]
        return np.sort(drawn[lengths > 0], axis=None)
    if count >= positions:
        return np.arange(positions)
    return np.sort(random.choice(positions, count, replace=False))


def _rows(layer: Layer, x: Array, picked: Array) -> Array:
    """Return (p, inputs); depthwise (p, kernel positions, channels)."""
    if layer.window is None:
        return matrix_rows(x, picked)
    rows = conv_rows(layer.window, x, picked)
    return rows if layer.depthwise else rows.reshape(len(picked), -1)


def _skip(
    layer: Layer, given: tuple[int, ...], dense: Stream, pruned: Stream, chunk: int, picked: Array
) -> Array | None:
    """Return what the skip tensor lost at picked positions, (p, outputs), or None; the input is `given`."""
    if layer.skip is None or dense is pruned or layer.skip not in dense or layer.depthwise:
        return None
    wanted, found = dense.read(chunk, layer.skip), pruned.read(chunk, layer.skip)
    if wanted.shape != found.shape:
        return None
    lost = wanted - found
    if layer.window is None:
        shape: tuple[int, ...] = (*given[:-1], layer.outputs)
    else:
        shape = (given[0], layer.outputs, *layer.window.placed(given[2:])[1])
    if lost.shape != shape:
        return None  # it is broadcast
    return output_rows(lost, picked, convolution=layer.window is not None)


def _moments(
    x: Array,
    x_dense: Array,
    weight: Array,
    skip: Array | None,
    means: tuple[Array, Array],
    *,
    crossed: bool,
    kept: bool,
) -> Sums:
    outputs, inputs = weight.shape
    about = x - means[0]
    about_dense = about if x is x_dense else x_dense - means[1]
    if skip is None and outputs > 2 * inputs and not kept:
        return _through_weight(about, about_dense, weight)
    y = about_dense @ weight.T
    y = y if skip is None else y + skip
    return KeptRows(about, y) if kept else sums_of(about, y, crossed=crossed)


def _through_weight(x: Array, x_dense: Array, weight: Array) -> Moments:
    """Return `sums_of(x, x_dense @ weight.T)` without the outputs, which are many."""
    wide, same = weight.astype(np.float64), x is x_dense
    square = (x.T @ x).astype(np.float64)
    through = wide @ (square if same else (x_dense.T @ x).astype(np.float64))
    wanted = through if same else wide @ (x_dense.T @ x_dense).astype(np.float64)
    return Moments(
        xx=square,
        yx=through,
        x=x.sum(0, dtype=np.float64),
        y=wide @ x_dense.sum(0, dtype=np.float64),
        yy=float((wanted * wide).sum()),
        rows=len(x),
    )


def _depthwise_moments(x: Array, x_dense: Array, weight: Array, means: tuple[Array, Array]) -> Moments:
    x, x_dense = x - means[0], x_dense - means[1]
    y = np.einsum("pkc,ck->pc", x_dense, weight)
    by_channel = np.ascontiguousarray(x.transpose(2, 0, 1))
    return Moments(
        xx=(by_channel.transpose(0, 2, 1) @ by_channel).astype(np.float64),
        yx=(y.T[:, None, :] @ by_channel)[:, 0, :].astype(np.float64),
        x=x.sum(0, dtype=np.float64).T,
        y=y.sum(0, dtype=np.float64),
        yy=float((y.astype(np.float64) ** 2).sum()),
        rows=len(x),
    )
