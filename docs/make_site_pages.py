"""Write docs/reference/support.md and docs/methods/which.md from tables of the code and measured results.

PYTHONPATH=. python docs/make_site_pages.py            # writes both; run it again when one of them changes
PYTHONPATH=. python docs/make_site_pages.py --check    # fails if a page is stale
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nm2trt.backends._trt_versions import ROWS
from nm2trt.graph.quantize.number_formats import FORMATS
from nm2trt.nm.axes import ONNX_WEIGHTS, TORCH_WEIGHTS
from nm2trt.nm.eligibility_tables import DTYPE_ROWS, UNREAD_BY_RTX, UNREAD_OPERATORS
from nm2trt.options.engines import BuildCommand
from nm2trt.options.field import options_of
from nm2trt.serving.releases import RELEASES
from nm2trt.sparsity.registry import METHODS

DOCS = Path(__file__).parent
ROOT = DOCS.parent
CLAIMS = "samples/02_methods/measured/claims.json"
REBUILT = "benchmarks/results/reconstruct.json"
INT8 = "benchmarks/results/int8_sparse.json"
PRODUCTS = {"trt": "TensorRT", "trt-rtx": "TensorRT for RTX"}


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)


def yes(fact: bool) -> str:
    """Return a fact in a word."""
    return "yes" if fact else "no"


def run_where() -> str:
    """Return README's table of what was run where, the only place that says it."""
    text = (ROOT / "README.md").read_text().partition("## What was run where\n\n")[2].partition("\n\n")[0]
    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"\1 (`\2`)", text)


def versions() -> str:
    """Return the builders by version."""
    rows = (
        (
            PRODUCTS[row.product],
            f"{row.since[0]}.{row.since[1]}",
            "as the parser decides" if row.max_opset is None else str(row.max_opset),
            "by builder flags" if row.type_flags else "by the types of the network",
            yes(row.int64),
            yes(row.timing_cache),
        )
        for row in ROWS
    )
    return table(
        ("builder", "from version", "highest opset", "precision is set", "int64", "timing cache"), rows
    )


def precisions() -> str:
    """Return which types may have sparse kernels, by builder and architecture."""
    rows = (
        (
            ", ".join(row.dtypes),
            PRODUCTS.get(row.builder, "any"),
            ", ".join(row.targets) or "any",
            row.answer,
            row.basis,
        )
        for row in DTYPE_ROWS
    )
    return table(("weights", "builder", "architecture", "can run sparse", "basis"), rows)


def operators() -> str:
    """Return the ONNX operators whose weights are judged, and who reads them."""
    rows = []
    for domain, name in ONNX_WEIGHTS:
        refused = "each that was asked" if name in UNREAD_OPERATORS else "-"
        refused = PRODUCTS["trt-rtx"] if name in UNREAD_BY_RTX else refused
        operands = ", ".join(str(number) for number in ONNX_WEIGHTS[domain, name])
        rows.append((f"`{name}`", f"`{domain or 'ai.onnx'}`", operands, refused))
    return table(("operator", "domain", "weight is input", "refused by the parser of"), rows)


def releases() -> str:
    """Return the images of Triton whose TensorRT is known."""
    rows = ((f"`{row.tag}`", row.tensorrt, row.source) for row in RELEASES)
    return table(("image", "TensorRT", "source"), rows)


def support() -> str:
    """Return the page of what is supported."""
    precision = next(known for known in options_of(BuildCommand) if known.name == "precision")
    built = ", ".join(f"`{choice}`" for choice in precision.choices)
    layers = ", ".join(f"`{name}`" for name in TORCH_WEIGHTS)
    formats = ", ".join(f"`{name}`" for name in FORMATS)
    methods = ", ".join(f"`{name}`" for name in METHODS)
    return f"""# Support matrix

Made by `docs/make_site_pages.py` from the tables that the code reads. A row says what nm2trt does; whether anybody
has run it stands in the first table, and nowhere else.

## What was run where

{run_where()}

## Builders

{versions()}
`nm2trt build --precision` takes {built}; without it an engine computes in the types of the file.
ONNX Runtime 1.21 or newer is the third backend: it builds nothing and has no sparse kernels.

## Patterns

`verify`, `prune`, `permute` and `sparsify` take any N:M, as in 1:4, 2:8 or 3:16. Sparse tensor cores run 2:4 only (and what holds it, as 1:4 does), so only such weights can be
eligible for a sparse kernel.

## Precisions

{precisions()}
`nm2trt quantize` writes {formats}; `nm2trt cast` writes `fp16` and `bf16`.

## Layers of PyTorch

Methods attach to {layers}, and to `LSTM`, `GRU` and `RNN` that `include` names. They are {methods}.

## Operators of ONNX

An operator with constant weights that stands in no row is reported as `untraceable`, and never as passed.

{operators()}
## Images of Triton

A plan loads only in the TensorRT that built it. `nm2trt deploy --triton-release TAG` reads this table.

{releases()}"""


def figure(value: float, digits: int = 2) -> str:
    """Return a number, rounded."""
    return f"{value:.{digits}f}"


