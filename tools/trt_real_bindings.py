"""Run the TensorRT backend on NVIDIA's own Python bindings of several releases, without TensorRT or a GPU.

    git clone https://github.com/NVIDIA/TensorRT; git clone https://github.com/onnx/onnx-tensorrt
    python tools/trt_real_bindings.py TensorRT onnx-tensorrt CUDA_INCLUDE [10.0.1 11.1.0.106 ...]

It fetches the bindings (the wheel `tensorrt-cu12-bindings`). The library behind them is `trt_double`,
compiled with NVIDIA's headers of that release; every method that it does not answer is generated here and
ends the process. The driver is that of `tests/backends/gpu_double.py`. So names, arguments, types, lifetimes
and threads are the bindings' own, and some of TensorRT's rules are kept (`RULE BROKEN`); what a builder
chooses and what a kernel computes is made up.

CUDA_INCLUDE is the toolkit's folder with cuda_runtime_api.h and crt/, or the two include folders of the
wheels `nvidia-cuda-runtime-cu12` and `nvidia-cuda-nvcc-cu12` copied into one. The parser's header comes with
TensorRT 11; for 10 it is taken from onnx-tensorrt. Needs g++ 12 or later, for half precision.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Wheel -> tag of NVIDIA/TensorRT with its headers.
RELEASES = {
    "10.0.1": "v10.0.1",
    "10.3.0": "v10.3.0",
    "10.7.0": "v10.7.0",
    "10.9.0.34": "v10.9.0",
    "10.13.0.35": "v10.13.0",
    "10.13.3.9": "v10.13.3",
    "10.16.0.72": "v10.16",
    "11.0.0.114": "v11.0",
    "11.1.0.106": "v11.1",
    "11.4.0.106": "v11.1",  # whose headers are the newest that NVIDIA has published; interfaces only grow
}
_CLASSES = (
    *(
        "VBuilder",
        "VBuilderConfig",
        "VNetworkDefinition",
        "VOptimizationProfile",
        "VTimingCache",
        "VHostMemory",
    ),
    *(
        "VRuntime",
        "VRuntimeConfig",
        "VCudaEngine",
        "VExecutionContext",
        "VEngineInspector",
        "VTensor",
        "VLayer",
    ),
    "IParser",
)
_METHOD = re.compile(
    r"virtual\s+(?P<result>[\w:<>*&\s]+?[\s*&])(?P<name>\w+)\((?P<given>[^;{}]*?)\)\s*"
    r"(?P<const>const)?\s*(?P<noexcept>noexcept)?\s*=\s*0;"
)
_PROFILES = ("--profile", "x:1,4,8", "--profile", "x:9,12,16")


def main() -> int:
    """Run every release; return 1 if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tensorrt", type=Path, help="a clone of NVIDIA/TensorRT, with its tags")
    parser.add_argument("parser", type=Path, help="a clone of onnx/onnx-tensorrt, with its tags")
    parser.add_argument("cuda", type=Path, help="a folder with cuda_runtime_api.h")
    parser.add_argument("releases", nargs="*", default=list(RELEASES), metavar="RELEASE")
    options = parser.parse_args()
    failed = 0
    for release in options.releases:
        with tempfile.TemporaryDirectory() as name:
            faults = run(release, Path(name), options)
        failed += bool(faults)
        print(f"{release}: {'everything ran' if not faults else ''}", *faults, sep="\n  " if faults else "")
    return int(bool(failed))


