"""An engine's session: addresses, profiles, clocks, and what is given back when something fails."""

import numpy as np
import pytest

from nm2trt.backends import _trt_session, cuda, trt_rtx
from nm2trt.backends.protocol import DeviceTimed, Session
from nm2trt.errors import BackendError, DataError
from tests.backends import gpu_double as double
from tests.backends.gpu_double import BYTES, Engine, Module, batch, held, library, session_of


@pytest.fixture(scope="module")
def library_path(tmp_path_factory):
    return double.compiled(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def driver(library_path, tmp_path, monkeypatch):
    yield double.loaded(library_path, tmp_path, monkeypatch)
    cuda._driver.cache_clear()


@pytest.fixture
def engine(driver):
    return Engine(driver)


@pytest.fixture
def session(engine):
    with session_of(engine) as session:
        yield session


def test_it_is_a_session_with_the_engine_s_tensors(session):
    assert isinstance(session, Session)
    assert isinstance(session, DeviceTimed)
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


def test_a_scalar_input_keeps_its_shape(engine, monkeypatch):
    """numpy's ascontiguousarray makes it a vector of one, which a real engine refuses."""
    monkeypatch.setattr(Engine, "num_io_tensors", 4)
    monkeypatch.setattr(Engine, "get_tensor_name", lambda _, index: "xyzs"[index])
    monkeypatch.setattr(Engine, "get_tensor_mode", lambda _, name: "INPUT" if name in "xs" else "OUTPUT")
    shapes = {"x": (-1, 4), "y": (-1, 4), "z": (1,), "s": ()}
    monkeypatch.setattr(Engine, "get_tensor_shape", lambda _, name: shapes[name])
    feeds = batch(3) | {"s": np.array(2, np.float16)}
    with session_of(engine) as session:
        np.testing.assert_array_equal(session.run(feeds)["y"], 2 * feeds["x"])
        assert engine.context.shapes == {"x": (3, 4), "s": ()}
        session.on_device(feeds).host_seconds()


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
    taken = driver.count(BYTES)
    session.run(batch(2))
    assert driver.count(BYTES) == taken
    session.run(batch(16))
    assert driver.count(0) == 2
    assert driver.count(BYTES) == 4 * taken


def test_everything_is_given_back(session, driver):
    session.on_device(batch(4))
    session.on_device(batch(2))
    assert held(driver) == [2, 1, 1, 3, 2, 1], (
        "pinned: x and y for their copies, z where the engine writes it"
    )
    session.close()
    session.close()
    assert held(driver) == [0] * 6


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


def test_where_no_memory_can_be_pinned_the_gpu_is_not_blamed(driver):
    device = cuda.Device()
    blocks = [device.allocate_pinned(1) for _ in range(64)]  # all that this driver has
    with pytest.raises(
        BackendError, match=r"no memory of this machine can be pinned any more; run a smaller"
    ):
        device.allocate_pinned(1)
    for block in blocks:
        device.free_pinned(block)
    device.close()


def test_the_gpu_of_this_driver_is_found(driver):
    assert cuda.require_gpu("testing") == cuda.Gpu(
        "Test GPU", "sm86", True, "GPU-01112131-4151-6171-8191-a1b1c1d1e1f1"
    )


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

    path = tmp_path / "net.engine"
    path.write_bytes(b"ftrt")
    with pytest.raises(BackendError) as caught:
        _trt_session.open_engine(library(Refusing()), path, built="8.6.0.12", here="10.3.0")
    message = str(caught.value)
    assert reason.rstrip(".") in message
    assert "built by version 8.6.0.12, here are version 10.3.0 and a GPU of sm86: build it again" in message


# NVIDIA/TensorRT issues 3017 and 4258, and TensorRT for RTX 1.7 on the driver of these tests.
FULL = "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"
FULL_CONTEXT = (
    "[executionContext.cpp::ExecutionContext::470] Error Code 2: OutOfMemory (no further information)"
)
OLD_DRIVER = (
    "Cuda Runtime (In ScopedCudaStream at /_src/common/dispatch/cudaResources.cpp:25 (cudaError 36: API call is "
    "not supported in the installed CUDA driver))"
)
LOST = "Error Code 1: Cuda Runtime (unspecified launch failure)"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param(FULL, "memory is full; end what else", id="full"),
        pytest.param(FULL_CONTEXT, "memory is full; end what else", id="full-8.6-context"),
        pytest.param(OLD_DRIVER, "the NVIDIA driver is too old for it; update the driver", id="old-driver"),
        pytest.param(LOST, r"failed while it ran \(unspec.*restart the process", id="lost"),
    ],
)
@pytest.mark.parametrize("when", ["loaded", "made ready"])
def test_the_state_of_the_machine_is_not_laid_on_the_engine(driver, tmp_path, said, reason, when):
    class Failing(Module):
        class Runtime:
            def __init__(self, logger):
                self.logger = logger

            def deserialize_cuda_engine(self, data):
                if when == "loaded":
                    self.logger.log("Severity.ERROR", said)
                    return None
                engine = Engine(driver)
                engine.create_execution_context = lambda: self.logger.log("Severity.ERROR", said)
                return engine

    path = tmp_path / "net.engine"
    path.write_bytes(b"ftrt")
    with pytest.raises(BackendError, match=reason) as caught:
        _trt_session.open_engine(library(Failing()), path, built="10.3.0", here="10.3.0")
    assert "build it again" not in str(caught.value)
    assert held(driver) == [0] * 6


