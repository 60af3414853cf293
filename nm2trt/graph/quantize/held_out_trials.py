"""Trials of ranges: quantised copies of a model in memory, judged on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.batch_axes import fixed_batch, sample_shapes
from nm2trt.backends.ort import OrtSession, open_onnx
from nm2trt.calibration.ranges import Ranges
from nm2trt.calibration.stream import SampleStream, filled, fitted, length_of
from nm2trt.graph.edit.node_inserter import Inserter
from nm2trt.graph.execute.model_session import open_session
from nm2trt.graph.execute.output_verdict import OutputVerdict, VerdictSum
from nm2trt.graph.quantize.pair_insertion import PairInsertion, Rounded
from nm2trt.graph.quantize.qdq_placement import Placement, place
from nm2trt.graph.quantize.report import QuantizeOptions
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model
from nm2trt.progress import Bar

_JUDGED = 64
_BATCH = 8


class Trials:
    """Quantised copies of a model in memory, judged against the float model on held-out samples."""

    def __init__(self, model: Model, options: QuantizeOptions, judged: SampleStream, shown: Bar) -> None:
        self.model, self.options, self.shown = model, options, shown
        self._rounded: Rounded = {}
        self._batches: list[tuple[Arrays, Arrays]] = []
        # With fewer, one sample would be more than the limit allows.
        most = max(_JUDGED, math.ceil(1 / options.max_loss)) if options.max_loss else _JUDGED
        with open_session(model) as session:
            for feeds in _batches(session, first_samples(judged, most)):
                self._batches.append((feeds, session.run(feeds)))
        self.samples = sum(length_of(feeds) for feeds, _ in self._batches)

    def copy(self) -> Inserter:
        """Return the graph of a fresh copy of the model."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model.proto)
        return Inserter(
            Model(proto, self.model.path, self.model.root, changed=True, called=self.model.called),
            "quantized",
        )

    def place(self, editor: Inserter, sharp: Mapping[str, str]) -> Placement:
        """Decide where pairs go if some layers stay in float."""
        options = self.options
        return place(editor, options.exclude, float_depthwise=options.float_depthwise, sharp=sharp)

    def run(
        self, ranges: Ranges, sharp: Mapping[str, str], *, most: int | None = None
    ) -> list[OutputVerdict]:
        """Return the verdict on each output of the model quantised so, on all held-out samples or `most`."""
        editor = self.copy()
        placed = self.place(editor, sharp)
        pairs = PairInsertion(editor, placed, ranges, self.options, self._rounded)
        pairs.insert_pairs()
        for layer in placed.layers:
            pairs.quantise(layer)
        editor.finish()
        data = editor.model.proto.SerializeToString()
        sums: dict[str, VerdictSum] = {}
        seen = 0
        with open_onnx(data, optimize=False, weights_folder=self.model.root) as session:
            for feeds, outputs in self._batches:
                if most is not None and seen >= most:
                    break
                seen += length_of(feeds)
                found = session.run(feeds)
                for name, array in outputs.items():
                    if array.dtype.kind == "f":
                        sums.setdefault(name, VerdictSum(name)).add(array, found[name])
        return [total.verdict() for total in sums.values()]


def split(samples: SampleStream) -> tuple[SampleStream, SampleStream]:
    """Return the samples at even and at odd places; a single sample is both."""
    if samples.count < 2:
        return samples, samples

    def half(first: int) -> SampleStream:
        def read(size: int) -> Iterator[dict[str, Array]]:
            for batch in samples.read(2 * size):
                part = {name: array[first::2] for name, array in batch.items()}
                if length_of(part):
                    yield part

        return replace(samples, count=(samples.count + 1 - first) // 2, read=read)

    return half(0), half(1)


def first_samples(samples: SampleStream, most: int) -> SampleStream:
    """Return at most so many samples of a stream."""

    def read(size: int) -> Iterator[dict[str, Array]]:
        left = most
        for batch in samples.read(size):
            part = {name: array[:left] for name, array in batch.items()}
            left -= length_of(part)
            yield part
            if left <= 0:
                return

    return replace(samples, count=min(samples.count, most), read=read)


def _batches(session: OrtSession, samples: SampleStream) -> Iterator[Arrays]:
    """Yield held-out samples as the model takes them; a fixed batch is filled up with its last sample."""
    probe = next(samples.read(1))
    fixed = fixed_batch(session.inputs, sample_shapes(probe))
    size = _BATCH if fixed is None else fixed
    for given in samples.read(size):
        yield fitted(given if fixed is None else filled(given, size), session.inputs, samples.source)
