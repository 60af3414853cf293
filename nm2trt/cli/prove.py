"""`nm2trt prove`: three engines of one model, and what sparsity brought."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.other_tools import trtexec_timing_line
from nm2trt.cli.output import print_json, print_notes, print_same, print_verdict, show
from nm2trt.errors import BackendError
from nm2trt.options.command_line import words
from nm2trt.options.engines import BuilderCommand, ProveCommand
from nm2trt.options.field import keywords
from nm2trt.terminal_text import shell_line, shell_path

if TYPE_CHECKING:
    from nm2trt.engine.twin.report import TwinReport
    from nm2trt.tables.table import Mark

OPTIONS = ProveCommand

EPILOG = """examples:
  nm2trt prove model.onnx                       # its zeros are filled in for the dense twin
  nm2trt prove sparse.onnx --dense dense.onnx --json > prove.json

Without a GPU the three engines are built, and everything but the times is printed.
"""


def run(options: ProveCommand) -> int:
    """Build, time and print."""
    from nm2trt.pipeline.prove import prove_command

    try:
        report = prove_command(options)
    except BackendError as error:
        # The engines were built; only the GPU could not run them.
        if error.partial is not None and not options.json:
            _show(error.partial, options)
        raise
    _show(report, options)
    return 0


def _show(report: TwinReport, options: ProveCommand) -> None:
    print_notes(report.notes)
    if options.json:
        print_json(report.to_json())
        return
    from nm2trt.pipeline.keyword_options import build_options

    show(report, every_row=options.every_row)
    asked = build_options(None, "enable", **keywords(options, of=BuilderCommand))
    print_same(trtexec_timing_line(report, options.model, asked))
    verdict, mark = _verdict(report)
    print_verdict(verdict, _next(report, options), mark)


def _verdict(report: TwinReport) -> tuple[str, Mark]:
    if not report.measured:
        return f"no speed was measured: {report.why_not}", "doubt"
    pair = next((p for p in report.comparisons if (p.name, p.against) == ("sparse-on", "sparse-off")), None)
    if pair is None or not pair.certain:
        return "sparsity brings no speed that these blocks agree on", "doubt"
    word = "faster" if pair.low > 1.0 else "slower"
    sentence = (
        f"with sparse kernels {pair.speedup:.3f}x ({pair.low:.3f} to {pair.high:.3f}), {word} in every block"
    )
    return sentence, "good" if pair.low > 1.0 else "no"


def _next(report: TwinReport, options: ProveCommand) -> str:
    if not report.measured:
        return shell_line(["nm2trt", *words("prove", options)]) + "    # on the GPU"
    return f"nm2trt explain {shell_path(options.model)} --backend {report.backend}"
