"""What a recipe may say; docs/recipes.md is the page for people.

    version: 1
    model: resnet50.onnx
    stages:
      prune: {pattern: "2:4"}
      cast: {to: fp16}
      verify:
      build: {sparsity: enable}
      validate: {against: model, data: test.npz}
      report:

A stage is named by its kind, or has a name of its own and says `stage: KIND`. It starts from what the last
stage before it made, or from what `from` names: a stage, `model`, or a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from nm2trt.calibration.yaml_file import Document, Strict, nearest, read_yaml, validated
from nm2trt.errors import InputError

__all__ = ["KINDS", "RECIPE_VERSION", "Recipe", "Stage", "StageOptions", "load_recipe"]

RECIPE_VERSION = 1


class StageOptions(Strict):
    """What every stage may say.

    Attributes:
        makes: What it leaves for later stages: "model", "engine", "deployment", or "" for a mere result.
        takes: What it starts from by default: the last "model", the last "artefact" (model or engine),
            the last "deployment", or "" for nothing.
        files: Keys whose values are files that the result depends on.
        sources: Keys, beside `from`, whose values name a stage, `model` or a file.
        folders: Keys whose values are folders that it writes into.
        runs_code: Whether it runs Python code that the recipe names.
    """

    makes: ClassVar[str] = ""
    takes: ClassVar[str] = "model"
    files: ClassVar[tuple[str, ...]] = ()
    sources: ClassVar[tuple[str, ...]] = ()
    folders: ClassVar[tuple[str, ...]] = ()
    runs_code: ClassVar[bool] = False

    stage: str | None = None
    from_: str | None = Field(default=None, alias="from")

    def options(self) -> dict[str, Any]:
        """Return what was chosen, without the stage's place in the recipe."""
        return self.model_dump(exclude={"stage", "from_"})


class SparsifyOptions(StageOptions):
    """`nm2trt sparsify`: prune a torch model and repair it, as a recipe of its own says."""

    makes = "model"
    takes = ""
    files = ("recipe",)
    runs_code = True

    recipe: str


class ExportOptions(StageOptions):
    """A torch model and its weights to ONNX; the model is `file.py:function` or `module:function`."""

    makes = "model"
    takes = ""
    files = ("weights",)
    runs_code = True

    model: str = Field(pattern=r"^[^:]+:[A-Za-z_]\w*$")
    weights: str
    arguments: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    inputs: dict[str, list[int]]
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    opset: int = 18


class FuseOptions(StageOptions):
    """`nm2trt fuse`."""

    makes = "model"

    allow_broken: bool = False
    compare: bool = True


class PruneOptions(StageOptions):
    """`nm2trt prune`."""

    makes = "model"

    pattern: str = "2:4"
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)
    min_channels: int = Field(default=16, ge=1)


class CastOptions(StageOptions):
    """`nm2trt cast`."""

    makes = "model"
    files = ("calib",)

    to: Literal["fp16", "bf16"] = "fp16"
    keep: list[str] = Field(default_factory=list)
    io: bool = False
    calib: str | None = None
    batch: int | None = Field(default=None, ge=1)


class QuantizeOptions(StageOptions):
    """`nm2trt quantize`."""

    makes = "model"
    files = ("calib",)

    to: Literal["int8", "fp8"] = "int8"
    calib: str
    method: Literal["minmax", "percentile", "entropy"] = "minmax"
    percentile: float = Field(default=99.99, gt=0, le=100, strict=False)
    exclude: list[str] = Field(default_factory=list)
    float_weights: bool = False
    batch: int | None = Field(default=None, ge=1)


class VerifyOptions(StageOptions):
    """`nm2trt verify`."""

    pattern: str | None = None
    fail_on: Literal["broken", "ineligible", "any", "none"] = "broken"


class BuildOptions(StageOptions):
    """`nm2trt build`."""

    makes = "engine"

    sparsity: Literal["disable", "enable", "force"] = "enable"
    target: str | None = None
    profiles: list[str] = Field(default_factory=list)
    shapes: list[str] = Field(default_factory=list)
    workspace: str | None = None
    effort: int | None = Field(default=None, ge=0, le=5)
    backend: Literal["trt", "trt-rtx", "ort"] | None = None
    require_sparse: str | None = None


class ValidateOptions(StageOptions):
    """`nm2trt validate`."""

    files = ("data",)
    sources = ("against",)

    against: str = "model"
    data: str
    output: str | None = None
    batch: int | None = Field(default=None, ge=1)
    runs: int = Field(default=200, ge=0)
    warmup: int = Field(default=20, ge=0)
    threads: int = Field(default=0, ge=0)


