"""Twin builds of models that `models.py` wrote, through nm2trt's own backend; everything is written as it comes.

    python twins.py --backend trt|trt-rtx MODELS OUT [NAME ...] [--deadline SECONDS] [--seconds 2] [--targets sm80]
    python twins.py --proved OUT        prints the model with most sparse kernels in OUT/twins.jsonl, else ends with 1
Per model and case (dense; 2:4 with the flag off; on): builder's log, "(Sparsity)" lines, inspector JSON, sparse tactics, times by
the clocks of `nm2trt prove`, and what flag on differs from off in. OUT/twins.jsonl has one line a model.
"""

import argparse
import gzip
import json
import sys
import time
import traceback
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
CASES = {"dense": ("dense", "disable"), "flag_off": ("sparse", "disable"), "flag_on": ("sparse", "enable")}
# The names that `nm2trt prove` has for them.
ENGINES = {"dense": "dense", "flag_off": "sparse-off", "flag_on": "sparse-on"}


def main():
    if sys.argv[1:2] == ["--proved"]:
        sys.exit(proved(Path(sys.argv[2])))
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("models", type=Path)
    a.add_argument("out", type=Path)
    a.add_argument("names", nargs="*")
    a.add_argument("--backend", default="trt")
    a.add_argument("--deadline", type=float, default=600, help="begin no build after this many seconds")
    a.add_argument("--seconds", type=float, default=2.0, help="of timing a model")
    a.add_argument("--targets", default="")
    a.add_argument("--effort", type=int)
    a.add_argument("--project", type=Path, default=HERE.parent / "nm2trt")
    o = a.parse_intermixed_args()
    sys.path.insert(0, str(o.project))
    begun = time.perf_counter()
    o.out.mkdir(parents=True, exist_ok=True)
    names = o.names or sorted(p.parent.name for p in o.models.glob("*/ready"))
    lines = o.out / "twins.jsonl"
    known = map(json.loads, lines.read_text().splitlines() if lines.exists() else ())
    measured = {row["name"] for row in known if "error" not in row}
    failed = []
    for name in names:
        if name in measured:
            continue
        left = o.deadline - (time.perf_counter() - begun)
        for _ in range(int(max(0, left))):
            if (o.models / name / "ready").exists():
                break
            time.sleep(1)
        else:
            failed.append(f"{name}: no time or no model")
            print(failed[-1], flush=True)
            continue
        try:
            result = twin(name, o, lambda: o.deadline - (time.perf_counter() - begun))
        except Exception as error:
            result = {"name": name, "error": f"{type(error).__name__}: {error}"}
            (o.out / f"{name}.error.txt").write_text(traceback.format_exc())
        with lines.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(brief(result), flush=True)
        if "error" in result:
            failed.append(brief(result))
    if failed:
        sys.exit(f"{len(failed)} of {len(names)} twins failed; {failed[-1]}")


def proved(out):
    rows = map(json.loads, (out / "twins.jsonl").read_text().splitlines())
    counts = {row["name"]: row.get("flag_on", {}).get("sparse_tactics") or 0 for row in rows}
    name = max(counts, key=counts.get)
    if not counts[name]:
        return 1
    print(name)
    return 0


def brief(result):
    if "error" in result:
        return f"{result['name']}: {result['error'][:300]}"
    words = [result["name"]]
    for case in CASES:
        row = result.get(case, {})
        gpu = (row.get("time") or {}).get("device") or {}
        graph = (row.get("time") or {}).get("graph") or {}
        words.append(
            f"{case} {gpu.get('p50_ms')}/{graph.get('p50_ms')} ms sparse {row.get('sparse_tactics')} build {row.get('build_s')} s"
        )
    return "; ".join(
        words
        + [
            f"device {result.get('speed_up')} graph {result.get('speed_up_graph')}",
            f"diff {result.get('max_relative_difference')}",
        ]
    )


