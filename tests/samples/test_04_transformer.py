"""Sample 04: its text is labelled and split as BERT does; the whole runs where the package is."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "04_transformer"
ARCHIVES = os.environ.get("NM2TRT_ARCHIVES", "")


@pytest.fixture(scope="module")
def names():
    spec = importlib.util.spec_from_file_location("sample_04_names", SAMPLE / "names.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_have_one_heading_each_and_calibration_has_others(names):
    texts, labels = names.labelled_names()
    assert len(texts) == len(labels) == len(set(texts))
    assert {"tomato", "grinning face", "for all"} <= set(texts)
    assert dict(zip(texts, labels, strict=True))["tomato"] == "food and drink"
    assert not set(names.other_names(200)) & set(texts)


def test_words_are_split_into_the_longest_pieces(names):
    vocabulary = {
        w: at for at, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "##s", "ca", "-", "##t"])
    }
    found = names.tokens(["Cats - dog"], vocabulary)
    assert found["ids"][0, :7].tolist() == [2, 4, 5, 7, 1, 3, 0]
    assert found["mask"].sum() == 6


def test_nearest_other_text_decides(names):
    points = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    assert names.nearest_is_right(points, list("aabb")).all()
    assert names.nearest_is_right(points, list("abba")).sum() == 0


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVES, reason="NM2TRT_ARCHIVES names no folder of downloaded packages")
def test_goes_all_the_way(tmp_path):
    command = [
        sys.executable,
        str(SAMPLE / "compress.py"),
        "--archives",
        ARCHIVES,
        "--out",
        str(tmp_path),
        "--names",
        "60",
        "--samples",
        "128",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("36 holds") == 2
    right = dict(re.findall(r"^  (\w+) +([\d.]+)%", done.stdout, re.M))
    assert set(right) == {"ONNX", "magnitude", "prune", "cast", "quantize"}
    assert "verify-int8" in (tmp_path / "report.html").read_text()
