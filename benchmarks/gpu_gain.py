"""What 2:4 saves on this GPU: dense against sparse products over the layers of five networks.

    python benchmarks/gpu_gain.py -o gain.json [--dtypes fp16,bf16,int8] [--batches 1,8,32,128] [--runs 50]
                                  [--minutes 10]

Every convolution and linear layer of ResNet-50, MobileNetV2, ViT-S/16, ViT-B/16 and MiniLM-L6 (128 tokens)
is taken as the product that it comes to: m rows, n output channels, k products a result. Depthwise
convolutions, which have no sparse kernels, and images' three channels, which make no group, are left out.
Each distinct product is run by PyTorch's cuSPARSELt kernels with a random 2:4 weight, and as the dense
product of the same numbers: fp16 and bf16 by what `torch.sparse.to_sparse_semi_structured` makes against
`torch.mm`, int8 by `torch._cslt_sparse_mm` against `torch._int_mm`. cuSPARSELt searches for its fastest
algorithm first; sizes that it does not take are padded with zeros, at the sparse product's cost alone
(int8: at both). Ten calls of each are captured as a CUDA graph, and the graphs are replayed in turn between
CUDA events: launched one by one, small products would be timed as the host's work of making cuSPARSELt's
plan, and with one call a graph as the launch of the graph, about 10 us on an H200. Kept are
median, spread (90th less 10th percentile, over the median) and the difference from fp64. The table is written
as it grows; started again on the same GPU and versions, the script goes on where the table ends.

These are PyTorch's kernels, not TensorRT's: the table says where 2:4 can pay on this GPU, not that a builder
will choose it. Without a CUDA GPU the script says so and exits with status 4; `--list` prints the products.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nm2trt.files import write_atomic
from nm2trt.nm.gain_table import SCHEMA
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import nm_mask
from nm2trt.validation.latency import machine_state

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
NAMES = {"fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
# Largest difference from fp64, relative to the largest value, that rounding explains.
TOLERANCE = {"fp16": 2e-3, "bf16": 1.6e-2, "int8": 0.0}
TOKENS = {"vit": 197, "minilm": 128}
# Expansion, output channels, blocks, stride of the first block.
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
NO_GPU = 4
CALLS = 10
TIMING = f"CUDA events around replays of a CUDA graph of {CALLS} calls, dense and sparse in turn; of one call"
# A table that is killed loses at most this many rows.
WRITE_EVERY = 10


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as a product, at batch 1.

    Args:
        network: Where it comes from.
        name: Its name there.
        m: Rows of the result.
        n: Output channels.
        k: Products a result.
    """

    network: str
    name: str
    m: int
    n: int
    k: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Median and spread of one kernel.

    Args:
        ms: Median, in milliseconds.
        spread: 90th less 10th percentile, over the median.
    """

    ms: float
    spread: float


def layers() -> list[Layer]:
    """Return the layers of all networks."""
    return [*resnet50(), *mobilenet_v2(), *vit("vit-s", 384), *vit("vit-b", 768), *minilm()]


def resnet50() -> Iterator[Layer]:
    """Yield ResNet-50's convolutions for 224 x 224 images (stride on the 3 x 3)."""
    yield Layer("resnet50", "conv1", 112 * 112, 64, 3 * 49)
    inputs, size = 64, 56
    for stage, (blocks, planes) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            out = size // stride
            at = f"layer{stage}.{block}"
            yield Layer("resnet50", f"{at}.conv1", size * size, planes, inputs)
            yield Layer("resnet50", f"{at}.conv2", out * out, planes, planes * 9)
            yield Layer("resnet50", f"{at}.conv3", out * out, planes * 4, planes)
            if block == 0:
                yield Layer("resnet50", f"{at}.downsample", out * out, planes * 4, inputs)
            inputs, size = planes * 4, out
    yield Layer("resnet50", "fc", 1, 1000, 2048)


