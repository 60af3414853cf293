"""Benchmark: anything that runs, timed in turn."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from nm2trt.errors import InputError, Nm2trtError
from nm2trt.files import check_input
from nm2trt.pipeline.in_memory import takes_values
from nm2trt.pipeline.sessions import backend_of, is_recorded, open_session, parse_shapes
from nm2trt.tables.result import Result
from nm2trt.tables.table import Table

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import torch

    from nm2trt.backends.protocol import Session
    from nm2trt.validation.latency.bench_files import Comparability
    from nm2trt.validation.latency.benchmark import Benchmark


@dataclass(frozen=True, slots=True, repr=False)
class BenchResult(Result):
    """A benchmark, and an earlier one beside it.

    Args:
        benchmark: What was measured or read now.
        earlier: The comparison with an earlier one; None if it was not asked for.
    """

    json_names = "**benchmark earlier"

    benchmark: Benchmark
    earlier: Comparability | None

    def tables(self) -> Sequence[Table]:
        """Return the latencies."""
        return self.benchmark.tables()

    def remarks(self) -> tuple[str, ...]:
        """Return the ratios, also to the earlier benchmark, and what the reader should know."""
        then = self.earlier
        before = () if then is None else (*(ratio.sentence for ratio in then.ratios), *then.differences)
        return (*self.benchmark.remarks(), *before, *self.benchmark.notes)


@takes_values(models=("artefacts",), samples=("data",), several=True)
def bench(
    artefacts: str
    | os.PathLike[str]
    | onnx.ModelProto
    | torch.nn.Module
    | Sequence[str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module],
    *,
    data: str | os.PathLike[str] | Mapping[str, Any] | npt.ArrayLike | None = None,
    batches: Sequence[int] = (1,),
    shapes: Sequence[str] = (),
    runs: int = 200,
    warmup: int = 20,
    processes: int = 1,
    threads: int = 0,
    seed: int = 0,
    compare: str | os.PathLike[str] | None = None,
    anyway: bool = False,
) -> BenchResult:
    """Time artefacts in turn, from host to host, at each batch size, after a warm-up until they are stable.

    A ratio of one process has no interval: its place in memory and the load of the machine shift all its
    runs alike.

    Args:
        artefacts: One or several: ONNX models as files or in memory, engines, `.pt2` programs or addresses of
            served models; a `.json` is what `trtexec --exportTimes` wrote.
        data: Real samples, as `validate` takes them; random inputs by default.
        batches: Batch sizes.
        shapes: Whole shapes of inputs of free size, as "x:1x3x224x224"; the first number is the batch.
        runs: Timed runs of each, at each batch size, over all processes.
        warmup: Fewest runs before, not timed, in each process.
        processes: Processes that share the runs, one after another, each with the artefacts in another order;
            two or more give each ratio an interval.
        threads: Threads of ONNX Runtime; 0 leaves it to the library.
        seed: Seed of the random inputs.
        compare: JSON of an earlier benchmark.
        anyway: Compare although conditions differ.

    Raises:
        InputError: An argument or file is wrong, or `compare` was taken under other conditions.
        DataError: Samples or sizes do not fit a model.
        BackendError: A library is missing or failed.
        ServerError: A server cannot be reached.

    An error in the midst of the runs carries the times before it, as `error.partial`.
    """
    from nm2trt.validation.latency.bench_files import compare_with, read_trtexec, with_recorded

    artefacts, data = cast("Sequence[str]", artefacts), cast("str | None", data)
    if not artefacts:
        raise InputError("there is nothing to time; name one artefact or more")
    if compare is not None:
        check_input(compare, "an earlier benchmark's JSON")
    recorded = tuple(read_trtexec(one) for one in artefacts if is_recorded(one))
    live = [one for one in artefacts if not is_recorded(one)]
    if live and processes > 1:
        from nm2trt.options.checks import BenchCommand
        from nm2trt.pipeline.bench_processes import bench_in_processes

        benchmark = bench_in_processes(
            BenchCommand(
                artefacts=tuple(map(str, live)),
                data=None if data is None else str(data),
                batches=tuple(batches),
                shapes=tuple(shapes),
                runs=runs,
                warmup=warmup,
                processes=processes,
                threads=threads,
                seed=seed,
            )
        )
    elif live:
        benchmark = _in_this_process(live, data, batches, shapes, runs, warmup, threads, seed)
    else:
        benchmark = _nothing_measured()
    benchmark = with_recorded(benchmark, recorded, anyway=anyway)
    earlier = None
    if compare is not None:
        try:
            earlier = compare_with(benchmark, compare, anyway=anyway)
        except Nm2trtError as error:
            error.partial = BenchResult(benchmark, None)
            raise
    return BenchResult(benchmark, earlier)


def unique_names(artefacts: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return a name per artefact: its path, with a number if the same path came before."""
    names: list[str] = []
    for one in artefacts:
        number, chosen = 2, str(one)
        while chosen in names:
            chosen, number = f"{one} #{number}", number + 1
        names.append(chosen)
    return names


def _in_this_process(
    artefacts: Sequence[str | os.PathLike[str]],
    data: str | os.PathLike[str] | None,
    batches: Sequence[int],
    shapes: Sequence[str],
    runs: int,
    warmup: int,
    threads: int,
    seed: int,
) -> Benchmark:
    from nm2trt.backends.feeds import random_feeds
    from nm2trt.validation.latency.bench import bench_sessions
    from nm2trt.validation.samples.feeder import first_batch
    from nm2trt.validation.samples.open_samples import open_samples

    names, given = unique_names(artefacts), parse_shapes(shapes)
    with contextlib.ExitStack() as stack:
        sessions = {
            name: stack.enter_context(open_session(one, threads=threads))
            for name, one in zip(names, artefacts, strict=True)
        }
        samples = None if data is None else open_samples(data, inputs=sessions[names[0]].inputs)

        def feeds(session: Session, size: int) -> Any:
            if samples is not None:
                return first_batch(session, samples, size)
            return random_feeds(session.inputs, batch=size, free=None, seed=seed, shapes=given)

        conditions = {
            f"backend of {name}": backend_of(one) for name, one in zip(names, artefacts, strict=True)
        }
        conditions["threads"] = str(threads or "the library's default")
        conditions["inputs"] = "random" if samples is None else "real samples"
        try:
            return bench_sessions(
                sessions, feeds, runs=runs, warmup=warmup, batches=batches, conditions=conditions
            )
        except Nm2trtError as error:
            if error.partial is not None:
                error.partial = BenchResult(error.partial, None)
            raise


def _nothing_measured() -> Benchmark:
    from nm2trt.measure import WarmUp
    from nm2trt.validation.latency.benchmark import Benchmark

    return Benchmark((), (), WarmUp(0, True), {}, {}, {})
