"""`nm2trt deploy`: a model into a Triton model repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_verdict, say
from nm2trt.options.serving import DeployCommand
from nm2trt.terminal_text import shell_path, shell_word

if TYPE_CHECKING:
    from nm2trt.serving.repository import Deployment

OPTIONS = DeployCommand

EPILOG = """examples:
  nm2trt deploy model.plan --repository models --name detector
  nm2trt deploy model.onnx --repository models --name ocr --max-batch 16 --url localhost:8000
"""


def run(options: DeployCommand) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.deploy import deploy_command

    deployment = deploy_command(options)
    if options.json:
        print_json(deployment.to_json())
    else:
        _print(deployment, options.load, options.canary)
        print_verdict("", _next(deployment, options))
    return 0


def _next(deployment: Deployment, options: DeployCommand) -> str:
    """Return the command that serves the model, or that probes it once it is loaded; "" if it was probed."""
    repository, name = shell_path(options.repository), shell_word(deployment.name)
    if options.canary:
        return ""
    if not options.load:
        return f"nm2trt serve --repository {repository} --load {name}"
    if not options.artefact.endswith(".onnx"):
        return ""
    reference = shell_path(options.artefact)
    return (
        f"nm2trt probe --url {options.load} --name {name} --reference {reference} --repository {repository}"
    )


def _print(deployment: Deployment, load: str, canary: str) -> None:
    for remark in deployment.remarks():
        say(remark)
    if canary:
        say(f"loaded and probed on {canary}: it answers like the reference")
    if load:
        say(f"loaded on {load}")
