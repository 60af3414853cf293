"""Dockerfiles and compose.yaml: no default image, only what is there, and commands that run without a container."""

import json
import re
import string
from pathlib import Path

import pytest

from nm2trt.cli import main

ROOT = Path(__file__).parents[1]
yaml = pytest.importorskip("yaml")
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
GIVEN = {"TENSORRT_IMAGE": "t:1", "TRITON_IMAGE": "s:1"}


def instructions(path):
    parse = pytest.importorskip("dockerfile_parse").DockerfileParser
    with path.open("rb") as file:
        return [(part["instruction"], part["value"]) for part in parse(fileobj=file).structure]


class Filled(string.Template):
    """Text whose ${NAME:-default} and ${NAME:?message} are filled as compose does."""

    braceidpattern = r"[A-Z_]+(?::[-?][^}]*)?"

    def fill(self, given):
        def value(name):
            name, _, default = name.partition(":")
            return given.get(name) or default[1:]

        names = {
            match["braced"]: value(match["braced"])
            for match in self.pattern.finditer(self.template)
            if match["braced"]
        }
        return self.substitute(names)


def services(**given):
    return yaml.safe_load(Filled((ROOT / "compose.yaml").read_text()).fill({**GIVEN, **given}))["services"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_base_image_has_no_default(path):
    found = [part for part in instructions(path) if part[0] != "COMMENT"]
    argument = f"{path.stem.upper()}_IMAGE"
    assert found[:2] == [("ARG", argument), ("FROM", f"${{{argument}}}")]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_copied_is_there(path):
    ignored = (ROOT / ".dockerignore").read_text().split()
    for instruction, value in instructions(path):
        if instruction == "COPY":
            for source in value.split()[:-1]:
                assert (ROOT / source).exists()
                assert source not in ignored


def test_the_environment_of_the_image_is_one_that_make_takes():
    text = "\n".join(value for _, value in instructions(ROOT / "docker/tensorrt.Dockerfile"))
    extras = re.search(r"\.\[([\w,]+)\]", text)[1].split(",")
    provided = re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text(), re.M)
    assert set(extras) <= set(provided)
    assert "touch /opt/venv/.ready" in text
    assert "VENV=/opt/venv" in text
    assert re.search(
        r"^VENV \?= ", (ROOT / "Makefile").read_text(), re.M
    )  # so the variable of the image counts


def test_compose_builds_these_dockerfiles_and_waits_in_order():
    found = services()
    for service in found.values():
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        (argument,) = service["build"]["args"]
        assert f"ARG {argument}" in (ROOT / service["build"]["dockerfile"]).read_text()
    assert found["serve"]["depends_on"]["deploy"]["condition"] == "service_completed_successfully"
    assert found["probe"]["depends_on"]["serve"]["condition"] == "service_healthy"
    assert all(port.startswith("127.0.0.1:") for port in found["serve"]["ports"])
    assert set(yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())["services"]) <= set(found)


def test_the_server_is_started_alike_in_image_and_compose():
    (command,) = (
        json.loads(value) for name, value in instructions(ROOT / "docker/triton.Dockerfile") if name == "CMD"
    )
    composed = services()["serve"]["command"]
    assert [word.replace("/srv/models", "/models") for word in composed] == command


def test_the_commands_of_compose_run(tmp_path, tritonserver, capsys):
    from nm2trt.backends.triton import TritonServer
    from tests.serving import served_nets as nets

    nets.linear(tmp_path / "net.onnx")
    found = services(MODEL="net.onnx", REFERENCE="net.onnx", NAME="composed")

    def here(service):
        places = {
            "/work": str(tmp_path),
            "/srv/models": str(tritonserver.repository),
            "serve:8000": tritonserver.http,
        }
        words = found[service]["command"]
        for there, place in places.items():
            words = [word.replace(there, place) for word in words]
        return words

    assert main(here("deploy")) == 0
    with TritonServer(f"http://{tritonserver.http}") as server:
        server.load("composed")
        assert main([*here("probe"), "--requests", "20", "--concurrency", "2"]) == 0
        server.unload("composed")
    assert "composed" in capsys.readouterr().out
