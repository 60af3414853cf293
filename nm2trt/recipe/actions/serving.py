"""Into a model repository, and what the server answers."""

from __future__ import annotations

from pathlib import Path

from nm2trt.errors import DifferenceError, Nm2trtError
from nm2trt.options.command_line import words
from nm2trt.options.serving import DeployCommand, ProbeCommand
from nm2trt.recipe.actions.job import Job, Outcome

__all__ = ["deploy", "probe"]


def deploy(job: Job) -> Outcome:
    """Run `nm2trt deploy`."""
    from nm2trt.pipeline.deploy import deploy_command

    canary = job.options.canary
    options = job.command(
        DeployCommand,
        artefact=str(job.source),
        repository=str(job.files["repository"]),
        sample=job.file("sample"),
        reference=str(job.sources["reference"]) if canary else None,
    )
    done = deploy_command(options)
    config = done.repository / done.name / "config.pbtxt"
    return Outcome(done.to_json(), words("deploy", options), (done.folder, config))


def probe(job: Job) -> Outcome:
    """Run `nm2trt probe`."""
    from nm2trt.pipeline.probe import probe_command

    folder = Path(job.sources["from"])
    options = job.command(
        ProbeCommand,
        name=folder.parent.name,
        reference=str(job.sources["reference"]),
        data=job.file("data"),
        repository=str(folder.parents[1]),
    )
    done = probe_command(options)
    failure: Nm2trtError | None = None
    try:
        done.require_passed()
    except DifferenceError as error:
        failure = error
    return Outcome(done.to_json(), words("probe", options), failure=failure)
