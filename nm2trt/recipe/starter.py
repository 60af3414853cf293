"""A first recipe for a model: commented, and fit to run as it is."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.engine.profiles import DEFAULT_BATCH, guessed_profiles
from nm2trt.errors import InputError, OutputError
from nm2trt.files import check_input, check_output, unnamed_output, write_atomic
from nm2trt.json_value import JsonValue
from nm2trt.nm.advice import prunable_weights
from nm2trt.pipeline.next_command import SAMPLES, pruning_command
from nm2trt.recipe.schema import RECIPE_VERSION
from nm2trt.recipe.starter_outlook import recipe_outlook, recipe_precision
from nm2trt.terminal_text import shell_path

if TYPE_CHECKING:
    from nm2trt.graph.verify.report import VerifyReport

_HEAD = """\
# A recipe of nm2trt: `nm2trt run {file}` runs it, skipping what is done; `--dry-run` says what would run.
# A stage starts from what the last one before it made, unless `from:` names another, `model`, or a path.
# Paths are relative to this file. docs/recipes.md names every key.
version: {version}
name: {name}
model: {model}

stages:
"""
_PRUNE = """\
  # {why}. This prunes them by magnitude and repairs nothing: {instead}.
  prune: {{pattern: "2:4", min_channels: 16}}
"""
_REBUILD = """\
  # {why}. Masks and values in int8 are solved from the samples, layer by layer.
  prune: {{pattern: "2:4", min_channels: 16, calib: {calib}, to: int8}}
"""
_INSTEAD = """with about a hundred
  # unlabelled samples, `nm2trt init --calib SAMPLES.npz --force` rebuilds them here instead"""
_CANNOT = """samples can rebuild
  # only the weight of a Conv, Gemm or MatMul in the main graph of a float32 model"""
_HOLDS = """\
  # {why}; to prune by magnitude anyway, remove the #.
  # prune: {{pattern: "2:4", min_channels: 16}}
"""
_FUSE = """\
  # Folds BatchNorms and merges parallel convolution branches; outputs are compared before it is written.
  fuse:
"""
_CAST = """\
  # fp16. With samples, `nm2trt init --calib SAMPLES.npz --force` writes int8 here.
  cast: {to: fp16}
"""
_QUANTIZE = """\
  # int8, by ranges that these samples give.
  quantize: {{calib: {calib}}}
"""
_OUTLOOK = """\
  # {sentence}
"""
_VERIFY = """\
  # One row per weight; the run stops if one breaks its pattern. fail_on: broken, ineligible, any or none.
  verify: {{fail_on: {gate}}}
"""
_BUILD = """\
  # {why}.
{mark}  build:
{mark}    sparsity: {sparsity}              # disable, enable or force
{mark}    {target}
{profile}"""
_VALIDATE = """\
  # Accuracy and latency against the model given, once there is labelled data: inputs by name, and labels.
  # validate: {{from: {candidate}, against: model, data: test.npz}}
"""
_REPORT = """\
  # One page of all this; json and md are there too.
  report: {formats: [html]}
"""


@dataclass(frozen=True, slots=True)
class StarterRecipe(JsonValue):
    """What `write_recipe` wrote.

    Args:
        recipe: The file.
        model: The model.
        holds: Weights that hold 2:4 already.
        weights: Weights in all.
        outlook: How much can run sparse once the recipe has run, and if nothing can, what would.
    """

    recipe: Path
    model: Path
    holds: int
    weights: int
    outlook: str = ""


