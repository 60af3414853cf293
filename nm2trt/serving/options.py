"""Options of serving as values: how a model, a cluster and a server run, and how a served model is probed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nm2trt.compare.tolerance import TOLERANCE
from nm2trt.errors import InputError
from nm2trt.json_value import JsonValue

ServingBackend = Literal["tensorrt", "onnxruntime", "python"]
Device = Literal["auto", "cpu", "gpu"]
ProfileGroups = Literal["auto", "each", "together"]
Control = Literal["explicit", "none", "poll"]

_BACKENDS = ("tensorrt", "onnxruntime", "python")
_MOST_NAME = 200
_IMAGE = re.compile(r"[\w][\w.\-/:@]*")
_STORE = re.compile(r"(pvc|s3|gs|as)://[\w.\-]+(/[\w.\-/:]*)?")


@dataclass(frozen=True, slots=True)
class DeployOptions(JsonValue):
    """How a model is to be served; what is left out follows from the model.

    Args:
        backend: Triton's backend; None takes "tensorrt" for a TensorRT plan, "onnxruntime" for ONNX and
            "python" for a TensorRT for RTX plan.
        max_batch: Largest batch that the server may form; None takes the engine's own, and 32 for an ONNX
            model whose batch is free. 0 serves requests as they come.
        instances: Copies of the model on each device.
        device: Where it runs; "auto" is the GPU for engines, Triton's choice for onnxruntime, else the CPU.
        gpus: Numbers of the GPUs; () leaves them to Triton.
        profile_groups: "each" gives every profile of an engine its own instance group, "together" puts all
            into one, in which Triton picks by the request's shape. "auto" is "each" if any profile takes any
            request, else "together": Triton sends a request to any idle group.
        dynamic_batching: Whether the server may join requests.
        preferred_batches: Batch sizes that it prefers; () takes the profiles' optimal ones.
        queue_delay_us: Longest that a request waits for others, in microseconds.
        version_policy: "deployed" serves only the version placed last, so that placing the next one never
            changes what is served before its configuration is there; "latest:N" or "all" as in Triton.
        parameters: Parameters of your own, in the configuration.
        settings: Any other field of the configuration, as "path=value".
        keep: Versions to keep: the new one and those before it.
        threads: Threads of ONNX Runtime within an operator, under the python backend; 0 is its own choice.

    Raises:
        InputError: A value is out of its range.
    """

    backend: ServingBackend | None = None
    max_batch: int | None = None
    instances: int = 1
    device: Device = "auto"
    gpus: tuple[int, ...] = ()
    profile_groups: ProfileGroups = "auto"
    dynamic_batching: bool = True
    preferred_batches: tuple[int, ...] = ()
    queue_delay_us: int = 0
    version_policy: str = "deployed"
    parameters: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    keep: int = 2
    threads: int = 1

    def __post_init__(self) -> None:
        if self.backend is not None and self.backend not in _BACKENDS:
            raise InputError(f"backend {self.backend!r} is unknown; choose tensorrt, onnxruntime or python")
        if self.device not in ("auto", "cpu", "gpu"):
            raise InputError(f"device {self.device!r} is unknown; choose auto, cpu or gpu")
        if self.profile_groups not in ("auto", "each", "together"):
            raise InputError(
                f"profile groups {self.profile_groups!r} are unknown; choose auto, each or together"
            )
        for name, value, least in (
            ("max_batch", self.max_batch, 0),
            ("instances", self.instances, 1),
            ("queue_delay_us", self.queue_delay_us, 0),
            ("keep", self.keep, 1),
            ("threads", self.threads, 0),
            *(("preferred_batches", size, 1) for size in self.preferred_batches),
            *(("gpus", number, 0) for number in self.gpus),
        ):
            if value is not None and not least <= value < 1 << 31:
                raise InputError(f"{name} {value} is out of range; give {least} to {(1 << 31) - 1}")
        if self.device == "cpu" and self.gpus:
            raise InputError("GPUs are named for a model that is to run on the CPU; leave one of the two out")
        if not re.fullmatch(r"deployed|all|latest:[1-9][0-9]{0,5}", self.version_policy):
            raise InputError(
                f"version policy {self.version_policy!r} is unknown; write deployed, latest:N or all"
            )
        for key in self.parameters:
            if not key or key.startswith("nm2trt."):
                raise InputError(
                    f"parameter {key!r} is not yours to set; names in nm2trt. are written by deploy"
                )


@dataclass(frozen=True, slots=True)
class KubernetesOptions:
    """How a cluster runs a model repository.

    Args:
        image: Triton's image with tag, e.g. of the release that the plan was built for.
        store: Where the cluster finds the repository: pvc://CLAIM[/FOLDER], s3://, gs:// or as://.
        replicas: Fewest and most pods.
        queue_target: Requests waiting per pod at which another pod is started.
        canary_weight: Percent of the requests that go to the canary; 0 writes no canary.
        canary_store: The canary's repository.

    Raises:
        InputError: A value is out of its range, or a canary lacks its weight or store.
    """

    image: str
    store: str
    replicas: tuple[int, ...] = (1, 4)
    queue_target: int = 8
    canary_weight: int = 0
    canary_store: str = ""

    def __post_init__(self) -> None:
        if not _IMAGE.fullmatch(self.image):
            raise InputError(
                f"{self.image!r} is not the name of an image; give --image NAME:TAG of a Triton image"
            )
        for store in filter(None, (self.store or "-", self.canary_store)):
            if not _STORE.fullmatch(store) or ".." in store:
                raise InputError(
                    f"{store!r} is not a place of a repository; give pvc://CLAIM/FOLDER, s3://BUCKET/FOLDER, "
                    "gs:// or as://"
                )
        if len(self.replicas) != 2 or not 1 <= self.replicas[0] <= self.replicas[1]:
            raise InputError("--replicas takes the fewest and the most pods, as in 1,4")
        if not 0 <= self.canary_weight <= 99 or self.queue_target < 1:
            raise InputError("--canary-weight takes a percentage from 0 to 99, and --queue-target 1 or more")
        if bool(self.canary_weight) != bool(self.canary_store):
            raise InputError(
                "a canary needs its weight and its repository; give both --canary-weight and --canary-store"
            )


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server is started.

    Args:
        host: Address that it listens on.
        http_port: Port of HTTP; 0 takes a free one.
        grpc_port: Port of gRPC; likewise.
        metrics_port: Port of the metrics; likewise.
        control: "explicit" loads and reloads models on request; "none" loads all at the start; "poll"
            follows the repository's files.
        load: Models to load at the start under "explicit"; "*" is all of them.
        ready_timeout_s: Longest wait until it is ready.
        exit_timeout_s: Longest wait for requests in flight when it stops.
        usual_ports: Whether a port of 0 is Triton's own, 8000, 8001 and 8002, if that is free.
        log: File of the server's log; None leaves it on stderr.

    Raises:
        InputError: A port is out of range, or two are the same.
    """

    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    control: Control = "explicit"
    load: tuple[str, ...] = ("*",)
    ready_timeout_s: float = 60.0
    exit_timeout_s: int = 10
    usual_ports: bool = False
    log: Path | None = None

    def __post_init__(self) -> None:
        ports = (self.http_port, self.grpc_port, self.metrics_port)
        for port in ports:
            if not 0 <= port <= 65535:
                raise InputError(f"{port} is not a port; choose one from 1 to 65535, or 0 for a free one")
        chosen = [port for port in ports if port]
        if len(set(chosen)) != len(chosen):
            raise InputError(
                f"the ports {', '.join(map(str, ports))} name one twice; HTTP, gRPC and metrics differ"
            )


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """How a served model is probed.

    Args:
        batches: Batch sizes whose outputs are compared; () takes 1, odd sizes and the largest.
        concurrency: Clients at a time, one round each; () leaves rounds and latency out.
        requests: Requests of a round.
        precision: Lowest type that the served model computes in, e.g. "float16" for an engine of a float32
            model; None takes the outputs' own type. It sets the tolerance.
        seed: Seed of the random samples.
        timeout_s: Longest wait for an answer.

    Raises:
        InputError: A number is out of its range.
    """

    batches: tuple[int, ...] = ()
    concurrency: tuple[int, ...] = (1, 4, 16)
    requests: int = 200
    precision: str | None = None
    seed: int = 0
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name, values in (
            ("batches", self.batches),
            ("concurrency", self.concurrency),
            ("requests", (self.requests,)),
        ):
            if any(not 1 <= value <= 1_000_000 for value in values):
                raise InputError(f"{name} {', '.join(map(str, values))} is out of range; give 1 to 1000000")
        if self.precision is not None and self.precision not in TOLERANCE:
            raise InputError(f"precision {self.precision!r} is unknown; choose {', '.join(TOLERANCE)}")
        if not 0 < self.timeout_s <= 86_400:
            raise InputError(f"a wait of {self.timeout_s:g} s is out of range; give over 0 and up to 86400 s")


def check_name(name: str) -> str:
    """Return a model's name when it can be a folder and a part of an address everywhere.

    Raises:
        InputError: It has other characters than letters, digits, `_`, `.` and `-`, or does not start with one
            of the first three kinds.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or len(name) > _MOST_NAME:
        raise InputError(
            f"{name!r} cannot be a model's name, which becomes a folder and part of an address: write at "
            f"most {_MOST_NAME} letters, digits, '_', '.' and '-', the first a letter, digit or '_'"
        )
    return name
