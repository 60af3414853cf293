"""Into a model repository, and what the server answers."""

from __future__ import annotations

from pathlib import Path

from nm2trt.errors import DifferenceError, Nm2trtError
from nm2trt.recipe import options as options_of
from nm2trt.recipe.actions.job import Job, Outcome, Words

__all__ = ["deploy", "probe"]


def deploy(job: Job) -> Outcome:
    """Run `nm2trt deploy`."""
    from nm2trt.pipeline.deploy import deploy
    from nm2trt.serving.options import DeployOptions

    options: options_of.DeployOptions = job.options
    chosen = DeployOptions(
        backend=options.backend,
        max_batch=options.max_batch,
        instances=options.instances,
        device=options.device,
        queue_delay_us=options.queue_delay_us,
        settings=tuple(options.settings),
        keep=options.keep,
        threads=options.threads,
    )
    repository = job.files["repository"]
    done = deploy(
        job.source,
        repository,
        options.name,
        chosen,
        sample=job.files.get("sample"),
        url=options.url,
        triton_release=options.triton_release,
        server_tensorrt=options.server_tensorrt,
        gpus=options.gpus,
        canary=options.canary,
        reference=job.sources["reference"] if options.canary else None,
    )
    words = Words(["deploy", str(job.source), "--repository", str(repository), "--name", options.name])
    words.add("--backend", options.backend).add("--max-batch", options.max_batch)
    words.add("--instances", options.instances, unless=1).add("--device", options.device, unless="auto")
    words.add("--queue-delay-us", options.queue_delay_us, unless=0).add("--set", options.settings)
    words.add("--keep", options.keep, unless=2).add("--threads", options.threads, unless=1)
    words.add("--sample", job.files.get("sample")).add("--url", options.url, unless="")
    words.add("--triton-release", options.triton_release, unless="")
    words.add("--server-tensorrt", options.server_tensorrt, unless="").add("--gpu", options.gpus)
    words.add("--canary", options.canary, unless="")
    config = done.repository / done.name / "config.pbtxt"
    return Outcome(done.to_json(), words.words, (done.folder, config))


def probe(job: Job) -> Outcome:
    """Run `nm2trt probe`."""
    from nm2trt.pipeline.probe import probe
    from nm2trt.serving.options import ProbeOptions

    options: options_of.ProbeOptions = job.options
    folder = Path(job.sources["from"])
    repository, name, reference = folder.parents[1], folder.parent.name, Path(job.sources["reference"])
    done = probe(
        options.url,
        name,
        reference,
        data=job.files.get("data"),
        repository=repository,
        options=ProbeOptions(
            concurrency=tuple(options.concurrency), requests=options.requests, precision=options.precision
        ),
    )
    failure: Nm2trtError | None = None
    try:
        done.require_passed()
    except DifferenceError as error:
        failure = error
    words = Words(["probe", "--url", options.url, "--name", name, "--reference", str(reference)])
    words.add("--data", job.files.get("data")).add("--precision", options.precision)
    words.add("--repository", repository).add("--requests", options.requests, unless=200)
    return Outcome(done.to_json(), words.words, failure=failure)