def test_what_lies_on_the_host_is_written_where_it_still_is(session, driver):
    """The engine keeps the address after `run`; whoever got the outputs may have let go of them."""
    outputs = session.run(batch(4))
    kept = outputs["z"]
    address = session._context.addresses["z"]
    assert address != kept.ctypes.data
    assert address % 256 == 0
    del outputs
    session._context.shapes["x"] = (3, 4)
    session.repeat()
    assert kept.tolist() == [4], "the engine wrote into the caller's array"
    assert driver.count(double.PINNED) == 1


@pytest.mark.parametrize("copies_ms", [0.0, 40.0])
def test_device_time_is_the_engine_s_and_copies_do_not_count(session, driver, copies_ms):
    driver.copies_take(copies_ms)
    runs = session.on_device(batch(4))
    assert runs.device_seconds() == pytest.approx(1e-3)
    assert runs.graph_seconds() == pytest.approx(1e-3)


def test_host_to_host_copies_from_and_to_pinned_memory(session, driver, monkeypatch):
    driver.copies_take(5.0)
    runs = session.on_device(batch(4))
    monkeypatch.setattr("time.perf_counter", lambda: driver.now() / 1e3)
    before = driver.count(double.PAGEABLE)
    assert runs.host_seconds() == pytest.approx(11e-3)
    assert driver.count(double.PAGEABLE) == before


@pytest.mark.parametrize(("cost_ms", "burst"), [(0.001, 64), (1.0, 10), (3.0, 4), (100.0, 1)])
def test_a_burst_is_long_enough_and_no_longer(session, engine, cost_ms, burst):
    engine.cost_ms = cost_ms
    assert session.on_device(batch(1)).burst == burst


def test_an_engine_that_no_graph_can_hold_is_timed_without(session, driver):
    driver.refuse_graphs(1)
    runs = session.on_device(batch(4))
    assert "cuStreamEndCapture returned 900" in runs.no_graph
    assert runs.device_seconds() == pytest.approx(1e-3)
    with pytest.raises(BackendError, match=r"cannot be replayed as a CUDA graph: .*900"):
        runs.graph_seconds()


def test_a_capture_that_fails_leaves_the_stream_usable(driver, engine):
    device = cuda.Device()

    def failing():
        raise BackendError("refused while it was captured")

    with pytest.raises(BackendError, match="refused while"):
        device.capture(failing)
    device.destroy_graph(device.capture(lambda: None))
    device.close()
    assert held(driver) == [0] * 6


@pytest.mark.parametrize("fault", ["no-context", "no-such-type", "no-stream"])
def test_a_session_that_cannot_be_made_leaves_nothing_behind(driver, engine, fault):
    engine.no_context = fault == "no-context"
    engine.dtype = "int4" if fault == "no-such-type" else engine.dtype
    if fault == "no-stream":
        make = cuda.Device._made
        cuda.Device._made = lambda *_: (_ for _ in ()).throw(BackendError("no stream"))
    try:
        with pytest.raises((BackendError, DataError)):
            session_of(engine)
    finally:
        if fault == "no-stream":
            cuda.Device._made = make
    assert held(driver) == [0] * 6


def test_a_gpu_that_is_lost_is_one_sentence(driver, engine):
    session = session_of(engine)
    session.run(batch(4))
    driver.lose(999)
    with pytest.raises(BackendError, match=r"cu\w+ returned 999: the GPU was lost.*restart the process"):
        session.run(batch(4))
    session.close()


def test_eight_takes_int64_as_int32_and_later_versions_do_not(driver):
    ids = {"x": np.arange(8, dtype=np.int64).reshape(2, 4)}
    with session_of(Engine(driver, dtype=np.int32), version="8.6.0") as session:
        np.testing.assert_array_equal(session.run(ids)["y"], 2 * ids["x"])
        with pytest.raises(
            DataError, match=r"input 'x' holds numbers beyond 32 bits, and TensorRT 8\.6\.0 has no"
        ):
            session.run({"x": ids["x"] + 2**40})
    with session_of(Engine(driver, dtype=np.int32)) as session, pytest.raises(DataError, match="takes int32"):
        session.run(ids)


def test_tensorrt_for_rtx_compiles_the_kernels_for_new_shapes_first():
    """Its default times fallback kernels while it compiles in the background."""
    rtx = pytest.importorskip("tensorrt_rtx")
    assert hasattr(rtx.ICudaEngine, "create_runtime_config")
    assert hasattr(rtx.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")

    class RtxEngine(Engine):
        def create_runtime_config(self):
            class Config:
                pass

            return Config()

    engine, made = RtxEngine(), trt_rtx.RtxBackend(rtx)._library.make_context
    made(rtx, engine)
    (config,) = engine.configs
    wanted = rtx.DynamicShapesKernelSpecializationStrategy.EAGER
    assert config.dynamic_shapes_kernel_specialization_strategy == wanted


def test_a_runtime_that_did_not_start_is_told_before_it_is_used(driver, tmp_path):
    """TensorRT returns a runtime for a driver that is too old, and ends the process when an engine is loaded."""

    class TooNew(Module):
        class Runtime:
            def __init__(self, logger):
                logger.log("Severity.ERROR", "CUDA initialization failure with error: 35")

    path = tmp_path / "net.engine"
    path.write_bytes(b"ftrt")
    with pytest.raises(
        BackendError, match=r"cannot start: .*error: 35 \(the NVIDIA driver is missing or too old"
    ):
        _trt_session.open_engine(library(TooNew()), path, built="10.3.0", here="10.3.0")
