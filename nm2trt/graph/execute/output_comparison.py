"""Outputs of a model before and after a pass, run in ONNX Runtime on the same random inputs."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.compare.output_difference import OutputDifference
from nm2trt.compare.outputs import compare_outputs, require_close
from nm2trt.errors import BackendError, DataError, ModelError
from nm2trt.graph.analysis.output_kinds import data_dependent, lowest_type
from nm2trt.graph.execute.model_session import may_run_beside, open_session, opener
from nm2trt.graph.execute.output_requirements import require_alive, require_equal, require_related
from nm2trt.graph.storage.model import Model, load
from nm2trt.graph.storage.threads import beside

if TYPE_CHECKING:
    from nm2trt.backends.ort import OrtSession
    from nm2trt.backends.protocol import TensorSpec

_Made = TypeVar("_Made")

# Tried in turn for a free size other than the batch: what a model accepts, only it knows.
_FREE_SIZES = (64, 224, 32, 128, 16, 8, 1)
_BATCH = 2


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the outputs agree.

    Args:
        differences: One per output; () when they were not compared.
        sentence: Why they were not compared, or "".
    """

    differences: tuple[OutputDifference, ...]
    sentence: str = ""


NOT_ASKED = Agreement((), "outputs were not compared: not asked for")


@dataclass(frozen=True, slots=True)
class Demands:
    """What the outputs of a changed model must hold beside the original's.

    Args:
        close: Raise if outputs differ too much; otherwise only if one is NaN or infinite that was not. An
            output whose size depends on the data, as that of NonMaxSuppression, is never held to a tolerance:
            rounding may add or drop a row.
        alive: Relative precision, and the magnitude that may round to zero: raise if an output becomes all
            zero or constant and was not.
        related: Raise if an output has little in common with the original's.
    """

    close: bool = True
    alive: tuple[float, float] | None = None
    related: bool = False


