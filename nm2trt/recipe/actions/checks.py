"""Is the pattern there, is it right, is it faster, does it pay."""

from __future__ import annotations

from nm2trt.errors import DifferenceError, Nm2trtError, SparsityError
from nm2trt.recipe import options as options_of
from nm2trt.recipe.actions.job import Job, Outcome, Words

__all__ = ["bench", "gain", "validate", "verify"]


def verify(job: Job) -> Outcome:
    """Run `nm2trt verify`."""
    from nm2trt.pipeline.verify import verify

    options: options_of.VerifyOptions = job.options
    done = verify(job.source, pattern=options.pattern)
    passed = done.passed(options.fail_on)
    failure = None
    if not passed:
        failing = done.failures(options.fail_on)
        first = (
            f"first {failing[0].weight!r}: {failing[0].sentence}"
            if failing
            else (f"the planned {done.missing[0]!r} is read by no node")
        )
        failure = SparsityError(f"{job.source}: {first} (fail_on: {options.fail_on})")
    words = Words(["verify", str(job.source)]).add("--pattern", options.pattern)
    words.add("--fail-on", options.fail_on, unless="broken")
    result = {**done.to_json(), "fail_on": options.fail_on, "passed": passed}
    return Outcome(result, words.words, failure=failure)


def validate(job: Job) -> Outcome:
    """Run `nm2trt validate`."""
    from nm2trt.pipeline.validate import validate

    options: options_of.ValidateOptions = job.options
    against = str(job.sources["against"])
    metric_options = []
    for text in options.metric_options:
        key = text.partition("=")[0]
        file = job.files.get(f"metric_options.{key}")
        metric_options.append(text if file is None else f"{key}={file}")
    done = validate(
        str(job.sources["from"]),
        against=against,
        data=job.files["data"],
        metrics=options.metrics,
        metric_options=metric_options,
        max_drop=options.max_drop,
        rtol=options.rtol,
        atol=options.atol,
        min_cosine=options.min_cosine,
        min_agreement=options.min_agreement,
        bisect=options.bisect,
        allow_functions=job.allow_functions,
        output=options.output,
        batch=options.batch,
        runs=options.runs,
        warmup=options.warmup,
        threads=options.threads,
    )
    words = Words(
        ["validate", str(job.sources["from"]), "--against", against, "--data", str(job.files["data"])]
    )
    words.add("--metric", options.metrics).add("--metric-option", metric_options)
    words.add("--max-drop", options.max_drop).add("--rtol", options.rtol).add("--atol", options.atol)
    words.add("--min-cosine", options.min_cosine).add("--min-agreement", options.min_agreement)
    words.add("--bisect", options.bisect)
    words.add("--output", options.output).add("--batch", options.batch)
    words.add("--runs", options.runs, unless=200)
    failure: Nm2trtError | None = None
    try:
        done.require_passed()
    except DifferenceError as error:
        failure = error
    return Outcome(done.to_json(), words.words, failure=failure)


def gain(job: Job) -> Outcome:
    """Run `nm2trt gain`."""
    from nm2trt.pipeline.gain import gain

    options: options_of.GainOptions = job.options
    done = gain(
        job.source,
        job.files["table"],
        shapes=options.shapes,
        as_dtype=options.as_dtype,
        device=options.device,
        at_least=options.at_least,
    )
    words = Words(["gain", str(job.source), "--table", str(job.files["table"])])
    words.add("--shape", options.shapes).add("--as", options.as_dtype).add("--device", options.device)
    words.add("--at-least", options.at_least)
    return Outcome(done.to_json(), words.words)


def bench(job: Job) -> Outcome:
    """Run `nm2trt bench`."""
    from nm2trt.pipeline.bench import bench

    options: options_of.BenchOptions = job.options
    artefacts = [job.sources[key] for key in ("against", "from") if key in job.sources]
    done = bench(
        artefacts,
        data=job.files.get("data"),
        batches=options.batches,
        shapes=options.shapes,
        runs=options.runs,
        warmup=options.warmup,
        threads=options.threads,
    )
    words = Words(["bench", *map(str, artefacts)]).add("--data", job.files.get("data"))
    words.add("--batch", ",".join(map(str, options.batches)), unless="1").add("--shape", options.shapes)
    words.add("--runs", options.runs, unless=200).add("--threads", options.threads, unless=0)
    return Outcome(done.to_json(), words.words)
