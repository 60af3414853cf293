"""Manifests for Kubernetes and KServe: against the published schemas, and against what Triton really answers."""

import json
import subprocess
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from nm2trt.cli import main
from nm2trt.errors import InputError
from nm2trt.serving.kubernetes import QUEUE_METRIC, manifests, write_manifests
from nm2trt.serving.options import KubernetesOptions
from nm2trt.serving.repository import Deployment
from nm2trt.serving.yaml_text import yaml_text
from tests.engine.nets import conv_net

yaml = pytest.importorskip("yaml")

OPTIONS = KubernetesOptions(
    image="registry.example/triton:25.04-py3",
    store="pvc://models/stable",
    replicas=(2, 5),
    queue_target=3,
    canary_weight=10,
    canary_store="s3://bucket/canary",
)


@pytest.fixture
def placed(tmp_path):
    config = "instance_group { kind: KIND_GPU }"
    made = (
        tmp_path / "models",
        "ResNet_50.v1",
        3,
        2,
        "tensorrt",
        tmp_path / "m.engine",
        "ab" * 32,
        config,
        (),
        (),
    )
    return Deployment(*made)


def written(folder, placed, options):
    return {
        str(path.relative_to(folder)): list(yaml.safe_load_all(path.read_text()))
        for path in write_manifests(folder, placed, options)
    }


def by_kind(files):
    return {
        document["kind"]: document
        for name, found in files.items()
        if name != "canary.yaml"
        for document in found
    }


def test_the_files_hold_what_was_meant(tmp_path, placed):
    files = written(tmp_path / "k8s", placed, OPTIONS)
    assert files == {name: documents for name, (_, documents) in manifests(placed, OPTIONS).items()}
    assert set(files) == {
        "deployment.yaml",
        "service.yaml",
        "autoscaling.yaml",
        "canary.yaml",
        "kserve/inferenceservice.yaml",
    }


