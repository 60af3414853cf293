"""`nm2trt deploy`: a model into a Triton model repository."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json
from nm2trt.errors import InputError

if TYPE_CHECKING:
    from nm2trt.serving.repository import Deployment

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("artefact", help="TensorRT plan, TensorRT for RTX plan, or ONNX model")
    parser.add_argument(
        "--repository", required=True, metavar="FOLDER", help="model repository, e.g. models/"
    )
    parser.add_argument("--name", required=True, help="the model's name in the repository")
    serving = parser.add_argument_group("how it is served (what is left out follows from the model)")
    serving.add_argument(
        "--backend",
        choices=("tensorrt", "onnxruntime", "python"),
        help="Triton's backend (default: tensorrt for its plans, onnxruntime for ONNX, python for .rtx)",
    )
    serving.add_argument("--max-batch", type=int, metavar="N", help="largest batch that the server forms")
    serving.add_argument(
        "--instances", type=int, default=1, metavar="N", help="copies of the model (default: 1)"
    )
    serving.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where it runs")
    serving.add_argument(
        "--gpus", type=_numbers, default=(), metavar="N,N", help="numbers of the GPUs to run on"
    )
    serving.add_argument(
        "--profile-groups",
        choices=("auto", "each", "together"),
        default="auto",
        help="instance groups of an engine's profiles (default: one each where any takes any request)",
    )
    serving.add_argument("--no-batching", action="store_true", help="never join requests to a batch")
    serving.add_argument(
        "--preferred-batch", type=_numbers, default=(), metavar="N,N", help="batches it prefers"
    )
    serving.add_argument(
        "--queue-delay-us", type=int, default=0, metavar="US", help="longest that a request waits for others"
    )
    serving.add_argument(
        "--version-policy", default="deployed", metavar="P", help="deployed (default), latest:N or all"
    )
    serving.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of the python backend's runtime"
    )
    serving.add_argument(
        "--sample", metavar="FILE.npz", help="a real sample by input name, to warm the model up"
    )
    serving.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="[OUTPUT=]FILE",
        help="names of the classes, one a line",
    )
    serving.add_argument(
        "--parameter", action="append", default=[], metavar="KEY=VALUE", help="a parameter of your own"
    )
    serving.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="any other field of the configuration",
    )
    serving.add_argument("--keep", type=int, default=2, metavar="N", help="versions to keep (default: 2)")
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--url", default="", metavar="HOST:PORT", help="asked for its version, which a plan must fit"
    )
    server.add_argument(
        "--triton-release", default="", metavar="TAG", help="its release or image, e.g. 25.04"
    )
    server.add_argument(
        "--server-tensorrt", default="", metavar="VERSION", help="its TensorRT, e.g. 10.9.0.34"
    )
    server.add_argument("--gpu", action="append", default=[], metavar="SM", help="its GPU, e.g. sm86")
    server.add_argument(
        "--load",
        default="",
        metavar="HOST:PORT",
        help="load the version there; roll back where it does not load",
    )
    server.add_argument(
        "--canary",
        default="",
        metavar="HOST:PORT",
        help="load and probe the version there, and roll back where it fails",
    )
    server.add_argument(
        "--precision", metavar="DTYPE", help="lowest type that the canary computes in: sets the tolerance"
    )
    server.add_argument("--reference", metavar="MODEL.onnx", help="what the canary is compared with")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.deploy import deploy
    from nm2trt.serving.options import DeployOptions

    options = DeployOptions(
        backend=arguments.backend,
        max_batch=arguments.max_batch,
        instances=arguments.instances,
        device=arguments.device,
        gpus=arguments.gpus,
        profile_groups=arguments.profile_groups,
        dynamic_batching=not arguments.no_batching,
        preferred_batches=arguments.preferred_batch,
        queue_delay_us=arguments.queue_delay_us,
        version_policy=arguments.version_policy,
        parameters=dict(_pair(text) for text in arguments.parameter),
        settings=tuple(arguments.set),
        keep=arguments.keep,
        threads=arguments.threads,
    )
    deployment = deploy(
        arguments.artefact,
        arguments.repository,
        arguments.name,
        options,
        sample=arguments.sample,
        labels=arguments.labels,
        url=arguments.url,
        triton_release=arguments.triton_release,
        server_tensorrt=arguments.server_tensorrt,
        gpus=arguments.gpu,
        load=arguments.load,
        canary=arguments.canary,
        reference=arguments.reference,
        precision=arguments.precision,
    )
    if arguments.json:
        print_json(deployment.to_json())
    else:
        _print(deployment, arguments.load, arguments.canary)
    return 0


def _print(deployment: Deployment, load: str, canary: str) -> None:
    before = "the first" if deployment.previous is None else f"{deployment.previous} before"
    print(f"{deployment.folder}  ({deployment.backend}; version {deployment.version}, {before})")
    for note in deployment.notes:
        print(note)
    if deployment.removed:
        print(f"removed: version {', '.join(map(str, deployment.removed))}")
    if canary:
        print(f"loaded and probed on {canary}: it answers like the reference")
    if load:
        print(f"loaded on {load}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{text!r} is no parameter; write KEY=VALUE")
    return key, value
