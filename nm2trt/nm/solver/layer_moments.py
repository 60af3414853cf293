"""Second moments of a layer's inputs and wanted outputs: sums over rows, centred, scaled to unit inputs.

Everything works on numpy arrays and on torch tensors alike; see `nm2trt.nm.solver.array_namespace`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nm2trt.nm.solver.array_namespace import Array, float64, namespace, product, row_numbers
from nm2trt.nm.solver.kept_rows import KeptRows, RowCovariance

# What a dead input channel, whose variance is 0, is given in mean variances.
_DEAD = 1e-3
_TINY = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over rows of a layer, float64; for a depthwise layer one such set per channel.

    Args:
        xx: Sum of x x', (d, d); depthwise (c, d, d).
        yx: Sum of y x', (o, d); depthwise (c, d).
        x: Sum of the inputs, (d,); depthwise (c, d).
        y: Sum of the wanted outputs, (o,); depthwise (c,).
        yy: Sum of |y|^2.
        rows: Number of rows.
    """

    xx: Array
    yx: Array
    x: Array
    y: Array
    yy: float
    rows: int

    @property
    def squares(self) -> Array:
        """Sum of the squares of each input, (d,); depthwise (c, d)."""
        return diagonal(self.xx)

    def finite(self) -> bool:
        """Tell whether all sums are finite."""
        return all(bool(namespace(array).isfinite(array).all()) for array in (self.xx, self.yx))

    def __add__(self, other: Any) -> Moments:
        """Return the sums over the rows of both; `other` is `Moments` too."""
        return Moments(
            self.xx + other.xx,
            self.yx + other.yx,
            self.x + other.x,
            self.y + other.y,
            self.yy + other.yy,
            self.rows + other.rows,
        )

    def moved(self, x0: Array, y0: Array) -> Moments:
        """Return the sums of x + x0 and y + y0.

        Args:
            x0: What was taken off the inputs, (d,); depthwise (c, d).
            y0: What was taken off the wanted outputs, (o,); depthwise (c,).
        """
        x0, y0, rows = float64(x0), float64(y0), self.rows
        cross = self.x[..., :, None] * x0[..., None, :]
        xx = self.xx + cross  # in place from here: of 10,000 inputs such an array takes 0.8 GB
        xx += cross.swapaxes(-1, -2)
        del cross
        xx += rows * x0[..., :, None] * x0[..., None, :]
        return Moments(
            xx,
            self.yx + y0[:, None] * self.x + self.y[:, None] * x0 + rows * y0[:, None] * x0,
            self.x + rows * x0,
            self.y + rows * y0,
            self.yy + float((y0 * (2 * self.y + rows * y0)).sum()),
            rows,
        )


def moments_of(x: Array, y: Array) -> Moments:
    """Return the sums over the rows of one chunk; products are taken about the mean, then moved back.

    Without that a mean of a thousand deviations leaves nothing of a covariance in float32.

    Args:
        x: Inputs, float32 (n, d).
        y: Wanted outputs, float32 (n, o).
    """
    x0, y0 = x.mean(0), y.mean(0)
    return sums_of(x - x0, y - y0).moved(x0, y0)


def sums_of(x: Array, y: Array, *, crossed: bool = True) -> Moments:
    """Return the sums of rows whose means are small already, (n, d) and (n, o), float32.

    Args:
        x: Inputs.
        y: Wanted outputs.
        crossed: False leaves `yx` 0.
    """
    xp, rows = namespace(x), len(x) if crossed else 0
    return Moments(
        float64(x.T @ x),
        float64(y[:rows].T @ x[:rows]),
        xp.sum(x, 0, dtype=xp.float64),
        xp.sum(y, 0, dtype=xp.float64),
        float(xp.sum(float64(y) ** 2)),
        int(x.shape[0]),
    )


# What is known of a layer's rows.
Sums = Moments | KeptRows


