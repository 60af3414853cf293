"""A benchmark taken in several processes, whose ratios have an interval that holds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nm2trt.errors import (
    BackendError,
    DifferenceError,
    InputError,
    Interrupted,
    Nm2trtError,
    ServerError,
    restated,
)
from nm2trt.options.checks import BenchCommand
from nm2trt.options.command_line import words
from nm2trt.pipeline.bench import BenchResult, unique_names
from nm2trt.progress import bar
from nm2trt.validation.latency.bench_files import merged
from nm2trt.validation.latency.benchmark import Benchmark

# The search path is handed on as words: `python -m` would put the current folder first.
_LAUNCH = "import sys; n = int(sys.argv[1]); sys.path[:] = sys.argv[2 : 2 + n]; del sys.argv[1 : 2 + n]; \
from nm2trt.cli import main; sys.exit(main(sys.argv[1:]))"
_ERRORS = {
    kind.exit_status: kind
    for kind in (InputError, BackendError, DifferenceError, ServerError, Interrupted, Nm2trtError)
}


def bench_in_processes(options: BenchCommand) -> Benchmark:
    """Run a benchmark's command in several processes, one after another, and merge what they found.

    Each process opens the artefacts in another order, since the one that is opened first finds other memory.

    Raises:
        Nm2trtError: A process failed; its own sentence and exit status. What processes before it found is in
            `error.partial`.
    """
    names = unique_names(options.artefacts)
    each = replace(options, processes=1, runs=-(-options.runs // options.processes), json=True)
    parts: list[tuple[Mapping[str, Any], Mapping[str, str]]] = []
    try:
        with bar("processes", options.processes) as shown:
            for index in range(options.processes):
                shift = index % len(names)
                order = _turned(options.artefacts, shift)
                found = _run(replace(each, artefacts=order))
                parts.append((found, dict(zip(unique_names(order), _turned(names, shift), strict=True))))
                shown.update(index + 1)
    except (Nm2trtError, KeyboardInterrupt) as error:
        raised = restated(error, str(error) or "stopped by the user")
        if parts:
            raised.partial = BenchResult(merged(parts, names), None)
        if raised is error:
            raise
        raise raised from error
    return merged(parts, names)


def _turned(items: Sequence[str], shift: int) -> tuple[str, ...]:
    return (*items[shift:], *items[:shift])


def _run(options: BenchCommand) -> Mapping[str, Any]:
    command = [sys.executable, "-c", _LAUNCH, str(len(sys.path)), *sys.path, *words("bench", options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if done.returncode == 0:
        found: Mapping[str, Any] = json.loads(done.stdout)
        return found
    lines = done.stderr.strip().splitlines()
    sentence = lines[-1].removeprefix("nm2trt: ") if lines else f"it ended with status {done.returncode}"
    kind = _ERRORS.get(done.returncode)
    if kind is None:
        raise Nm2trtError(f"a process of the benchmark ended with status {done.returncode}: {sentence}")
    raise kind(sentence)
