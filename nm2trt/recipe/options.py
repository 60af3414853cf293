"""The options of each kind of stage in a recipe, made from its command's dataclass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, TypeVar

from pydantic_core import CoreSchema, core_schema

from nm2trt.options.field import LARGEST, Option, options_of
from nm2trt.options.runs import ReportCommand
from nm2trt.recipe.keys import Keys, default

_Command = TypeVar("_Command")


class StageOptions:
    """What a stage says: each of its keys is an attribute; `from` is `from_`.

    Attributes:
        makes: What it leaves for later stages: "model", "engine", "deployment", or "" for a mere result.
        takes: What it starts from by default: the last "model", the last "artefact" (model or engine),
            the last "deployment", or "" for nothing.
        files: Keys whose values are files that the result depends on.
        sources: Keys, beside `from`, whose values name a stage, `model` or a file.
        folders: Keys whose values are folders that it writes into.
        options_class: The command's dataclass; None for a stage without a command.
        keys: Its keys and what they take.

    Args:
        values: The value of each key.
    """

    makes: ClassVar[str] = ""
    takes: ClassVar[str] = "model"
    files: ClassVar[tuple[str, ...]] = ()
    sources: ClassVar[tuple[str, ...]] = ()
    folders: ClassVar[tuple[str, ...]] = ()
    options_class: ClassVar[type | None] = None
    keys: ClassVar[Keys]

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self.from_: str | None = self._values.pop("from")
        self.stage: str | None = self._values.pop("stage")

    def __getattr__(self, key: str) -> Any:
        if key == "_values" or key not in self._values:
            raise AttributeError(key)
        return self._values[key]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        told = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"{type(self).__name__}({told})"

    def options(self) -> dict[str, Any]:
        """Return what was chosen, without the stage's place in the recipe."""
        return dict(self._values)

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
        more: Keys that the command line has no flag for, and what they take.
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
    more: Mapping[str, CoreSchema] = field(default_factory=dict)

    def options_class(self) -> type[Any]:
        """Import and return the command's dataclass."""
        module, name = self.command.split(".")
        found: type[Any] = getattr(import_module(f"nm2trt.options.{module}"), name)
        return found


def _stage(name: str, place: _Place) -> type[StageOptions]:
    command = place.options_class()
    takes = {known.stage: _takes(known, place) for known in options_of(command) if known.stage}
    described = {key: getattr(place, key) for key in ("makes", "takes", "files", "sources", "folders")}
    return type(
        f"{name.capitalize()}Stage",
        (StageOptions,),
        {
            "__doc__": f"`nm2trt {name}`.",
            **described,
            "options_class": command,
            "keys": _with_place(takes | dict(place.more)),
        },
    )


def _with_place(takes: Mapping[str, CoreSchema]) -> Keys:
    """Return the keys of a stage, after those that give its place in the recipe."""
    text = core_schema.str_schema()
    return Keys({"stage": default(text, None), "from": default(text, None), **takes})


def _takes(known: Option, place: _Place) -> CoreSchema:
    one = _one(known)
    value = known.default
    if known.stage in place.defaults:
        value = place.defaults[known.stage]
    elif known.stage in place.free:
        value = None
    if known.many:
        return default(core_schema.list_schema(one, min_length=1 if value else None), list(value))
    if known.required and known.stage not in place.free and value is known.default:
        return one
    return default(one, value)


def _one(known: Option) -> CoreSchema:
    """Return what one value of an option may be."""
    if known.choices:
        return core_schema.literal_schema(list(known.choices))
    limits: dict[str, Any] = {"ge": known.at_least, "gt": known.over, "le": known.at_most}
    if known.kind is int:
        return core_schema.int_schema(**limits)
    if known.kind is float:
        return core_schema.float_schema(**limits, allow_inf_nan=False)
    return core_schema.bool_schema() if known.kind is bool else core_schema.str_schema()


_TEXT, _WHOLE = core_schema.str_schema(), core_schema.int_schema(ge=-LARGEST, le=LARGEST)
_ANY = core_schema.union_schema([_TEXT, _WHOLE, core_schema.float_schema(), core_schema.bool_schema()])


class ExportOptions(StageOptions):
    """A torch model and its weights to ONNX; the model is `file.py:function` or `module:function`."""

    makes = "model"
    takes = ""
    files = ("weights",)
    keys = _with_place(
        {
            "model": core_schema.str_schema(pattern=r"^[^:]+:[A-Za-z_]\w*$"),
            "weights": _TEXT,
            "arguments": default(core_schema.dict_schema(_TEXT, core_schema.nullable_schema(_ANY)), {}),
            "inputs": core_schema.dict_schema(_TEXT, core_schema.list_schema(_WHOLE)),
            "dtype": default(core_schema.literal_schema(["float32", "float16"]), None),
            "opset": default(_WHOLE, 18),
        }
    )


class ReportOptions(StageOptions):
    """`nm2trt report`: written when the other stages are done, or one has failed."""

    takes = ""
    options_class = ReportCommand
    keys = _with_place(
        {
            "formats": default(
                core_schema.list_schema(core_schema.literal_schema(["html", "json", "md"]), min_length=1),
                ["html"],
            )
        }
    )


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
        more={"against": default(_TEXT, None)},
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
    """The options of every kind of stage, each made when a recipe first has it."""

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
