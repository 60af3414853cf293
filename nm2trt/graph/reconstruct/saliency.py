"""Saliency of each weight on calibration samples: the loss that its removal costs after the best repair.

Optimal brain surgeon (Hassibi and Stork 1993): w^2 / [H^-1]_jj, here divided by the variance of the layer's
output, so that layers that share a channel space can be added up.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container
from functools import partial
from pathlib import Path

import numpy as np

from nm2trt.arrays import Array
from nm2trt.calibration.stream import SampleStream
from nm2trt.errors import SparsityError
from nm2trt.figures import counted
from nm2trt.graph.reconstruct.chunks import read_chunks
from nm2trt.graph.reconstruct.layers import Layer, find_layers, shares_done
from nm2trt.graph.reconstruct.network import Network
from nm2trt.graph.reconstruct.report import ReconstructOptions
from nm2trt.graph.reconstruct.statistics import gather_moments
from nm2trt.graph.reconstruct.streams import Segments, Stream
from nm2trt.graph.storage.model import load
from nm2trt.graph.storage.threads import beside
from nm2trt.nm.solver.array_namespace import one_blas_thread
from nm2trt.nm.solver.eigenbasis import eigenbasis
from nm2trt.nm.solver.kept_rows import RowCovariance
from nm2trt.nm.solver.layer_moments import centre, input_scale
from nm2trt.progress import bar

# A text has a row per token, a picture thousands.
_MOST_SAMPLES, _MOST_TEXTS = 128, 512
_RIDGE, _RIDGE_OF_FEW = 0.01, 0.2


def weight_saliency(
    source: Path, samples: SampleStream, options: ReconstructOptions, wanted: Container[str]
) -> dict[str, Array]:
    """Return the saliency of wanted weights, each in its own shape, float32.

    One pass of the dense network over at most 128 samples, 512 of text; layers whose inputs are not
    finite are left out.

    Args:
        source: The ONNX file.
        samples: Calibration samples.
        options: Seed and mask input.
        wanted: Names of the weights.

    Raises:
        DataError: The samples do not fit the model.
        OutputError: The disk cannot hold the activations.
    """
    network = Network(load(source))
    layers = [layer for layer in find_layers(network)[0] if not layer.depthwise]
    skipped = {layer.weight for layer in layers if layer.weight not in wanted}
    chunks = read_chunks(source, samples)
    first = chunks.first(range(chunks.count), _MOST_SAMPLES if options.valid is None else _MOST_TEXTS)
    segments = Segments(network, options.valid)
    found: dict[str, Array] = {}
    with tempfile.TemporaryDirectory(prefix="nm2trt-saliency-") as folder, bar("saliency", 1.0) as shown:
        stream = Stream(Path(folder), chunks.feeds(first))
        for number, (layer, done) in enumerate(zip(layers, shares_done(layers, skipped), strict=True)):
            shown.update(done, description=f"saliency {layer.weight}, {counted(layer.inputs, 'input')}")
            # In front of the others too: where a network is cut decides how its sums are rounded.
            stream.advance(segments, layer.index)
            if layer.weight in skipped:
                continue
            try:
                scores = beside(partial(_layer_saliency, layer, network, stream, options, number))()
            except (SparsityError, np.linalg.LinAlgError):
                continue  # its magnitudes are taken instead
            if np.isfinite(scores).all():
                found[layer.weight] = scores
    return found


def _layer_saliency(
    layer: Layer, network: Network, stream: Stream, options: ReconstructOptions, number: int
) -> Array:
    rows = layer.rows(network.read(layer.weight))
    random = np.random.default_rng([options.seed, number])
    gathered = gather_moments(layer, rows, stream, stream, valid=options.valid, random=random, crossed=False)
    sums = gathered.fitted if gathered.held_out is None else gathered.fitted + gathered.held_out
    if not sums.finite():
        return np.full(layer.shape, np.nan, np.float32)
    biased = layer.bias is not None
    problem = centre(sums, *((sums.x / sums.rows, sums.y / sums.rows) if biased else (None, None)))
    scale = input_scale(problem.h)
    ridge = _RIDGE + _RIDGE_OF_FEW * layer.inputs / sums.rows
    with one_blas_thread():
        if isinstance(problem.h, RowCovariance):
            left = eigenbasis(problem.scaled(scale).h).inverse_diagonal(ridge)
        else:
            scaled = problem.h / scale / scale[:, None] + ridge * np.eye(layer.inputs)
            left = np.diagonal(np.linalg.inv(scaled))
    scores = (rows * scale) ** 2 / left / max(problem.yy, 1e-30)
    return np.asarray(layer.stored(scores), np.float32)