@dataclass(frozen=True, slots=True, eq=False)
class Centred:
    """A least-squares problem per output: loss(w) = w H w' - 2 w g' + yy, a mean over rows.

    Args:
        h: Covariance of the inputs, (..., d, d), or its kept rows without a ridge.
        g: Covariance of wanted outputs and inputs, (o, d).
        yy: Sum over the outputs of their mean squares about the mean.
    """

    h: Array | RowCovariance
    g: Array
    yy: float

    def loss(self, weight: Array) -> float:
        """Return the mean squared error of a weight (o, d), summed over the outputs."""
        if isinstance(
            self.h, RowCovariance
        ):  # without arrays of the weight's size, which may take 0.8 GB each
            squares = (product(weight, self.h.rows.T) ** 2).sum()
            crossed = namespace(weight).vdot(self.g.reshape(-1), weight.reshape(-1))
            return float(squares - 2 * crossed) + self.yy
        return float(((through(weight, self.h) - 2 * self.g) * weight).sum()) + self.yy

    def without_inputs(self) -> Centred:
        """Return the problem of inputs that do not vary."""
        if isinstance(self.h, RowCovariance):
            return Centred(RowCovariance(0 * self.h.rows, self.h.ridge), 0 * self.g, self.yy)
        return Centred(0 * self.h, 0 * self.g, self.yy)

    def scaled(self, scale: Array) -> Centred:
        """Return the problem in inputs that are divided by `scale` (d,), or (c, d) for one per channel."""
        if isinstance(self.h, RowCovariance):
            return Centred(RowCovariance(self.h.rows / scale, self.h.ridge), self.g / scale, self.yy)
        h = self.h / scale[..., :, None]
        h /= scale[..., None, :]
        return Centred(h, self.g / scale, self.yy)


def through(rows: Array, matrix: Array | RowCovariance) -> Array:
    """Return rows (o, d) times a matrix (d, d), or each row times its own, (o, d, d)."""
    if isinstance(matrix, RowCovariance):
        return matrix.through(rows)
    return (rows[:, None, :] @ matrix)[:, 0, :] if matrix.ndim == 3 else rows @ matrix


def diagonal(matrix: Array | RowCovariance) -> Array:
    """Return the diagonal of a matrix (d, d), (d,), or of each of several."""
    if isinstance(matrix, RowCovariance):
        return matrix.diagonal()
    return namespace(matrix).diagonal(matrix, 0, -2, -1)


def with_ridge(h: Array | RowCovariance, ridge: Array | float) -> Array | RowCovariance:
    """Return H + diag(ridge): ridge is a number, (d,), or (c, d) for one per channel."""
    if isinstance(h, RowCovariance):
        return RowCovariance(h.rows, h.ridge + ridge)
    h = h + 0
    at = row_numbers(0, h.shape[-1], h)[:, 0]
    h[..., at, at] += ridge
    return h


def centre(sums: Sums, mean_x: Array | None, mean_y: Array | None) -> Centred:
    """Return the problem about given means; without them (a layer that has no bias) about zero."""
    if isinstance(sums, KeptRows):
        rows, wanted = float64(sums.inputs), float64(sums.outputs)
        if mean_x is not None and mean_y is not None:
            rows, wanted = rows - mean_x, wanted - mean_y
        rows = rows / sums.rows**0.5
        g = wanted.T @ rows / sums.rows**0.5
        return Centred(RowCovariance(rows, 0 * rows[0]), g, float((wanted**2).sum()) / sums.rows)
    h, g, yy = sums.xx / sums.rows, sums.yx / sums.rows, sums.yy / sums.rows
    if mean_x is None or mean_y is None:
        return Centred(h, g, max(yy, 0.0))  # sums about a mean that were moved back may be just below 0
    x, y = sums.x / sums.rows, sums.y / sums.rows
    cross = mean_x[..., :, None] * x[..., None, :]
    h -= cross
    h -= cross.swapaxes(-1, -2)
    del cross
    h += mean_x[..., :, None] * mean_x[..., None, :]
    g = g - mean_y[:, None] * x - y[:, None] * mean_x + mean_y[:, None] * mean_x
    yy -= float((2 * mean_y * y - mean_y**2).sum())
    return Centred(h, g, max(yy, 0.0))


def input_scale(h: Array | RowCovariance) -> Array:
    """Return the root of S = diag(H) + 1e-3 mean(diag H): (..., d), positive for dead channels too."""
    variance = diagonal(h)
    xp, mean = namespace(variance), variance.mean(-1)[..., None]
    # A negative variance is a rounding error of the centring.
    return xp.sqrt(xp.clip(variance, 0, None) + _DEAD * mean + _TINY)
