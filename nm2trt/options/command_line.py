"""A command's arguments, and the command that options would be typed as, both made from its dataclass."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from nm2trt.options.field import Option, check_ranges, options_of
from nm2trt.terminal_text import no_flag, shorten

_Command = TypeVar("_Command")


def add_arguments(parser: argparse.ArgumentParser, command: type) -> None:
    """Add every option of a command to its parser; `options_from` reads them back."""
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for known in options_of(command):
        if known.group not in groups:
            groups[known.group] = parser.add_argument_group(known.group)
        _add(groups[known.group], known)


def options_from(arguments: argparse.Namespace, command: type[_Command]) -> _Command:
    """Return what was typed as the command's options.

    Raises:
        InputError: A number is out of range.
    """
    given = {}
    for known in options_of(command):
        value = getattr(arguments, known.name)
        given[known.name] = tuple(value) if known.many else value
    return check_ranges(command(**given))


def words(name: str, options: object) -> list[str]:
    """Return the command that options would be typed as, without `nm2trt`; defaults are left out.

    Parsed again, it gives equal options; a path that begins with a dash is written `./-path`.
    """
    typed, flags = [name], []
    for known in options_of(type(options)):
        value = getattr(options, known.name)
        if not known.flag:
            typed += [no_flag(str(item)) for item in (value if known.many else (value,)) if item is not None]
        elif value is not None and (known.required or value != known.default):
            flags += _flags(known, value)
    return typed + flags


def positionals_first(typed: Sequence[str], command: type[Any]) -> list[str]:
    """Return a command's words with its positional ones in front, if some of those may be left out.

    Otherwise argparse stops looking for them at the first flag, and refuses those that come later.
    """
    known = options_of(command)
    if "--" in typed or all(one.required for one in known if not one.flag):
        return list(typed)
    valued = {flag for one in known if one.kind is not bool for flag in (one.flag, one.short) if flag}
    first, rest = [], []
    words_left = iter(typed)
    for word in words_left:
        if not word.startswith("-"):
            first.append(word)
            continue
        rest.append(word)
        if word in valued:
            rest += [value] if (value := next(words_left, None)) is not None else []
    return first + rest


def _flags(known: Option, value: Any) -> list[str]:
    if known.kind is bool:
        return [known.flag]
    if known.comma:
        return _pair(known, ",".join(str(item) for item in value))
    return [word for item in (value if known.many else (value,)) for word in _pair(known, str(item))]


def _pair(known: Option, text: str) -> list[str]:
    # A value that begins with a dash would be taken for a flag.
    return [f"{known.flag}={text}"] if known.joined or text.startswith("-") else [known.flag, text]


def _add(parser: argparse._ActionsContainer, known: Option) -> None:
    settings: dict[str, Any] = {"help": known.help.replace("%", "%%")}
    if known.kind is bool:
        settings["action"] = "store_false" if known.default is True else "store_true"
        parser.add_argument(known.flag, dest=known.name, **settings)
        return
    if known.metavar:
        settings["metavar"] = known.metavar
    if known.choices:
        settings["choices"] = known.choices
    elif known.comma:
        settings["type"] = _comma_separated(known.kind)
    elif known.kind in (int, float):
        settings["type"] = _number(known)
    elif known.kind is Path:
        settings["type"] = Path
    if not known.flag:
        if not known.required:
            settings |= {"nargs": "*" if known.many else "?", "default": known.default}
        elif known.many:
            settings["nargs"] = "+"
        parser.add_argument(known.name, **settings)
        return
    if known.many and not known.comma:
        settings["action"] = "append"
        settings["default"] = list(known.default)
    elif known.required:
        settings["required"] = True
    else:
        settings["default"] = known.default
    flags = [known.short] if known.short else []
    parser.add_argument(*flags, known.flag, dest=known.name, **settings)


def _number(known: Option) -> Any:
    def read(text: str) -> Any:
        try:
            return known.kind(text)
        except ValueError as error:
            what = "whole number" if known.kind is int else "number"
            message = f"{shorten(repr(text), 40)} is not a {what}; give {known.what_to_give()}"
            raise argparse.ArgumentTypeError(message) from error

    return read


def _comma_separated(kind: type) -> Any:
    def read(text: str) -> Sequence[Any]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            message = f"{text!r} is not a list of numbers; write them as in 1,8,32"
            raise argparse.ArgumentTypeError(message) from error

    return read
