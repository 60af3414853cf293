"""Values of a layer whose mask is given: the least squares of every output over the weights that are kept."""

from __future__ import annotations

from nm2trt.nm.solver.array_namespace import (
    Array,
    each,
    each_block,
    float32,
    namespace,
    one_blas_thread,
    product,
    row_numbers,
)
from nm2trt.nm.solver.kept_rows import RowCovariance
from nm2trt.nm.solver.layer_moments import diagonal

# Above this many outputs x kept^3 the values come from conjugate gradients.
_MOST_EXACT = 1.2e11
_GRADIENT_STEPS = 40
# Gathered systems of a batch; a CPU takes what its cache holds, as fresh memory costs more than a solve.
_GATHERED_BYTES, _CACHED_BYTES = 400_000_000, 16_000_000
# Outputs x kept^3 that are worth a thread.
_THREAD_WORK = 100_000_000


def support_values(h: Array | RowCovariance, g: Array, mask: Array, start: Array | None = None) -> Array:
    """Minimise w h w' - 2 w g' for every output over the weights that its mask keeps.

    Args:
        h: Positive definite, float64 (d, d).
        g: float64 (o, d).
        mask: (o, d).
        start: Where conjugate gradients begin, (o, d); None is zero.

    Returns:
        (o, d), zero outside the mask: exact, or 40 steps of conjugate gradients if the systems are too many
        or keep different numbers of weights.
    """
    counts = mask.sum(1)
    outputs, kept = mask.shape[0], int(counts.max())
    if outputs * kept**3 > _MOST_EXACT or int(counts.min()) != kept:
        return conjugate_gradients(h, g, mask, start)
    xp = namespace(g)
    places = xp.where(mask)[1].reshape(outputs, kept)
    found = xp.zeros_like(g)

    def solve(first: int) -> None:
        at = places[first : first + step]
        system = h.gathered(at) if isinstance(h, RowCovariance) else h[at[:, :, None], at[:, None, :]]
        rows = row_numbers(first, at.shape[0], at)
        found[rows, at] = xp.linalg.solve(system, g[rows, at][:, :, None])[:, :, 0]

    with one_blas_thread() as threads:
        # Each system by one thread, so that its bits do not depend on how many there are.
        many, most = (threads, _CACHED_BYTES) if xp.__name__ == "numpy" else (1, _GATHERED_BYTES)
        parts = max(1, min(many, outputs * kept**3 // _THREAD_WORK))
        step = max(1, min(most // (2 * 8 * kept * kept * parts), -(-outputs // parts)))
        each(solve, range(0, outputs, step), parts)
    return found


def conjugate_gradients(h: Array | RowCovariance, g: Array, mask: Array, start: Array | None) -> Array:
    """Return what 40 steps of conjugate gradients in float32 come to, as float64; see `support_values`."""
    xp = namespace(g)
    spread, found = float32(diagonal(h)), xp.zeros_like(g)
    tiny = float(xp.finfo(spread.dtype).tiny)
    narrow = h.in_float32() if isinstance(h, RowCovariance) else float32(h)

    def through(rows: Array) -> Array:
        return narrow.through(rows) if isinstance(narrow, RowCovariance) else product(rows, narrow)

    def descend(rows: slice) -> None:
        kept = mask[rows]
        scale = kept / spread
        weight = xp.zeros_like(scale) if start is None else float32(start[rows]) * kept
        left = (float32(g[rows]) - through(weight)) * kept
        step = left * scale
        energy = (left * step).sum(1)[:, None]
        direction = step
        for _ in range(_GRADIENT_STEPS):
            curved = through(direction) * kept
            length = energy / xp.clip((direction * curved).sum(1)[:, None], tiny, None)
            weight = weight + length * direction
            left = left - length * curved
            step = left * scale
            new = (left * step).sum(1)[:, None]
            direction = step + direction * (new / xp.clip(energy, tiny, None))
            energy = new
        found[rows] = weight

    each_block(descend, g, h.size)
    return found
