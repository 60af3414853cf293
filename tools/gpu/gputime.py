"""Times on the GPU through the driver alone: events around each run, plain and as a CUDA graph, sessions in turn.

For `nm2trt`'s engine sessions (`_trt_session.EngineSession`), whose stream and context it uses; no torch, no cuda-python.
"""

from __future__ import annotations

import ctypes
import statistics
import time


def driver():
    cuda = ctypes.CDLL("libcuda.so.1")
    handle, number = ctypes.c_void_p, ctypes.c_uint
    for name, types in {
        "cuEventCreate": (handle, number),
        "cuEventRecord": (handle, handle),
        "cuEventSynchronize": (handle,),
        "cuEventElapsedTime": (handle, handle, handle),
        "cuEventDestroy_v2": (handle,),
        "cuStreamSynchronize": (handle,),
        "cuStreamBeginCapture_v2": (handle, ctypes.c_int),
        "cuStreamEndCapture": (handle, handle),
        "cuGraphInstantiateWithFlags": (handle, handle, ctypes.c_ulonglong),
        "cuGraphLaunch": (handle, handle),
        "cuGraphExecDestroy": (handle,),
        "cuGraphDestroy": (handle,),
        "cuMemGetInfo_v2": (handle, handle),
    }.items():
        getattr(cuda, name).argtypes = types
    return cuda


CUDA = None


def call(name, *arguments):
    global CUDA
    CUDA = CUDA or driver()
    status = getattr(CUDA, name)(*arguments)
    if status:
        raise RuntimeError(f"{name} returned {status}")


def event():
    made = ctypes.c_void_p()
    call("cuEventCreate", ctypes.byref(made), 0)
    return made


def milliseconds(a, b):
    out = ctypes.c_float()
    call("cuEventElapsedTime", ctypes.byref(out), a, b)
    return out.value


def free_memory():
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value


def graph_of(session):
    """Capture one inference of a session that has run before; returns the executable graph, or None and why not."""
    stream, graph, made = session._device.stream, ctypes.c_void_p(), ctypes.c_void_p()
    try:
        call("cuStreamBeginCapture_v2", stream, 1)  # thread-local: other threads may go on
        ok = session._context.execute_async_v3(stream)
        call("cuStreamEndCapture", stream, ctypes.byref(graph))
        if not ok:
            return None, "execute_async_v3 returned False while capturing"
        call("cuGraphInstantiateWithFlags", ctypes.byref(made), graph, 0)
    except RuntimeError as error:
        return None, str(error)
    return made, ""


def summary(values):
    values = sorted(values)
    if not values:
        return None
    q = statistics.quantiles(values, n=20) if len(values) > 1 else values * 19
    return {
        "p50_ms": round(statistics.median(values), 5),
        "p5_ms": round(q[0], 5),
        "p95_ms": round(q[-1], 5),
        "runs": len(values),
    }


def in_turn(sessions, *, seconds=2.0, warm_s=0.4, graph=True, burst=8):
    """Time sessions that have run once: GPU time by events, enqueue and wall time by clock, and by graph replay.

    Bursts of `burst` inferences are queued before the host waits, so that the GPU stays busy, as trtexec does.
    """
    result = {name: {"gpu": [], "enqueue": [], "wall": [], "graph": []} for name in sessions}
    graphs = {}
    for name, session in sessions.items():
        session._device.use()
        graphs[name] = graph_of(session) if graph else (None, "not asked")
        if graphs[name][1]:
            result[name]["no_graph"] = graphs[name][1]
    marks = {name: [(event(), event()) for _ in range(burst)] for name in sessions}

    def one(name, session, launch, kind, keep):
        stream = session._device.stream
        start = time.perf_counter()
        for a, b in marks[name]:
            call("cuEventRecord", a, stream)
            launch()
            call("cuEventRecord", b, stream)
        queued = time.perf_counter()
        call("cuStreamSynchronize", stream)
        end = time.perf_counter()
        if keep:
            result[name][kind] += [milliseconds(a, b) for a, b in marks[name]]
            if kind == "gpu":
                result[name]["enqueue"].append((queued - start) * 1e3 / burst)
                result[name]["wall"].append((end - start) * 1e3 / burst)

    begun = time.perf_counter()
    order = list(sessions)
    while True:
        spent = time.perf_counter() - begun
        if spent > warm_s + seconds:
            break
        for name in order:
            session = sessions[name]
            session._device.use()
            keep = spent > warm_s
            one(name, session, lambda: session._context.execute_async_v3(session._device.stream), "gpu", keep)
            if graphs[name][0]:
                one(
                    name,
                    session,
                    lambda: call("cuGraphLaunch", graphs[name][0], session._device.stream),
                    "graph",
                    keep,
                )
        order = order[1:] + order[:1]
    return {
        name: {kind: summary(v) if isinstance(v, list) else v for kind, v in kinds.items()}
        for name, kinds in result.items()
    }