def write_recipe(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    calib: str | os.PathLike[str] | None = None,
    backend: str | None = None,
    targets: str | None = None,
) -> StarterRecipe:
    """Write a commented recipe that takes an ONNX model to an engine and a report.

    Args:
        model: The ONNX file.
        output: The recipe; None puts `NAME.yaml` beside the model. The model must lie in its folder or below.
        force: Replace a file that is there.
        calib: Samples; with them the recipe quantises a float32 model to int8.
        backend: Builder that the recipe is for; by default the one that `build` takes here.
        targets: Architectures, as in "sm80,sm86"; by default those that `build` takes here.

    Raises:
        InputError: The model is missing or not sound, or does not lie below the recipe's folder.
        DataError: The samples of an `.npz` do not fit the model's inputs.
        OutputError: The recipe is there already, or cannot be written.
    """
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.storage.model_info import describe_model
    from nm2trt.pipeline.calibration_input import check_samples
    from nm2trt.pipeline.position_tables import longest_positions
    from nm2trt.pipeline.verify import verify

    model = Path(model)
    report = verify(model, backend=backend, targets=targets)
    given = [model] if calib is None else [model, calib]
    output = unnamed_output(model.with_suffix(".yaml")) if output is None else output
    target = check_output(output, sources=given)
    if target.exists() and not force:
        raise OutputError(f"{target} is there already; give another path with -o, or replace it with --force")
    root = target.resolve().parent
    parts = [
        _HEAD.format(
            file=_word(shell_path(target.name)),
            version=RECIPE_VERSION,
            name=_quoted(model.stem),
            model=_quoted(_below(model, root)),
        )
    ]
    samples = None if calib is None else _quoted(_below(check_input(calib, "a samples"), root))
    holds, prunable = report.counts.get("holds", 0), bool(prunable_weights(report.weights))
    opened = load(model, leave_weights=True)
    precision = recipe_precision(report, opened, calib=samples)
    if calib is not None and precision == "int8":
        check_samples(calib, opened)
    joint = not holds and precision == "int8" and pruning_command("", report).endswith(SAMPLES)
    outlook = recipe_outlook(report, model, precision, rebuilds=joint)
    if holds or prunable:
        parts.append(_pruned(holds, len(report.weights), samples, joint=joint))
    if not joint:  # else one solve does all three: it fuses, prunes and quantises
        parts.append(_FUSE)
    if precision == "fp16":
        parts.append(_CAST)
    elif precision == "int8" and not joint:
        parts.append(_QUANTIZE.format(calib=samples))
    stays_broken = report.failures("broken") and (holds or not prunable)
    last = "prune" if joint else {"fp16": "cast", "int8": "quantize"}.get(precision, "fuse")
    parts += [
        _OUTLOOK.format(sentence=_word(outlook)),
        _VERIFY.format(gate="none" if report.blind or stays_broken else "broken"),
        _build(
            [(tensor.name, list(tensor.shape or ())) for tensor in describe_model(opened).inputs],
            longest_positions(opened),
            _unread(report),
            sparse=bool(holds or prunable),
            choice=(backend, targets),
        ),
        _VALIDATE.format(candidate=last),
        _REPORT,
    ]
    write_atomic(target, "".join(parts))
    return StarterRecipe(target, model, holds, len(report.weights), outlook)


def _unread(report: VerifyReport) -> str:
    """Return the first node that the builder's parser does not read, as far as is known; "" without one."""
    builder = report.place.builder
    facts = [v.facts for v in report.weights if v.facts is not None and builder != "ort"]
    return next((f.unread or (f.unread_by_rtx if builder == "trt-rtx" else "") for f in facts), "")


def _below(path: Path, root: Path) -> str:
    if not path.resolve().is_relative_to(root):
        raise InputError(f"{path} is not below {root}, the folder of the recipe; put them together")
    return str(path.resolve().relative_to(root))


def _pruned(holds: int, weights: int, calib: str | None, *, joint: bool) -> str:
    """Return the stage that prunes: to int8 from the samples of `calib`, or by magnitude."""
    if holds:
        return _HOLDS.format(why=f"{holds} of {weights} weights hold 2:4 already")
    why = "No weight holds 2:4 yet"
    if joint:
        return _REBUILD.format(why=why, calib=calib)
    return _PRUNE.format(why=why, instead=_CANNOT if calib else _INSTEAD)


def _build(
    inputs: list[tuple[str, list[Any]]],
    longest: int | None,
    unread: str,
    *,
    sparse: bool,
    choice: tuple[str | None, str | None],
) -> str:
    here = any(importlib.util.find_spec(name) for name in ("tensorrt_rtx", "tensorrt"))
    why = (
        "An engine, with its manifest and the ladder: which weights may, and which do, run sparse kernels"
        if here
        else "TensorRT is not installed here (pip install 'nm2trt[rtx]'); then remove the # for an engine"
    )
    if unread:
        here, why = False, f"No engine: the builder's parser does not read {unread}"
    mark = "" if here else "  # "
    backend, targets = choice
    lines = [f"target: {targets}" if targets else "# target: sm80,sm86"]
    lines += [f"backend: {backend}"] if backend else []
    return _BUILD.format(
        why=why,
        mark=mark,
        sparsity="enable" if sparse else "disable",
        target=f"\n{mark}    ".join(lines),
        profile=_profiles(inputs, longest, mark),
    )


def _profiles(inputs: list[tuple[str, list[Any]]], longest: int | None, mark: str) -> str:
    """Return the line of profiles: the default's as a comment, or a guess if the default is missing."""
    free = [(name, shape) for name, shape in inputs if not all(isinstance(size, int) for size in shape)]
    if not free:
        return ""
    if guessed := guessed_profiles(free, longest):
        return f"{mark}    profiles: {json.dumps(guessed)}    # smallest, usual, largest: a guess\n"
    chosen = [f"{name}:{','.join(map(str, DEFAULT_BATCH))}" for name, _ in free]
    return f"{mark}    # profiles: {json.dumps(chosen)}    # smallest, usual and largest batch\n"


def _quoted(text: str) -> str:
    """Return a text as YAML reads it back, whatever it holds: JSON's strings are YAML's."""
    return json.dumps(text)


def _word(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
