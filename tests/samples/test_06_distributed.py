"""Sample 06 with torchrun: two processes, DDP and FSDP2."""

import contextlib
import os
import signal
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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [script, "--epochs", "2", "--out", str(tmp_path), *(["--fsdp"] if kind == "fsdp2" else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        told, errors = started.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)  # workers outlive a torchrun that is killed
    assert started.returncode == 0, errors
    assert "2 processes, 42 steps" in told
    assert f"{kind}.onnx: 3 weights hold 2:4, 0 are broken" in told
