"""Kubernetes and KServe manifests that run a model repository on Triton, written as YAML files.

    deployment.yaml    Triton, probed on its health routes, with the repository from a volume or object store
    service.yaml       HTTP 8000, gRPC 8001, metrics 8002
    autoscaling.yaml   a HorizontalPodAutoscaler on the requests that wait in Triton's queue
    canary.yaml        a second Deployment and Service, and an HTTPRoute that shares requests by weight
    kserve/inferenceservice.yaml    the same model as a KServe InferenceService, instead of all of these

`kubectl apply -f FOLDER` takes the first four; it does not enter `kserve/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nm2trt.errors import InputError, OutputError
from nm2trt.file_replacement import check_output_folder, make_output_folder
from nm2trt.files import write_atomic
from nm2trt.serving.options import KubernetesOptions
from nm2trt.serving.repository import Deployment
from nm2trt.serving.yaml_text import yaml_text

QUEUE_METRIC = "nv_inference_pending_request_count"

_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
_INSTEAD = "give another folder with --kubernetes"
_LONGEST = 50  # of an object's name, so that `-canary` and what Kubernetes appends fit into its 63


def check_folder(folder: Path, repository: Path, name: str) -> None:
    """Check, before anything is placed, that manifests of a model can be written to a folder.

    Raises:
        InputError: The folder lies in the model repository, where Triton would take it for a model; or the
            model's name does not make one of Kubernetes.
        OutputError: The folder cannot be made or written.
    """
    if repository.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise InputError(
            f"{folder} lies in the model repository, where Triton would take it for a model; name another"
        )
    check_output_folder(folder, _INSTEAD)
    inner = folder / "kserve"
    check_output_folder(inner, _INSTEAD)
    if inner.is_symlink():
        raise OutputError(f"{inner} is a link, and writing would follow it; remove it")
    for path in (*folder.glob("*.yaml"), *inner.glob("*.yaml")):
        if path.is_dir() and not path.is_symlink():
            raise OutputError(f"{path} is a folder, where a manifest may be written; {_INSTEAD}")
    _object_name(name)


def write_manifests(folder: Path, placed: Deployment, options: KubernetesOptions) -> tuple[Path, ...]:
    """Write the manifests of a placed model and return their paths; each file is written whole or not at all.

    A `canary.yaml` of before is removed if there is no canary now.

    Raises:
        InputError: As `check_folder`.
        OutputError: A file cannot be written.
    """
    check_folder(folder, placed.repository, placed.name)
    written = []
    for name, (comment, documents) in manifests(placed, options).items():
        path = folder / name
        make_output_folder(path.parent, _INSTEAD)
        write_atomic(path, yaml_text(*documents, comment=comment), follow=False)
        written.append(path)
    if not options.canary_weight:
        (folder / "canary.yaml").unlink(missing_ok=True)
    return tuple(written)


def manifests(placed: Deployment, options: KubernetesOptions) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Return the comment and the documents of each file, by its name in the folder."""
    name = _object_name(placed.name)
    made = f"Made by nm2trt deploy for version {placed.version} of {placed.name}."
    files = {
        "deployment.yaml": (made, [_deployment(name, placed, options, options.store)]),
        "service.yaml": (made, [_service(name)]),
        "autoscaling.yaml": (
            f"{made}\nNeeds an adapter that serves Triton's {QUEUE_METRIC} as a metric of pods.",
            [_autoscaler(name, options)],
        ),
        "kserve/inferenceservice.yaml": (
            f"{made}\nTakes the place of the other files in a cluster with KServe.",
            [_inference_service(name, placed, options)],
        ),
    }
    if options.canary_weight:
        canary = f"{name}-canary"
        route = _route(name, canary, options.canary_weight)
        documents = [_deployment(canary, placed, options, options.canary_store), _service(canary), route]
        told = f"{options.canary_weight} % of the requests go to the canary; set the weights to move them"
        needs = f"{made}\nNeeds the Gateway API: name your Gateway under parentRefs.\n{told}."
        files["canary.yaml"] = (needs, documents)
    return files


def _object_name(model: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    if not name or not name[0].isalpha() or len(name) > _LONGEST:
        raise InputError(
            f"{model!r} does not make a name of a Kubernetes object; deploy under a name that begins with a "
            f"letter and has at most {_LONGEST} characters"
        )
    return name


def _metadata(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "labels": _labels(name), **more}


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "nm2trt"}


def _selector(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name}


