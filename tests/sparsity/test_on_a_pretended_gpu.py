"""The tests marked `gpu` of what trains and prunes, here: on a device that is told apart from the CPU and computes as it does.

In a process of its own, since PyTorch has one place for a foreign device and does not give it back.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch is too old",
)
TRAINING = (
    "tests/sparsity/test_mixed_precision.py",
    "tests/sparsity/core/test_recurrent.py",
    "tests/sparsity/fcpts/test_session.py",
    "tests/nm/test_mask.py",
    "tests/nm/test_gpu_kernels.py",
)


WRONG = """
import pytest, torch

@pytest.mark.gpu
@pytest.mark.parametrize("other", ["cpu", "cuda"])
def test_wrong(other):
    weight = torch.ones(4, 4).cuda().requires_grad_()
    (weight * torch.ones(4, 4, device=other)).sum().backward()
    assert float(weight.grad.sum()) == 16
"""


def failed_and_passed(folder, *words):
    """Run tests of a GPU on the pretended one, and one more whose tensors lie on two devices, which must fail."""
    wrong = folder / "test_wrong.py"
    wrong.write_text(WRONG)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "tests.sparsity.pretended_gpu"]
    setup = ["-c", str(ROOT / "setup.cfg"), "--rootdir", str(ROOT), *words, str(wrong)]
    done = subprocess.run([*command, *setup], cwd=ROOT, capture_output=True, text=True, check=False)
    report = done.stdout[-3000:] + done.stderr[-1000:]
    assert "same device, but found pretended:0 and cpu" in report
    return re.findall(r"^FAILED \S*::(\S+)", report, re.M), int(re.search(r"(\d+) passed", report)[1])


def test_training_keeps_its_tensors_on_one_device(tmp_path):
    # Semi-structured tensors are NVIDIA's own kernels, and the test of all types asks for the fused ones.
    left_out = ("semi_structured", "GRU", "RNN", "test_a_gpu_gives_the_cpu_mask")
    failed, passed = failed_and_passed(tmp_path, *TRAINING, "-k", " and ".join(f"not {n}" for n in left_out))
    assert failed == ["test_wrong[cpu]"]
    assert passed >= 25


@pytest.mark.slow
def test_reconstruction_keeps_its_tensors_on_one_device(tmp_path):
    failed, passed = failed_and_passed(tmp_path, "tests/sparsity/reconstruct/test_session.py")
    assert failed == ["test_wrong[cpu]"]
    assert passed == 7
