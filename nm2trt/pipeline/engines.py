"""ONNX to an engine, and the machine that builds it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.backends.options import BuildOptions, Sparsity, parse_profiles, parse_size, parse_targets

if TYPE_CHECKING:
    from nm2trt.engine.build import BuildResult
    from nm2trt.engine.machine import MachineReport

__all__ = ["build", "build_options", "doctor"]


def build_options(
    *,
    sparsity: Sparsity = "disable",
    targets: str | None = None,
    profiles: Sequence[str] = (),
    workspace: str | None = None,
) -> BuildOptions:
    """Return `BuildOptions` from texts as the command line takes them.

    Args:
        sparsity: "disable", "enable" or "force".
        targets: Compute capabilities, as in "sm80,sm86".
        profiles: One NAME:MIN,OPT,MAX an input, as in "x:1,8,32".
        workspace: A size, as in "512M".

    Raises:
        InputError: A text cannot be read.
    """
    return BuildOptions(
        sparsity=sparsity,
        targets=() if targets is None else parse_targets(targets),
        profiles=parse_profiles(profiles),
        workspace_bytes=None if workspace is None else parse_size(workspace),
    )


def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    options: BuildOptions | None = None,
    *,
    dry_run: bool = False,
) -> BuildResult:
    """Verify an ONNX model and build an engine from it, written whole or not at all, with its manifest.

    Args:
        model: The ONNX file.
        output: The engine's path; None puts it beside the model.
        options: What to build; None builds dense.
        dry_run: Stop before the builder starts, and write nothing.

    Raises:
        SparsityError: Sparse kernels are asked for, and no weight holds 2:4 or one breaks its plan.
        InputError: The model, a profile, a target or the output path is wrong.
        BackendError: The library is missing, refused the model or failed.
        Interrupted: The user stopped it.
    """
    from nm2trt.backends import trt_rtx
    from nm2trt.engine.build import ModelFacts, build_engine, check_request
    from nm2trt.graph.model import load
    from nm2trt.graph.prune import prune_model
    from nm2trt.graph.save import refuse_data_file
    from nm2trt.graph.verify import verify_model

    model, options = Path(model), options or BuildOptions()
    backend = trt_rtx.load()
    # Before the work of verifying: a wrong path or target should be told at once.
    out, options = check_request(model, None if output is None else Path(output), options, backend)
    refuse_data_file(load(model, leave_weights=True), out)
    with contextlib.ExitStack() as stack:
        source = model
        if options.sparsity == "force":
            source = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nm2trt-"))) / model.name
            prune_model(model, source, pattern="2:4")
        report = verify_model(source)
        return build_engine(
            model,
            out,
            options,
            weights=report.weights,
            facts=ModelFacts(report.mask_sha256, report.plan, report.missing),
            backend=backend,
            source=source,
            dry_run=dry_run,
        )


def doctor() -> MachineReport:
    """Say which libraries and GPUs are here."""
    from nm2trt.engine.machine import survey

    return survey()
