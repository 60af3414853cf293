"""Dispatch of one command: parsed arguments, its module run, and a sentence and a status for what fails."""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import os
import sys
import threading
from typing import Any, ClassVar, NoReturn

from nm2trt import errors
from nm2trt.cli import COMMANDS, help_text
from nm2trt.cli.output import (
    await_json,
    print_error,
    print_json_error,
    print_notes,
    printable_warnings,
    set_verbosity,
)
from nm2trt.cli.signals import Stopped, runs_end, signals_stop
from nm2trt.cli.streams import discard, flush, prepare_streams
from nm2trt.errors import BackendError, InputError, Interrupted, Nm2trtError, OutputError
from nm2trt.extras import missing
from nm2trt.file_replacement import os_reason
from nm2trt.limits import bounds
from nm2trt.limits.run_watch import on_overdue
from nm2trt.locks import on_waiting
from nm2trt.options.command_line import add_arguments, options_from, positionals_first
from nm2trt.options.field import keywords
from nm2trt.options.shared import Bounded
from nm2trt.progress import BUILDER_THREAD
from nm2trt.terminal_text import printable

# What a standard stream fails with; a file of ours would have a name, or be an OutputError.
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


class _Parser(argparse.ArgumentParser):
    typed: ClassVar[list[str]] = []  # the words of this process's command

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # `--spars MODEL` would be taken for `--sparsity=MODEL`.
        # A width given saves an import that asks for it; `help_text` lays out the help.
        plain = functools.partial(argparse.HelpFormatter, width=80)
        super().__init__(*arguments, **{"allow_abbrev": False, "formatter_class": plain, **options})

    def error(self, message: str) -> NoReturn:
        command = next((word for word in self.typed if word in COMMANDS), "")
        if self.prog == "nm2trt" and command and message.startswith("unrecognized"):
            chosen_parser(command).error(message)  # argparse has its first parser tell what no parser knows
        from nm2trt.cli.unknown_flags import explained

        told = explained(message, self.typed, command, self._option_string_actions)
        told += "" if told.endswith("?") else f"; see {self.prog} --help"
        print_json_error(InputError.__name__, told, InputError.exit_status)
        self.exit(2, printable(f"{self.prog}: {told}") + "\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            file.write(message)  # argparse says nothing of a full disk
        else:
            super()._print_message(message, file)

    def format_help(self) -> str:
        return help_text.lay_out(help_text.describe(self), help_text.columns())


def dispatch(arguments: list[str]) -> int:
    """Run one command and return its exit status, which `nm2trt.errors` lists."""
    with signals_stop(), printable_warnings():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    set_verbosity(0)
    await_json("--json" in arguments)
    _Parser.typed = arguments
    try:
        prepare_streams()
        command = next((word for word in arguments if word in COMMANDS), None)
        # A word before the command may be no command at all, and is told of all that there are.
        parser, chosen = command_parser(command, only=arguments[:1] == [command])
        options = parser.parse_args(_ordered(arguments, command, chosen))
        set_verbosity(options.verbose)
        if chosen is None:
            parser.print_help()
            sys.stdout.flush()
            return 2
        on_overdue(_give_up)
        on_waiting(lambda sentence: print_notes([sentence]))
        bounds.use(**keywords(options_from(options, Bounded)))
        with runs_end():  # not before the streams are open: its pipe could get the number of a closed one
            status = int(chosen.run(options_from(options, chosen.OPTIONS)))
        sys.stdout.flush()  # here, and not when the interpreter ends, where a failure has no words
        return status
    except Nm2trtError as error:
        cause = _stopped(error)
        if cause is not None and not isinstance(error, Interrupted):
            return _interrupted(cause)  # e.g. a library that was stopped while it loaded
        status = cause.exit_status if isinstance(cause, Stopped) else error.exit_status
        return _fail(str(error), status, _kind(error), error.partial)
    except KeyboardInterrupt as signalled:
        return _interrupted(signalled)
    except SystemExit as stop:  # argparse's: help and versions are results, its errors are told already
        try:
            sys.stdout.flush()
        except OSError as error:
            return _foreign(error)
        flush(sys.stderr)
        return stop.code if isinstance(stop.code, int) else 2
    except Exception as error:
        return _foreign(error)


def _foreign(error: Exception) -> int:
    """Report an error that is not one of ours, and return its exit status."""
    cause = _stopped(error)
    if cause is not None:
        return _interrupted(cause)
    absent = missing(error) if isinstance(error, ImportError) else None
    if absent is not None:
        return _fail(str(absent), absent.exit_status, _kind(absent))
    if isinstance(error, MemoryError):
        why = "the machine has too little memory for this; nothing was left half-written"
        return _fail(why, InputError.exit_status, InputError.__name__)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
        discard(sys.stdout)
        return _fail(f"output could not be written: {os_reason(error)}", 2, OutputError.__name__)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        why = f"{error.filename} is not a usable path: {os_reason(error)}; give a shorter one"
        return _fail(why, 2, InputError.__name__)
    if isinstance(error, FileNotFoundError) and error.filename is None:  # os.getcwd's
        why = "the current folder has been removed; change to another and try again"
        return _fail(why, InputError.exit_status, InputError.__name__)
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # pathlib, before 3.13
        return _fail(f"a path is a loop of symbolic links: {error}", 2, InputError.__name__)
    text = f"internal error: {type(error).__name__}: {error}; please report it, with the output of -vv"
    return _fail(text, 1, "InternalError")


def command_parser(command: str | None, *, only: bool = False) -> tuple[argparse.ArgumentParser, Any]:
    """Return the parser of all commands, and the module of the one asked for, whose arguments it has.

    Args:
        command: The command, or None.
        only: Leave out the other commands, whose 26 parsers take longer to make than the rest.
    """
    parser = _Parser(
        prog="nm2trt", description="PyTorch models to 2:4-sparse TensorRT engines, every step proved."
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("-v", "--verbose", action="count", default=0, help="-vv shows tracebacks")
    add_arguments(parser, Bounded)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    chosen = None
    for name, summary in COMMANDS.items():
        if only and name != command:
            continue
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            chosen = importlib.import_module(f"nm2trt.cli.{name}")
            # `-v` is taken after the command too; without a default it keeps what stood in front.
            sub.add_argument(
                "-v", "--verbose", action="count", default=argparse.SUPPRESS, help="-vv shows tracebacks"
            )
            if epilog := getattr(chosen, "EPILOG", ""):
                sub.epilog = epilog
            add_arguments(sub, chosen.OPTIONS)
    return parser, chosen


def chosen_parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of one command, whose help it prints."""
    parser, _ = command_parser(command)
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    chosen: argparse.ArgumentParser = commands.choices[command]
    return chosen


def _ordered(arguments: list[str], command: str | None, chosen: Any) -> list[str]:
    """Return the words in an order that argparse reads, whatever order they were typed in."""
    arguments = _join_sparsity(arguments)
    if chosen is None or command is None:
        return arguments
    at = arguments.index(command) + 1
    return arguments[:at] + positionals_first(arguments[at:], chosen.OPTIONS)


def _join_sparsity(arguments: list[str]) -> list[str]:
    """Write a bare `--sparsity` as `--sparsity=enable`: argparse would take the model's path as its value."""
    joined: list[str] = []
    words = iter(arguments)
    for word in words:
        if word != "--sparsity":
            joined.append(word)
            continue
        following = next(words, None)
        if following in ("disable", "enable", "force"):
            joined.append(f"--sparsity={following}")
        else:
            joined.append("--sparsity=enable")
            if following is not None:
                joined.append(following)
    return joined


def _stopped(error: BaseException) -> KeyboardInterrupt | None:
    """Return the signal that an error comes from: hooks of Python and of C extensions wrap what they meet."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause


def _kind(error: Nm2trtError) -> str:
    """Return the public name of an error: its own, or that of the class above it."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in errors.__all__)


def _fail(message: str, status: int, kind: str, found: Any = None) -> int:
    print_json_error(kind, message, status, found)
    print_error(message)
    flush(sys.stderr)
    return status


def _give_up(reason: str) -> None:
    """End a command whose operator cannot be ended; the next writer removes what it leaves unfinished."""
    told = f"{reason}, and one operator of the model cannot be stopped; nothing was left half-written"
    print_json_error(BackendError.__name__, told, BackendError.exit_status)
    print_error(told)
    flush(sys.stdout)
    os._exit(BackendError.exit_status)


def _interrupted(stop: KeyboardInterrupt) -> int:
    status = stop.exit_status if isinstance(stop, Stopped) else Interrupted.exit_status
    _fail(f"{str(stop) or 'interrupted'}; nothing was left half-written", status, Interrupted.__name__)
    if any(thread.name.startswith(BUILDER_THREAD) for thread in threading.enumerate()):
        # A library works, a builder if it was stopped twice: Python would wait for it, or crash beneath.
        flush(sys.stdout)
        os._exit(status)
    return status


def _version() -> str:
    from nm2trt import __version__

    return f"nm2trt {__version__}"
