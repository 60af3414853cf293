"""An engine or ONNX model placed in a Triton model repository, loaded and probed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import InputError, Nm2trtError
from nm2trt.options.field import filled, keywords
from nm2trt.options.serving import DeployCommand
from nm2trt.pipeline.in_memory import as_path, takes_values
from nm2trt.pipeline.probe import probe
from nm2trt.pipeline.served_artefact import describe_artefact, read_samples
from nm2trt.serving.options import DeployOptions, KubernetesOptions, ProbeOptions

if TYPE_CHECKING:
    import onnx
    import torch

    from nm2trt.serving.artefact import Artefact
    from nm2trt.serving.repository import Deployment


@takes_values(models=("artefact", "reference"))
def deploy(
    artefact: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    repository: str | os.PathLike[str],
    name: str,
    options: DeployOptions | None = None,
    *,
    sample: str | os.PathLike[str] | None = None,
    labels: Sequence[str | os.PathLike[str]] = (),
    url: str = "",
    triton_release: str = "",
    server_tensorrt: str = "",
    gpus: Sequence[str] = (),
    load: str = "",
    canary: str = "",
    load_timeout_s: float = 120.0,
    reference: str | os.PathLike[str] | onnx.ModelProto | None = None,
    precision: str | None = None,
    probe_options: ProbeOptions | None = None,
    kubernetes: str | os.PathLike[str] | None = None,
    kubernetes_options: KubernetesOptions | None = None,
    example: Any = None,  # noqa: ARG001 - `takes_values` exports a module with it
) -> Deployment:
    """Place an engine or ONNX model in a Triton model repository, as the version that is served next.

    Args:
        artefact: A TensorRT plan, a TensorRT for RTX plan, or an ONNX model; an `onnx.ModelProto`, or a
            `torch.nn.Module` with an example.
        repository: The repository; made if its parent folder exists.
        name: The model's name there.
        options: How it is to be served; None takes what follows from the model.
        sample: An `.npz` with a real sample by input name, for the warm-up.
        labels: Text files with one class name per line: FILE for the only output, or OUTPUT=FILE.
        url: A server, asked for its version, which a plan's TensorRT and targets must fit.
        triton_release: Release or image tag of the server, stated instead of asked for.
        server_tensorrt: TensorRT of the server, likewise.
        gpus: Compute capabilities of the server's GPUs; this machine's, if the server runs on it.
        load: A server that reads this repository under explicit model control: the version is loaded there,
            and rolled back if it does not load.
        canary: Such a server, on which the version is loaded and probed, and rolled back if either fails.
        load_timeout_s: Longest wait until the version is loaded on either.
        reference: ONNX model that the canary is compared with; an ONNX artefact itself by default.
        precision: Lowest type that the canary computes in, which sets the tolerance.
        probe_options: How the canary is probed, instead of 100 requests from 4 clients in that precision.
        kubernetes: Folder for manifests of Kubernetes and KServe; nothing is applied.
        kubernetes_options: Image, store and scale of those manifests; needed with `kubernetes`.
        example: With a module, what it takes: a tensor, a tuple (positional) or a dict (by the names of
            `forward`).

    Raises:
        InputError: The artefact, name, an option, the sample or the labels are wrong.
        OutputError: The repository cannot be written; what is served is unchanged.
        BackendError: A plan does not fit the server; or the version does not load, and was rolled back.
        DifferenceError: The canary answers wrongly, and was rolled back.
        ServerError: A server cannot be reached.
    """
    from dataclasses import replace

    from nm2trt.serving import releases
    from nm2trt.serving.repository import place, prune

    if not canary and (reference is not None or precision is not None or probe_options is not None):
        raise InputError("--reference and --precision need a canary; name its server with --canary")
    if kubernetes is not None and kubernetes_options is not None:
        from nm2trt.serving.kubernetes import check_folder

        check_folder(Path(kubernetes), Path(repository), name)
    elif kubernetes is not None or kubernetes_options is not None:
        raise InputError(
            "manifests need a folder, an image and a store; give --kubernetes, --image and --model-store"
        )
    quick = ProbeOptions(concurrency=(4,), requests=100, precision=precision)
    options = options or DeployOptions()
    described = describe_artefact(as_path(artefact))
    if canary and reference is None and described.kind != "onnx":
        raise InputError("the canary of an engine is compared with its ONNX model; give it with --reference")
    fit_notes = releases.check_fit(
        described,
        release=triton_release,
        tensorrt=server_tensorrt,
        server_version=_server_version(url or canary or load),
        gpus=gpus or _local_gpus(url or canary or load),
    )
    placed = place(
        described,
        repository,
        name,
        # Until the new version has loaded, there must be one to go back to.
        replace(options, keep=max(options.keep, 2)) if canary or load else options,
        sample=None if sample is None else read_samples(sample, described),
        labels=_labels(labels, described),
    )
    if canary:
        same = reference is None or as_path(reference).resolve() == described.path.resolve()
        against = described if reference is None or same else as_path(reference)
        _bring_up(placed, canary, load_timeout_s, against, probe_options or quick)
    if load and load != canary:
        _bring_up(placed, load, load_timeout_s)
    removed = prune(placed, options.keep) if canary or load else ()
    written = [] if kubernetes_options is None else _manifests(kubernetes, placed, kubernetes_options)
    return replace(placed, notes=(*placed.notes, *fit_notes, *written), removed=(*placed.removed, *removed))


def _manifests(
    folder: str | os.PathLike[str] | None, placed: Deployment, options: KubernetesOptions
) -> list[str]:
    """Write manifests and return the note that names them."""
    from nm2trt.serving.kubernetes import write_manifests

    written = write_manifests(Path(folder or "."), placed, options)
    return [f"wrote {', '.join(map(str, written))}; look through them, then: kubectl apply -f {folder}"]


def _labels(texts: Sequence[str | os.PathLike[str]], artefact: Artefact) -> dict[str, list[str]]:
    from nm2trt.text_files import read_text

    labels = {}
    for text in texts:
        output, equals, file = os.fspath(text).partition("=")
        if not equals:
            if len(artefact.outputs) != 1:
                raise InputError(
                    f"the model has {len(artefact.outputs)} outputs; write OUTPUT={text} for the labels"
                )
            output, file = artefact.outputs[0].name, os.fspath(text)
        labels[output] = read_text(file, "a text").splitlines()
    return labels


def _server_version(url: str) -> str:
    if not url:
        return ""
    from nm2trt.backends._triton_server import TritonServer

    with TritonServer(url) as server:
        return str(server.metadata().get("version", ""))


def _local_gpus(url: str) -> tuple[str, ...]:
    """Return the compute capabilities of this machine's GPUs, if the server runs on it."""
    if not url:
        return ()
    from nm2trt.backends.address import parse_url
    from nm2trt.backends.cuda import probe_gpus

    if parse_url(url).host.rpartition(":")[0] not in ("localhost", "127.0.0.1", "[::1]"):
        return ()
    return tuple(gpu.target for gpu in probe_gpus()[0])


