"""One option of a command: its type and default, and beside them help text, unit, range and flag.

A command's dataclass is the only place where its options stand. `nm2trt.options.command_line` makes the
arguments and the recorded command from it, `nm2trt.recipe.options` the schema of its stage, and the pipeline
takes its names as keywords.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nm2trt.errors import InputError

_KEY = "nm2trt.option"
# Fields of base classes, which would come first, and their order at the end.
_LAST = {
    "batch": 1,
    "cache": 2,
    "data_root": 3,
    "allow_functions": 4,
    "report": 5,
    "every_row": 6,
    "json": 7,
}
_READ: dict[type[Any], tuple[Option, ...]] = {}
# Largest whole number of an option that sets no range: floats, and JSON in many a reader, hold it exactly.
LARGEST = (1 << 53) - 1
_MOST = (1 << 31) - 1  # of an option that counts something


@dataclass(frozen=True, slots=True)
class Option:
    """What stands beside an option's name, type and default.

    Args:
        name: The field's name: the keyword of the Python function.
        kind: Type of one value: str, int, float, Path or bool.
        choices: The values that there are; () for any.
        many: Whether it is a tuple of values.
        default: The default; `dataclasses.MISSING` if the option is required.
        flag: The flag, as in "--batch"; "" for a positional argument.
        stage: Key in a stage of a recipe; "" if recipes do not set it.
        help: One clause for `--help` and the reference.
        short: A second, short flag, as in "-o".
        metavar: Placeholder of the value.
        group: Title of the group of arguments that it belongs to.
        at_least: Smallest value.
        over: Value that it must exceed.
        at_most: Largest value; of a whole number 2^31 - 1 unless it is given.
        comma: Whether the values of a tuple are one word, separated by commas.
        joined: Whether the recorded command writes `flag=value`.
        keyword: Whether the Python function takes it.
    """

    name: str
    kind: type
    choices: tuple[Any, ...]
    many: bool
    default: Any
    flag: str
    stage: str
    help: str
    short: str = ""
    metavar: str = ""
    group: str = ""
    at_least: float | None = None
    over: float | None = None
    at_most: float | None = None
    comma: bool = False
    joined: bool = False
    keyword: bool = True

    @property
    def required(self) -> bool:
        """Whether the option must be given."""
        return self.default is MISSING

    def range_text(self) -> str:
        """Return the range in words, as in "1 or more"; "" if any value will do.

        The largest value stands there only if it was given.
        """
        bounded = self.at_most not in (None, _MOST)
        if self.over is not None and bounded:
            return f"over {self.over} and up to {self.at_most}"
        if self.at_least is not None and bounded:
            return f"{self.at_least} to {self.at_most}"
        if self.over is not None:
            return f"over {self.over}"
        return "" if self.at_least is None else f"{self.at_least} or more"

    def what_to_give(self, instead_of: float = 0) -> str:
        """Return what an error recommends in place of a value: a range, or a kind of number."""
        if self.at_most == _MOST < instead_of:
            return f"{_MOST} or less"
        allowed = self.range_text()
        what = "a whole number" if self.kind is int else "a number"
        return f"{what} {allowed}" if allowed.startswith("over") else allowed or what

    def holds(self, value: float) -> bool:
        """Tell whether a number is finite and in the range."""
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.at_least is None or value >= self.at_least)
            and (self.over is None or value > self.over)
            and (self.at_most is None or value <= self.at_most)
        )


def option(default: Any = MISSING, *, flag: str | None = None, stage: str | bool = True, **told: Any) -> Any:
    """Return a dataclass field that describes an option; see `Option` for the arguments.

    `flag` is made from the field's name unless it is given; "" makes a positional argument, which a recipe
    sets by the place of the stage and not by a key. `stage` is the key in a recipe, or False.
    """
    return dataclasses.field(default=default, metadata={_KEY: {"flag": flag, "stage": stage, **told}})


def options_of(command: type[Any]) -> tuple[Option, ...]:
    """Return the options of a command's dataclass: in the order of its fields, `_LAST` at the end."""
    if command not in _READ:
        hints = get_type_hints(command)
        fields = sorted(dataclasses.fields(command), key=lambda field: _LAST.get(field.name, 0))
        _READ[command] = tuple(_read(field, hints[field.name]) for field in fields)
    return _READ[command]


def _read(field: dataclasses.Field[Any], hint: Any) -> Option:
    told = dict(field.metadata[_KEY])
    kind, choices, many = _kind(hint)
    flag = told.pop("flag")
    if flag is None:
        plain = field.name.replace("_", "-")
        flag = f"--no-{plain}" if kind is bool and field.default is True else f"--{plain}"
    if kind is int:
        told.setdefault("at_most", _MOST)
    stage = told.pop("stage")
    if stage is True:
        stage = field.name if flag else ""
    return Option(
        name=field.name,
        kind=kind,
        choices=choices,
        many=many,
        default=field.default,
        flag=flag,
        stage=stage or "",
        **told,
    )


def _kind(hint: Any) -> tuple[type, tuple[Any, ...], bool]:
    """Return the type of one value, its choices, and whether there are many."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is tuple:
        kind, choices, _ = _kind(get_args(hint)[0])
        return kind, choices, True
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return type(choices[0]), choices, False
    if hint not in (str, int, float, bool, Path):
        raise TypeError(f"no option can be of type {hint}")
    return hint, (), False


_Command = TypeVar("_Command")


def check_ranges(options: _Command) -> _Command:
    """Return a command's options if every number lies in its range.

    Raises:
        InputError: One does not; the sentence names its flag.
    """
    for known, value in _values(options):
        for number in value if known.many else (value,):
            if isinstance(number, (int, float)) and not known.holds(number):
                if isinstance(number, int) and abs(number) > LARGEST:
                    raise InputError(f"{known.flag} has too many digits; give {known.what_to_give(number)}")
                shown = number if isinstance(number, int) else f"{number:g}"
                raise InputError(f"{known.flag} {shown} is out of range; give {known.what_to_give(number)}")
    return options


def keywords(options: object, *leave_out: str, of: type[Any] | None = None) -> dict[str, Any]:
    """Return a command's options as the keywords of its Python function; with `of`, those of a base class."""
    return {
        known.name: value
        for known, value in _values(options, of)
        if known.keyword and known.name not in leave_out
    }


def filled(kind: type[_Command], options: object, **given: Any) -> _Command:
    """Return a dataclass filled with a command's options of the same names, and with what is given."""
    names = {known.name for known in options_of(type(options))}
    shared = [field.name for field in dataclasses.fields(kind) if field.name in names]  # type: ignore[arg-type]
    return kind(**{name: getattr(options, name) for name in shared} | given)


def _values(options: object, of: type[Any] | None = None) -> Iterator[tuple[Option, Any]]:
    for known in options_of(of or type(options)):
        yield known, getattr(options, known.name)
