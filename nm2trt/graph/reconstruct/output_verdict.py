"""How far the pruned network's outputs are from the dense network's, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.graph.reconstruct.report import OutputVerdict
from nm2trt.graph.reconstruct.streams import Stream

__all__ = ["judge_outputs"]

Array = npt.NDArray[Any]

# An output whose variance is less of its mean square than this is constant.
_CONSTANT = 1e-12


def judge_outputs(
    names: Sequence[str], dense: Stream, pruned: Stream, chunks: Sequence[int]
) -> tuple[OutputVerdict, ...]:
    """Compare the outputs of both streams, which stand at the end of the graph.

    Args:
        names: The model's outputs; those that are not floating point are left out.
        dense: The stream of the dense network.
        pruned: The stream of the pruned one.
        chunks: The chunks to compare.
    """
    found = []
    for name in names:
        if name not in dense or dense.specs()[name][0].kind != "f":
            continue
        total = _Sums()
        for chunk in chunks:
            total.add(dense.read(chunk, name), pruned.read(chunk, name))
        found.append(total.verdict(name))
    return tuple(found)


class _Sums:
    """Sums over chunks of one output."""

    def __init__(self) -> None:
        self._samples = self._rows = self._size = self._broken = self._unequal = 0
        self._difference = self._square = self._sum = self._cosine = self._equal = self._kl = 0.0
        self._scores = True

    def add(self, dense: Array, pruned: Array) -> None:
        """Add one chunk."""
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
        sound = np.isfinite(rows).all(1) & np.isfinite(others).all(1)
        self._broken += int((~sound).sum())
        rows, others = rows[sound], others[sound]
        self._difference += float(((others - rows) ** 2).sum())
        self._square += float((rows**2).sum())
        self._sum += float(rows.sum())
        self._size += rows.size
        self._rows += len(rows)
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
        self._cosine += float(((rows * others).sum(1) / np.maximum(norms, 1e-30)).sum())
        # One row per sample is a score per class; so is a row that sums to one. Anything else is a map.
        is_distribution = bool((rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-3))
        self._scores &= rows.shape[1] > 1 and (dense.ndim == 2 or is_distribution)
        if self._scores:
            self._equal += float((rows.argmax(1) == others.argmax(1)).sum())
            p, q = (_log_shares(item, is_distribution) for item in (rows, others))
            self._kl += float((np.exp(p) * (p - q)).sum())

    def verdict(self, name: str) -> OutputVerdict:
        """Return what the sums say."""
        remark = ""
        if self._broken:
            remark = f"{self._broken} rows hold NaN or infinity in either network and are left out"
        elif self._unequal:
            remark = f"{self._unequal} chunks have other shapes in the pruned network and are left out"
        if not self._rows:
            return OutputVerdict(name, self._samples, None, None, None, None, remark or "it is empty")
        variance = self._square - self._sum**2 / self._size
        if variance <= _CONSTANT * self._square:
            variance = self._square
        rows = self._rows
        return OutputVerdict(
            output=name,
            samples=self._samples,
            error=self._difference / max(variance, 1e-30),
            cosine=self._cosine / rows,
            agreement=self._equal / rows if self._scores else None,
            kl=max(self._kl / rows, 0.0) if self._scores else None,
            remark=remark,
        )


def _log_shares(rows: Array, is_distribution: bool) -> Array:
    """Return log probabilities; scores go through a softmax."""
    if is_distribution:
        return np.asarray(np.log(np.clip(rows, 1e-12, None)))
    shifted = rows - rows.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
