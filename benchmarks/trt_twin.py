"""Twin builds: dense weights, then 2:4 weights with sparse kernels off and on; what is said, and the time.

    python benchmarks/trt_twin.py [--backend trt] [--net conv wide resnet50 minilm] [--precision fp16 int8]
                                  [--batch 32] [--runs 100] [--out FOLDER] [--json FILE]

On a GPU the three engines are timed as `nm2trt prove` times them: in turn, in blocks, by CUDA events, from
host to host and as CUDA graphs. Without one, `--backend trt-rtx` builds ahead of time and every time reads
null. FOLDER gets the builder's whole log and the inspector's JSON of every engine. Needs ONNX Runtime, for
int8.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

import nm2trt
from nm2trt.backends.choice import load_backend
from nm2trt.backends.cuda import probe_gpus
from nm2trt.backends.feeds import numpy_dtype
from nm2trt.backends.options import BuildOptions
from nm2trt.compare.outputs import compare_outputs
from nm2trt.engine.evidence.evidence import is_sparse_kernel
from nm2trt.engine.twin.clocks import Effort, clock_sessions

try:
    from benchmarks import nets
except ImportError:  # run as a script, this folder is the path
    import nets

NETS = ("conv", "wide", "resnet50", "minilm")
PRECISIONS = ("fp16", "int8")
# What TensorRT 8.6 reads.
OPSET = 17
# Case -> its weights, and whether sparse kernels are allowed.
CASES = {"dense": ("dense", "disable"), "flag_off": ("sparse", "disable"), "flag_on": ("sparse", "enable")}
# The names that `nm2trt prove` has for them.
ENGINES = {"dense": "dense", "flag_off": "sparse-off", "flag_on": "sparse-on"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=("trt", "trt-rtx"), default="trt")
    parser.add_argument("--net", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--no-library-tactics", action="store_true", help="neither cuBLAS nor cuDNN")
    parser.add_argument("--out", type=Path, help="folder for logs and inspector JSON")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    options = BuildOptions(library_tactics=not arguments.no_library_tactics)
    results = []
    for net in arguments.net:
        for precision in arguments.precision:
            with tempfile.TemporaryDirectory() as folder:
                result = twin(
                    arguments.backend,
                    net,
                    precision,
                    Path(folder),
                    batch=arguments.batch,
                    runs=arguments.runs,
                    options=options,
                    out=arguments.out,
                )
            results.append(result)
            print(json.dumps(result))
    if arguments.json:
        gpus, driver = probe_gpus()
        record = {
            "gpu": [gpu.name for gpu in gpus],
            "driver": driver,
            "backend": f"{arguments.backend} {load_backend(arguments.backend).version}",
            "python": platform.python_version(),
            "results": results,
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


def conv(*, channels: int = 512, size: int = 28, layers: int = 4) -> onnx.ModelProto:
    """Return convolutions of one size, of the kind that gains from sparsity if any does."""
    b = nets.Builder()
    x = "x"
    for layer in range(layers):
        x = b.node("Relu", b.conv(x, f"conv{layer}", channels, channels, 3), name=f"relu{layer}")
    shape = ["n", channels, size, size]
    return b.model(shape, shape, x)


def wide(*, layers: int = 4, width: int = 4096) -> onnx.ModelProto:
    """Return products of 4096 x 4096 weights, 128 rows a sample: what pays most in the gain tables."""
    return nets.matmuls(layers, width)


def make(net: str, precision: str, path: Path, *, sparse: bool, batch: int, **sizes: int) -> Path:
    """Write one of the nets at a fixed batch; the sparse one is the dense one pruned."""
    model = {"conv": conv, "wide": wide, "resnet50": nets.resnet50, "minilm": nets.minilm}[net](**sizes)
    model.opset_import[0].version = OPSET
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    if sparse:
        model = nets.sparse(model)
    onnx.save(nets.half(model) if precision == "fp16" else model, path)
    if precision == "int8":
        samples = path.with_suffix(".npz")
        np.savez(samples, **feeds(model))
        quantized = path.with_suffix(".int8.onnx")
        # Weights in float behind Q/DQ: TensorRT 8.6 reads no others.
        nm2trt.quantize(path, quantized, calib=samples, batch=batch, float_weights=True)
        return quantized
    return path


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng, made = np.random.default_rng(0), {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [dimension.dim_value for dimension in tensor.shape.dim]
        if tensor.elem_type == onnx.TensorProto.INT64:
            made[value.name] = rng.integers(0, 30000, shape)
        else:
            dtype = np.float16 if tensor.elem_type == onnx.TensorProto.FLOAT16 else np.float32
            made[value.name] = rng.standard_normal(shape).astype(dtype)
    return made


def twin(
    backend_name: str,
    net: str,
    precision: str,
    folder: Path,
    *,
    batch: int,
    runs: int,
    options: BuildOptions | None = None,
    out: Path | None = None,
    **sizes: int,
) -> dict[str, object]:
    """Build the three engines; run them where there is a GPU."""
    backend, options = load_backend(backend_name), options or BuildOptions()
    models = {
        kind: make(net, precision, folder / f"{kind}.onnx", sparse=kind == "sparse", batch=batch, **sizes)
        for kind in ("dense", "sparse")
    }
    result: dict[str, object] = {"net": net, "precision": precision, "batch": batch}
    engines = {}
    for case, (kind, sparsity) in CASES.items():
        asked = BuildOptions(
            sparsity=sparsity,
            targets=backend.choose_targets(options.targets),
            library_tactics=options.library_tactics,
        )
        built = backend.build(backend.parse(models[kind]), asked)
        engines[case] = folder / f"{case}{backend.suffix}"
        engines[case].write_bytes(built.data)
        result[case] = {
            "engine_bytes": built.data.nbytes,
            "build_ms": round(built.build_ms, 1),
            "sparsity_lines": sum("parsity" in line for line in built.log),
            "sparse_tactics": None,
            "time": None,
        }
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            stem(out, backend, result, case, "log").write_text("\n".join(built.log) + "\n")
    if probe_gpus()[0]:
        run(backend, engines, feeds(onnx.load(models["sparse"])), runs, result, out)
    return result


def stem(out: Path, backend, result: dict, case: str, suffix: str) -> Path:
    return out / f"{backend.name}-{backend.version}-{result['net']}-{result['precision']}-{case}.{suffix}"


def sparse_tactics(layers: str) -> int:
    """Count layers whose tactic is a sparse kernel."""
    records = [layer for layer in json.loads(layers)["Layers"] if isinstance(layer, dict)]
    return sum(is_sparse_kernel(layer.get("TacticName", "")) for layer in records)


def fitted(inputs: dict[str, np.ndarray], session) -> dict[str, np.ndarray]:
    """Return the inputs in the engine's own types: TensorRT 8 makes int64 inputs int32."""
    return {spec.name: inputs[spec.name].astype(numpy_dtype(spec.dtype)) for spec in session.inputs}


def run(backend, engines, inputs, runs: int, result: dict, out: Path | None) -> None:
    sessions = {case: backend.open(path) for case, path in engines.items()}
    try:
        inputs = fitted(inputs, sessions["dense"])
        for case, session in sessions.items():
            layers = session.layers_json()
            result[case]["sparse_tactics"] = sparse_tactics(layers)
            if out is not None:
                stem(out, backend, result, case, "layers.json").write_text(layers)
        outputs = {case: session.run(inputs) for case, session in sessions.items()}
        differences = compare_outputs(outputs["flag_on"], outputs["flag_off"])
        result["max_relative_difference"] = max(item.max_relative for item in differences)
        effort = Effort(runs=runs, warmup=max(5, runs // 10), seconds=2.0, warmup_seconds=0.5)
        clocks = clock_sessions({ENGINES[case]: s for case, s in sessions.items()}, inputs, effort, dict)
        for case in sessions:
            times = clocks.of(ENGINES[case])
            result[case]["time"] = {clock: latency.to_json() for clock, latency in times.items()}
        result["speed_up"] = clocks.comparisons[0].speedup
        result["notes"] = list(clocks.notes)
    finally:
        for session in sessions.values():
            session.close()


if __name__ == "__main__":
    sys.exit(main())
