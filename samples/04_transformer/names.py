"""Labelled text that every Python has: names of Unicode characters, and the heading of each."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

LENGTH = 16
# Headings of the Unicode code charts, as ranges of code points.
HEADINGS = {
    "weather and sky": [(0x1F300, 0x1F320)],
    "plants": [(0x1F331, 0x1F344)],
    "food and drink": [(0x1F345, 0x1F37F), (0x1F950, 0x1F96F)],
    "music and games": [(0x1F3A0, 0x1F3BC)],
    "sport": [(0x1F3BD, 0x1F3C6), (0x1F3CA, 0x1F3D3)],
    "buildings and places": [(0x1F3D4, 0x1F3F0)],
    "animals": [(0x1F400, 0x1F43E), (0x1F980, 0x1F9AE)],
    "clothes": [(0x1F451, 0x1F462)],
    "hearts and love": [(0x1F48B, 0x1F49F)],
    "office": [(0x1F4BC, 0x1F4DD)],
    "clocks": [(0x1F550, 0x1F567)],
    "faces": [(0x1F600, 0x1F640), (0x1F910, 0x1F92F)],
    "vehicles and traffic": [(0x1F680, 0x1F6B6)],
    "mathematical operators": [(0x2200, 0x22FF)],
    "arrows": [(0x2190, 0x21FF)],
    "chess and cards": [(0x2654, 0x265F), (0x1F0A1, 0x1F0BE)],
}


def labelled_names() -> tuple[list[str], list[str]]:
    """Return names and their headings."""
    names, headings = [], []
    for heading, ranges in HEADINGS.items():
        for first, last in ranges:
            for point in range(first, last + 1):
                name = unicodedata.name(chr(point), "")
                if name:
                    names.append(name.lower())
                    headings.append(heading)
    return names, headings


def other_names(count: int, seed: int = 0) -> list[str]:
    """Return names that stand under none of the headings, to calibrate on."""
    taken = {point for ranges in HEADINGS.values() for a, b in ranges for point in range(a, b + 1)}
    points = [p for p in range(0x2300, 0x1FAFF) if p not in taken and " " in unicodedata.name(chr(p), "")]
    picked = np.random.default_rng(seed).choice(len(points), count, replace=False)
    return [unicodedata.name(chr(points[at])).lower() for at in picked]


def tokens(texts: Sequence[str], vocabulary: Mapping[str, int]) -> dict[str, npt.NDArray[np.int64]]:
    """Return ids and mask, (n, 16); words in the longest pieces that the vocabulary has, as for BERT."""
    ids = np.zeros((len(texts), LENGTH), np.int64)
    for row, text in enumerate(texts):
        words = "".join(c if c.isalnum() else f" {c} " for c in text.lower()).split()
        pieces = ["[CLS]", *(piece for word in words for piece in split(word, vocabulary))]
        pieces = [*pieces[: LENGTH - 1], "[SEP]"]
        ids[row, : len(pieces)] = [vocabulary[piece] for piece in pieces]
    return {"ids": ids, "mask": (ids != 0).astype(np.int64)}


def split(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """Split a word into pieces; one that cannot be split is unknown as a whole."""
    pieces: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in vocabulary), 0)
        if not end:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


def nearest_is_right(embeddings: npt.NDArray[np.floating], labels: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Tell for each text whether the nearest other one stands under the same heading."""
    near = embeddings.astype(np.float64) @ embeddings.astype(np.float64).T
    np.fill_diagonal(near, -np.inf)
    named = np.asarray(labels)
    right: npt.NDArray[np.bool_] = named[near.argmax(1)] == named
    return right
