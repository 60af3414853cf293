"""Is the pattern there, is it right, is it faster, does it pay."""

from __future__ import annotations

from nm2trt.errors import DifferenceError, Nm2trtError, SparsityError
from nm2trt.options.checks import BenchCommand, ValidateCommand
from nm2trt.options.command_line import words
from nm2trt.options.engines import GainCommand
from nm2trt.options.field import keywords
from nm2trt.options.models import VerifyCommand
from nm2trt.recipe.actions.job import Job, Outcome

__all__ = ["bench", "gain", "validate", "verify"]


def verify(job: Job) -> Outcome:
    """Run `nm2trt verify`."""
    from nm2trt.pipeline.verify import verify

    options = job.command(VerifyCommand, model=str(job.source))
    done = verify(**keywords(options))
    passed = done.passed(options.fail_on)
    failure = None
    if not passed:
        failing = done.failures(options.fail_on)
        first = (
            f"first {failing[0].weight!r}: {failing[0].sentence}"
            if failing
            else f"the planned {done.missing[0]!r} is read by no node"
            if done.missing
            else "none of its weights could be judged"
        )
        failure = SparsityError(f"{job.source}: {first} (fail_on: {options.fail_on})")
    result = {**done.to_json(), "fail_on": options.fail_on, "passed": passed}
    return Outcome(result, words("verify", options), failure=failure)


def validate(job: Job) -> Outcome:
    """Run `nm2trt validate`."""
    from nm2trt.pipeline.validate import validate

    metric_options = []
    for text in job.options.metric_options:
        key = text.partition("=")[0]
        file = job.files.get(f"metric_options.{key}")
        metric_options.append(text if file is None else f"{key}={file}")
    options = job.command(
        ValidateCommand,
        model=str(job.sources["from"]),
        against=str(job.sources["against"]),
        data=str(job.files["data"]),
        metric_options=tuple(metric_options),
        allow_functions=job.allow_functions,
    )
    done = validate(**keywords(options))
    failure: Nm2trtError | None = None
    try:
        done.require_passed()
    except DifferenceError as error:
        failure = error
    return Outcome(done.to_json(), words("validate", options), failure=failure)


def gain(job: Job) -> Outcome:
    """Run `nm2trt gain`."""
    from nm2trt.pipeline.gain import gain

    options = job.command(GainCommand, model=job.source, table=job.files["table"])
    return Outcome(gain(**keywords(options)).to_json(), words("gain", options))


def bench(job: Job) -> Outcome:
    """Run `nm2trt bench`."""
    from nm2trt.pipeline.bench import bench

    artefacts = tuple(str(job.sources[key]) for key in ("against", "from") if key in job.sources)
    options = job.command(BenchCommand, artefacts=artefacts, data=job.file("data"))
    return Outcome(bench(**keywords(options)).to_json(), words("bench", options))