def _bring_up(
    placed: Deployment,
    url: str,
    load_timeout_s: float,
    reference: Path | Artefact | None = None,
    options: ProbeOptions | None = None,
) -> None:
    """Load a version that was just placed, and probe it if there is a reference; go back on failure."""
    from nm2trt.backends._triton_server import TritonServer

    try:
        with TritonServer(url, load_timeout_s=load_timeout_s) as server:
            server.load(placed.name)
        if reference is not None:
            report = probe(url, placed.name, reference, repository=placed.repository, options=options)
            report.require_passed()
    except BaseException as error:
        told = _go_back(placed, url, load_timeout_s)
        if isinstance(error, Nm2trtError):
            error.args = (f"{error}; {told}",)
        raise


def _go_back(placed: Deployment, url: str, load_timeout_s: float) -> str:
    """Undo a placement, on disk and in the server; return what is served now, in words."""
    from nm2trt.backends._triton_server import TritonServer
    from nm2trt.serving.repository import undo

    try:
        if not undo(placed):
            return f"version {placed.version} has been replaced by another since, so nothing was rolled back"
    except Nm2trtError as error:
        return f"it could not be rolled back: {error}"
    if placed.previous is None:
        now = f"version {placed.version} was the first and was removed"
    else:
        now = f"rolled back to version {placed.previous}"
    try:
        with TritonServer(url, load_timeout_s=load_timeout_s) as server:
            if placed.previous is None:
                server.unload(placed.name)
            else:
                server.load(placed.name)
    except Nm2trtError as error:
        return f"{now} in the repository, but the server was not told: {error}"
    return now


def deploy_command(command: DeployCommand) -> Deployment:
    """Deploy as the options of `nm2trt deploy` say; raises what `deploy` does."""
    parameters = dict(_pair(text) for text in command.parameters)
    return deploy(
        options=filled(DeployOptions, command, parameters=parameters),
        gpus=command.server_gpus,
        kubernetes=command.kubernetes,
        kubernetes_options=_kubernetes_options(command),
        **keywords(command, "server_gpus", *DeployOptions.__dataclass_fields__),
    )


def _kubernetes_options(command: DeployCommand) -> KubernetesOptions | None:
    asked = (command.image, command.model_store, command.canary_weight, command.canary_store)
    if command.kubernetes is None and not any(asked):
        return None
    return filled(KubernetesOptions, command, store=command.model_store)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{text!r} is not a parameter; write KEY=VALUE")
    return key, value
