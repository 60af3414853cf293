"""What each kind of stage may say in a recipe: the command's own options, with its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from nm2trt.calibration.yaml_file import Strict

__all__ = ["KINDS", "StageOptions"]


class StageOptions(Strict):
    """What every stage may say.

    Attributes:
        makes: What it leaves for later stages: "model", "engine", "deployment", or "" for a mere result.
        takes: What it starts from by default: the last "model", the last "artefact" (model or engine),
            the last "deployment", or "" for nothing.
        files: Keys whose values are files that the result depends on.
        sources: Keys, beside `from`, whose values name a stage, `model` or a file.
        folders: Keys whose values are folders that it writes into.
    """

    makes: ClassVar[str] = ""
    takes: ClassVar[str] = "model"
    files: ClassVar[tuple[str, ...]] = ()
    sources: ClassVar[tuple[str, ...]] = ()
    folders: ClassVar[tuple[str, ...]] = ()

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

    recipe: str


class ExportOptions(StageOptions):
    """A torch model and its weights to ONNX; the model is `file.py:function` or `module:function`."""

    makes = "model"
    takes = ""
    files = ("weights",)

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
    files = ("calib",)

    pattern: str = "2:4"
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)
    min_channels: int = Field(default=16, ge=1)
    calib: str | None = None
    valid: str | None = None
    seed: int = Field(default=0, ge=0)


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


class ProveOptions(StageOptions):
    """`nm2trt prove`: three engines, with and without sparsity, timed in turn where there is a GPU."""

    sources = ("dense",)

    dense: str | None = None
    target: str | None = None
    profiles: list[str] = Field(default_factory=list)
    backend: Literal["trt", "trt-rtx"] | None = None
    runs: int = Field(default=200, ge=1)
    warmup: int = Field(default=20, ge=0)


class ExplainOptions(StageOptions):
    """`nm2trt explain`: why an engine is not faster; for a model, `target` and `shapes` say where."""

    takes = "artefact"

    target: str | None = None
    shapes: list[str] = Field(default_factory=list)
    backend: Literal["trt", "trt-rtx"] | None = None


class ValidateOptions(StageOptions):
    """`nm2trt validate`; with `max_drop` or another limit the run stops if it is not kept."""

    files = ("data",)
    sources = ("against",)

    against: str = "model"
    data: str
    metrics: list[str] = Field(default_factory=list)
    metric_options: list[str] = Field(default_factory=list)
    max_drop: str | None = None
    rtol: float | None = Field(default=None, ge=0, strict=False)
    atol: float | None = Field(default=None, ge=0, strict=False)
    min_cosine: float | None = Field(default=None, ge=-1, le=1, strict=False)
    min_agreement: float | None = Field(default=None, ge=0, le=1, strict=False)
    bisect: bool = False
    output: str | None = None
    batch: int | None = Field(default=None, ge=1)
    runs: int = Field(default=200, ge=0)
    warmup: int = Field(default=20, ge=0)
    threads: int = Field(default=0, ge=0)


class BenchOptions(StageOptions):
    """`nm2trt bench`: what it starts from, timed in turn with `against`."""

    takes = "artefact"
    files = ("data",)
    sources = ("against",)

    against: str | None = None
    data: str | None = None
    batches: list[int] = Field(default=[1], min_length=1)
    shapes: list[str] = Field(default_factory=list)
    runs: int = Field(default=200, ge=1)
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
    "prove": ProveOptions,
    "explain": ExplainOptions,
    "validate": ValidateOptions,
    "bench": BenchOptions,
    "gain": GainOptions,
    "deploy": DeployOptions,
    "probe": ProbeOptions,
    "report": ReportOptions,
}
