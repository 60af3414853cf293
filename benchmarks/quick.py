"""The regression gate: ratios of processor time in two minutes, beside those that are committed.

    python benchmarks/quick.py [--runs 5] [--record] [--json FILE]

Every row is a whole process of ours over a reference that does the least for the same file, or a function
over a numpy or torch call on the same array; both take turns, and medians of processor time count, which
other load changes least. Rows that moved by more than 15 % from `benchmarks/results/quick.json` are printed
with both figures; the exit status is 1 if one of them grew. `--record` writes the file instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from build import BARE, ROOT, measure
from bytecode import compile_package
from nets import TWO_FOUR, half, many_nodes, resnet50, sparse

RESULTS = Path(__file__).parent / "results" / "quick.json"
MOVED = 0.15
FUSE_FEW = "fuse of 1,000 nodes / python -c pass"
FUSE_MANY = "fuse of 4,000 nodes / onnx's shape inference"
COUNT = "import sys, numpy; print(numpy.count_nonzero(numpy.fromfile(sys.argv[1], numpy.float32)))"
COPY = "import sys, onnx; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"
INFER = (
    "import sys, onnx; model = onnx.load(sys.argv[1]); "
    "onnx.save(onnx.shape_inference.infer_shapes(model), sys.argv[2])"
)


def main() -> int:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="write the committed file instead of comparing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    start = time.perf_counter()
    ratios = {**functions(arguments.runs), **processes(arguments.runs)}
    record = {
        "command": " ".join(["benchmarks/quick.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "runs": arguments.runs,
        "ratios": ratios,
    }
    text = json.dumps(record, indent=2) + "\n"
    if arguments.json is not None:
        arguments.json.write_text(text)
    print(f"{len(ratios)} ratios of processor time in {time.perf_counter() - start:.0f} s")
    if arguments.record:
        RESULTS.write_text(text)
        for name, ratio in ratios.items():
            print(f"{name:44} {ratio:7.2f}")
        return 0
    if not RESULTS.is_file():
        raise SystemExit(f"{RESULTS} is missing; write it with --record")
    return compare(ratios, json.loads(RESULTS.read_text())["ratios"])


def compare(ratios: Mapping[str, float], committed: Mapping[str, float]) -> int:
    """Print what moved by more than 15 %; 1 if something grew by so much, else 0."""
    grown = 0
    for name, ratio in ratios.items():
        before = committed.get(name)
        if before is None:
            print(f"{name:44} {ratio:7.2f}   not committed")
        elif abs(ratio / before - 1) > MOVED:
            grown += ratio > before
            print(f"{name:44} {ratio:7.2f}   was {before:.2f}: {ratio / before - 1:+.0%}")
    print(f"{grown} grew by more than {MOVED:.0%}" if grown else f"none grew by more than {MOVED:.0%}")
    return int(grown > 0)


def functions(runs: int) -> dict[str, float]:
    """Return the ratios of functions: the check of a pattern, and the masks."""
    from nm2trt.nm.mask import check

    weight = np.random.default_rng(0).standard_normal((512, 512, 3, 3)).astype(np.float32)
    weight.reshape(512, 128, 4, 9)[:, :, :2] = 0
    found = {
        "numpy check of 2:4 / count_nonzero": in_turn(
            lambda: check(weight, TWO_FOUR, axis=1), lambda: np.count_nonzero(weight), runs
        )
    }
    if importlib.util.find_spec("torch"):
        found |= masks(runs)
    return found


def masks(runs: int) -> dict[str, float]:
    import torch

    from nm2trt.nm.pattern import NMPattern
    from nm2trt.nm.torch_mask import magnitude_mask

    torch.set_num_threads(1)
    weight = torch.randn((832, 832, 3, 3), generator=torch.Generator().manual_seed(0))
    return {
        f"torch mask {text} / clone": in_turn(
            lambda text=text: magnitude_mask(weight, NMPattern.parse(text), axis=1), weight.clone, runs
        )
        for text in ("2:4", "4:8", "2:16")
    }


def in_turn(ours: Callable[[], object], reference: Callable[[], object], runs: int) -> float:
    """Return the median of the ratios of processor time."""
    ratios = []
    for run in range(2 * runs + 1):
        times = []
        for work in (ours, reference):
            start = time.process_time()
            for _ in range(3):
                work()
            times.append(time.process_time() - start)
        if run:  # the first round warms caches
            ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def processes(runs: int) -> dict[str, float]:
    """Return the ratios of whole processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {"dense": resnet50(), "sparse": sparse(resnet50()), "half": half(sparse(resnet50()))}
        models |= {f"chain{count}": many_nodes(count) for count in (1000, 4000)}
        for label, model in models.items():
            onnx.save(model, folder / f"{label}.onnx")
        del models
        pairs = commands(folder)
        cpu = {
            label: result["cpu"]
            for label, result in measure(
                {
                    f"{label}{side}": command
                    for label, pair in pairs.items()
                    for side, command in zip((" ours", " reference"), pair, strict=True)
                },
                runs,
                folder,
            ).items()
        }
        ratios = {label: cpu[f"{label} ours"] / cpu[f"{label} reference"] for label in pairs}
        many, few = (cpu[f"{label} ours"] for label in (FUSE_MANY, FUSE_FEW))
        ratios["fuse: 4,000 nodes / 1,000 nodes"] = many / few
    return ratios


def commands(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Return ours and the reference of every row."""
    python = sys.executable
    ours, nothing = [python, "-m", "nm2trt"], [python, "-c", "pass"]
    dense, two_four, lower = (str(folder / f"{name}.onnx") for name in ("dense", "sparse", "half"))
    few, many, out = str(folder / "chain1000.onnx"), str(folder / "chain4000.onnx"), str(folder / "out.onnx")
    fuse = ["fuse", "--no-compare", "-o", out]
    rows = {
        "--help / python -c pass": ([*ours, "--help"], nothing),
        "build --help / python -c pass": ([*ours, "build", "--help"], nothing),
        "verify ResNet-50 / numpy.count_nonzero of it": (
            [*ours, "verify", two_four, "--fail-on", "none"],
            [python, "-c", COUNT, two_four],
        ),
        "prune ResNet-50 / onnx.load, onnx.save": (
            [*ours, "prune", dense, "-o", out],
            [python, "-c", COPY, dense, out],
        ),
        FUSE_FEW: ([*ours, *fuse, few], nothing),
        FUSE_MANY: (
            [*ours, *fuse, many],
            [python, "-c", INFER, many, out],
        ),
    }
    if importlib.util.find_spec("tensorrt_rtx"):
        rows["build ResNet-50 / bare builder"] = (
            [*ours, "build", lower, "--sparsity", "--backend", "trt-rtx", "-o", str(folder / "o.rtx")],
            [python, "-c", BARE, lower, str(folder / "b.rtx")],
        )
    return rows


if __name__ == "__main__":
    # `nm2trt` of this tree, in this process and in those that are timed.
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