class GainOptions(StageOptions):
    """`nm2trt gain`: which layers would pay, by a table measured on one GPU."""

    files = ("table",)

    table: str
    shapes: list[str] = Field(default_factory=list)
    as_dtype: Literal["fp16", "bf16", "int8"] | None = None
    device: str | None = None
    at_least: float | None = Field(default=None, gt=0, strict=False)


class DeployOptions(StageOptions):
    """`nm2trt deploy`; `settings` are other fields of Triton's configuration, as `path=value`.

    `canary` names a server on the repository that loads and probes the version, which goes back if it fails.
    """

    makes = "deployment"
    takes = "artefact"
    files = ("sample",)
    sources = ("reference",)
    folders = ("repository",)

    repository: str
    name: str
    backend: Literal["tensorrt", "onnxruntime", "python"] | None = None
    max_batch: int | None = Field(default=None, ge=0)
    instances: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    queue_delay_us: int = Field(default=0, ge=0)
    settings: list[str] = Field(default_factory=list)
    keep: int = Field(default=2, ge=1)
    threads: int = Field(default=1, ge=0)
    sample: str | None = None
    url: str = ""
    triton_release: str = ""
    server_tensorrt: str = ""
    gpus: list[str] = Field(default_factory=list)
    canary: str = ""
    reference: str | None = None


class ProbeOptions(StageOptions):
    """`nm2trt probe`: what a running server answers; by default like the ONNX model behind the deployment."""

    takes = "deployment"
    files = ("data",)
    sources = ("reference",)

    url: str
    reference: str | None = None
    data: str | None = None
    concurrency: list[int] = Field(default=[1, 4, 16])
    requests: int = Field(default=200, ge=1)
    precision: str | None = None


class ReportOptions(StageOptions):
    """`nm2trt report`: written when the other stages are done, or one has failed."""

    takes = ""

    formats: list[Literal["html", "json", "md"]] = Field(default=["html"], min_length=1)


KINDS: Mapping[str, type[StageOptions]] = {
    "sparsify": SparsifyOptions,
    "export": ExportOptions,
    "fuse": FuseOptions,
    "prune": PruneOptions,
    "cast": CastOptions,
    "quantize": QuantizeOptions,
    "verify": VerifyOptions,
    "build": BuildOptions,
    "validate": ValidateOptions,
    "gain": GainOptions,
    "deploy": DeployOptions,
    "probe": ProbeOptions,
    "report": ReportOptions,
}


class _Head(Strict):
    """Everything but the stages, which are read one by one."""

    version: Literal[1]
    name: str | None = None
    model: str | None = None
    run: str | None = None
    stages: dict[str, Any] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a recipe.

    Args:
        name: Its name.
        kind: Its kind, a key of `KINDS`.
        options: What it says.
        line: Line of its name.
    """

    name: str
    kind: str
    options: StageOptions
    line: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe.

    Args:
        path: The file.
        name: The run's name.
        model: Path of the model that it starts from, as written; None where a stage makes the first one.
        run: Folder of the run, as written, or None.
        stages: In the order of the file.
        lines: Where keys stand, for messages.
    """

    path: Path
    name: str
    model: str | None
    run: str | None
    stages: tuple[Stage, ...]
    lines: Document

    def error(self, message: str, *place: str | int) -> InputError:
        """Return the error that names file, line and key."""
        where = ".".join(map(str, place))
        return InputError(f"{self.path} line {self.lines.line(place)}: {where}: {message}")


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe; nothing that it names is opened.

    Raises:
        InputError: It is missing, no YAML, or has a wrong key or value; the message names line and key.
    """
    path = Path(path)
    document = read_yaml(path)
    head = validated(_Head, document, path)
    stages = tuple(_stage(name, document, path) for name in head.stages)
    return Recipe(path, head.name or path.stem, head.model, head.run, stages, document)


def _stage(name: str, document: Document, path: Path) -> Stage:
    place = ("stages", name)
    line = document.line(place)
    values = document["stages"][name]
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path} line {line}: stages.{name}: should be a mapping of options, or nothing")
    part = document.part(*place)
    kind = part.get("stage") or name
    if not isinstance(kind, str) or kind not in KINDS:
        hint = nearest(str(kind), KINDS)
        own = "" if part.get("stage") else "; a stage with a name of its own says `stage: KIND`"
        raise InputError(f"{path} line {line}: stages.{name}: there is no stage {kind!r}, {hint}{own}")
    return Stage(name, kind, validated(KINDS[kind], part, path, at=f"stages.{name}"), line)
