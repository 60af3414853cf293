"""Does a plan's TensorRT and target fit a server: stated, told, or not known."""

import dataclasses
from pathlib import Path

import pytest

from nm2trt.errors import BackendError, InputError
from nm2trt.serving.artefact import Artefact
from nm2trt.serving.releases import RELEASES, check_fit, find_releases, release_of_server

PLAN = Artefact(Path("m.plan"), "trt", (), (), versions={"trt": "10.9.0.34"}, targets=("sm86",))


@pytest.mark.parametrize(
    ("version", "release"),
    [("2.43.0", "24.02"), ("2.45.0", "24.04"), ("2.51.0", "24.10"), ("2.53.0", "24.12"), ("2.54.0", "25.01"), ("2.56.0", "25.03")],
)  # fmt: skip
def test_release_of_a_server(version, release):
    assert release_of_server(version) == release


@pytest.mark.parametrize("version", ["2.42.0", "2.57.0", "3.0.0", "dev", "", "2", "2.x"])
def test_release_that_no_source_states(version):
    assert release_of_server(version) == ""


def test_every_row_has_a_source_and_three_numbers_at_least():
    for row in RELEASES:
        assert row.source.startswith("https://"), row
        assert len(row.tensorrt.split(".")) >= 3, row
    assert len({row.tag for row in RELEASES}) == len(RELEASES)


@pytest.mark.parametrize(
    "stated", ["25.03", "25.03-trtllm-python-py3", "nvcr.io/nvidia/tritonserver:25.04-trtllm-python-py3"]
)
def test_a_stated_release_that_fits(stated):
    assert check_fit(PLAN, release=stated, gpus=("sm86",)) == []


def test_a_stated_release_of_another_tensorrt():
    with pytest.raises(
        BackendError,
        match=r"m.plan was built by TensorRT 10.9.0.34.*24.10-trtllm-python-py3 has 10.4.0 \(https://.*build it with",
    ):
        check_fit(PLAN, release="24.10")


def test_a_release_without_a_row():
    with pytest.raises(
        InputError, match=r"which TensorRT Triton '24.10-py3' has is not known here.*--server-tensorrt"
    ):
        check_fit(PLAN, release="24.10-py3")


def test_a_stated_tensorrt():
    assert check_fit(PLAN, tensorrt="10.9.0", gpus=("sm80", "sm86")) == []
    with pytest.raises(BackendError, match=r"loads in its own only: the server has TensorRT 10.9.0.33"):
        check_fit(PLAN, tensorrt="10.9.0.33")


@pytest.mark.parametrize("text", ["10.9", "10", "v10.9.0", "10.9.0.34.1", "new"])
def test_a_tensorrt_that_is_not_stated_whole(text):
    with pytest.raises(InputError, match=r"is not a version of TensorRT; write it whole, as in 10\.9\.0\.34"):
        check_fit(PLAN, tensorrt=text)


def test_a_server_that_tells_its_version():
    assert check_fit(PLAN, server_version="2.56.0", gpus=("sm86",)) == []
    (note,) = check_fit(PLAN, server_version="2.51.0", gpus=("sm86",))
    assert "Triton 24.10, which has 10.4.0" in note
    assert "does not say which image it is" in note


def test_a_server_of_another_major_tensorrt_is_refused_whichever_image_it_is():
    old = dataclasses.replace(PLAN, versions={"trt": "8.6.1.6"})
    with pytest.raises(BackendError, match=r"built by TensorRT 8.6.1.6.*the server is Triton 24.10"):
        check_fit(old, server_version="2.51.0")


def test_what_is_not_known_is_said():
    notes = check_fit(PLAN, server_version="2.99.0")
    assert "of server 2.99.0 is not known here and was not checked" in notes[0]
    assert "the plan is for sm86; the server's GPU was not asked" in notes[1]


def test_another_gpu():
    with pytest.raises(
        BackendError, match=r"m.plan is for sm86, the server's GPU is sm90; build it on that GPU"
    ):
        check_fit(PLAN, release="25.03", gpus=("sm90",))


def test_a_gpu_that_is_written_otherwise():
    with pytest.raises(InputError, match="'86' is not a compute capability; write it as in sm86"):
        check_fit(PLAN, release="25.03", gpus=("86",))


def test_a_target_that_the_release_gave_up():
    old = dataclasses.replace(PLAN, targets=("sm70",), versions={"trt": "10.8.0.43"})
    with pytest.raises(BackendError, match=r"m.plan is for sm70; Triton 25.01 supports sm75 and later"):
        check_fit(old, release="25.01")


@pytest.mark.parametrize("kind", ["onnx", "trt-rtx"])
def test_only_tensorrt_plans_are_bound_to_a_version(kind):
    assert check_fit(dataclasses.replace(PLAN, kind=kind), release="24.10") == []


def test_finding_a_release():
    assert [row.tag for row in find_releases("23.04")] == ["23.04-py3"]


@pytest.mark.parametrize(
    "text",
    [
        "23.05-py3",
        "nvidia/tritonserver:23.05-py3",
        "registry.example/nvidia/tritonserver:23.05-py3",
        "registry.example:5000/nvidia/tritonserver:23.05-py3",
        "registry.example:5000/nvidia/tritonserver:23.05-py3@sha256:" + "0" * 64,
    ],
)
def test_a_release_is_found_by_its_image(text):
    assert find_releases(text) == find_releases("23.05-py3")


def test_a_target_too_old_or_not_is_judged_by_the_image_too():
    for image in ("23.05-py3", "registry.example/nvidia/tritonserver:23.05-py3"):
        plan = Artefact(Path("m.plan"), "trt", (), (), versions={"trt": "8.6.1.2"}, targets=("sm70",))
        check_fit(plan, release=image, gpus=("sm70",))