def mobilenet_v2() -> Iterator[Layer]:
    """Yield MobileNetV2's convolutions for 224 x 224 images, without the depthwise ones."""
    yield Layer("mobilenetv2", "features.0", 112 * 112, 32, 27)
    inputs, size, index = 32, 112, 1
    for expand, outputs, repeats, first_stride in MOBILENET_V2:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            out = size // stride
            if expand > 1:
                yield Layer("mobilenetv2", f"features.{index}.expand", size * size, inputs * expand, inputs)
            yield Layer("mobilenetv2", f"features.{index}.project", out * out, outputs, inputs * expand)
            inputs, size, index = outputs, out, index + 1
    yield Layer("mobilenetv2", "features.18", size * size, 1280, inputs)
    yield Layer("mobilenetv2", "classifier", 1, 1000, 1280)


def vit(name: str, width: int) -> Iterator[Layer]:
    """Yield one block of a vision transformer with 16 x 16 patches, its patch embedding and head."""
    tokens = TOKENS["vit"]
    yield Layer(name, "patch_embed", 196, width, 3 * 256)
    yield from _block(name, tokens, width, qkv=3 * width)
    yield Layer(name, "head", 1, 1000, width)


def minilm() -> Iterator[Layer]:
    """Yield one block of MiniLM-L6-H384."""
    return _block("minilm", TOKENS["minilm"], 384, qkv=384)


def _block(network: str, tokens: int, width: int, *, qkv: int) -> Iterator[Layer]:
    yield Layer(network, "qkv", tokens, qkv, width)
    yield Layer(network, "proj", tokens, width, width)
    yield Layer(network, "fc1", tokens, 4 * width, width)
    yield Layer(network, "fc2", tokens, width, 4 * width)


def products(batches: Sequence[int]) -> dict[tuple[int, int, int], list[str]]:
    """Return each distinct (m, n, k) that can be 2:4, with the layers that come to it."""
    found: dict[tuple[int, int, int], list[str]] = {}
    for batch in batches:
        for layer in (layer for layer in layers() if layer.k % 4 == 0):
            label = f"{layer.network}/{layer.name}@{batch}"
            found.setdefault((layer.m * batch, layer.n, layer.k), []).append(label)
    return found


