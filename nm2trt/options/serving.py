"""Options of the commands around a Triton server: deploy, probe, rollback, serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nm2trt.options.field import LARGEST, option
from nm2trt.options.shared import (
    MOST_ROUNDS,
    SERVER,
    Reported,
    in_cluster,
    longest_wait,
    on_server,
    rounds,
    served,
)


def _port(of: str, usual: int) -> Any:
    """Return the option of one of the server's ports."""
    told = f"port of {of} (default: {usual} if it is free, else a free one)"
    return option(0, metavar="PORT", at_least=0, at_most=65_535, help=told)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployCommand(Reported):
    """Options of `nm2trt deploy`."""

    artefact: str = option(flag="", help="TensorRT plan, TensorRT for RTX plan, or ONNX model")
    repository: str = option(metavar="FOLDER", help="model repository, e.g. models/")
    name: str = option(help="the model's name in the repository")
    backend: Literal["tensorrt", "onnxruntime", "python"] | None = served(
        None, help="Triton's backend (default: tensorrt for its plans, onnxruntime for ONNX, python for .rtx)"
    )
    max_batch: int | None = served(None, metavar="N", at_least=0, help="largest batch that the server forms")
    instances: int = served(1, metavar="N", at_least=1, help="copies of the model (default: 1)")
    device: Literal["auto", "cpu", "gpu"] = served("auto", help="where it runs")
    gpus: tuple[int, ...] = served(
        (), comma=True, metavar="N,N", at_least=0, stage=False, help="numbers of the GPUs to run on"
    )
    profile_groups: Literal["auto", "each", "together"] = served(
        "auto",
        stage=False,
        help="instance groups of an engine's profiles (default: one each if any takes any request)",
    )
    dynamic_batching: bool = served(
        True, flag="--no-batching", stage=False, help="never join requests to a batch"
    )
    preferred_batches: tuple[int, ...] = served(
        (),
        flag="--preferred-batch",
        comma=True,
        metavar="N,N",
        at_least=1,
        stage=False,
        help="batches it prefers",
    )
    queue_delay_us: int = served(0, metavar="US", at_least=0, help="longest that a request waits for others")
    version_policy: str = served(
        "deployed", metavar="P", stage=False, help="deployed (default), latest:N or all"
    )
    threads: int = served(
        1, metavar="N", at_least=0, at_most=1024, help="threads of the python backend's runtime"
    )
    sample: str | None = served(
        None, metavar="FILE.npz", help="a real sample by input name, to warm the model up"
    )
    labels: tuple[str, ...] = served(
        (), metavar="[OUTPUT=]FILE", stage=False, help="names of the classes, one per line"
    )
    parameters: tuple[str, ...] = served(
        (), flag="--parameter", metavar="KEY=VALUE", stage=False, help="a parameter of your own"
    )
    settings: tuple[str, ...] = served(
        (), flag="--set", metavar="PATH=VALUE", help="any other field of the configuration"
    )
    keep: int = served(2, metavar="N", at_least=1, help="versions to keep (default: 2)")
    url: str = on_server("", metavar="HOST:PORT", help="asked for its version, which a plan must fit")
    triton_release: str = on_server("", metavar="TAG", help="its release or image, e.g. 25.04")
    server_tensorrt: str = on_server("", metavar="VERSION", help="its TensorRT, e.g. 10.9.0.34")
    server_gpus: tuple[str, ...] = on_server(
        (), flag="--gpu", metavar="SM", stage="gpus", help="its GPU, e.g. sm86"
    )
    load: str = on_server(
        "", metavar="HOST:PORT", stage=False, help="load the version there; roll back if it does not load"
    )
    load_timeout_s: float = longest_wait(
        120.0, group=SERVER, stage=False, help="longest wait until the version is loaded (default: 120 s)"
    )
    canary: str = on_server(
        "", metavar="HOST:PORT", help="load and probe the version there, and roll back if it fails"
    )
    precision: str | None = on_server(
        None, metavar="DTYPE", stage=False, help="lowest type that the canary computes in: sets the tolerance"
    )
    reference: str | None = on_server(None, metavar="MODEL.onnx", help="what the canary is compared with")
    kubernetes: Path | None = in_cluster(
        None, metavar="FOLDER", help="write manifests for Kubernetes and KServe there"
    )
    image: str = in_cluster("", metavar="NAME:TAG", help="Triton's image; required with --kubernetes")
    model_store: str = in_cluster(
        "",
        metavar="STORE",
        help="where the cluster finds the repository: pvc://CLAIM/FOLDER, s3://BUCKET/FOLDER; required",
    )
    replicas: tuple[int, ...] = in_cluster(
        (1, 4), comma=True, metavar="MIN,MAX", at_least=1, help="fewest and most pods (default: 1,4)"
    )
    queue_target: int = in_cluster(
        8, metavar="N", at_least=1, help="requests waiting per pod at which another pod starts (default: 8)"
    )
    canary_weight: int = in_cluster(
        0,
        metavar="PCT",
        at_least=0,
        at_most=99,
        help="percent of the requests that a canary gets (default: 0, no canary)",
    )
    canary_store: str = in_cluster("", metavar="STORE", help="the canary's repository")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCommand(Reported):
    """Options of `nm2trt probe`."""

    url: str = option(
        metavar="URL",
        help="HOST:PORT; grpc:// before it speaks gRPC, grpc+shm:// or http+shm:// use shared memory",
    )
    name: str = option(metavar="NAME", stage=False, help="the model's name")
    reference: str = option(metavar="MODEL.onnx", help="what it should answer like")
    data: str | None = option(
        None, metavar="FILE.npz", help="real samples by input name (default: random ones)"
    )
    repository: str | None = option(
        None,
        metavar="FOLDER",
        stage=False,
        help="where it was deployed to: its configuration is compared too",
    )
    batches: tuple[int, ...] = option(
        (),
        comma=True,
        metavar="N,N",
        at_least=1,
        at_most=MOST_ROUNDS,
        stage=False,
        help="batches to compare (default: 1, odd, largest)",
    )
    concurrency: tuple[int, ...] = option(
        (1, 4, 16),
        comma=True,
        metavar="N,N",
        at_least=1,
        at_most=MOST_ROUNDS,
        help="clients at a time (default: 1,4,16)",
    )
    requests: int = rounds(200, at_least=1, help="requests per round (default: 200)")
    precision: str | None = option(
        None,
        metavar="DTYPE",
        help="lowest type that it computes in, which sets the tolerance (default: that of the outputs)",
    )
    timeout_s: float = longest_wait(30.0, stage=False, help="longest wait (default: 30 s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackCommand(Reported):
    """Options of `nm2trt rollback`."""

    repository: str = option(metavar="FOLDER", help="model repository")
    name: str = option(help="the model's name there")
    to: int | None = option(
        None,
        metavar="VERSION",
        at_least=1,
        at_most=LARGEST,
        help="another version that is kept (default: the one before)",
    )
    url: str = option("", metavar="HOST:PORT", help="a server that is told to load it")
    load_timeout_s: float = longest_wait(120.0, help="longest wait until it is loaded (default: 120 s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCommand(Reported):
    """Options of `nm2trt serve`."""

    repository: str = option(metavar="FOLDER", help="model repository, e.g. models/")
    host: str = option("127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    http_port: int = _port("http", 8000)
    grpc_port: int = _port("grpc", 8001)
    metrics_port: int = _port("metrics", 8002)
    control: Literal["explicit", "none", "poll"] = option(
        "explicit",
        flag="--model-control",
        help="explicit (default): loads on request; none: loads at the start; poll: follows the files",
    )
    load: tuple[str, ...] = option(
        (), metavar="NAME", help="model to load at the start (default: all of them)"
    )
    ready_timeout_s: float = longest_wait(
        60.0, help="longest wait until the models are loaded (default: 60 s)"
    )
    log: Path | None = option(None, metavar="FILE", help="the server's log (default: stderr)")
