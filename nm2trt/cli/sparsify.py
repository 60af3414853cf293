"""`nm2trt sparsify`: a recipe in, weights and ONNX out, one row per weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import print_result, print_table, say
from nm2trt.figures import counted, percent
from nm2trt.options.field import keywords
from nm2trt.options.runs import SparsifyCommand
from nm2trt.tables.table import Column, Row, Table

if TYPE_CHECKING:
    from nm2trt.pipeline.sparsify import SparsifyResult

OPTIONS = SparsifyCommand

EPILOG = """examples:
  nm2trt sparsify repair.yaml -o results/repaired
  nm2trt sparsify repair.yaml --allow-functions   # the recipe names code of its own
"""


def run(options: SparsifyCommand) -> int:
    """Sparsify, print, and return 0."""
    from nm2trt.pipeline.sparsify import sparsify_file

    result = sparsify_file(**keywords(options))
    print_result(result, _print, as_json=options.json, every_row=options.every_row)
    return 0


def _print(result: SparsifyResult, *, every_row: bool) -> None:
    layers = result.report["layers"]
    columns = (Column("weight", "name"), Column("shape"), Column("pattern"), Column("zeros", "number"))
    rows = (
        Row(
            (
                entry.weight,
                "x".join(map(str, entry.shape)),
                "anywhere" if entry.unstructured else str(entry.pattern or "dense"),
                percent(layers[entry.weight]["sparsity"]) if entry.weight in layers else "-",
            ),
            "good" if entry.weight in layers else "",
            entry.reason,
        )
        for entry in result.plan
    )
    print_table(Table(columns, tuple(rows)), every_row=every_row)
    report = result.report
    say()
    if "loss_after" in report:
        say(f"{percent(report['rate_of_all'])} of all weights are zero")
        say(
            f"distillation loss {report['loss_before']:.4g} after pruning, {report['loss_after']:.4g} after "
            f"repair ({counted(report['samples'], 'sample')}, {result.seconds:.0f} s)"
        )
        if report["resumed_at"]:
            say(f"went on from step {report['resumed_at']} of a stopped run")
    else:
        say(f"{percent(report['sparsity'])} of the sparse layers' weights are zero")
    say(f"wrote {result.weights} and {result.onnx}")
