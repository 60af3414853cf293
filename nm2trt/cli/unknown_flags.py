"""Flags and commands that do not exist: those of trtexec by their names here, others by the nearest one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nm2trt.cli import COMMANDS

# By command: flag of trtexec -> what to type here.
_TRTEXEC = {
    "build": {
        "--onnx": "the model's path, without a flag",
        "--saveengine": "-o FILE",
        "--fp16": "--precision fp16",
        "--bf16": "--precision bf16",
        "--int8": "--precision int8 --calib SAMPLES.npz",
        "--fp8": "--precision fp8 --calib SAMPLES.npz",
        "--shapes": "--shape NAME:SHAPE",
        "--minshapes": "--profile NAME:MIN,OPT,MAX",
        "--optshapes": "--profile NAME:MIN,OPT,MAX",
        "--maxshapes": "--profile NAME:MIN,OPT,MAX",
        "--mempoolsize": "--workspace SIZE",
        "--notf32": "--no-tf32",
        "--timingcachefile": "--timing-cache FILE",
        "--builderoptimizationlevel": "--effort 0-5",
        "--computecapabilities": "--target LIST",
        "--staticplugins": "--plugin FILE.so",
        "--plugins": "--plugin FILE.so",
    },
    "bench": {
        "--loadengine": "the engine's path, without a flag",
        "--onnx": "the model's path, without a flag",
    },
}


def explained(message: str, words: Sequence[str], command: str, flags: Iterable[str]) -> str:
    """Return what argparse says of a command line, or what to type in place of a flag that is unknown.

    Args:
        message: What argparse says.
        words: What was typed.
        command: The command.
        flags: The command's flags.
    """
    known, here = {*flags}, _TRTEXEC.get(command, {})
    typed = (word.partition("=")[0] for word in words if word.startswith("--"))
    unknown = [flag for flag in typed if flag not in known]
    for flag in unknown:
        if flag.lower() in here:
            return f"{flag} is a flag of trtexec; here it is {here[flag.lower()]}"
    if message.startswith("unrecognized") and unknown:
        return message + _nearest(unknown[0], known)
    _, of_commands, choice = message.partition("argument COMMAND: invalid choice: ")
    if of_commands:
        word = choice.partition(" (choose")[0]
        return f"{word} is not a command{_nearest(word, COMMANDS)}"
    return message


def _nearest(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word.strip("'"), [*known], n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""
