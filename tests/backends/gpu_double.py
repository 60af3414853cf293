"""A driver and an engine library made for the tests: real calls through ctypes, a clock that only they move.

The driver is a shared library compiled from C. Its device memory is host memory, so 64-bit addresses and copies
are real; its clock goes forward by what kernels and copies are said to cost. The engine doubles its input.
"""

import ctypes
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from nm2trt.backends import _trt_session, _trt_shared, cuda
from nm2trt.backends._trt_versions import row_of

DRIVER = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define ALIVE if (lost) return lost;
static int live, contexts, streams, pinned, events, graphs, pageable, lost, capturing, uncapturable;
static double now_ms, copy_ms, captured_ms;
static size_t room = 1u << 20, taken;
static struct { char *at; size_t n; } pages[64];
struct memory { size_t n; char pad[248]; }; /* CUDA aligns to 256 bytes */
int cuInit(unsigned f) { ALIVE return 0; }
int cuDriverGetVersion(int *v) { *v = 12040; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int i) { ALIVE *d = i; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, "Test GPU", n); return 0; }
int cuDeviceGetUuid(char *u, int d) { for (int i = 0; i < 16; i++) u[i] = (char)(16 * i + 1); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 6; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { ALIVE contexts++; *c = (void *)0x7fff12345678; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { contexts--; return 0; }
int cuCtxSetCurrent(void *c) { ALIVE return c == (void *)0x7fff12345678 ? 0 : 201; }
int cuMemAlloc_v2(uint64_t *p, size_t n) {
  ALIVE if (taken + n > room) return 2;
  struct memory *m = aligned_alloc(256, (sizeof *m + n + 255) / 256 * 256); m->n = n; taken += n; live++; *p = (uint64_t)(m + 1); return 0; }
int cuMemFree_v2(uint64_t p) {
  ALIVE struct memory *m = (struct memory *)p - 1; taken -= m->n; live--; memset((void *)p, 0xee, m->n); free(m);
  return 0; }
int cuMemAllocHost_v2(uint64_t *p, size_t n) {
  ALIVE for (int i = 0; i < 64; i++) if (!pages[i].at) {
    pages[i].at = aligned_alloc(4096, (n + 4095) / 4096 * 4096); pages[i].n = n; pinned++;
    *p = (uint64_t)pages[i].at; return 0; }
  return 2; }
int cuMemFreeHost(uint64_t p) {
  ALIVE for (int i = 0; i < 64; i++) if (pages[i].at == (char *)p) {
    free(pages[i].at); pages[i].at = 0; pinned--; return 0; }
  return 1; }
void gpu_works(double ms) { if (capturing) captured_ms += ms; else now_ms += ms; }
static void copied(void *h, size_t n) {
  gpu_works(copy_ms);
  for (int i = 0; i < 64; i++)
    if (pages[i].at && (char *)h >= pages[i].at && (char *)h + n <= pages[i].at + pages[i].n) return;
  pageable++; }
int cuMemcpyHtoDAsync_v2(uint64_t d, void *h, size_t n, void *s) {
  ALIVE copied(h, n); memcpy((void *)d, h, n); return 0; }
int cuMemcpyDtoHAsync_v2(void *h, uint64_t d, size_t n, void *s) {
  ALIVE copied(h, n); memcpy(h, (void *)d, n); return 0; }
int cuStreamCreate(void **s, unsigned f) { ALIVE streams++; *s = (void *)0x7fff87654320; return 0; }
int cuStreamSynchronize(void *s) { ALIVE return s == (void *)0x7fff87654320 ? 0 : 400; }
int cuStreamDestroy_v2(void *s) { ALIVE streams--; return 0; }
int cuEventCreate(void **e, unsigned f) { ALIVE events++; *e = malloc(sizeof(double)); return 0; }
int cuEventRecord(void *e, void *s) { ALIVE *(double *)e = now_ms; return 0; }
int cuEventSynchronize(void *e) { ALIVE return 0; }
int cuEventElapsedTime(float *ms, void *a, void *b) { ALIVE *ms = *(double *)b - *(double *)a; return 0; }
int cuEventDestroy_v2(void *e) { ALIVE events--; free(e); return 0; }
int cuStreamBeginCapture_v2(void *s, int mode) {
  ALIVE if (capturing) return 901; capturing = 1; captured_ms = 0; return 0; }
int cuStreamEndCapture(void *s, void **g) {
  ALIVE capturing = 0; if (uncapturable) return 900; *g = malloc(8); *(double *)*g = captured_ms; graphs++; return 0; }
int cuGraphInstantiateWithFlags(void **x, void *g, unsigned long long f) {
  ALIVE *x = malloc(8); *(double *)*x = *(double *)g; graphs++; return 0; }
int cuGraphLaunch(void *x, void *s) { ALIVE now_ms += *(double *)x; return 0; }
int cuGraphDestroy(void *g) { ALIVE graphs--; free(g); return 0; }
int cuGraphExecDestroy(void *g) { ALIVE graphs--; free(g); return 0; }
int count(int what) { int all[] = {live, contexts, streams, pinned, events, graphs, pageable, (int)taken}; return all[what]; }
double now(void) { return now_ms; }
void copies_take(double ms) { copy_ms = ms; }
int is_capturing(void) { return capturing; }
void lose(int status) { lost = status; }
void refuse_graphs(int yes) { uncapturable = yes; }
void memory(size_t bytes) { room = bytes; }
"""
LIVE, CONTEXTS, STREAMS, PINNED, EVENTS, GRAPHS, PAGEABLE, BYTES = range(8)


def compiled(folder):
    """Return the path of the driver, or skip without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is here")
    (folder / "cuda.c").write_text(DRIVER)
    library = folder / "libcuda.so.1"
    subprocess.run(
        [compiler, "-w", "-shared", "-fPIC", "-o", str(library), str(folder / "cuda.c")], check=True
    )
    return library


def loaded(path, folder, monkeypatch):
    """Load a copy of the driver of its own, with a clean state, wherever a driver is asked for."""
    own = folder / "libcuda.so.1"
    shutil.copyfile(path, own)
    load = ctypes.CDLL
    driver = load(str(own))
    driver.gpu_works.argtypes, driver.copies_take.argtypes = (ctypes.c_double,), (ctypes.c_double,)
    driver.memory.argtypes, driver.now.restype = (ctypes.c_size_t,), ctypes.c_double
    monkeypatch.setattr(ctypes, "CDLL", lambda _: load(str(own)))
    cuda._driver.cache_clear()
    return driver


def held(driver):
    """Return how many allocations, contexts, streams, pinned blocks, events and graphs are not given back."""
    return [driver.count(what) for what in range(PAGEABLE)]


class Context:
    """y = 2 x, z = the batch as a shape on the host."""

    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.active_optimization_profile = engine, {}, {}, 0
        self.profiler = None

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
        if self.engine.driver is not None:
            self.engine.driver.gpu_works(self.engine.cost_ms)
        if self.profiler is not None:
            for name, ms in self.engine.layer_ms.items():
                self.profiler.report_layer_time(name, ms)
        size = int(np.prod(self.shapes["x"]))

        def at(name, dtype, count):
            buffer = (ctypes.c_char * (np.dtype(dtype).itemsize * count)).from_address(self.addresses[name])
            return np.frombuffer(buffer, dtype)

        dtype = self.engine.dtype
        at("y", dtype, size)[:] = 2 * at("x", dtype, size)
        at("z", np.int32, 1)[:] = self.shapes["x"][0]
        return True


class Engine:
    """An engine with two profiles; `cost_ms` of the GPU's time an inference, `layer_ms` of each layer's."""

    num_io_tensors, num_optimization_profiles = 3, 2
    profiles = (((1, 4), (2, 4), (4, 4)), ((5, 4), (8, 4), (16, 4)))

    def __init__(self, driver=None, cost_ms=1.0, dtype=np.float16):
        self.fails, self.output_shape, self.no_context = False, None, False
        self.driver, self.cost_ms, self.dtype, self.layer_ms = driver, cost_ms, dtype, {}

    def get_tensor_name(self, index):
        return "xyz"[index]

    def get_tensor_mode(self, name):
        return "INPUT" if name == "x" else "OUTPUT"

    def get_tensor_shape(self, name):
        return {"x": (-1, 4), "y": (-1, 4), "z": (1,)}[name]

    def get_tensor_dtype(self, name):
        names = {np.float16: "DataType.HALF", np.int32: "DataType.INT32", "int4": "DataType.INT4"}
        return "DataType.INT32" if name == "z" else names[self.dtype]

    def get_tensor_location(self, name):
        return "HOST" if name == "z" else "DEVICE"

    def get_tensor_profile_shape(self, name, index):
        return self.profiles[index]

    def create_execution_context(self, *config):
        self.configs = config
        self.context = None if self.no_context else Context(self)
        return self.context


class Module:
    """What the session asks of the library's module."""

    Dims = list
    TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    TensorLocation = SimpleNamespace(HOST="HOST")

    class ILogger:
        pass


def library(module=None, version="10.3.0", **more):
    """Return the library as the backend hands it to the session."""
    product = f"TensorRT {version}"
    return _trt_shared.Library(module or Module(), product, row_of("trt", version), lambda *_: None, **more)


def session_of(engine, **more):
    """Return a session of an engine on the driver that is loaded."""
    return _trt_session.EngineSession(library(**more), engine, object(), cuda.Device())


def batch(size, seed=0):
    """Return a batch of random numbers."""
    return {"x": np.random.default_rng(seed).standard_normal((size, 4)).astype(np.float16)}
