"""The result of `build`: what it did or, on a dry run, would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import TensorSpec
from nm2trt.engine.ladder.forecast import Forecast
from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.engine.ladder.ladder_table import ladder_table
from nm2trt.figures import counted, large, percent, size
from nm2trt.json_value import named
from nm2trt.manifest import manifest_path
from nm2trt.tables.result import Result
from nm2trt.tables.table import Table


@dataclass(frozen=True, slots=True, repr=False)
class BuildResult(Result):
    """What was built, or on a dry run what would be.

    Args:
        engine: Where the engine is.
        written: False after a dry run.
        kind: What the engine is and where it runs.
        model: The ONNX file.
        backend: Name of the builder.
        backend_version: Its version.
        options: What was asked of it, with targets and profiles complete.
        inputs: The model's inputs.
        outputs: The model's outputs.
        ladder: One row per weight.
        forecast: Which share of the work may run sparse.
        outlook: The same in one sentence, and if nothing may, what would.
        notes: What was chosen for the user, and what speaks against a gain; one sentence each.
        engine_sha256: Hash of the engine; "" after a dry run.
        engine_bytes: Its size; 0 after a dry run.
        parse_ms: Wall time of reading the model.
        build_ms: Wall time of the builder.
        log: The builder's messages, most detailed level.
        device: The GPU that it was built on; "" for a build ahead of time.
        verified: What `verify` found of `model`, if it was built as it is.
    """

    engine: Path
    written: bool
    kind: str
    model: Path
    backend: str
    backend_version: str
    options: BuildOptions
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ladder: tuple[LadderRow, ...]
    forecast: Forecast
    outlook: str
    notes: tuple[str, ...]
    engine_sha256: str
    engine_bytes: int
    parse_ms: float
    build_ms: float
    log: tuple[str, ...] = field(repr=False)
    device: str = ""
    verified: Any = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, without the log."""
        return {
            "engine": str(self.engine),
            "manifest": str(manifest_path(self.engine)),
            **named(self, "written kind model backend backend_version options inputs outputs"),
            **named(self, "ladder forecast outlook notes engine_sha256 engine_bytes"),
            "parse_ms": round(self.parse_ms, 3),
            "build_ms": round(self.build_ms, 3),
        }

    def tables(self) -> tuple[Table, ...]:
        """Return the ladder, one row per weight."""
        return (ladder_table(self.ladder),) if self.ladder else ()

    def remarks(self) -> tuple[str, ...]:
        """Return what was built or would be, and how much of the work may run sparse."""
        options = self.options
        builder = f"{self.backend} {self.backend_version}"
        name = f"{builder}, {', '.join(options.targets)}, sparsity {options.sparsity}"
        if self.written:
            seconds = self.build_ms / 1e3
            lines = [f"{self.engine}  {size(self.engine_bytes)} in {seconds:.1f} s  ({name})"]
        else:
            lines = [f"dry run: {self.engine} would be built  ({name}); nothing was written", *self._steps()]
        lines.append(self.kind)
        if any(rung.answer == "not measured" for row in self.ladder for rung in row.rungs):
            lines += self._not_measured()
        lines += [f"profile {shapes.input}: {shapes}" for profile in options.profiles for shapes in profile]
        return (*lines, *self._work())

    def _not_measured(self) -> list[str]:
        if not self.device:
            return [
                "not measured: kernels are chosen on the GPU that loads the engine, and no GPU was asked here"
            ]
        why = "the builder chose kernels on this GPU, and its log and inspector do not tell this"
        return [f"not measured: {why}"] if self.written else []

    def _steps(self) -> list[str]:
        holding = sum(row.pattern.answer == "yes" for row in self.ladder)
        allowed = "no sparse kernels" if self.options.sparsity == "disable" else "sparse kernels allowed"
        first = "prune to 2:4" if self.options.sparsity == "force" else "take the weights as they are"
        return [
            f"  1. {first}: {holding} of {len(self.ladder)} weights hold 2:4",
            f"  2. build for {', '.join(self.options.targets)} with {allowed}",
            f"  3. write {self.engine} and {self.engine.name}.json",
        ]

    def _work(self) -> list[str]:
        work = self.forecast
        if not self.ladder or not work.macs:
            return []
        unknown = (
            f"; the work of {counted(work.unknown_weights, 'weight')} is unknown"
            if work.unknown_weights
            else ""
        )
        doubtful = work.share(work.eligible - work.likely)
        doubts = (
            f"; a dense kernel is likely to be faster for {percent(doubtful, 0)} (nm2trt explain says why)"
        )
        sentence = (
            f"work: {large(work.macs)[0]} multiply-accumulates at the optimum profile; "
            f"{percent(work.share(work.holding), 0)} is 2:4, "
            f"{percent(work.share(work.eligible), 0)} can run sparse"
            f"{doubts if doubtful else ''}{unknown}"
        )
        return [sentence]