def training_table(claims: dict[str, Any]) -> str:
    """Return the accuracy of each training method by pattern."""
    targets = ("2:4", "4:8", "2:8", "1:16")
    found = {(row["method"], row["target"]): row for row in claims["accuracies"]}
    rows = []
    for method in ("sr-ste", "lbc", "spre", "ste", "magnitude", "one-shot"):
        cells = [found.get((method, target)) for target in targets]
        told = (f"{figure(c['mean'])} ± {figure(c['deviation'])} ({c['seeds']})" if c else "-" for c in cells)
        rows.append((f"`{method}`", *told))
    return table(("method", *targets), rows)


def decided(claims: dict[str, Any]) -> str:
    """Return the differences between methods whose interval over seeds excludes zero."""
    rows = []
    for row in claims["differences"]:
        low, high = row["over_seeds"]
        if low * high > 0:
            rows.append(
                (
                    f"`{row['better']}` - `{row['than']}`",
                    row["target"],
                    f"{row['mean']:+.2f}",
                    f"{low:+.2f} to {high:+.2f}",
                )
            )
    return table(("difference", "pattern", "points", "95 % interval over seeds"), rows)


def rebuilt_table(rebuilt: dict[str, Any], int8: dict[str, Any]) -> str:
    """Return one-shot, rebuilt and INT8 scores of each network."""
    rows = []
    for key, network in rebuilt["networks"].items():
        integers = int8["networks"].get(key, {}).get("int8 2:4", {})
        for score, dense in network["dense"].items():
            digits = 3 if dense <= 1 else 1
            searched, joint = (
                integers.get(kind, {}).get("scores", {}).get(score) for kind in ("searched", "joint")
            )
            rows.append(
                (
                    network["network"],
                    score,
                    figure(dense, digits),
                    figure(network["magnitude"][score], digits),
                    figure(network["mean"][score], digits),
                    *("-" if value is None else figure(value, digits) for value in (searched, joint)),
                    str(len(network["draws"])),
                )
            )
    headers = (
        "network",
        "score",
        "dense",
        "one-shot",
        "`prune --calib`",
        "then INT8, searched",
        "`--to int8`",
        "draws",
    )
    return table(headers, rows)


def which() -> str:
    """Return the page that says which method to take when."""
    claims, rebuilt, int8 = (json.loads((ROOT / path).read_text()) for path in (CLAIMS, REBUILT, INT8))
    dense = claims["accuracies"][0]
    post = {row["method"]: row for row in claims["accuracies"] if row["target"] == "80%"}
    return f"""# Which method when

The figures are read by `docs/make_site_pages.py` from the results that the named commands wrote. They are small tasks
on small machines: take them as a guide to what to try first, not as what your network will do.

| you have | take | because |
|---|---|---|
| an ONNX file, a hundred unlabelled samples, minutes of CPU | [`nm2trt prune --calib`](reconstruct.md) | no PyTorch, no labels, no training loop |
| the same, and layers that do not stand 2:4 | the same with `--share` or `--max-drop` | keeps dense what costs most accuracy |
| a PyTorch model, unlabelled samples, no training loop | [`sparsify(method="reconstruct")`](reconstruct.md), or [`fcpts`](fcpts.md) if the rate counts and not the pattern | the first holds 2:4; the second finds the rate of each layer |
| a training loop and 2:4 | [`sr-ste`](sr_ste.md) | at 2:4 no other was better beyond doubt; a step took 1.02 of a dense one on an H200 (`benchmarks/results/gpu/h200`) |
| a training loop and few kept weights, as in 1:16 | [`lbc`](lbc.md) or [`sr-ste`](sr_ste.md) | both are above `ste` there beyond doubt |
| convolutions with BatchNorm, and time to compare | [`spre`](spre.md) | its branch folds away; here it was not ahead |
| a mask that must not move | [`magnitude`](magnitude.md) | plain, and one-shot without training costs most |
| INT8 as well as 2:4 | `nm2trt prune --calib --to int8`, then compare with `quantize --max-loss` | masks, values and integers in one solve |

## With training

{claims["data"]}, {claims["test_images"]:,} test images, {claims["settings"]["steps"]} steps: top-1 in %, mean ± standard
deviation (seeds). Dense: {figure(dense["mean"])} ± {figure(dense["deviation"])}. Command:
`python samples/02_methods/claims.py`; results: `{CLAIMS}`.

{training_table(claims)}
Of all pairs that were compared, these differ beyond the seeds:

{decided(claims)}
What stands in no row of the second table is undecided, whichever is ahead in the first.

## After training, without labels

FCPTS at 80 % zeros on the same task, not held to a pattern: magnitude alone {figure(post["fcpts-magnitude"]["mean"])} %, with
learned thresholds {figure(post["fcpts-learned"]["mean"])} % (dense {figure(dense["mean"])} %).

Networks from packages, 2:4 in every layer that can hold it; scores on samples that were not calibrated on.
Commands: `python benchmarks/reconstruct.py`, `python benchmarks/int8_sparse.py`; results: `{REBUILT}`, `{INT8}`.
`prune --calib` is the mean of the draws; the INT8 columns come from one draw of samples.

{rebuilt_table(rebuilt, int8)}
MobileNetV2 stays far from usable at 2:4 everywhere: there, keep layers dense or train.
No column says anything about speed: see [the ladder of proof](../proof.md).
"""


PAGES = {DOCS / "reference" / "support.md": support, DOCS / "methods" / "which.md": which}


def main() -> int:
    """Write the pages, or check them."""
    if "--check" in sys.argv:
        return int(any(path.read_text() != page() for path, page in PAGES.items()))
    for path, page in PAGES.items():
        path.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