_CLOSE = Demands()


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the model gave before a pass.

    Args:
        feeds: The random inputs.
        outputs: Every output by name.
        sentence: Why there are none, or "".
        inside: Values inside the graph by name, if a pass changed it; they are compared too.
    """

    feeds: Arrays
    outputs: Arrays
    sentence: str = ""
    inside: Arrays = field(default_factory=dict)

    def compare(self, after: Model, demands: Demands = _CLOSE) -> Agreement:
        """Run the changed model on the same inputs.

        Args:
            after: The model; external data lies in its `root`.
            demands: What its outputs must hold.

        Raises:
            DifferenceError: An output does not hold it.
            ModelError: ONNX Runtime refuses the changed model, though it took the original.
            BackendError: It fails in a run.
        """
        return self.start_compare(after, demands, threads=False)()

    def start_compare(
        self, after: Model, demands: Demands = _CLOSE, *, threads: bool = True
    ) -> Callable[[], Agreement]:
        """Begin what `compare` does; the metadata of the model may be changed meanwhile.

        Args:
            after: As `compare` takes it.
            demands: As `compare` takes it.
            threads: Run a model that holds all its numbers in another thread.

        Returns:
            Waits for the run, and compares; raises what `compare` does.
        """
        if self.sentence:
            return lambda: Agreement((), self.sentence)
        if threads and may_run_beside(after):
            ran = beside(functools.partial(_run, opener(after, self.inside), self.feeds))
        else:
            work = functools.partial(_run, functools.partial(open_session, after, self.inside), self.feeds)
            ran = functools.partial(_awaited, work)
        return lambda: self._judge(after, ran(), demands)

    def _judge(self, after: Model, outputs: Arrays, demands: Demands) -> Agreement:
        if self.inside:
            found = dict(outputs)
            changed = {name: found.pop(name) for name in self.inside}
            inner = compare_outputs(changed, self.inside)
            require_close(inner, dtype=lowest_type(after.proto), what="where the graph was changed")
            outputs = found
        free = data_dependent(after.proto.graph)
        differences = compare_outputs(outputs, self.outputs, free_size=free)
        if demands.alive is not None:
            require_alive(self.outputs, outputs, epsilon=demands.alive[0], floor=demands.alive[1])
        if demands.related:
            require_related([item for item in differences if item.name not in free])
        if not demands.close:
            return Agreement(tuple(differences))
        for item in differences:
            if np.dtype(item.dtype).kind != "f" and item.name not in free:
                require_equal(item.name, outputs[item.name], self.outputs[item.name])
        floats = [d for d in differences if np.dtype(d.dtype).kind == "f" and d.name not in free]
        require_close(
            floats, dtype=lowest_type(after.proto), what="before and after", noise=bool(self.inside)
        )
        return Agreement(tuple(differences))


def reference_of(feeds: Arrays, outputs: Arrays) -> Reference:
    """Return what a model gave; without its outputs, and with a sentence, if one of them holds no numbers.

    Args:
        feeds: The inputs.
        outputs: Every output by name; that of a sequence or of text holds objects.
    """
    odd = next((name for name, value in outputs.items() if value.dtype == object), None)
    if odd is not None:
        return Reference({}, {}, f"outputs were not compared: {odd!r} is a sequence or text")
    return Reference(feeds, outputs)


def run_reference(source: str | os.PathLike[str] | Model, inside: Collection[str] = ()) -> Reference:
    """Run a model on random inputs; if that fails, the result's sentence says why.

    Floats are drawn from the normal distribution, integers are 0 or 1. A free batch is 2; other free
    sizes are tried until the model accepts one.

    Args:
        source: The file, or an open model.
        inside: Values inside the model that are returned too, if they are finite floats.
    """
    model = load(source, leave_weights=True)
    with_inside = functools.partial(open_session, model, inside) if inside else None
    plain, own = functools.partial(open_session, model), _own(model)
    return _awaited(lambda: _run_reference(own, with_inside, plain))


def start_reference(model: Model, inside: Collection[str] = ()) -> Callable[[], Reference]:
    """Begin to run a model as it is now; see `run_reference`.

    Args:
        model: The model, which may be changed meanwhile.
        inside: As `run_reference` takes it.

    Returns:
        Waits for the run, and returns what `run_reference` does.
    """
    if not may_run_beside(model):
        reference = run_reference(model, inside)
        return lambda: reference
    with_inside = opener(model, inside) if inside else None
    plain, own = opener(model), _own(model)
    return beside(lambda: _run_reference(own, with_inside, plain))


def _awaited(work: Callable[[], _Made]) -> _Made:
    """Return what a run in ONNX Runtime made; Ctrl-C ends the wait for it, though not the run itself."""
    return beside(work)()


def _own(model: Model) -> list[str]:
    return [value.name for value in model.proto.graph.output]


def _run_reference(
    own: Collection[str], with_inside: Callable[[], OrtSession] | None, plain: Callable[[], OrtSession]
) -> Reference:
    """Run a model with values inside it as outputs if it can be, else with its own outputs."""
    if with_inside is not None:
        with contextlib.suppress(BackendError, ModelError, DataError):
            with with_inside() as session:
                found = _reference(session, own)
            if not found.sentence:
                return found
        # A value that cannot be an output must not keep the outputs from being compared.
    try:
        with plain() as session:
            return _reference(session, own)
    except (BackendError, ModelError) as error:
        return Reference({}, {}, f"outputs were not compared: {error}")


def _reference(session: OrtSession, own: Collection[str]) -> Reference:
    """Run a session on random inputs; outputs that are not the model's own are values inside it."""
    why = next(
        (
            f"{spec.name!r} is of type {spec.dtype}"
            for spec in (*session.inputs, *session.outputs)
            if not _is_array(spec)
        ),
        "",
    )
    for feeds in () if why else _feeds(session.inputs):
        try:
            outputs = session.run(feeds)
        except (BackendError, DataError) as error:
            why = why or str(error)
            continue
        inside = {name: outputs.pop(name) for name in sorted(outputs.keys() - set(own))}
        if all(_is_comparable(value) for value in outputs.values() if value.dtype.kind == "f"):
            floats = {name: v for name, v in inside.items() if v.dtype.kind == "f" and _is_finite(v)}
            return Reference(feeds, outputs, inside=floats)
        why = why or "the model gives NaN or infinity on random inputs"
    return Reference({}, {}, f"outputs were not compared: {why}")


def _is_finite(value: Array) -> bool:
    return bool(np.isfinite(value).all())


def _is_comparable(value: Array) -> bool:
    """Tell whether a float output is finite, or -inf at masked classes; in fp16 -inf may be an overflow."""
    odd = value[~np.isfinite(value)]
    masks = value.dtype.itemsize > 2 and odd.size < value.size and bool(np.isneginf(odd).all())
    return not odd.size or masks


def _run(opened: Callable[[], OrtSession], feeds: Arrays) -> Arrays:
    with opened() as session:
        return session.run(feeds)


def _feeds(inputs: tuple[TensorSpec, ...]) -> Iterator[Arrays]:
    from nm2trt.backends.feeds import random_feeds

    free = any(not isinstance(size, int) for spec in inputs for size in spec.shape[1:])
    for size in _FREE_SIZES if free else _FREE_SIZES[:1]:
        for batch in (_BATCH, 1) if any(_free_batch(spec) for spec in inputs) else (1,):
            yield random_feeds(inputs, batch=batch, free=size)


def _is_array(spec: TensorSpec) -> bool:
    try:
        return np.dtype(spec.dtype).kind in "biuf"
    except (TypeError, ValueError):  # numpy takes "seq(map(int64,tensor(float)))" for several types
        return False


def _free_batch(spec: TensorSpec) -> bool:
    return bool(spec.shape) and not isinstance(spec.shape[0], int)