def twin(name, o, left):
    from nm2trt.backends.choice import load_backend
    from nm2trt.backends.feeds import numpy_dtype
    from nm2trt.backends.options import BuildOptions
    from nm2trt.compare.outputs import compare_outputs
    from nm2trt.engine.evidence.build_log import parse_build_log
    from nm2trt.engine.evidence.evidence import is_sparse_kernel
    from nm2trt.engine.evidence.inspector_json import parse_layer_information
    from nm2trt.engine.twin.clocks import Effort, clock_sessions

    backend = load_backend(o.backend)
    folder, result, engines = o.models / name, {"name": name, "backend": f"{o.backend} {backend.version}"}, {}
    for case, (kind, sparsity) in CASES.items():
        if left() < 20:
            raise TimeoutError("no time left for a build")
        options = BuildOptions(
            sparsity=sparsity,
            targets=backend.choose_targets(tuple(filter(None, o.targets.split(",")))),
            library_tactics=False,
            effort=o.effort,
            timing_cache=o.out / "timing.cache" if o.backend == "trt" else None,
        )
        start = time.perf_counter()
        network = backend.parse(folder / f"{kind}.onnx")
        backend.check(options, network)
        built = backend.build(network, options)
        log = "\n".join(built.log)
        with gzip.open(o.out / f"{name}.{case}.log.gz", "wt") as file:
            file.write(log)
        lines = [line for line in built.log if "parsity" in line]
        (o.out / f"{name}.{case}.sparsity.txt").write_text("\n".join(lines) + "\n")
        read = parse_build_log(built.log, builder=o.backend, version=backend.version)
        engines[case] = o.out.parent / f"{name}.{case}{backend.suffix}"
        engines[case].write_bytes(built.data)
        result[case] = {
            "build_s": round(time.perf_counter() - start, 1),
            "engine_bytes": built.data.nbytes,
            "sparsity_lines": len(lines),
            "read_eligible": read.eligible and read.eligible.count,
            "read_chosen": read.chosen and read.chosen.count,
            "read_autotuned": len(read.autotuned),
            "read_layers": len(read.layers),
            "notes": list(read.notes),
        }
        del network, built
    sessions = {}
    try:
        for case, path in engines.items():
            sessions[case] = backend.open(path)
            text = sessions[case].layers_json()
            with gzip.open(o.out / f"{name}.{case}.layers.json.gz", "wt") as file:
                file.write(text)
            try:
                info = parse_layer_information(text, builder=o.backend, version=backend.version)
                tactics = [layer.tactic for layer in info.layers if layer.tactic]
                result[case]["layers"] = len(info.layers)
                result[case]["sparse_tactics"] = sum(map(is_sparse_kernel, tactics))
                result[case]["has_sparse_weights"] = sum(bool(layer.sparse_weights) for layer in info.layers)
            except Exception as error:
                result[case]["inspector_error"] = f"{type(error).__name__}: {error}"
        given = np.load(folder / "feeds.npz")
        feeds = {
            spec.name: given[spec.name].astype(numpy_dtype(spec.dtype)) for spec in sessions["dense"].inputs
        }
        result["inputs"] = {
            spec.name: [spec.dtype, list(feeds[spec.name].shape), str(given[spec.name].dtype)]
            for spec in sessions["dense"].inputs
        }
        outputs = {case: session.run(feeds) for case, session in sessions.items()}
        result["max_relative_difference"] = max(
            x.max_relative for x in compare_outputs(outputs["flag_on"], outputs["flag_off"])
        )
        result["finite"] = bool(
            all(np.isfinite(v.astype(np.float32)).all() for v in outputs["flag_on"].values())
        )
        start = time.perf_counter()
        for _ in range(5):
            sessions["flag_off"].run(feeds)
        result["host_to_host_ms"] = round((time.perf_counter() - start) * 200, 4)
        effort = Effort(runs=10, warmup=3, seconds=o.seconds, warmup_seconds=0.5)
        clocks = clock_sessions({ENGINES[case]: s for case, s in sessions.items()}, feeds, effort, dict)
        for case in CASES:
            times = clocks.of(ENGINES[case])
            result[case]["time"] = {clock: latency.to_json() for clock, latency in times.items()}
        result["clock_notes"] = list(clocks.notes)
        compared = {"speed_up": clocks.comparisons}
        compared |= {f"speed_up_{other.clock}": other.comparisons for other in clocks.others}
        for key, pairs in compared.items():
            result[key] = {f"{p.name} over {p.against}": round(p.speedup, 4) for p in pairs}
        for case in ("flag_off", "flag_on"):
            layer = sessions[case].layer_times(feeds, runs=5)
            result[case]["layer_ms"] = dict(sorted(layer.items(), key=lambda x: -x[1]))
    finally:
        for session in sessions.values():
            session.close()
    return result


if __name__ == "__main__":
    main()
