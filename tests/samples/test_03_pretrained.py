"""Sample 03: its network is torchvision's, and both scripts run on archives that they fetch themselves."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "03_pretrained"
CACHE = Path(tempfile.gettempdir()) / "nm2trt-test-cache"


def of_sample(name):
    spec = importlib.util.spec_from_file_location(f"sample_03_{name}", SAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def quick(script, folder):
    """Run a script's quick form; the test is skipped when the registries cannot be reached."""
    command = [sys.executable, str(SAMPLE / script), "--quick", "--archives", str(CACHE)]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    if done.returncode == 2 and "error:" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_network_has_the_checkpoints_size_and_layers():
    model = of_sample("mobilenet").mobilenet_v2().eval()
    assert sum(p.numel() for p in model.parameters()) == 3_504_872
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 52
    assert sum(conv.groups > 1 for conv in convs) == 17
    assert {"features.0.0.weight", "features.18.1.running_var", "classifier.1.bias"} <= set(
        model.state_dict()
    )
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_a_package_that_cannot_be_had_is_one_sentence(tmp_path, monkeypatch):
    archives = of_sample("archives")
    monkeypatch.setattr(archives.shutil, "which", lambda _name: None)
    with pytest.raises(archives.Unavailable, match=r"things-1\.0\.tgz is missing, and there is no npm"):
        archives.npm_archive(tmp_path, "things", "1.0")
    with pytest.raises(archives.Unavailable, match=r"holds no things_\*\.deb, and there is no apt-get"):
        archives.debian_archive(tmp_path, "things")


@pytest.mark.slow
def test_mobilenet_is_repaired_exported_and_verified(tmp_path):
    output = quick("repair.py", tmp_path)
    assert "verify: 18 dense-by-plan, 35 holds" in output
    assert (tmp_path / "results" / "03_pretrained" / "mobilenet.json").is_file()


@pytest.mark.slow
def test_sentence_encoder_is_repaired(tmp_path):
    output = quick("sentences.py", tmp_path)
    assert output.count("agreement") == 2
    assert (tmp_path / "results" / "03_pretrained" / "minilm.json").is_file()
