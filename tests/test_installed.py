"""Versions of distributions, beside `importlib.metadata`."""

import importlib.metadata
import sys

import pytest

from nm2trt.installed import installed_version


def test_every_distribution_here_has_the_version_that_importlib_metadata_reads():
    for found in importlib.metadata.distributions():
        name = found.metadata["Name"]
        assert installed_version(name) == importlib.metadata.version(name), name


def test_a_missing_distribution_has_no_version_and_the_first_installed_name_decides():
    assert installed_version("no-such-distribution") == ""
    assert installed_version("no_such_distribution", "ONNX") == importlib.metadata.version("onnx")


@pytest.mark.parametrize(
    "folder",
    ["Some_Library-1.2.3.post1.dist-info", "some.library-1.2.3.post1-py3.11.egg-info"],
    ids=["wheel", "egg"],
)
def test_the_first_folder_of_the_path_decides(monkeypatch, tmp_path, folder):
    (tmp_path / "first" / folder).mkdir(parents=True)
    (tmp_path / "second" / "some_library-9.dist-info").mkdir(parents=True)
    missing, archive = tmp_path / "missing", tmp_path / "archive.zip"
    archive.write_bytes(b"PK")
    monkeypatch.setattr(
        sys, "path", [str(path) for path in (missing, archive, tmp_path / "first", tmp_path / "second")]
    )
    assert installed_version("some-library") == "1.2.3.post1"