def padded(m: int, n: int, k: int, dtype: str) -> tuple[int, int, int]:
    """Return the sizes that cuSPARSELt takes: multiples of what it asks for, the work on zeros included."""
    shapes = torch.sparse.SparseSemiStructuredTensorCUSPARSELT._DTYPE_SHAPE_CONSTRAINTS[DTYPES[dtype]]
    rows, columns, dense = shapes.sparse_min_rows, shapes.sparse_min_cols, shapes.dense_min_cols
    return _up(m, dense), _up(n, rows), _up(k, columns)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def operands(m: int, n: int, k: int, dtype: str, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return a 2:4 weight (n, k) and an input (m, k) of random numbers."""
    generator = torch.Generator(device).manual_seed(0)
    made = []
    for rows in (n, m):
        if dtype == "int8":
            numbers = torch.randint(-127, 128, (rows, k), generator=generator, device=device)
        else:
            numbers = torch.randn(rows, k, generator=generator, device=device)
        made.append(numbers.to(DTYPES[dtype]))
    weight, x = made
    return weight * nm_mask(weight.float().abs(), NMPattern(2, 4), axis=1), x


def grown(weight: Tensor, x: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    """Return weight and input padded with zeros to sizes that cuSPARSELt takes."""
    (n, k), m = weight.shape, x.shape[0]
    to_m, to_n, to_k = padded(m, n, k, dtype)
    pad = torch.nn.functional.pad
    return pad(weight, (0, to_k - k, 0, to_n - n)), pad(x, (0, to_k - k, 0, to_m - m))


def calls(weight: Tensor, x: Tensor, dtype: str) -> dict[str, Callable[[], Tensor]]:
    """Return the dense and the sparse product weight @ x.T, ready to run on a GPU."""
    big, columns = grown(weight, x, dtype)
    columns = columns.t()
    if dtype == "int8":
        packed = torch._cslt_compress(big)
        chosen = fastest(packed, columns, torch.int32)
        return {
            "dense": lambda: torch._int_mm(big, columns),
            "sparse": lambda: torch._cslt_sparse_mm(packed, columns, out_dtype=torch.int32, **chosen),
        }
    # As int8 is: the tensor class around it warns that it is a prototype.
    packed = torch._cslt_compress(big)
    chosen = fastest(packed, columns)
    rows = x.t()
    return {
        "dense": lambda: torch.mm(weight, rows),
        "sparse": lambda: torch._cslt_sparse_mm(packed, columns, **chosen),
    }


def fastest(packed: Tensor, columns: Tensor, out_dtype: torch.dtype | None = None) -> dict[str, int]:
    """Return what cuSPARSELt finds fastest, as keywords of `torch._cslt_sparse_mm`."""
    search = getattr(getattr(torch._C, "_cusparselt", None), "mm_search", None)
    if search is None:
        return {"alg_id": torch._cslt_sparse_mm_search(packed, columns, out_dtype=out_dtype)}
    # The public search drops the split of k, without which the same algorithm may be a slower one.
    algorithm, split, mode, _ = search(packed, columns, None, None, out_dtype, False)
    return {"alg_id": algorithm, "split_k": split, "split_k_mode": mode}


def off_from_fp64(result: Tensor, weight: Tensor, x: Tensor) -> float:
    """Return the largest difference from the product in fp64, relative to its largest value."""
    exact = weight.double() @ x.double().t()
    result = result[: exact.shape[0], : exact.shape[1]]
    return float((result.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30))


def check_numerics(off: Mapping[str, float], dtype: str) -> None:
    """Refuse products that are wrong; one that is not a number is.

    Raises:
        ArithmeticError: A product differs from fp64 by more than rounding explains.
    """
    for name, value in off.items():
        if not value <= TOLERANCE[dtype]:
            raise ArithmeticError(f"the {name} product is off by {value:.3g}")


def timed(runs: dict[str, Callable[[], object]], *, rounds: int, warmup: int) -> dict[str, Timing]:
    """Time the calls in turn on the GPU, `CALLS` of each as a graph that is replayed between two events."""
    runs = {name: graphed(run) for name, run in runs.items()}
    for _ in range(warmup):
        for run in runs.values():
            run()
    torch.cuda.synchronize()
    marks: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin, end = _event(), _event()
            begin.record()
            run()
            end.record()
            marks[name].append((begin, end))
    torch.cuda.synchronize()
    return {name: summarise([a.elapsed_time(b) / CALLS for a, b in pairs]) for name, pairs in marks.items()}


def graphed(run: Callable[[], object]) -> Callable[[], object]:
    """Return the replay of `CALLS` calls as one CUDA graph.

    Raises:
        RuntimeError: The call cannot be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Handles and workspaces are made outside the graph.
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            run()
    return graph.replay


def _event() -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event


def summarise(times_ms: Sequence[float]) -> Timing:
    """Return median and spread."""
    middle = statistics.median(times_ms)
    tenths = statistics.quantiles(times_ms, n=10) if len(times_ms) > 1 else [middle, middle]
    return Timing(middle, (tenths[-1] - tenths[0]) / middle if middle else 0.0)


def measure(m: int, n: int, k: int, dtype: str, *, rounds: int, warmup: int) -> dict[str, Any]:
    """Measure one product; returns a row of the table.

    Raises:
        ArithmeticError: A product differs from fp64 by more than rounding explains.
    """
    weight, x = operands(m, n, k, dtype, "cuda")
    runs = calls(weight, x, dtype)
    off = {name: off_from_fp64(run(), weight, x) for name, run in runs.items()}
    check_numerics(off, dtype)
    found = timed(dict(runs), rounds=rounds, warmup=warmup)
    return {
        "m": m,
        "n": n,
        "k": k,
        "dtype": NAMES[dtype],
        "padded": list(padded(m, n, k, dtype)),
        **{f"{name}_ms": round(timing.ms, 6) for name, timing in found.items()},
        **{f"{name}_spread": round(timing.spread, 4) for name, timing in found.items()},
        **{f"{name}_off_from_fp64": value for name, value in off.items()},
    }


def device_record() -> dict[str, Any]:
    """Return what this GPU is, and its clocks now."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "target": f"sm{properties.major}{properties.minor}",
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "clocks": clocks(),
    }


def clocks() -> str:
    """Return clocks, power and temperature of the GPU that is measured, or "" without nvidia-smi."""
    return ", ".join(f"{name} {value}" for name, value in machine_state.gpu_state().items())


def versions() -> dict[str, str]:
    """Return the versions that the times depend on."""
    return {
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cusparselt": str(torch.backends.cusparselt.version()),
    }


def table(rows: list[dict[str, Any]], failed: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return the table as JSON values."""
    return {
        "schema": SCHEMA,
        "created": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "device": device_record(),
        "versions": versions(),
        "conditions": {
            "kernels": "PyTorch's cuSPARSELt, its fastest algorithm; dense: torch.mm and torch._int_mm",
            "runs": options.runs,
            "warmup": options.warmup,
            "timing": TIMING,
            "clocks_after": clocks(),
        },
        "rows": rows,
        "failed": failed,
    }


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("gain.json"))
    parser.add_argument("--dtypes", default="fp16,bf16,int8")
    parser.add_argument("--batches", default="1,8,32,128")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--minutes", type=float, help="begin no product after this time")
    parser.add_argument("--list", action="store_true", help="print the products, measure nothing")
    options = parser.parse_args(words)
    options.dtypes = options.dtypes.split(",")
    options.batches = [int(batch) for batch in options.batches.split(",")]
    if not set(options.dtypes) <= set(DTYPES) or min(options.batches) < 1 or options.runs < 1:
        parser.error("dtypes are fp16, bf16 and int8; batches and runs are positive")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Measure every product and write the table."""
    options = parse(words)
    found = products(options.batches)
    if options.list:
        for size, where in found.items():
            print("x".join(map(str, size)), *where)
        return 0
    if not torch.cuda.is_available() or not torch.backends.cusparselt.is_available():
        print("no CUDA GPU with cuSPARSELt is here; nothing was measured", file=sys.stderr)
        return NO_GPU
    rows = earlier(options.output)
    done = {(row["m"], row["n"], row["k"], row["dtype"]) for row in rows}
    failed: list[str] = []
    wanted = [(*size, dtype) for size in found for dtype in options.dtypes]
    left = [item for item in wanted if (*item[:3], NAMES[item[3]]) not in done]
    until = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    for position, (m, n, k, dtype) in enumerate(left):
        if time.monotonic() >= until:
            print(f"{len(left) - position} products are left; run it again to go on", file=sys.stderr)
            break
        try:
            row = measure(m, n, k, dtype, rounds=options.runs, warmup=options.warmup)
        except (RuntimeError, ArithmeticError) as error:
            failed.append(f"{m}x{n}x{k} {dtype}: {str(error).splitlines()[0]}")
            continue
        rows.append({**row, "layers": found[m, n, k]})
        speedup = row["dense_ms"] / row["sparse_ms"]
        print(f"[{position + 1}/{len(left)}] {m}x{n}x{k} {dtype}: {speedup:.2f}x", file=sys.stderr)
        if len(rows) % WRITE_EVERY == 0:
            write(rows, failed, options)
    write(rows, failed, options)
    print(f"{options.output}: {len(rows)} rows, {len(failed)} failed")
    return 0 if rows else 1


def earlier(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table of this GPU and these versions; none of another, which is written over."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(path.read_text())
        same = known["device"]["name"] == device_record()["name"] and known["versions"] == versions()
        if same and known["schema"] == SCHEMA and known["conditions"]["timing"] == TIMING:
            return list(known["rows"])
        print(f"{path} is of another GPU, version or timing; it is written anew", file=sys.stderr)
    return []


def write(rows: list[dict[str, Any]], failed: list[str], options: argparse.Namespace) -> None:
    """Write what there is, whole or not at all."""
    write_atomic(options.output, json.dumps(table(rows, failed, options), indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
