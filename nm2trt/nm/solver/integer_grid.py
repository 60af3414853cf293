"""Integer grid of a layer: kept weights rounded in order, the error of each moved to those still open.

For every output, with H and g as `nm2trt.nm.solver.layer_solver` has them, the rounded weight is to minimise

    w H w' - 2 w g',        w = s k,  k integer, 0 outside the mask.

The order and the update are GPTQ's (Frantar et al. 2023, arXiv:2210.17323, equation 2), with the update
restricted to the mask: weights that the pattern removed stay 0. Coordinate descent on the grid follows, which
moves single integers as long as the loss falls.
"""

from __future__ import annotations

from nm2trt.nm.solver.array_namespace import Array, float64, namespace, row_numbers
from nm2trt.nm.solver.kept_rows import RowCovariance
from nm2trt.nm.solver.layer_moments import through

# Candidates for the scale, as shares of the one that reaches the largest weight: clipping it may pay.
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
_SWEEPS = 4
# Above this many outputs x kept^3 the descent starts from the nearest integers.
_MOST_EXACT = 2e10
_GATHERED_BYTES = 200_000_000
# Columns whose moves reach the other columns in one product.
_BLOCK = 128


def on_grid(
    h: Array | RowCovariance, g: Array, weight: Array, mask: Array, largest: int
) -> tuple[Array, Array]:
    """Round a solved weight to a grid with one scale per output.

    Args:
        h: Positive definite, float64 (d, d); one system per output (o, d, d) for a depthwise layer.
        g: (o, d).
        weight: The solved weight, (o, d), zero outside the mask.
        mask: True where kept, (o, d), as many in every row.
        largest: The largest integer, such as 127.

    Returns:
        The weight on the grid, float64 (o, d), and the scale of each output, (o,).
    """
    g, weight = float64(g), float64(weight)
    scale = _scales(h, g, weight, mask, largest)
    step = scale[:, None]
    start = _nearest(weight, step, largest) * mask
    if mask.shape[0] * float(mask[0].sum()) ** 3 <= _MOST_EXACT:
        rounded = _in_order(h, weight, mask, step, largest)
        better = (_losses(h, g, rounded) < _losses(h, g, start))[:, None]
        start = namespace(weight).where(better, rounded, start)
    return _descend(h, g, start, mask, step, largest), scale


def _scales(h: Array | RowCovariance, g: Array, weight: Array, mask: Array, largest: int) -> Array:
    """Return the scale of each output whose nearest rounding loses least."""
    xp = namespace(weight)
    top = xp.amax(xp.abs(weight), -1) / largest
    top = xp.where(top > 0, top, xp.ones_like(top))
    best, least = top, _losses(h, g, _nearest(weight, top[:, None], largest) * mask)
    for share in _SHRINK[1:]:
        tried = share * top
        loss = _losses(h, g, _nearest(weight, tried[:, None], largest) * mask)
        best = xp.where(loss < least, tried, best)
        least = xp.where(loss < least, loss, least)
    return best


def _nearest(weight: Array, step: Array, largest: int) -> Array:
    xp = namespace(weight)
    return xp.clip(xp.round(weight / step), -largest, largest) * step


def _losses(h: Array | RowCovariance, g: Array, weight: Array) -> Array:
    return ((through(weight, h) - 2 * g) * weight).sum(-1)


def _in_order(h: Array | RowCovariance, weight: Array, mask: Array, step: Array, largest: int) -> Array:
    """Round the kept weights of each output in order; what one loses, the kept ones after it make up."""
    xp = namespace(weight)
    outputs, kept = weight.shape[0], int(mask[0].sum())
    places = xp.where(mask)[1].reshape(outputs, kept)
    rounded = xp.zeros_like(weight)
    batch = max(1, _GATHERED_BYTES // (3 * 8 * kept * kept))
    for first in range(0, outputs, batch):
        at = places[first : first + batch]
        rows = row_numbers(first, at.shape[0], at)
        if isinstance(h, RowCovariance):
            systems = h.gathered(at)
        elif h.ndim == 3:
            systems = h[rows[:, :, None], at[:, :, None], at[:, None, :]]
        else:
            systems = h[at[:, :, None], at[:, None, :]]
        factor = xp.linalg.cholesky(xp.linalg.inv(systems))
        open_weight, scale = weight[rows, at], step[first : first + batch]
        for column in range(kept):
            value = _nearest(open_weight[:, column : column + 1], scale, largest)
            lost = (open_weight[:, column : column + 1] - value) / factor[:, column, column, None]
            open_weight = open_weight - lost * factor[:, :, column]
            open_weight[:, column : column + 1] = value
        rounded[rows, at] = open_weight
    return rounded


def _descend(
    h: Array | RowCovariance, g: Array, weight: Array, mask: Array, step: Array, largest: int
) -> Array:
    """Move single weights to the best place on the grid, sweep after sweep, as long as any moves."""
    weight = weight + 0
    slope = through(weight, h) - g
    for _ in range(_SWEEPS):
        moved = False
        for first in range(0, weight.shape[-1], _BLOCK):
            block = slice(first, first + _BLOCK)
            old, inside = weight[:, block], slope[:, block]
            new = old + 0
            part = h.part(block) if isinstance(h, RowCovariance) else h[..., block, :]
            for at in range(old.shape[-1]):
                row = part[..., at, block]
                wanted = new[:, at] - inside[:, at] / row[..., at]
                value = _nearest(wanted[:, None], step, largest)[:, 0] * mask[:, first + at]
                change = value - new[:, at]
                if bool((change != 0).any()):
                    new[:, at] = value
                    inside = inside + change[:, None] * row
            if bool((new != old).any()):
                moved = True
                slope = slope + through(new - old, part)
                weight[:, block] = new
        if not moved:
            break
    return weight
