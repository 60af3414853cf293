"""The options of each kind of stage in a recipe, made from its command's dataclass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, create_model

from nm2trt.calibration.yaml_file import Strict
from nm2trt.options.field import Option, options_of
from nm2trt.options.runs import ReportCommand

_Command = TypeVar("_Command")


class StageOptions(Strict):
    """What every stage may say.

    Attributes:
        makes: What it leaves for later stages: "model", "engine", "deployment", or "" for a mere result.
        takes: What it starts from by default: the last "model", the last "artefact" (model or engine),
            the last "deployment", or "" for nothing.
        files: Keys whose values are files that the result depends on.
        sources: Keys, beside `from`, whose values name a stage, `model` or a file.
        folders: Keys whose values are folders that it writes into.
        options_class: The command's dataclass; None for a stage without a command.
    """

    makes: ClassVar[str] = ""
    takes: ClassVar[str] = "model"
    files: ClassVar[tuple[str, ...]] = ()
    sources: ClassVar[tuple[str, ...]] = ()
    folders: ClassVar[tuple[str, ...]] = ()
    options_class: ClassVar[type | None] = None

    stage: str | None = None
    from_: str | None = Field(default=None, alias="from")

    def options(self) -> dict[str, Any]:
        """Return what was chosen, without the stage's place in the recipe."""
        return self.model_dump(exclude={"stage", "from_"})

    def command(self, command: type[_Command], **given: Any) -> _Command:
        """Return the options of the stage's command.

        Args:
            command: Its dataclass.
            **given: What the stage's place decides: sources, files, outputs, permissions.
        """
        values = dict(given)
        for known in options_of(command):
            if known.stage and known.name not in values:
                value = getattr(self, known.stage)
                values[known.name] = tuple(value) if known.many else value
        return command(**values)


@dataclass(frozen=True, slots=True)
class _Place:
    """A command's place in a recipe; see `StageOptions`.

    Args:
        command: The command's dataclass, as module and class below `nm2trt.options`; imported when needed.
        defaults: Defaults that differ from the command line's, by key.
        more: Keys that the command line has no flag for.
        free: Keys that may be left out although the command line asks for them: the recipe's place tells.
    """

    command: str
    makes: str = ""
    takes: str = "model"
    files: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def options_class(self) -> type[Any]:
        """Import and return the command's dataclass."""
        module, name = self.command.split(".")
        found: type[Any] = getattr(import_module(f"nm2trt.options.{module}"), name)
        return found


def _stage(name: str, place: _Place) -> type[StageOptions]:
    command = place.options_class()
    fields: dict[str, Any] = {
        known.stage: _field(known, place) for known in options_of(command) if known.stage
    }
    fields |= place.more
    made = create_model(
        f"{name.capitalize()}Stage", __base__=StageOptions, __doc__=f"`nm2trt {name}`.", **fields
    )
    for key in ("makes", "takes", "files", "sources", "folders"):
        setattr(made, key, getattr(place, key))
    made.options_class = command
    return made


def _field(known: Option, place: _Place) -> tuple[Any, Any]:
    one: Any = str if known.kind is Path else known.kind
    if known.choices:
        one = Literal[known.choices]
    limits = {"ge": known.at_least, "gt": known.over, "le": known.at_most}
    settings: dict[str, Any] = {key: value for key, value in limits.items() if value is not None}
    if known.kind is float:
        settings["strict"] = False  # 1 is a number, too
    default = known.default
    if known.stage in place.defaults:
        default = place.defaults[known.stage]
    elif known.stage in place.free:
        default = None
    if known.many:
        item = Annotated[one, Field(**settings)] if settings else one
        return list[item], Field(default=list(default), min_length=1 if default else None)  # type: ignore[valid-type]
    if known.required and known.stage not in place.free and default is known.default:
        return one, Field(**settings)
    hint = one if default is not None else one | None
    return hint, Field(default=default, **settings)


class ExportOptions(StageOptions):
    """A torch model and its weights to ONNX; the model is `file.py:function` or `module:function`."""

    makes = "model"
    takes = ""
    files = ("weights",)

    model: str = Field(pattern=r"^[^:]+:[A-Za-z_]\w*$")
    weights: str
    arguments: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    inputs: dict[str, list[int]]
    dtype: Literal["float32", "float16"] | None = None
    opset: int = 18


class ReportOptions(StageOptions):
    """`nm2trt report`: written when the other stages are done, or one has failed."""

    takes = ""
    options_class = ReportCommand

    formats: list[Literal["html", "json", "md"]] = Field(default=["html"], min_length=1)


_PLACES = {
    "sparsify": _Place("runs.SparsifyCommand", makes="model", takes="", files=("recipe",)),
    "fuse": _Place("models.FuseCommand", makes="model"),
    "permute": _Place("pruning.PermuteCommand", makes="model"),
    "prune": _Place("pruning.PruneCommand", makes="model", files=("calib", "data", "gain")),
    "cast": _Place("precision.CastCommand", makes="model", files=("calib",)),
    "quantize": _Place("precision.QuantizeCommand", makes="model", files=("calib",)),
    "verify": _Place("models.VerifyCommand"),
    "build": _Place("engines.BuildCommand", makes="engine", defaults={"sparsity": "enable"}),
    "prove": _Place("engines.ProveCommand", sources=("dense",)),
    "explain": _Place("engines.ExplainCommand", takes="artefact"),
    "validate": _Place(
        "checks.ValidateCommand", files=("data",), sources=("against",), defaults={"against": "model"}
    ),
    "bench": _Place(
        "checks.BenchCommand",
        takes="artefact",
        files=("data",),
        sources=("against",),
        more={"against": (str | None, None)},
    ),
    "gain": _Place("engines.GainCommand", files=("table",)),
    "deploy": _Place(
        "serving.DeployCommand",
        makes="deployment",
        takes="artefact",
        files=("sample",),
        sources=("reference",),
        folders=("repository",),
    ),
    "probe": _Place(
        "serving.ProbeCommand",
        takes="deployment",
        files=("data",),
        sources=("reference",),
        free=("reference",),
    ),
}


class _Kinds(Mapping[str, type[StageOptions]]):
    """The options of every kind of stage, each made when a recipe first has it: pydantic takes its time."""

    def __init__(self) -> None:
        self._made: dict[str, type[StageOptions]] = {"export": ExportOptions, "report": ReportOptions}

    def __getitem__(self, name: str) -> type[StageOptions]:
        if name not in self._made:
            self._made[name] = _stage(name, _PLACES[name])
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._made or name in _PLACES

    def __iter__(self) -> Iterator[str]:
        return iter((*_PLACES, "export", "report"))

    def __len__(self) -> int:
        return len(_PLACES) + 2


KINDS: Mapping[str, type[StageOptions]] = _Kinds()
