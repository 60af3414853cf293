"""An engine's session on a driver and a library made for the test: addresses, profiles, memory given back.

No GPU is here. The driver is a real shared library, compiled from C, in which device memory is host memory; so
the calls through ctypes, their 64-bit addresses and copies are real. The library doubles its input on it.
"""

import ctypes
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from nm2trt.backends import _trt_session, _trt_shared, cuda
from nm2trt.backends._trt_versions import row_of
from nm2trt.backends.protocol import Session
from nm2trt.errors import BackendError, DataError

DRIVER = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
static int live, contexts, streams;
int cuInit(unsigned f) { return 0; }
int cuDriverGetVersion(int *v) { *v = 12040; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, "Test GPU", n); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 6; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { contexts++; *c = (void *)0x7fff12345678; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { contexts--; return 0; }
int cuCtxSetCurrent(void *c) { return c == (void *)0x7fff12345678 ? 0 : 201; }
int cuMemAlloc_v2(uint64_t *p, size_t n) {
  if (n > (1u << 20)) return 2;
  live++; *p = (uint64_t)malloc(n); return 0; }
int cuMemFree_v2(uint64_t p) { live--; free((void *)p); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t d, void *h, size_t n, void *s) { memcpy((void *)d, h, n); return 0; }
int cuMemcpyDtoHAsync_v2(void *h, uint64_t d, size_t n, void *s) { memcpy(h, (void *)d, n); return 0; }
int cuStreamCreate(void **s, unsigned f) { streams++; *s = (void *)0x7fff87654320; return 0; }
int cuStreamSynchronize(void *s) { return s == (void *)0x7fff87654320 ? 0 : 400; }
int cuStreamDestroy_v2(void *s) { streams--; return 0; }
int count(int what) { return what == 0 ? live : what == 1 ? contexts : streams; }
"""


@pytest.fixture(scope="module")
def library_path(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is here")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(DRIVER)
    command = [compiler, "-w", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(folder / "cuda.c")]
    subprocess.run(command, check=True)
    return str(folder / "libcuda.so.1")


@pytest.fixture
def driver(library_path, monkeypatch):
    load = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda _: load(library_path))
    cuda._driver.cache_clear()
    yield load(library_path)
    cuda._driver.cache_clear()


class Context:
    """y = 2 x, z = the batch as a shape on the host."""

    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.active_optimization_profile = engine, {}, {}, 0

    def set_optimization_profile_async(self, index, stream):
        self.active_optimization_profile = index
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name):
        return {"y": self.engine.output_shape or self.shapes["x"], "z": (1,)}[name]

    def execute_async_v3(self, stream):
        if self.engine.fails:
            return False
        size = int(np.prod(self.shapes["x"]))

        def at(name, dtype, count):
            buffer = (ctypes.c_char * (np.dtype(dtype).itemsize * count)).from_address(self.addresses[name])
            return np.frombuffer(buffer, dtype)

        at("y", np.float16, size)[:] = 2 * at("x", np.float16, size)
        at("z", np.int32, 1)[:] = self.shapes["x"][0]
        return True


class Engine:
    num_io_tensors, num_optimization_profiles = 3, 2
    profiles = (((1, 4), (2, 4), (4, 4)), ((5, 4), (8, 4), (16, 4)))

    def __init__(self):
        self.fails, self.output_shape = False, None

    def get_tensor_name(self, index):
        return "xyz"[index]

    def get_tensor_mode(self, name):
        return "INPUT" if name == "x" else "OUTPUT"

    def get_tensor_shape(self, name):
        return {"x": (-1, 4), "y": (-1, 4), "z": (1,)}[name]

    def get_tensor_dtype(self, name):
        return "DataType.INT32" if name == "z" else "DataType.HALF"

    def get_tensor_location(self, name):
        return "HOST" if name == "z" else "DEVICE"

    def get_tensor_profile_shape(self, name, index):
        return self.profiles[index]

    def create_execution_context(self):
        self.context = Context(self)
        return self.context


class Module:
    """What the session asks of the library's module."""

    Dims = list
    TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    TensorLocation = SimpleNamespace(HOST="HOST")

    class ILogger:
        pass


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def session(driver, engine):
    library = _trt_shared.Library(Module(), "TensorRT 10.3.0", row_of("trt", "10.3.0"), lambda *_: None)
    with _trt_session.EngineSession(library, engine, object(), cuda.Device()) as session:
        yield session


def batch(size, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((size, 4)).astype(np.float16)}


def test_it_is_a_session_with_the_engine_s_tensors(session):
    assert isinstance(session, Session)
    assert [(spec.name, spec.dtype, spec.shape) for spec in session.inputs] == [("x", "float16", (None, 4))]
    assert [(spec.name, spec.dtype) for spec in session.outputs] == [("y", "float16"), ("z", "int32")]


@pytest.mark.parametrize("size", [1, 3, 4])
def test_it_computes_what_the_engine_does(session, size):
    feeds = batch(size)
    outputs = session.run(feeds)
    np.testing.assert_array_equal(outputs["y"], 2 * feeds["x"])
    assert outputs["z"].tolist() == [size]


def test_inputs_need_not_be_contiguous(session):
    feeds = {"x": np.asfortranarray(batch(3)["x"])}
    np.testing.assert_array_equal(session.run(feeds)["y"], 2 * feeds["x"])


def test_the_first_profile_that_takes_the_shape_is_chosen(session, engine):
    session.run(batch(4))
    assert engine.context.active_optimization_profile == 0
    session.run(batch(5))
    assert engine.context.active_optimization_profile == 1
    session.run(batch(2))
    assert engine.context.active_optimization_profile == 0


def test_a_shape_of_no_profile_is_refused_with_those_there_are(session):
    with pytest.raises(
        DataError, match="no profile for input 'x' of shape 17x4; it was built for 1x4 to 4x4; 5x4 to 16x4"
    ):
        session.run(batch(17))


def test_memory_is_used_again_and_grows(session, driver):
    session.run(batch(4))
    assert driver.count(0) == 2, "one buffer for x, one for y; z lies on the host"
    session.run(batch(2))
    first = session._buffers["x"]
    session.run(batch(16))
    assert driver.count(0) == 2
    assert session._buffers["x"] != first


def test_everything_is_given_back(session, driver):
    session.run(batch(4))
    assert [driver.count(what) for what in range(3)] == [2, 1, 1]
    session.close()
    session.close()
    assert [driver.count(what) for what in range(3)] == [0, 0, 0]


def test_repeat_computes_on_what_lies_on_the_device(session, engine):
    session.run(batch(4))
    engine.context.get_tensor_shape = None
    session.repeat()


@pytest.mark.parametrize("call", ["run", "repeat"])
def test_a_failing_engine_is_one_sentence(session, engine, call):
    session.run(batch(4))
    engine.fails = True
    with pytest.raises(
        BackendError, match=r"TensorRT 10\.3\.0 failed to run the engine: the library gave no reason"
    ):
        session.run(batch(4)) if call == "run" else session.repeat()


def test_an_output_whose_size_depends_on_values_is_refused(session, engine):
    engine.output_shape = (-1, 4)
    with pytest.raises(BackendError, match="output 'y' has a shape that depends on the values"):
        session.run(batch(4))


def test_a_wrong_feed_is_refused_before_the_device_is_touched(session, driver):
    with pytest.raises(DataError, match="input 'x' takes float16, the data has float32"):
        session.run({"x": np.zeros((2, 4), np.float32)})
    assert driver.count(0) == 0


def test_a_full_gpu_says_so(driver):
    device = cuda.Device()
    with pytest.raises(BackendError, match="the GPU's memory is full; run a smaller batch"):
        device.allocate(1 << 30)
    device.close()


def test_the_gpu_of_this_driver_is_found(driver):
    assert cuda.require_gpu("testing") == cuda.Gpu("Test GPU", "sm86", True)


@pytest.mark.parametrize(
    "reason",
    [
        "The engine plan file is not compatible with this version of TensorRT, expecting library version 10.3.0 got 8.6.0, please rebuild.",
        "The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 9.0, please rebuild.",
    ],
    ids=["version", "architecture"],
)
def test_a_refused_engine_says_why_and_what_is_here(driver, tmp_path, reason):
    class Refusing(Module):
        class Runtime:
            def __init__(self, logger):
                self.logger = logger

            def deserialize_cuda_engine(self, data):
                self.logger.log(
                    "Severity.ERROR", f"[runtime.cpp::parsePlan::314] Error Code 1: Serialization ({reason})"
                )

    library = _trt_shared.Library(Refusing(), "TensorRT 10.3.0", row_of("trt", "10.3.0"), lambda *_: None)
    path = tmp_path / "net.engine"
    path.write_bytes(b"ftrt")
    with pytest.raises(BackendError) as caught:
        _trt_session.open_engine(library, path, built="8.6.0.12", here="10.3.0")
    message = str(caught.value)
    assert reason.rstrip(".") in message
    assert "built by version 8.6.0.12, here are version 10.3.0 and a GPU of sm86: build it again" in message
