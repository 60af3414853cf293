"""Sample 03: its network is torchvision's, and the quick form runs where the archives are."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "03_pretrained"
ARCHIVES = os.environ.get("NM2TRT_ARCHIVES", "")


@pytest.fixture
def model():
    spec = importlib.util.spec_from_file_location("sample_03_mobilenet", SAMPLE / "mobilenet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mobilenet_v2().eval()


def test_network_has_the_checkpoints_size_and_layers(model):
    assert sum(p.numel() for p in model.parameters()) == 3_504_872
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 52
    assert sum(conv.groups > 1 for conv in convs) == 17
    assert {"features.0.0.weight", "features.18.1.running_var", "classifier.1.bias"} <= set(
        model.state_dict()
    )
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVES, reason="NM2TRT_ARCHIVES names no folder of downloaded packages")
def test_quick_run_repairs_exports_and_verifies(tmp_path):
    command = [sys.executable, str(SAMPLE / "repair.py"), "--quick", "--archives", ARCHIVES]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "verify: 18 dense-by-plan, 35 holds" in done.stdout
    assert (tmp_path / "results" / "03_pretrained" / "mobilenet.json").is_file()
