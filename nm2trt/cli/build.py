"""`nm2trt build`: an ONNX model to an engine."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.cli.other_tools import trtexec_line
from nm2trt.cli.output import (
    keep_json,
    print_error,
    print_json,
    print_notes,
    print_same,
    print_table,
    print_verdict,
    show,
)
from nm2trt.errors import SparsityError
from nm2trt.figures import percent
from nm2trt.options.command_line import words
from nm2trt.options.engines import BuildCommand, BuilderCommand, ProveCommand
from nm2trt.options.shared import Tabled
from nm2trt.terminal_text import shell_line, shell_path

if TYPE_CHECKING:
    from nm2trt.engine.build_result import BuildResult

OPTIONS = BuildCommand

_FOR_PROOF = "    # keeps the ONNX file that a proof on a GPU needs"

EPILOG = """examples:
  nm2trt build model.onnx --sparsity
  nm2trt build model.onnx --sparsity -o out/model.rtx --target sm80,sm86 --profile x:1,16,64
  nm2trt build model.onnx --sparsity --dry-run --json
  nm2trt build model.onnx --sparsity --precision int8 --calib inputs.npz
"""


def run(options: BuildCommand) -> int:
    """Build and print the ladder."""
    from nm2trt.pipeline.build import build_command

    sources = (str(options.model), options.calib)
    try:
        with keep_json(options.report, sources=sources) as keep:
            result = keep(build_command(options))
    except SparsityError as error:
        ladder = getattr(error, "ladder", ())
        if options.json:
            told = {"error": str(error), "kind": SparsityError.__name__, "exit_status": error.exit_status}
            print_json({"ladder": [row.to_json() for row in ladder], **told})
            raise
        # The sentence leads; the table that backs it comes after.
        print_error(str(error))
        if ladder:
            from nm2trt.engine.ladder.ladder_table import ladder_table
            from nm2trt.pipeline.next_step import next_step

            print_table(ladder_table(ladder), every_row=options.every_row)
            step = next_step(options.model, backend=options.backend, targets=options.targets)
            print_verdict("", step.command)
        return error.exit_status
    print_notes(result.notes)
    if options.json:
        print_json(result.to_json())
    else:
        show(result, every_row=options.every_row)
        if options.precision is None and options.sparsity != "force":
            # Otherwise another file was built than the one that was given.
            print_same(trtexec_line(result))
        _print_end(result, options)
    return 0


def _print_end(result: BuildResult, options: BuildCommand) -> None:
    if result.options.sparsity == "disable":
        # Say what the flag would do to someone who forgot it.
        work = result.forecast
        told = "a dense engine: no sparse kernel was considered"
        if not work.eligible:
            print_verdict(told, _next(result, options, able=False))
            return
        again = shell_line(["nm2trt", *words("build", replace(options, sparsity="enable"))])
        print_verdict(
            f"{told}, though {percent(work.share(work.eligible), 0)} of the work could run sparse", again
        )
        return
    able = any(row.answer == "yes" for row in result.ladder)
    print_verdict(result.outlook, _next(result, options, able=able), "good" if able else "no")


def _next(result: BuildResult, options: BuildCommand, *, able: bool) -> str:
    """Return the command to type next: build in earnest, prove on a GPU, or what lets weights run sparse."""
    if not able:
        from nm2trt.pipeline.next_step import next_step

        lowered = options.precision is not None or options.sparsity == "force"
        step = next_step(result.model, result.verified, backend=options.backend, targets=options.targets)
        return f"nm2trt explain {shell_path(result.engine)}" if lowered and result.written else step.command
    if not result.written:
        return shell_line(["nm2trt", *words("build", replace(options, dry_run=False))])
    # What was built is proved: the model as it was given, or the file in the precision, if it was kept.
    proved = Path(result.model)
    if options.precision is not None and result.backend != "ort":
        proved = result.engine.with_name(f"{result.engine.stem}.{options.precision}.onnx")
        if not options.keep:
            return shell_line(["nm2trt", *words("build", replace(options, keep=True))]) + _FOR_PROOF
    elif options.sparsity == "force" or result.backend == "ort":
        return f"nm2trt info {shell_path(result.engine)}"
    shown = {known.name for known in fields(Tabled)}
    shared = ["backend", *(known.name for known in fields(BuilderCommand) if known.name not in shown)]
    how: dict[str, Any] = {name: getattr(options, name) for name in shared}
    return shell_line(["nm2trt", *words("prove", ProveCommand(model=proved, **how))])
