"""Every exception that nm2trt raises on purpose, each with its exit status.

    Nm2trtError                        1
    ├── InputError                     2   an argument, or a file or folder that was given
    │   ├── PatternError               2   not an N:M pattern, or an axis that it does not fit
    │   ├── ModelError                 2   an ONNX file that cannot be read or is not sound
    │   ├── OutputError                2   an output path that cannot be written
    │   ├── DataError                  2   samples of the wrong names, shapes, dtypes or values
    │   └── SparsifyError              2   a layer, module or call that a sparsity method cannot take
    ├── SparsityError                  3   weights that do not hold the pattern that was asked for
    │   └── LadderError                3   in `nm2trt.engine.ladder.requirement`; carries the ladder
    │       ├── NothingSparseError     3   sparse kernels were asked for, and no weight allows one
    │       └── TooFewSparseError      3   fewer run sparse kernels than --require-sparse asks for
    ├── BackendError                   4   an engine library that is missing or refused
    │   └── BackendMissingError        4   not installed, or no device for it
    ├── DifferenceError                5   outputs or accuracy that differ beyond the tolerance
    ├── LineageError                   6   a mask that a stage should have kept and did not
    ├── ServerError                    7   an inference server that cannot be reached
    └── Interrupted                  130   stopped by the user; 143 after SIGTERM, 129 after SIGHUP

A message is one sentence or two: what is wrong, where, and what to do next.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # noqa: F401 - named in a type comment

__all__ = [
    "BackendError",
    "BackendMissingError",
    "DataError",
    "DifferenceError",
    "InputError",
    "Interrupted",
    "LineageError",
    "ModelError",
    "Nm2trtError",
    "OutputError",
    "PatternError",
    "ServerError",
    "SparsifyError",
    "SparsityError",
]


class Nm2trtError(Exception):
    """Base of every exception raised on purpose; `exit_status` is what the command line returns.

    Attributes:
        partial: What had been found when the work ended early; it has `to_json`. None if nothing had.
    """

    exit_status: int = 1
    partial = None  # type: Any # get_type_hints would ask for `typing`, which takes long to import

    def __str__(self) -> str:
        """Return the message; a traceback shows it too: nothing that it quotes is raw or endless."""
        from nm2trt.terminal_text import printable

        return printable(super().__str__(), keep="\n")


class InputError(Nm2trtError, ValueError):
    """An argument, or a file or folder that was given, is wrong."""

    exit_status = 2


class PatternError(InputError):
    """A text that is no N:M pattern, or an axis whose length the pattern does not divide."""


class ModelError(InputError):
    """An ONNX model that cannot be read, or breaks a rule of the format."""


class OutputError(InputError):
    """An output path that cannot be written."""


class DataError(InputError):
    """Samples whose names, shapes, dtypes or values do not fit the model."""


class SparsifyError(InputError):
    """A layer, module or call that a sparsity method cannot take."""


class SparsityError(Nm2trtError):
    """Weights do not hold the pattern that was asked for."""

    exit_status = 3


class BackendError(Nm2trtError):
    """An engine library refused a model, an option or a device."""

    exit_status = 4


class BackendMissingError(BackendError):
    """An engine library is not installed, or its device is missing."""


class DifferenceError(Nm2trtError):
    """Outputs or accuracy differ by more than the tolerance."""

    exit_status = 5


class LineageError(Nm2trtError):
    """A mask changed in a stage that should have kept it."""

    exit_status = 6


class ServerError(Nm2trtError):
    """An inference server cannot be reached."""

    exit_status = 7


class Interrupted(Nm2trtError):  # noqa: N818 - the user stopping a run is not an error of anybody's
    """The user stopped the run; nothing was left half-written."""

    exit_status = 130


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says; its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def restated(error: BaseException, sentence: str) -> Nm2trtError:
    """Return an error with another sentence, all that it carries kept; Ctrl-C becomes `Interrupted`."""
    if not isinstance(error, Nm2trtError):
        return Interrupted(sentence)
    error.args = (sentence,)
    return error
