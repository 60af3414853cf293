"""The next step at the end of a command: whether a file can run sparse, and the command to type."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nm2trt.extras import install_line
from nm2trt.nm.eligibility import NOWHERE
from nm2trt.terminal_text import shell_path, shell_word

if TYPE_CHECKING:
    from nm2trt.graph.verify.report import VerifyReport

# Builder -> the extra that it comes with.
_EXTRAS = {"trt": "trt", "trt-rtx": "rtx", "ort": "ort"}


@dataclass(frozen=True, slots=True)
class NextStep:
    """The verdict on a file, and what to do with it.

    Args:
        verdict: One sentence: how much of the work can run sparse, where, and if nothing can, what would.
        command: The command; "" for a file without weights. It works as it stands, once `SAMPLES.npz` exists.
        mark: "good" if some of the work can run sparse, "no" if not.
    """

    verdict: str
    command: str
    mark: Literal["good", "no"]


def next_step(
    model: str | os.PathLike[str],
    report: VerifyReport | None = None,
    *,
    backend: str | None = None,
    targets: str | None = None,
    samples: str | None = None,
    source: str | None = None,
) -> NextStep:
    """Return the verdict on an ONNX file and the next command.

    Args:
        model: The file.
        report: What `verify` found of it, at any place or at none; None verifies it.
        backend: Builder that was named on the command line.
        targets: Architectures that were named.
        samples: Calibration samples that were given, which the next command then names.
        source: The float model that the file was made of, from which a file without 2:4 starts again.

    Raises:
        InputError: The file cannot be read.
    """
    from nm2trt.pipeline.next_command import SAMPLES, next_command, pruning_command, sparse_dtype

    if report is None:
        from nm2trt.pipeline.verify import verify

        report = verify(model, backend=backend, targets=targets)
    elif report.place == NOWHERE:
        from nm2trt.backends.choice import place_of

        report = report.at(place_of(backend, targets))
    file, start = shell_path(model), None if source is None else shell_path(source)
    command = next_command(file, report)
    if start is not None and (not command or command.startswith("nm2trt prune")):
        # The samples have more to choose from there than in what was made of it.
        again = pruning_command(start, report)
        command = f"{again} --to int8" if not command and again.endswith(SAMPLES) else again
    if not command and report.weights:
        command = f"nm2trt explain {file}"  # it says of each weight what would help
    if samples is not None and samples.endswith(".npz"):  # a recipe may need a root and permissions
        command = command.replace(SAMPLES, shell_path(samples))
    if command.startswith("nm2trt build") and report.place.builder != "ort":
        command += _profiles(model)
    if command.startswith(("nm2trt build", "nm2trt explain")):
        command += f" --backend {backend}" if backend else ""
        command += f" --target {shell_word(targets)}" if targets else ""
    command = f"{_installation(command, report.place.builder)}{command}"
    able = sparse_dtype([v for v in report.weights if v.pattern == "holds"], report.place) == ""
    return NextStep(report.outlook, command, "good" if able else "no")


def _profiles(model: str | os.PathLike[str]) -> str:
    """Return options for inputs that are free in more than their batch, for which `build` has no default."""
    from nm2trt.engine.profiles import guessed_profiles
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.storage.model_info import describe_model
    from nm2trt.pipeline.position_tables import longest_positions

    opened = load(model, leave_weights=True)
    inputs = [(found.name, found.shape or ()) for found in describe_model(opened).inputs]
    if not any(guessed_profiles(inputs)):
        return ""
    guessed = guessed_profiles(inputs, longest_positions(opened))
    return "".join(f" --profile {shell_word(profile)}" for profile in guessed)


def _installation(command: str, builder: str) -> str:
    """Return the installation that has to come first; "" if everything that the command needs is here."""
    from nm2trt.backends.choice import BACKENDS

    needed = {"ort"} if "--calib" in command else set()
    if command.startswith("nm2trt build") and builder in _EXTRAS:
        needed.add(builder)
    extras = [_EXTRAS[name] for name in sorted(needed) if importlib.util.find_spec(BACKENDS[name][1]) is None]
    return f"{install_line(','.join(extras))} && " if extras else ""
