"""Shared by all tests."""

import copy
import functools
import gc
import os
import re
import signal
import sys
from pathlib import Path

import pytest

_COLLECTED = pytest.StashKey()

# Two test processes on a small machine: more threads than cores only make them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# argparse asks for a translation of each of its texts, which are on no disk.
os.environ["LANGUAGE"] = "C"

# What the tests import stays. Looking through it for garbage took a twelfth of all processor time.
gc.disable()

# A shell that starts the tests in the background of a script lets them ignore SIGINT, and their children too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

try:
    from hypothesis import settings
except ImportError:
    pass
else:
    # The same examples every time: a gate that fails by chance teaches people to try again.
    settings.register_profile("fixed", derandomize=True, deadline=None)
    settings.load_profile("fixed")


@pytest.hookimpl(tryfirst=True)  # before marks leave tests out
def pytest_collection_modifyitems(config, items):
    config.stash[_COLLECTED] = {item.path for item in items}


def _uses_torch(path):
    return re.search(r"^\s*(import torch|from torch)\b|importorskip\(.torch.\)", path.read_text(), re.M)


@pytest.hookimpl(specname="pytest_collection_modifyitems", trylast=True)
def pytest_torch_tests_in_one_process(items):
    """Let the second of two test processes begin with the tests that use PyTorch.

    Each takes half of the tests, and then some from the end of the other's: so one of them seldom compiles, traces
    or exports anything, for which PyTorch loads further modules for seconds.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    found = {path for path in {item.path for item in items} if _uses_torch(path)}
    others = [item for item in items if item.path not in found]
    half = len(items) // 2
    items[:] = [*others[:half], *(item for item in items if item.path in found), *others[half:]]


def pytest_collection_finish():
    gc.freeze()  # what could be collected stays too: looking for it takes up to a second in each process
    gc.enable()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture
def collected(pytestconfig):
    """The test files of this run if it was asked for all tests, else None."""
    whole = Path(__file__).parent
    asked = {Path(pytestconfig.invocation_params.dir, argument).resolve() for argument in pytestconfig.args}
    return pytestconfig.stash[_COLLECTED] if asked & {whole, whole.parent} else None


@pytest.fixture(autouse=True)
def _seeded():
    """Start every test at one point of torch's global generator, where torch is loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_initialized():
        torch.manual_seed(0)
    else:  # manual_seed would keep a stack trace each time, for the day that CUDA is initialised
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_table_of_torchlib():
    """Build torch's table of ONNX functions once per opset and process: half the time of a small export."""
    module = sys.modules.get("torch.onnx._internal.exporter._registration")
    registry = getattr(module, "ONNXRegistry", None)
    build = getattr(registry, "from_torchlib", None)
    if build is None or getattr(build, "shared", False):
        return
    made = {}

    def from_torchlib(*opset, **named):
        key = (*opset, *named.values())
        if key not in made:
            made[key] = build(*opset, **named)
        copied = copy.copy(made[key])
        copied.functions = {target: list(found) for target, found in copied.functions.items()}
        return copied

    from_torchlib.shared = True
    registry.from_torchlib = staticmethod(from_torchlib)
    # Each export looks several times through all operators of PyTorch, none of which comes later.
    operators = sys.modules.get("torch._export.utils")
    if hasattr(operators, "_materialize_cpp_cia_ops"):
        operators._materialize_cpp_cia_ops = functools.cache(operators._materialize_cpp_cia_ops)


_PROGRAMS = {}


@pytest.fixture
def one_export(monkeypatch):
    """Let PyTorch export a network only once per process: the same class, weights, example and options.

    For tests of what happens around an export that is made several times. Each gets a copy of the program.
    """
    torch = pytest.importorskip("torch")
    export = torch.onnx.export

    def remembered(model, args, kwargs, **options):
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        numbers = [leaf.numpy().tobytes() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        tensors = [*model.named_parameters(), *model.named_buffers()]
        weights = [(name, str(t.dtype), t.detach().numpy().tobytes()) for name, t in tensors]
        key = repr((type(model), str(model), weights, numbers, options))
        if key not in _PROGRAMS:
            _PROGRAMS[key] = export(model, args, kwargs=kwargs, **options)
        made = _PROGRAMS[key]
        return torch.onnx.ONNXProgram(made.model.clone(), made.exported_program)

    monkeypatch.setattr(torch.onnx, "export", remembered)


@pytest.fixture(scope="session")
def tritonserver(tmp_path_factory):
    """A real tritonserver on an empty repository, with explicit model control; one a test process.

    Where none is installed, tests that ask for it are skipped; they fail where NM2TRT_REQUIRE_TRITON is set.
    """
    from nm2trt.errors import BackendMissingError
    from nm2trt.serving.options import ServerOptions
    from nm2trt.serving.server.start import start_server

    pytest.importorskip("tritonclient")
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "models"
    repository.mkdir()
    try:
        server = start_server(repository, ServerOptions(load=(), log=folder / "log.txt"))
    except BackendMissingError as error:
        if os.environ.get("NM2TRT_REQUIRE_TRITON"):
            raise
        pytest.skip(f"no real server: {error}")
    yield server
    server.kill()