def _deployment(name: str, placed: Deployment, options: KubernetesOptions, store: str) -> dict[str, Any]:
    volumes, mounts, repository = _repository(store)
    annotations = {
        # A new version changes the pods, so that applying this file starts new ones before old ones end.
        "nm2trt/artefact-sha256": placed.artefact_sha256,
        "nm2trt/version": str(placed.version),
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(_PORTS["metrics"]),
        "prometheus.io/path": "/metrics",
    }
    pod = {
        "terminationGracePeriodSeconds": 60,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(placed, options, repository, mounts, store)],
        "volumes": [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            *volumes,
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(name),
        "spec": {
            "selector": {"matchLabels": _selector(name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": _labels(name), "annotations": annotations}, "spec": pod},
        },
    }


def _container(
    placed: Deployment, options: KubernetesOptions, repository: str, mounts: list[dict[str, Any]], store: str
) -> dict[str, Any]:
    ready = f"/v2/models/{placed.name}/ready"
    container: dict[str, Any] = {
        "name": "triton",
        "image": options.image,
        "args": [
            "tritonserver",
            f"--model-repository={repository}",
            "--model-control-mode=explicit",
            f"--load-model={placed.name}",
            "--exit-timeout-secs=30",
        ],
        "ports": [{"name": port, "containerPort": number} for port, number in _PORTS.items()],
        # Loading may take minutes; until then neither of the other two is asked.
        "startupProbe": _probe(ready, periodSeconds=5, failureThreshold=120),
        "readinessProbe": _probe(ready, periodSeconds=5, failureThreshold=3),
        "livenessProbe": _probe("/v2/health/live", periodSeconds=10, failureThreshold=6),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}, *mounts],  # noqa: S108 - in the pod
    }
    if "KIND_GPU" in placed.config:
        container["resources"] = {"limits": {"nvidia.com/gpu": 1}}
    if not store.startswith("pvc://"):
        # Keys of the object store as Triton reads them, e.g. AWS_ACCESS_KEY_ID; a service account needs none.
        container["envFrom"] = [{"secretRef": {"name": "nm2trt-store", "optional": True}}]
    return container


def _probe(path: str, **settings: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5, **settings}


def _repository(store: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Return volumes, mounts and Triton's `--model-repository` for a store."""
    if not store.startswith("pvc://"):
        return [], [], store
    claim, _, folder = store.removeprefix("pvc://").partition("/")
    volume = {"name": "models", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    mount: dict[str, Any] = {"name": "models", "mountPath": "/models", "readOnly": True}
    if folder.strip("/"):
        mount["subPath"] = folder.strip("/")
    return [volume], [mount], "/models"


def _service(name: str) -> dict[str, Any]:
    ports = [{"name": port, "port": number, "targetPort": port} for port, number in _PORTS.items()]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name),
        "spec": {"selector": _selector(name), "ports": ports},
    }


def _autoscaler(name: str, options: KubernetesOptions) -> dict[str, Any]:
    target = {"type": "AverageValue", "averageValue": str(options.queue_target)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(name),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": options.replicas[0],
            "maxReplicas": options.replicas[1],
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": QUEUE_METRIC}, "target": target}}],
            # A pod takes a while to load its model: do not give it up in the first quiet minute.
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
        },
    }


def _route(name: str, canary: str, weight: int) -> dict[str, Any]:
    port = _PORTS["http"]
    shares = [
        {"name": name, "port": port, "weight": 100 - weight},
        {"name": canary, "port": port, "weight": weight},
    ]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": _metadata(name),
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": shares}]},
    }


def _inference_service(name: str, placed: Deployment, options: KubernetesOptions) -> dict[str, Any]:
    model: dict[str, Any] = {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "image": options.image,
        # KServe moves requests to a new revision by weight: the newest gets the canary's share.
        "storageUri": options.canary_store or options.store,
    }
    if "KIND_GPU" in placed.config:
        model["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    predictor: dict[str, Any] = {
        "minReplicas": options.replicas[0],
        "maxReplicas": options.replicas[1],
        "scaleMetric": "concurrency",
        "scaleTarget": options.queue_target,
        "model": model,
    }
    if options.canary_weight:
        predictor["canaryTrafficPercent"] = options.canary_weight
    annotations: Mapping[str, str] = {"nm2trt/artefact-sha256": placed.artefact_sha256}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": _metadata(name, annotations=annotations),
        "spec": {"predictor": predictor},
    }
