"""A dense copy of a model, used as the baseline: its sparse weights are filled up.

For timing only: every zero of a weight that holds an N:M pattern is replaced by one of the same tensor's own
non-zeros, drawn at random. What the copy computes means nothing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nm2trt.errors import SparsityError
from nm2trt.files import check_output
from nm2trt.graph.prune.stored_weights import stored_weights
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.external_data import pack
from nm2trt.graph.storage.light_onnx import TensorProto
from nm2trt.graph.storage.model import load
from nm2trt.graph.storage.model_file import Rewrite
from nm2trt.graph.storage.save import refuse_same_file, save
from nm2trt.graph.storage.tensors import iter_elements
from nm2trt.nm.verdict import WeightVerdict

_UNIT = 8


def densify_model(
    source: str | os.PathLike[str], target: str | os.PathLike[str], weights: Sequence[WeightVerdict]
) -> int:
    """Write a copy without the zeros of the weights that hold a pattern.

    Args:
        source: The ONNX file.
        target: The file to write; not the source.
        weights: What `verify` found out of the source.

    Returns:
        How many stored tensors were filled.

    Raises:
        SparsityError: No weight holds a pattern, so that there is nothing to compare with.
        ModelError: The model is not a valid ONNX file.
        OutputError: The copy cannot be written.
    """
    model = load(source)
    refuse_same_file(source, target)
    check_output(target)
    sparse = {verdict.weight for verdict in weights if verdict.pattern == "holds" and verdict.zero_share}
    found = (weight.open() for weight in stored_weights(model) if weight.name in sparse)
    tensors = [candidate.tensor for candidate in found if candidate.tensor is not None]
    if not tensors:
        raise SparsityError(
            f"{source}: no stored weight holds a pattern, so there is nothing to compare; make its weights "
            "2:4 first (nm2trt prune --calib SAMPLES)"
        )
    rewrites = [Rewrite(tensor, functools.partial(_filled, tensor, model.root)) for tensor in tensors]
    save(model, target, rewrites=rewrites)
    return len(tensors)


def _filled(tensor: TensorProto, root: Path | None) -> Iterator[bytes | memoryview]:
    kind = element_type(tensor)
    random = np.random.default_rng(0)
    for piece in iter_elements(tensor, root, unit=_UNIT):
        nonzero = np.flatnonzero(piece)
        zeros = np.flatnonzero(piece == 0)
        filled = piece.copy()
        if nonzero.size:
            filled[zeros] = piece[random.choice(nonzero, zeros.size)]
        yield pack(filled, kind)
