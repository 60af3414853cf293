"""Options of the commands around a Triton server: deploy, probe, rollback, serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nm2trt.options.field import option
from nm2trt.options.shared import Reported

__all__ = ["DeployCommand", "ProbeCommand", "RollbackCommand", "ServeCommand"]

_SERVED = "how it is served (what is left out follows from the model)"
_SERVER = "the server"
_CLUSTER = "a Kubernetes cluster (writes manifests; nothing is applied)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployCommand(Reported):
    """Options of `nm2trt deploy`."""

    artefact: str = option(flag="", help="TensorRT plan, TensorRT for RTX plan, or ONNX model")
    repository: str = option(metavar="FOLDER", help="model repository, e.g. models/")
    name: str = option(help="the model's name in the repository")
    backend: Literal["tensorrt", "onnxruntime", "python"] | None = option(
        None,
        group=_SERVED,
        help="Triton's backend (default: tensorrt for its plans, onnxruntime for ONNX, python for .rtx)",
    )
    max_batch: int | None = option(
        None, group=_SERVED, metavar="N", at_least=0, help="largest batch that the server forms"
    )
    instances: int = option(
        1, group=_SERVED, metavar="N", at_least=1, help="copies of the model (default: 1)"
    )
    device: Literal["auto", "cpu", "gpu"] = option("auto", group=_SERVED, help="where it runs")
    gpus: tuple[int, ...] = option(
        (),
        group=_SERVED,
        comma=True,
        metavar="N,N",
        at_least=0,
        stage=False,
        help="numbers of the GPUs to run on",
    )
    profile_groups: Literal["auto", "each", "together"] = option(
        "auto",
        group=_SERVED,
        stage=False,
        help="instance groups of an engine's profiles (default: one each if any takes any request)",
    )
    dynamic_batching: bool = option(
        True, flag="--no-batching", group=_SERVED, stage=False, help="never join requests to a batch"
    )
    preferred_batches: tuple[int, ...] = option(
        (),
        flag="--preferred-batch",
        group=_SERVED,
        comma=True,
        metavar="N,N",
        at_least=1,
        stage=False,
        help="batches it prefers",
    )
    queue_delay_us: int = option(
        0, group=_SERVED, metavar="US", at_least=0, help="longest that a request waits for others"
    )
    version_policy: str = option(
        "deployed",
        group=_SERVED,
        metavar="P",
        stage=False,
        help="deployed (default), latest:N or all",
    )
    threads: int = option(
        1, group=_SERVED, metavar="N", at_least=0, help="threads of the python backend's runtime"
    )
    sample: str | None = option(
        None,
        group=_SERVED,
        metavar="FILE.npz",
        help="a real sample by input name, to warm the model up",
    )
    labels: tuple[str, ...] = option(
        (),
        group=_SERVED,
        metavar="[OUTPUT=]FILE",
        stage=False,
        help="names of the classes, one per line",
    )
    parameters: tuple[str, ...] = option(
        (),
        flag="--parameter",
        group=_SERVED,
        metavar="KEY=VALUE",
        stage=False,
        help="a parameter of your own",
    )
    settings: tuple[str, ...] = option(
        (),
        flag="--set",
        group=_SERVED,
        metavar="PATH=VALUE",
        help="any other field of the configuration",
    )
    keep: int = option(2, group=_SERVED, metavar="N", at_least=1, help="versions to keep (default: 2)")
    url: str = option(
        "", group=_SERVER, metavar="HOST:PORT", help="asked for its version, which a plan must fit"
    )
    triton_release: str = option("", group=_SERVER, metavar="TAG", help="its release or image, e.g. 25.04")
    server_tensorrt: str = option("", group=_SERVER, metavar="VERSION", help="its TensorRT, e.g. 10.9.0.34")
    server_gpus: tuple[str, ...] = option(
        (), flag="--gpu", group=_SERVER, metavar="SM", stage="gpus", help="its GPU, e.g. sm86"
    )
    load: str = option(
        "",
        group=_SERVER,
        metavar="HOST:PORT",
        stage=False,
        help="load the version there; roll back if it does not load",
    )
    canary: str = option(
        "",
        group=_SERVER,
        metavar="HOST:PORT",
        help="load and probe the version there, and roll back if it fails",
    )
    precision: str | None = option(
        None,
        group=_SERVER,
        metavar="DTYPE",
        stage=False,
        help="lowest type that the canary computes in: sets the tolerance",
    )
    reference: str | None = option(
        None, group=_SERVER, metavar="MODEL.onnx", help="what the canary is compared with"
    )
    kubernetes: Path | None = option(
        None,
        group=_CLUSTER,
        metavar="FOLDER",
        stage=False,
        keyword=False,
        help="write manifests for Kubernetes and KServe there",
    )
    image: str = option(
        "",
        group=_CLUSTER,
        metavar="NAME:TAG",
        stage=False,
        keyword=False,
        help="Triton's image; required with --kubernetes",
    )
    model_store: str = option(
        "",
        group=_CLUSTER,
        metavar="STORE",
        stage=False,
        keyword=False,
        help="where the cluster finds the repository: pvc://CLAIM/FOLDER, s3://BUCKET/FOLDER; required",
    )
    replicas: tuple[int, ...] = option(
        (1, 4),
        group=_CLUSTER,
        comma=True,
        metavar="MIN,MAX",
        at_least=1,
        stage=False,
        keyword=False,
        help="fewest and most pods (default: 1,4)",
    )
    queue_target: int = option(
        8,
        group=_CLUSTER,
        metavar="N",
        at_least=1,
        stage=False,
        keyword=False,
        help="requests waiting per pod at which another pod starts (default: 8)",
    )
    canary_weight: int = option(
        0,
        group=_CLUSTER,
        metavar="PCT",
        at_least=0,
        at_most=99,
        stage=False,
        keyword=False,
        help="percent of the requests that a canary gets (default: 0, no canary)",
    )
    canary_store: str = option(
        "", group=_CLUSTER, metavar="STORE", stage=False, keyword=False, help="the canary's repository"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCommand(Reported):
    """Options of `nm2trt probe`."""

    url: str = option(metavar="URL", help="HOST:PORT, or grpc://HOST:PORT to speak gRPC")
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
        stage=False,
        help="batches to compare (default: 1, odd, largest)",
    )
    concurrency: tuple[int, ...] = option(
        (1, 4, 16), comma=True, metavar="N,N", at_least=1, help="clients at a time (default: 1,4,16)"
    )
    requests: int = option(200, metavar="N", at_least=1, help="requests per round (default: 200)")
    precision: str | None = option(
        None,
        metavar="DTYPE",
        help="lowest type that it computes in, which sets the tolerance (default: that of the outputs)",
    )
    timeout_s: float = option(
        30.0, flag="--timeout", metavar="S", over=0, stage=False, help="longest wait (default: 30 s)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackCommand(Reported):
    """Options of `nm2trt rollback`."""

    repository: str = option(metavar="FOLDER", help="model repository")
    name: str = option(help="the model's name there")
    to: int | None = option(
        None, metavar="VERSION", help="another version that is kept (default: the one before)"
    )
    url: str = option("", metavar="HOST:PORT", help="a server that is told to load it")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCommand(Reported):
    """Options of `nm2trt serve`."""

    repository: str = option(metavar="FOLDER", help="model repository, e.g. models/")
    host: str = option("127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    http_port: int = option(
        0, metavar="PORT", help="port of http (default: 8000 if it is free, else a free one)"
    )
    grpc_port: int = option(
        0, metavar="PORT", help="port of grpc (default: 8001 if it is free, else a free one)"
    )
    metrics_port: int = option(
        0, metavar="PORT", help="port of metrics (default: 8002 if it is free, else a free one)"
    )
    control: Literal["explicit", "none", "poll"] = option(
        "explicit",
        flag="--model-control",
        help="explicit (default): loads on request; none: loads at the start; poll: follows the files",
    )
    load: tuple[str, ...] = option(
        (), metavar="NAME", help="model to load at the start (default: all of them)"
    )
    log: Path | None = option(None, metavar="FILE", help="the server's log (default: stderr)")