def run(release: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """Build, prove, time and compare with one release; return what went wrong."""
    environment = make(release, folder, options)
    make_models(folder)
    faults: list[str] = []

    def command(*words: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "nm2trt", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode or "RULE BROKEN" in ran.stderr:
            faults.append(f"{' '.join(words)}: status {ran.returncode}: {ran.stderr.strip()[-600:]}")
        return ran.stdout

    limits = (
        "--timing-cache",
        "cache",
        "--effort",
        "2",
        "--workspace",
        "64M",
        "--no-tf32",
        "--no-library-tactics",
    )
    command(
        "build",
        "sparse.onnx",
        "-o",
        "n.engine",
        "--sparsity",
        "--require-sparse",
        "100%",
        *limits,
        *_PROFILES,
    )
    command(
        "build",
        "sparse.onnx",
        "-o",
        "fixed.engine",
        "--sparsity",
        "--shape",
        "x:8",
        "--timing-cache",
        "cache",
    )
    command(
        "validate", "n.engine", "--against", "sparse.onnx", "--data", "x.npz", "--rtol", "0", "--atol", "0"
    )
    command("bench", "n.engine", "n.engine", "--batch", "12", "--runs", "5")
    command("info", "n.engine")
    quick = ("--seconds", "0.05", "--warmup-seconds", "0.02", "--json")
    said = command("prove", "sparse.onnx", "--dense", "dense.onnx", "--backend", "trt", *quick)
    report = json.loads(said) if said else {}
    pairs, others = report.get("comparisons", []), report.get("other_clocks", [])
    speeds = {(pair["name"], pair["against"]): pair["speedup"] for pair in pairs}
    clocks = [clock["clock"] for clock in others]
    if speeds.get(("sparse-on", "sparse-off")) != 2.0 or clocks != ["host", "graph"]:
        faults.append(f"prove: speeds {speeds} by the device's clock, others by {clocks}")
    return faults


def make(release: str, folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """Fetch the bindings and compile the library behind them; return an environment that has both."""
    from tests.backends.gpu_double import DRIVER

    tag, major, site, library = RELEASES[release], release.split(".")[0], folder / "site", folder / "lib"
    for made in (site / "tensorrt", library, folder / "include"):
        made.mkdir(parents=True)
    fetch = ("pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder))
    run_checked(sys.executable, "-m", *fetch, f"tensorrt-cu12-bindings=={release}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    (site / "tensorrt" / "__init__.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    for name in run_checked(
        "git", "-C", options.tensorrt, "ls-tree", "-r", "--name-only", tag, "include"
    ).split():
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(run_checked("git", "-C", options.tensorrt, "show", f"{tag}:{name}"))
    header = folder / "include" / "NvOnnxParser.h"
    if not header.exists():
        parser = "release/10.0-GA" if release.startswith("10.0.") else "release/10.1-GA"
        header.write_text(run_checked("git", "-C", options.parser, "show", f"{parser}:NvOnnxParser.h"))
    compiler = ("g++", "-std=c++17", "-w", f"-I{header.parent}", f"-I{options.cuda}")
    headers = "#include <NvInfer.h>\n#include <NvOnnxParser.h>\n"
    whole = run_checked(*compiler, "-E", "-P", "-x", "c++", "-", given=headers)
    generated = folder / "generated.h"
    generated.write_text(unanswered(whole))
    defines = (
        f'-DGENERATED="{generated}"',
        f"-DPARSER_NOEXCEPT={'' if release.startswith('10.0.') else 'noexcept'}",
    )
    shared, empty = ("-shared", "-fPIC"), ("-x", "c", os.devnull)
    for name, source in {
        f"libnvinfer.so.{major}": (str(ROOT / "tools" / "trt_double" / "library.cpp"),),
        f"libnvonnxparser.so.{major}": empty,
        f"libnvinfer_plugin.so.{major}": empty,
    }.items():
        soname = f"-Wl,-soname,{name}"
        run_checked(*compiler, *defines, *shared, soname, "-o", library / name, *source, "-ldl")
    (folder / "cuda.c").write_text(DRIVER)
    run_checked("gcc", "-w", *shared, "-o", library / "libcuda.so.1", folder / "cuda.c")
    paths = {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}
    return {**os.environ, **paths}


def unanswered(headers: str) -> str:
    """Return a class for each of NVIDIA's interfaces, in which every method ends the process.

    Args:
        headers: NVIDIA's headers, preprocessed.
    """
    made = ["namespace nvonnxparser { using namespace nvinfer1; }", "using namespace nvinfer1;"]
    made.append("using namespace nvonnxparser;")
    for name in _CLASSES:
        found = re.search(
            rf"class (?:\w+\s+)?{name}(?:\s*:\s*public\s+[\w:]+)?\s*\{{(.*?)\n?\}};", headers, re.DOTALL
        )
        if found is None:
            continue  # VRuntimeConfig came with 10.10
        body = re.sub(r"\[\[\w+\]\]|__attribute__\(\(\w+\)\)", "", found[1])
        space = "nvonnxparser" if name == "IParser" else "nvinfer1::apiv"
        made.append(f"struct G{name[1:]} : {space}::{name} {{")
        for method in _METHOD.finditer(body):
            given = re.sub(r"\s*=\s*[^,()]+", "", method["given"])
            kind = f"{method['const'] or ''} {method['noexcept'] or ''} override"
            made.append(
                f"  {method['result'].strip()} {method['name']}({given}) {kind} "
                f'{{ unanswered("{name}::{method["name"]}"); }}'
            )
        made.append("};")
    return "\n".join(made) + "\n"


def make_models(folder: Path) -> None:
    """Write the models that the library pretends to have parsed, y = scale * x * W, and samples."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, half = np.random.default_rng(0), TensorProto.FLOAT16
    sparse = 2 * np.eye(64, dtype=np.float16)
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"], "scaling"),
        helper.make_node("MatMul", ["scaled", "w"], ["y"], "product"),
    ]
    inputs = [
        helper.make_tensor_value_info(*one) for one in (("x", half, ["batch", 64]), ("scale", half, []))
    ]
    outputs = [helper.make_tensor_value_info("y", half, ["batch", 64])]
    for name, weight in (("sparse", sparse), ("dense", rng.standard_normal((64, 64)).astype(np.float16))):
        graph = helper.make_graph(nodes, name, inputs, outputs, [numpy_helper.from_array(weight, "w")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / f"{name}.onnx")
    x = rng.standard_normal((20, 64)).astype(np.float16)
    np.savez(folder / "x.npz", x=x, scale=np.float16(1.5))


def run_checked(*words: str | Path, given: str | None = None) -> str:
    """Run a program, and return what it wrote; CalledProcessError if it failed, what it said in sight."""
    return subprocess.run(
        words, input=given, stdout=subprocess.PIPE, text=True, check=True, errors="replace"
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
