"""`nm2trt validate`: two models on the same samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.bench import print_latency
from nm2trt.cli.other_tools import polygraphy_line
from nm2trt.cli.output import (
    is_verbose,
    keep_json,
    print_json,
    print_result,
    print_same,
    print_table,
    print_verdict,
    say,
    show,
    tell,
)
from nm2trt.errors import Nm2trtError
from nm2trt.options.checks import ValidateCommand
from nm2trt.options.field import keywords
from nm2trt.tables.table import Mark
from nm2trt.terminal_text import no_flag, shell_line

if TYPE_CHECKING:
    from nm2trt.validation.report import ValidationReport

_MARKS: dict[str, Mark] = {"pass": "good", "FAIL": "bad"}

OPTIONS = ValidateCommand

EPILOG = """examples:
  nm2trt validate sparse.onnx --against dense.onnx --data test.npz --max-drop 0.5pt
  nm2trt validate model.rtx --against model.onnx --data calib/images.yaml --metric top-1 --metric top-5
  nm2trt validate http://localhost:8000/ocr --against ocr.onnx --data lines.npz --metric cer
  nm2trt validate fused.onnx --against model.pt2 --data test.npz --runs 0 -o report.json

metrics: top-K (K a number), agreement, exact-match, cer, cosine, retrieval, map, or module:function;
docs/validation.md says what each reads.
"""


def run(options: ValidateCommand) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.validate import validate

    sources = (options.model, options.against, options.data)
    if options.shard is not None:
        return _run_shard(options, options.shard, sources)
    try:
        with keep_json(options.report, sources=sources) as keep:
            report = keep(validate(**keywords(options)))
    except Nm2trtError as error:
        if error.partial is not None and not options.json:
            _print(error.partial, options, verbose=is_verbose())
        raise
    if options.json:
        print_json(report.to_json())
    else:
        _print(report, options, verbose=is_verbose())
    for warning in () if options.json else report.warnings:
        tell(f"warning: {warning}")
    report.require_passed()
    if options.json:
        for gate in report.gates:
            tell(gate.sentence)
    return 0


def _run_shard(options: ValidateCommand, shard: str, sources: tuple[str, ...]) -> int:
    from nm2trt.pipeline.validate_shard import validate_shard

    # What judges, and what times, is the merge's.
    later = ("max_drop", "min_cosine", "bisect", "runs", "warmup", "merge")
    with keep_json(options.report, sources=sources) as keep:
        found = keep(validate_shard(shard=shard, **keywords(options, *later)))
    print_result(found, show, as_json=options.json)
    return 0


def _print(report: ValidationReport, options: ValidateCommand, *, verbose: bool) -> None:
    """Print accuracy and differences first, then times, then the verdict; machine facts with `-v` only."""
    for table in report.tables():
        print_table(table)
        say()
    *lines, verdict = report.remarks()
    for line in lines:
        say(line, _MARKS.get(line[:4], ""))
    if report.benchmark is not None:
        if lines:
            say()
        print_latency(report.benchmark, conditions=verbose)
        say()
    print_same(polygraphy_line(options))
    passed = report.passed
    print_verdict(verdict, _next(report, options), "" if passed is None else "good" if passed else "bad")


def _next(report: ValidationReport, options: ValidateCommand) -> str:
    """Return the command that loses less, if an ONNX model lost more than --max-drop allows; else ""."""
    allowed = {g.metric: g.max_drop for g in report.gates if g.max_drop is not None and not g.passed}
    # More samples may decide it if the difference itself is allowed.
    lost = [
        metric.name
        for metric in report.comparison.metrics
        if metric.name in allowed and metric.loss > allowed[metric.name]
    ]
    if not lost or not options.model.endswith(".onnx") or not options.against.endswith(".onnx"):
        return ""
    from nm2trt.pipeline.next_command import SAMPLES
    from nm2trt.pipeline.verify import verify

    try:
        found, dense = verify(options.model), verify(options.against)
    except Nm2trtError:
        # A served model, or a file that only ONNX Runtime takes: the gate has failed all the same.
        return ""
    if dense.quantised or dense.any_holds:
        return ""
    start = [no_flag(options.against), "--calib", SAMPLES]
    if found.quantised and found.any_holds:
        less = ["prune", *start, "--to", "int8", "--share", "50%", "--max-loss", "1%"]
    elif found.quantised:
        less = ["quantize", *start, "--max-loss", "1%"]
    elif found.any_holds:
        metric = [] if lost[0] == "top-1" else ["--metric", lost[0]]
        less = ["prune", *start, "--data", "LABELLED.npz", *metric]
        less += ["--max-drop", str(options.max_drop)]
    else:
        return ""
    return shell_line(["nm2trt", *less])