def test_pods_are_selected_probed_and_scaled_by_the_same_names(tmp_path, placed):
    found = by_kind(written(tmp_path / "k8s", placed, OPTIONS))
    pod, service, scaler = (
        found["Deployment"]["spec"]["template"],
        found["Service"],
        found["HorizontalPodAutoscaler"],
    )
    labels = pod["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert found["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert (
        scaler["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"] == "resnet-50-v1"
    )
    assert "replicas" not in found["Deployment"]["spec"]  # else each apply would undo what the autoscaler did
    (container,) = pod["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/models/ResNet_50.v1/ready", "port": "http"}
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert container["volumeMounts"][1] == {
        "name": "models",
        "mountPath": "/models",
        "readOnly": True,
        "subPath": "stable",
    }


def test_a_new_version_changes_the_pods(placed):
    def template(version):
        return manifests(version, OPTIONS)["deployment.yaml"][1][0]["spec"]["template"]

    assert template(placed) != template(replace(placed, version=4, artefact_sha256="cd" * 32))


def test_a_canary_gets_its_share_and_its_own_repository(tmp_path, placed):
    documents = written(tmp_path / "k8s", placed, OPTIONS)["canary.yaml"]
    deployment, service, route = documents
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert "--model-repository=s3://bucket/canary" in container["args"]
    assert container["envFrom"] == [{"secretRef": {"name": "nm2trt-store", "optional": True}}]
    shares = {ref["name"]: ref["weight"] for ref in route["spec"]["rules"][0]["backendRefs"]}
    assert shares == {"resnet-50-v1": 90, service["metadata"]["name"]: 10}
    plain = replace(OPTIONS, canary_weight=0, canary_store="")
    assert "canary.yaml" not in written(tmp_path / "k8s", placed, plain)
    assert not (tmp_path / "k8s" / "canary.yaml").exists()


def test_a_cpu_model_asks_for_no_gpu(placed):
    text = json.dumps(manifests(replace(placed, config="instance_group { kind: KIND_CPU }"), OPTIONS))
    assert "nvidia.com/gpu" not in text


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_schemas_hold(tmp_path, placed, version):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    seen = []
    for documents in written(tmp_path, placed, OPTIONS).values():
        for document in documents:
            if document["apiVersion"] not in ("gateway.networking.k8s.io/v1", "serving.kserve.io/v1beta1"):
                kubernetes_validate.validate(document, version, strict=True)
                seen.append(document["kind"])
    assert sorted(seen) == ["Deployment", "Deployment", "HorizontalPodAutoscaler", "Service", "Service"]
    wrong = {**manifests(placed, OPTIONS)["service.yaml"][1][0], "spec": {"ports": [{"port": "http"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_the_inference_service_fits_the_classes_of_kserve(tmp_path, placed):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(Path(__file__).with_name("kserve_0.21.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    (document,) = written(tmp_path, placed, OPTIONS)["kserve/inferenceservice.yaml"]
    assert list(validator.iter_errors(document)) == []
    document["spec"]["predictor"]["model"]["planted"] = 1
    document["spec"]["predictor"]["minReplicas"] = "2"
    document["spec"]["predictor"]["model"]["modelFormat"] = {"name": 3}
    found = sorted("/".join(map(str, error.path)) for error in validator.iter_errors(document))
    model = "spec/predictor/model"
    assert found == ["spec/predictor/minReplicas", model, f"{model}/modelFormat/name"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": ""}, "not the name of an image"),
        ({"image": "a b"}, "not the name of an image"),
        ({"store": ""}, "not a place of a repository"),
        ({"store": "/models"}, "not a place of a repository"),
        ({"store": "pvc://claim/../other"}, "not a place of a repository"),
        ({"replicas": (3, 2)}, "fewest and the most"),
        ({"replicas": (3,)}, "fewest and the most"),
        ({"canary_store": ""}, "weight and its repository"),
        ({"canary_weight": 0}, "weight and its repository"),
    ],
)
def test_wrong_options_are_one_sentence(change, words):
    with pytest.raises(InputError, match=words):
        replace(OPTIONS, **change)


@pytest.mark.parametrize("name", ["50", "x" * 60, "__"])
def test_a_name_that_kubernetes_would_refuse(placed, name):
    with pytest.raises(InputError, match="deploy under a name"):
        manifests(replace(placed, name=name), OPTIONS)


def test_deploy_writes_manifests_or_places_nothing(tmp_path, capsys):
    pytest.importorskip("tritonclient")
    conv_net(tmp_path / "m.onnx", dtype="float32", layers=1, shape=("n", 16, 4, 4))
    words = [
        "deploy",
        str(tmp_path / "m.onnx"),
        "--repository",
        str(tmp_path / "models"),
        "--name",
        "m",
        "--backend",
        "python",
    ]
    image = ["--image", "triton:25.04-py3"]
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "kserve").symlink_to(tmp_path)
    (tmp_path / "full" / "canary.yaml").mkdir(parents=True)
    for wrong in (
        ["--kubernetes", str(tmp_path / "k8s")],
        [*image, "--model-store", "pvc://m"],
        ["--kubernetes", str(tmp_path / "models" / "k8s"), *image, "--model-store", "pvc://m"],
        *(
            ["--kubernetes", str(tmp_path / folder), *image, "--model-store", "pvc://m"]
            for folder in ("m.onnx", "m.onnx/k8s", "dangling", "dangling/k8s", "linked", "full")
        ),
        ["--kubernetes", "/proc/k8s", *image, "--model-store", "pvc://m"],
    ):
        assert main([*words, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "models").exists()
    assert main([*words, "--kubernetes", str(tmp_path / "k8s"), *image, "--model-store", "pvc://m"]) == 0
    assert "kubectl apply -f" in capsys.readouterr().out
    (deployment,) = yaml.safe_load_all((tmp_path / "k8s" / "deployment.yaml").read_text())
    assert "resources" not in deployment["spec"]["template"]["spec"]["containers"][0]


def test_yaml_text_is_read_back_as_it_was():
    value = {
        "on": "yes", "empty": [], "none": None, "number": 1, "text": "1", "colon": "a: b", "hash": "#c", "nested": [[1, [2]], {"a": {"b": "ü\n"}}],
        "dash": "-", "tilde": "~", "null": "null", "path": "/v2/x", "float": 0.5, "url": "s3://b/c", "empty text": "",
    }  # fmt: skip
    assert yaml.safe_load(yaml_text(value, comment="two\nlines")) == value
    assert list(yaml.safe_load_all(yaml_text(value, {"a": 1}))) == [value, {"a": 1}]


def test_the_real_server_has_the_routes_the_flags_and_the_metric(tmp_path, tritonserver):
    from nm2trt.backends.triton import TritonServer
    from nm2trt.pipeline.deploy import deploy
    from nm2trt.serving.installation import find_server
    from nm2trt.serving.options import DeployOptions
    from tests.serving import served_nets as nets

    options = replace(OPTIONS, canary_weight=0, canary_store="")
    model = nets.linear(tmp_path / "m.onnx")
    made = deploy(model, tritonserver.repository, "routes", DeployOptions(backend="python"), kubernetes=tmp_path / "k8s", kubernetes_options=options)  # fmt: skip
    (container,) = manifests(made, options)["deployment.yaml"][1][0]["spec"]["template"]["spec"]["containers"]
    routes = {
        container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }

    def status(route):
        try:
            return urllib.request.urlopen(f"http://{tritonserver.http}{route}", timeout=30).status
        except urllib.error.HTTPError as error:
            return error.code

    with TritonServer(f"http://{tritonserver.http}") as server:
        assert status("/v2/models/routes/ready") == 400  # no pod is asked before its model is loaded
        server.load("routes")
        assert {status(route) for route in routes} == {200}
        text = urllib.request.urlopen(f"http://{tritonserver.metrics}/metrics", timeout=30).read().decode()
        server.unload("routes")
    assert f'{QUEUE_METRIC}{{model="routes"' in text
    found = find_server()
    told = subprocess.run(
        [found.binary, "--help"], capture_output=True, text=True, check=False, env=found.variables()
    )
    for word in container["args"][1:]:
        assert word.partition("=")[0] in told.stdout + told.stderr
