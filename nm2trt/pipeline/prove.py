"""The twin build: three engines of one model, and what sparsity brought."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import InputError
from nm2trt.options.engines import BuilderCommand, ProveCommand
from nm2trt.options.field import keywords
from nm2trt.pipeline.in_memory import as_path, takes_values
from nm2trt.pipeline.keyword_options import build_options

if TYPE_CHECKING:
    import onnx
    import torch

    from nm2trt.backends.options import BuildOptions
    from nm2trt.backends.protocol import Backend
    from nm2trt.engine.build_result import BuildResult
    from nm2trt.engine.twin.report import TwinReport
    from nm2trt.graph.storage.model import Model

_LONGEST_S = 3600.0


@takes_values(models=("model", "dense"))
def prove(
    model: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    dense: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    options: BuildOptions | None = None,
    targets: str | None = None,
    profiles: Sequence[str] = (),
    workspace: str | None = None,
    shapes: Sequence[str] = (),
    effort: int | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    tf32: bool = True,
    strict_nans: bool = False,
    plugins: Sequence[str | os.PathLike[str]] = (),
    library_tactics: bool = True,
    backend: str | None = None,
    runs: int = 200,
    warmup: int = 20,
    seconds: float = 2.0,
    warmup_seconds: float = 0.5,
    example: Any = None,  # noqa: ARG001 - `takes_values` exports a module with it
) -> TwinReport:
    """Build a sparse model three times, and time what sparsity brought: see `nm2trt.engine.twin.compare`.

    Args:
        model: The sparse model: an ONNX file, an `onnx.ModelProto`, or a `torch.nn.Module` with an example.
        dense: The dense one; None fills the sparse one's zeros in, which is as good for timing.
        output: Folder to keep the engines in; None deletes them.
        options: What to build as one value, instead of the keywords down to `library_tactics`; `sparsity` is
            set for each of the three.
        targets: Compute capabilities, as in "sm80,sm86".
        profiles: One NAME:MIN,OPT,MAX per input, as in "x:1,8,32".
        workspace: Most scratch memory of a kernel, as in "512M".
        shapes: One NAME:SHAPE per input to fix, as in "x:8x3x224x224".
        effort: How long the builder searches, 0 to 5; None leaves it to the builder.
        timing_cache: File of kernel timings; None shares a fresh one among the three.
        tf32: Whether fp32 products may be rounded to TF32.
        strict_nans: Whether NaNs must pass through every layer.
        plugins: Shared libraries of operators; their code is run.
        library_tactics: Whether TensorRT may use cuBLAS and cuDNN.
        backend: "trt" or "trt-rtx"; by default as `build` chooses.
        runs: Fewest timed runs of each engine; on a GPU a run is a burst of inferences.
        warmup: Fewest runs of each before, not timed.
        seconds: Shortest time that each engine is timed for.
        warmup_seconds: Shortest warm-up; it goes on until the times settle, as a GPU raises its clocks.
        example: With a module, what it takes: a tensor, a tuple (positional) or a dict (by the names of
            `forward`).

    Returns:
        The report. Without a GPU everything but times is in it.

    Raises:
        SparsityError: No weight of the model holds 2:4.
        InputError: A path or option is wrong, or the dense model is not the same network.
        BackendError: The library is missing, refused a model or failed; if only the timing failed, the report
            without times is in `error.partial`.
    """
    from dataclasses import replace

    from nm2trt.backends.choice import choose_backend
    from nm2trt.engine.twin.clocks import Effort
    from nm2trt.engine.twin.compare import compare_twins
    from nm2trt.files import check_input
    from nm2trt.graph.prune.dense_twin import densify_model
    from nm2trt.graph.verify.verify_model import verify_model
    from nm2trt.validation.latency.machine_state import machine_state

    if runs < 1 or warmup < 0:
        raise InputError(f"{runs} runs after {warmup} measure nothing; give at least one run")
    if not (0 <= seconds <= _LONGEST_S and 0 <= warmup_seconds <= _LONGEST_S):
        raise InputError(
            f"{seconds} seconds after {warmup_seconds} cannot be timed; give 0 to {_LONGEST_S:g} seconds"
        )
    options = build_options(
        options,
        targets=targets,
        profiles=profiles,
        workspace=workspace,
        shapes=shapes,
        effort=effort,
        timing_cache=timing_cache,
        tf32=tf32,
        strict_nans=strict_nans,
        plugins=plugins,
        library_tactics=library_tactics,
    )
    model = check_input(as_path(model), "an ONNX model")
    builder = choose_backend(backend)
    with contextlib.ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nm2trt-")))
        folder = temporary if output is None else _folder(output)
        if dense is None:
            source = temporary / f"{model.stem}.dense.onnx"
            densify_model(model, source, verify_model(model).weights)
        else:
            source = check_input(as_path(dense), "an ONNX model")
            _refuse_another_network(model, source)
        if options.timing_cache is None and builder.has_timing_cache:
            # Tuned apart, the three could differ by the noise of the tuning.
            options = replace(options, timing_cache=temporary / "timings.cache")
        builds = _twins(model, source, folder, options, builder)
        return compare_twins(
            builds,
            builder,
            dense_model="" if dense is None else str(dense),
            kept=output is not None,
            effort=Effort(runs, warmup, seconds, warmup_seconds),
            state=machine_state,
        )


def _refuse_another_network(sparse: Path, dense: Path) -> None:
    """Refuse a dense model that differs in more than the numbers of its weights: nothing could be compared.

    Raises:
        InputError: Inputs, or operators, shapes and types of the weights are others.
    """
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.storage.model_info import describe_model
    from nm2trt.graph.verify.verify_model import verify_model

    def inputs(model: Model) -> list[str]:
        return [f"input {x.name} {x.dtype} {_size(x.shape or ())}" for x in describe_model(model).inputs]

    def weights(model: Model) -> list[str]:
        return [f"{x.operator} {_size(x.shape)} {x.dtype}" for x in verify_model(model).weights]

    opened = [load(path, leave_weights=True) for path in (sparse, dense)]
    for read in (inputs, weights):
        ours, theirs = (Counter(read(model)) for model in opened)
        different = [*(ours - theirs), *(theirs - ours)]
        if different:
            where = sparse if different[0] in ours - theirs else dense
            raise InputError(
                f"{dense} is not {sparse} before it was pruned: {different[0]} is only in {where}; export "
                "both from one network in one type, or leave --dense out to have the zeros filled in"
            )


def _size(shape: Sequence[int | str | None]) -> str:
    return "x".join(str(size) for size in shape)


def _twins(
    model: Path, dense: Path, folder: Path, options: BuildOptions, builder: Backend
) -> dict[str, BuildResult]:
    """Build the three engines; the sparse one first, which refuses what could not come out sparse."""
    from dataclasses import replace

    from nm2trt.backends.cuda import probe_gpus
    from nm2trt.pipeline.build import build

    suffix, backend = builder.suffix, builder.name
    gpus = probe_gpus()[0]
    if gpus and not options.targets and backend == "trt-rtx":
        # What is built is to run here; a GPU that the library cannot build for is told when it is loaded.
        with contextlib.suppress(InputError):
            options = replace(options, targets=builder.choose_targets((gpus[0].target,)))
    on, off = replace(options, sparsity="enable"), replace(options, sparsity="disable")
    found = {
        "sparse-on": build(model, folder / f"{model.stem}.sparse-on{suffix}", on, backend=backend),
        "sparse-off": build(model, folder / f"{model.stem}.sparse-off{suffix}", off, backend=backend),
        "dense": build(dense, folder / f"{model.stem}.dense{suffix}", off, backend=backend),
    }
    return {name: found[name] for name in ("dense", "sparse-off", "sparse-on")}


def _folder(path: str | os.PathLike[str]) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; create it, or give another one with -o")
    return folder


def prove_command(command: ProveCommand) -> TwinReport:
    """Prove as the options of `nm2trt prove` say; raises what `prove` does."""
    builder = keywords(command, of=BuilderCommand)
    return prove(options=build_options(None, "enable", **builder), **keywords(command, *builder))
