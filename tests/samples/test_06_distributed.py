"""Sample 06 with torchrun: two processes, DDP and FSDP2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_to_a_file_that_holds(kind, tmp_path):
    pytest.importorskip("sklearn")
    script = str(ROOT / "samples" / "06_trainers" / "distributed.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += [script, "--epochs", "2", "--out", str(tmp_path), *(["--fsdp"] if kind == "fsdp2" else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 processes, 42 steps" in done.stdout
    assert f"{kind}.onnx: 3 weights hold 2:4, 0 are broken" in done.stdout
