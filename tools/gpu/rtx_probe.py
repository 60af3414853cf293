"""Does TensorRT for RTX build, load and run on this GPU (sm90 has no name in its ComputeCapability), and does 2:4 pay in it?

    python rtx_probe.py MODELS OUT.json [--project NM2TRT]
Each try runs in a process of its own: nothing set, CURRENT, and each named capability; then, with the first try that loads, the
twins of two of `models.py`'s networks: times and the kernels that ran (torch's profiler sees every kernel of the process).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TRIES = ("", "CURRENT", "SM80", "SM89", "SM120", "SM80,SM120")
# Of `models.py`; the first is the one that is tried.
TWINS = ("wide-fp16", "conv-int8")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("models", type=Path)
    a.add_argument("out", type=Path)
    a.add_argument("--project", type=Path, default=HERE.parent / "nm2trt")
    a.add_argument("--one", help="this try alone, as JSON on standard output")
    a.add_argument("--case", default="")
    a.add_argument("--timeout", type=float, default=60)
    o = a.parse_args()
    sys.path.insert(0, str(o.project))
    if o.one is not None:
        print(json.dumps(one(o)))
        return
    results = {"tries": {}, "twins": {}}
    for name in TRIES:
        results["tries"][name or "nothing set"] = row = child(o, name, "")
        o.out.write_text(json.dumps(results, indent=1) + "\n")
        print(
            name or "nothing set", json.dumps({k: v for k, v in row.items() if k != "log"})[:600], flush=True
        )
    good = [t for t in TRIES if results["tries"][t or "nothing set"].get("ran")]
    for name in TWINS:
        if not good or not (o.models / name / "ready").exists():
            continue
        results["twins"][name] = row = {
            case: child(o, good[0], f"{name}:{case}") for case in ("dense", "flag_off", "flag_on")
        }
        o.out.write_text(json.dumps(results, indent=1) + "\n")
        print(
            name,
            {case: (x.get("p50_ms"), x.get("sparse_kernels"), x.get("error")) for case, x in row.items()},
            flush=True,
        )
    if not good:
        sys.exit("no try loaded and ran; OUT.json says why")


def child(o, name, case):
    command = [
        sys.executable,
        __file__,
        str(o.models),
        str(o.out),
        "--project",
        str(o.project),
        "--one",
        name,
        "--case",
        case,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=o.timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"error": "timeout"}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {
            "error": f"ended with {done.returncode}",
            "stderr": done.stderr[-1500:],
            "stdout": done.stdout[-300:],
        }


def one(o):
    import tensorrt_rtx as trt

    class Log(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, message):
            self.lines.append(f"{str(severity).rpartition('.')[2]}: {message}")

    log, row = Log(), {"version": trt.__version__}
    errors = lambda: [x[:300] for x in log.lines if x.startswith(("ERROR", "INTERNAL_ERROR"))][:4]  # noqa: E731
    name, _, case = o.case.partition(":")
    name = name or TWINS[0]
    kind = "dense" if case == "dense" else "sparse"
    model = o.models / name / f"{kind}.onnx"
    start = time.perf_counter()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model)):
        return {**row, "error": "parse", "log": errors()}
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    wanted = [x for x in o.one.split(",") if x]
    if wanted:
        config.num_compute_capabilities = len(wanted)
        for index, target in enumerate(wanted):
            config.set_compute_capability(getattr(trt.ComputeCapability, target), index)
    if case == "flag_on":
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    plan = builder.build_serialized_network(network, config)
    row["build_s"] = round(time.perf_counter() - start, 2)
    if plan is None:
        return {**row, "error": "build", "log": errors()}
    data = bytes(memoryview(plan))
    row["plan_bytes"], row["cc_mask"] = len(data), hex(int.from_bytes(data[32:36], "little"))
    from nm2trt.backends.cuda import probe_gpus

    if not probe_gpus()[0]:
        return {**row, "error": "no GPU"}
    path = o.out.with_name(f"rtx-{o.one.replace(',', '_') or 'none'}-{name}-{case or 'x'}.rtx")
    path.write_bytes(data)
    from nm2trt.backends import _trt_session, trt_rtx

    backend, start = trt_rtx.load(), time.perf_counter()
    try:
        session = _trt_session.open_engine(backend._library, path, built="this", here="here")
    except Exception as error:
        return {**row, "error": f"load: {type(error).__name__}: {error}"[:600]}
    finally:
        path.unlink()
    row["loaded"], row["load_s"] = True, round(time.perf_counter() - start, 2)
    try:
        import numpy as np

        from nm2trt.backends.feeds import numpy_dtype

        given = np.load(o.models / name / "feeds.npz")
        feeds = {x.name: given[x.name].astype(numpy_dtype(x.dtype)) for x in session.inputs}
        start = time.perf_counter()
        outputs = session.run(feeds)
        row["ran"], row["first_run_s"] = True, round(time.perf_counter() - start, 2)
        row["finite"] = bool(all(np.isfinite(v.astype(np.float32)).all() for v in outputs.values()))
        try:
            text = session.layers_json()
            path.with_suffix(".layers.json").write_text(text)
            row["layers"] = len(json.loads(text)["Layers"])
        except Exception as error:
            row["inspector"] = f"{type(error).__name__}: {error}"[:200]
        if case:
            from nm2trt.engine.twin.clocks import Effort, clock_sessions

            effort = Effort(runs=10, warmup=3, seconds=1.5, warmup_seconds=0.5)
            times = clock_sessions({"sparse-on": session}, feeds, effort, dict).of("sparse-on")
            row["time"] = {clock: latency.to_json() for clock, latency in times.items()}
            row["p50_ms"] = next(iter(row["time"].values()))["p50_ms"]
            row.update(kernels(session))
    except Exception as error:
        row["error"] = f"run: {type(error).__name__}: {error}"[:400]
    row["log"] = errors()
    return row


def kernels(session):
    """Names of the kernels that one inference launches."""
    try:
        import torch

        from nm2trt.engine.evidence.evidence import is_sparse_kernel

        torch.cuda.init()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            session.repeat()
            torch.cuda.synchronize()
        names = {}
        for item in profile.events():
            if "cuda" in str(item.device_type).lower():
                names[item.name] = names.get(item.name, 0) + 1
        return {"kernels": names, "sparse_kernels": sum(map(is_sparse_kernel, names))}
    except Exception as error:
        return {"kernels_error": f"{type(error).__name__}: {error}"[:200]}


if __name__ == "__main__":
    main()
