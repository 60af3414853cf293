"""TensorRT proper as it is installed (`make trt-env`): everything up to the builder's refusal without a GPU."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import nm2trt
from nm2trt.backends import _trt_shared, choice, cuda, trt
from nm2trt.backends._trt_versions import row_of
from nm2trt.backends.protocol import Backend
from nm2trt.cli import main
from nm2trt.errors import BackendError, BackendMissingError, InputError
from tests.engine.nets import conv_net

try:
    import tensorrt
except ImportError:
    tensorrt = None

major = 0 if tensorrt is None else int(tensorrt.__version__.partition(".")[0])

pytestmark = [pytest.mark.trt, pytest.mark.skipif(tensorrt is None, reason="TensorRT is not installed")]

without_gpu = pytest.mark.skipif(bool(cuda.probe_gpus()[0]), reason="a GPU is here")


@pytest.fixture(scope="module")
def backend():
    return trt.load()


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return conv_net(tmp_path / "net.onnx")


def test_it_is_a_backend(backend):
    assert isinstance(backend, Backend)
    assert backend.version == tensorrt.__version__


def test_the_library_is_as_its_row_says(backend):
    row = backend.row
    if major < 11:
        for name in row.network_flags:
            assert hasattr(tensorrt.NetworkDefinitionCreationFlag, name)
    # STRICT_NANS came with 10.6; without it, `check` refuses the option.
    for name in {"SPARSE_WEIGHTS", "TF32", *row.type_flags.values()}:
        assert hasattr(tensorrt.BuilderFlag, name)
    if major < 10:
        assert not hasattr(tensorrt.BuilderFlag, "STRICT_NANS")
    if row.type_flags:
        assert not hasattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    assert row.progress == hasattr(tensorrt, "IProgressMonitor")
    assert row.timing_cache == hasattr(tensorrt.ITimingCache, "combine")


def test_what_the_build_path_calls_is_there():
    """Names that only a GPU machine would miss."""
    for name in ("set_memory_pool_limit", "set_tactic_sources", "create_timing_cache", "set_timing_cache"):
        assert hasattr(tensorrt.IBuilderConfig, name)
    for name in ("profiling_verbosity", "builder_optimization_level", "clear_flag"):
        assert hasattr(tensorrt.IBuilderConfig, name)
    for name in ("get_tensor_name", "get_tensor_mode", "get_tensor_location", "get_tensor_profile_shape"):
        assert hasattr(tensorrt.ICudaEngine, name)
    for name in (
        "set_input_shape",
        "set_tensor_address",
        "execute_async_v3",
        "set_optimization_profile_async",
    ):
        assert hasattr(tensorrt.IExecutionContext, name)
    for name in ("DETAILED",):
        assert hasattr(tensorrt.ProfilingVerbosity, name)
    for name in ("INPUT", "OUTPUT"):
        assert hasattr(tensorrt.TensorIOMode, name)
    assert hasattr(tensorrt.TensorLocation, "HOST")
    assert hasattr(tensorrt.MemoryPoolType, "WORKSPACE")
    assert hasattr(tensorrt.IPluginRegistry, "load_library")
    assert hasattr(tensorrt.IConvolutionLayer, "kernel")
    # TensorRT 11 has neither cuBLAS nor cuDNN to leave out.
    libraries = {name for name in trt._LIBRARY_TACTICS if hasattr(tensorrt.TacticSource, name)}
    assert libraries == (set(trt._LIBRARY_TACTICS) if major < 11 else set())


def test_shapes_are_given_as_the_library_s_own_type():
    assert tuple(tensorrt.Dims([1, 3, 8, 8])) == (1, 3, 8, 8)
    assert "Dims" in tensorrt.IOptimizationProfile.set_shape.__doc__


def test_every_dtype_of_the_library_has_a_name():
    from nm2trt.backends._trt_words import _DTYPES

    assert set(tensorrt.DataType.__members__) <= set(_DTYPES)


def test_build_machines_need_no_torch():
    packages = ("backends", "engine", "nm")
    for package in packages:
        found = pkgutil.iter_modules([f"{nm2trt.__path__[0]}/{package}"], f"nm2trt.{package}.")
        for module in found:
            # What needs torch says so; nothing else may bring it in (`tests/test_layering.py` has who may).
            source = module.module_finder.find_spec(module.name).loader.get_source(module.name)
            if "\nimport torch\n" not in source:
                importlib.import_module(module.name)
    importlib.import_module("nm2trt.manifest")
    assert "torch" not in sys.modules


def test_a_version_that_reads_less_refuses_the_opset(backend):
    assert row_of("trt", "8.6.0").max_opset == 17
    assert backend.max_opset == backend.row.max_opset


@without_gpu
def test_no_gpu_is_exit_4_with_one_sentence(net, capsys):
    assert main(["build", "net.onnx", "--sparsity", "--backend", "trt"]) == 4
    captured = capsys.readouterr()
    assert captured.err == (
        f"nm2trt: building with TensorRT {tensorrt.__version__} takes a GPU, and there is none here: no NVIDIA "
        "driver (libcuda.so.1 is not found); --backend trt-rtx builds without one\n"
    )
    assert captured.out == ""
    assert [path.name for path in net.parent.iterdir()] == ["net.onnx"]


@without_gpu
def test_without_a_gpu_it_is_not_the_default(net, capsys):
    assert choice.importlib.util.find_spec("tensorrt") is not None
    status = main(["build", "net.onnx", "--dry-run"])
    assert status in (0, 4)
    captured = capsys.readouterr()
    assert "trt-rtx" in captured.out if status == 0 else "TensorRT for RTX is not installed" in captured.err


@without_gpu
def test_the_builder_s_own_refusal_is_one_sentence(backend, net):
    """Past the probe, as where a driver is there and its GPU has gone."""
    with pytest.raises(BackendError, match=r"TensorRT \S+ cannot start: CUDA initialization failure.*35"):
        _trt_shared.parse(backend._library, net)


@without_gpu
def test_an_engine_is_not_loaded_without_a_driver(tmp_path):
    """In a process of its own: this version's runtime would end it."""
    path = tmp_path / "net.engine"
    path.write_bytes(b"ftrt" + bytes(20) + bytes([8, 6, 0, 12]) + bytes(100))
    code = "import sys, pathlib; from nm2trt.backends import trt; trt.load().open(pathlib.Path(sys.argv[1]))"
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 1, f"ended by signal {-ran.returncode}"
    assert "net.engine, an engine of TensorRT" in ran.stderr
    assert "takes a GPU, and there is none here" in ran.stderr


@without_gpu
def test_a_damaged_engine_is_told_before_the_gpu_is_asked_for(backend, tmp_path):
    path = tmp_path / "net.engine"
    path.write_bytes(b"ftrt" + bytes(4))
    with pytest.raises(InputError, match=r"net\.engine is cut short: 8 bytes"):
        backend.open(path)
    path.write_bytes(b"GIF8" + bytes(99))
    with pytest.raises(InputError, match=r"net\.engine is not an engine of TensorRT"):
        backend.open(path)


@without_gpu
def test_choosing_a_target_asks_for_the_gpu(backend):
    with pytest.raises(BackendMissingError, match="takes a GPU"):
        backend.choose_targets(("sm90",))


def test_doctor_names_it(capsys):
    assert main(["doctor"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("trt "))
    assert tensorrt.__version__ in line
