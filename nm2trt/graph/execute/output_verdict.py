"""Distance of a changed network's outputs from the original's, without labels: error, KL, equal answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nm2trt.arrays import Array
from nm2trt.figures import counted, percent

# An output whose variance is less of its mean square than this is constant.
_CONSTANT = 1e-12
# The square of a larger number may overflow.
_LARGE = 1e100
# Stands for -inf in scores: lower than any number that is squared.
_LOWEST = -1e300
# A sample of more rows than this is a map, not a sequence.
_MOST_STEPS = 4096


@dataclass(frozen=True, slots=True)
class OutputVerdict:
    """How far an output of the pruned network is from the dense one's, on calibration samples.

    Args:
        output: Its name.
        samples: Samples that were compared.
        error: Squared difference as a share of the dense output's variance, or of its mean square if it is
            constant; None if nothing could be compared.
        cosine: Cosine of both outputs, mean over rows of the last axis (1 if both are all zero); None
            likewise.
        agreement: Share of rows of the last axis whose largest entry is the same one; None if the output is
            no score per class.
        kl: Kullback-Leibler divergence of the pruned rows from the dense ones, in nats; None likewise.
        remark: What could not be compared, and why; "" if everything could.
        same_answers: Share of samples whose classes are the same, in order and without repeats, as greedy CTC
            reads a sequence; None if the output does not hold a score per class.
    """

    output: str
    samples: int
    error: float | None
    cosine: float | None
    agreement: float | None
    kl: float | None
    remark: str = ""
    same_answers: float | None = None

    @property
    def loss(self) -> float | None:
        """Share of samples whose answer changed; without scores, the share of the variance that is lost."""
        return self.error if self.same_answers is None else 1.0 - self.same_answers

    @property
    def divergence(self) -> float | None:
        """KL divergence; without scores, the share of the variance that is lost."""
        return self.error if self.kl is None else self.kl

    def sentence(self, kind: str) -> str:
        """Return the verdict in words; `kind` says which samples were compared, as in "held-out"."""
        scores = (
            ""
            if self.kl is None or self.agreement is None
            else f", KL {self.kl:.4g}, {percent(self.agreement)} the same class"
        )
        found = "not compared"
        if self.error is not None and self.cosine is not None:
            found = f"error {self.error:.4g} of the variance, cosine {self.cosine:.4f}{scores}"
        remark = f"; {self.remark}" if self.remark else ""
        return (
            f"output {self.output}: {found} ({counted(self.samples, f'{kind} calibration sample')}){remark}"
        )


class VerdictSum:
    """Adds up the verdict on one output, batch by batch.

    Args:
        name: The output.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._samples = self._rows = self._size = self._broken = self._unequal = self._answers = 0
        self._difference = self._square = self._sum = self._cosine = self._equal = self._kl = 0.0
        self._scores = self._has_answers = True
        self._unit = 1.0  # of what is squared, which only shares are made of

    def add(self, dense: Array, pruned: Array) -> None:
        """Add one batch: the original's output and the changed network's."""
        self._samples += int(dense.shape[0]) if dense.ndim else 1
        if dense.shape != pruned.shape:
            self._unequal += 1
            return
        if not dense.size:
            return
        rows, others = (
            item.astype(np.float64).reshape(-1, item.shape[-1] if item.ndim else 1)
            for item in (dense, pruned)
        )
        # -inf in both masks a class for good: it counts for nothing, and the rest of its row counts.
        masked = np.isneginf(rows) & np.isneginf(others)
        rows, others = np.where(masked, 0, rows), np.where(masked, 0, others)
        sound = np.isfinite(rows).all(1) & np.isfinite(others).all(1) & ~masked.all(1)
        whole = bool(sound.all())
        self._broken += int((~sound).sum())
        rows, others, masked = rows[sound], others[sound], masked[sound]
        if not self._rows and np.abs(rows).max(initial=0.0) > _LARGE:
            self._unit = float(np.abs(rows).max())
        own, other = (rows, others) if self._unit == 1 else (rows / self._unit, others / self._unit)
        self._difference += float(((other - own) ** 2).sum())
        self._square += float((own**2).sum())
        self._sum += float(own.sum())
        self._size += int((~masked).sum())
        self._rows += len(rows)
        self._cosine += float(_cosines(own, other).sum())
        # One row per sample is a score per class, and a row that sums to one is too. Anything else is a map.
        is_distribution = bool((rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-3))
        is_embedding = not is_distribution and bool(
            np.allclose(self._unit * np.linalg.norm(own, axis=1), 1, atol=1e-3)
        )
        self._scores &= rows.shape[1] > 1 and (dense.ndim == 2 or is_distribution) and not is_embedding
        if self._scores:
            rows, others = np.where(masked, _LOWEST, rows), np.where(masked, _LOWEST, others)
            best, found = rows.argmax(1), others.argmax(1)
            self._equal += float((best == found).sum())
            p, q = (_log_shares(item, is_distribution) for item in (rows, others))
            self._kl += float((np.exp(p) * (p - q)).sum())
            self._count_answers(dense.shape, best, found, whole=whole)

    def _count_answers(self, shape: tuple[int, ...], best: Array, other: Array, *, whole: bool) -> None:
        steps = len(best) // shape[0] if shape[0] else 0
        if not whole or not 0 < steps <= _MOST_STEPS:
            self._has_answers = False
            return
        pairs = zip(best.reshape(shape[0], -1), other.reshape(shape[0], -1), strict=True)
        self._answers += sum(_without_repeats(a) == _without_repeats(b) for a, b in pairs)

    def verdict(self) -> OutputVerdict:
        """Return what the sums say."""
        remark = ""
        if self._broken:
            broken = counted(self._broken, "row holds", "rows hold")
            remark = f"{broken} NaN or infinity in either network and count for nothing"
        elif self._unequal:
            chunks = counted(self._unequal, "chunk has", "chunks have")
            remark = f"{chunks} other shapes in the pruned network and count for nothing"
        if not self._rows:
            return OutputVerdict(self._name, self._samples, None, None, None, None, remark or "it is empty")
        variance = self._square - self._sum**2 / self._size
        if variance <= _CONSTANT * self._square:
            variance = self._square
        rows = self._rows
        with_answers = self._scores and self._has_answers and not self._unequal
        return OutputVerdict(
            output=self._name,
            samples=self._samples,
            error=self._difference / (variance or 1e-30),
            cosine=self._cosine / rows,
            agreement=self._equal / rows if self._scores else None,
            kl=max(self._kl / rows, 0.0) if self._scores else None,
            remark=remark,
            same_answers=self._answers / self._samples if with_answers else None,
        )


def _cosines(rows: Array, others: Array) -> Array:
    """Return the cosine of each pair of rows: 1 if both are all zero, 0 if only one is."""
    norms, lengths = (np.linalg.norm(item, axis=1, keepdims=True) for item in (rows, others))
    found = ((rows / np.where(norms, norms, 1)) * (others / np.where(lengths, lengths, 1))).sum(1)
    return np.where((norms[:, 0] == 0) & (lengths[:, 0] == 0), 1.0, found)


def _without_repeats(classes: Array) -> list[int]:
    return [int(c) for c, before in zip(classes, [-1, *classes[:-1]], strict=True) if c != before]


def _log_shares(rows: Array, is_distribution: bool) -> Array:
    """Return log probabilities; scores go through a softmax."""
    if is_distribution:
        return np.asarray(np.log(np.clip(rows, 1e-12, None)))
    shifted = rows - rows.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
