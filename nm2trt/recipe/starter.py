"""A first recipe for a model: commented, and fit to run as it is."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nm2trt.engine.profiles import DEFAULT_BATCH, example_profile
from nm2trt.errors import InputError, OutputError
from nm2trt.files import check_output, write_atomic
from nm2trt.recipe.schema import RECIPE_VERSION

__all__ = ["StarterRecipe", "write_recipe"]

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
  # {why}. This prunes them by magnitude, in one go: compare the accuracy, and
  # train (nm2trt.sparsify) or repair (`nm2trt sparsify`) the model where it suffers.
  prune: {{pattern: "2:4", min_channels: 16}}
"""
_HOLDS = """\
  # {why}; to prune by magnitude all the same, take the # away.
  # prune: {{pattern: "2:4", min_channels: 16}}
"""
_FUSE = """\
  # Folds BatchNorms and merges parallel convolution branches; outputs are compared before it is written.
  fuse:
"""
_CAST = """\
  # No sparse kernel is known for fp32. For int8 put this in its place: quantize: {calib: samples.npz}
  cast: {to: fp16}
"""
_VERIFY = """\
  # One row a weight; the run stops where one breaks its pattern. fail_on: broken, ineligible, any or none.
  verify: {{fail_on: {gate}}}
"""
_BUILD = """\
  # {why}.
{mark}  build:
{mark}    sparsity: {sparsity}              # disable, enable or force
{mark}    # target: sm80,sm86
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
class StarterRecipe:
    """What `write_recipe` wrote.

    Args:
        recipe: The file.
        model: The model.
        holds: Weights that hold 2:4 already.
        weights: Weights in all.
    """

    recipe: Path
    model: Path
    holds: int
    weights: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "recipe": str(self.recipe),
            "model": str(self.model),
            "holds": self.holds,
            "weights": self.weights,
        }


def write_recipe(
    model: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, force: bool = False
) -> StarterRecipe:
    """Write a commented recipe that takes an ONNX model to an engine and a report.

    Args:
        model: The ONNX file.
        output: The recipe; None puts `NAME.yaml` beside the model. The model must lie in its folder or below.
        force: Replace a file that is there.

    Raises:
        InputError: The model is missing or not sound, or does not lie below the recipe's folder.
        OutputError: The recipe is there already, or cannot be written.
    """
    from nm2trt.pipeline.info import info as describe
    from nm2trt.pipeline.verify import verify

    model = Path(model)
    report = verify(model)
    info = describe(model)
    target = check_output(model.with_suffix(".yaml") if output is None else output)
    if target.exists() and not force:
        raise OutputError(f"{target} is there already; give another path with -o, or replace it with --force")
    root = target.resolve().parent
    if not model.resolve().is_relative_to(root):
        raise InputError(f"{model} does not lie below {root}, where the recipe would be; put them together")
    holds = report.counts.get("holds", 0)
    text = _text(
        target.name,
        str(model.resolve().relative_to(root)),
        model.stem,
        holds=holds,
        weights=len(report.weights),
        broken=bool(report.failures("broken")) and holds > 0,
        single=any(verdict.dtype == "float32" for verdict in report.weights),
        inputs=[(tensor.name, list(tensor.shape or ())) for tensor in getattr(info, "inputs", ())],
    )
    write_atomic(target, text)
    return StarterRecipe(target, model, holds, len(report.weights))


def _text(
    file: str,
    model: str,
    name: str,
    *,
    holds: int,
    weights: int,
    broken: bool,
    single: bool,
    inputs: list[tuple[str, list[Any]]],
) -> str:
    parts = [_HEAD.format(file=_word(file), version=RECIPE_VERSION, name=_quoted(name), model=_quoted(model))]
    planned = holds > 0
    if planned:
        parts.append(_HOLDS.format(why=f"{holds} of {weights} weights hold 2:4 already"))
    else:
        parts.append(_PRUNE.format(why=f"None of the {weights} weights holds 2:4 yet"))
    parts.append(_FUSE)
    if single:
        parts.append(_CAST)
    parts.append(_VERIFY.format(gate="none" if broken else "broken"))
    parts.append(_build(inputs, sparse=weights > 0))
    parts.append(_VALIDATE.format(candidate="cast" if single else "fuse"))
    parts.append(_REPORT)
    return "".join(parts)


def _build(inputs: list[tuple[str, list[Any]]], *, sparse: bool) -> str:
    here = any(importlib.util.find_spec(name) for name in ("tensorrt_rtx", "tensorrt"))
    why = (
        "An engine, with its manifest and the ladder: which weights may, and which do, run sparse kernels"
        if here
        else "No TensorRT is installed here (pip install nm2trt[rtx]); with it, take the # away for an engine"
    )
    mark = "" if here else "  # "
    return _BUILD.format(
        why=why, mark=mark, sparsity="enable" if sparse else "disable", profile=_profiles(inputs, mark)
    )


def _profiles(inputs: list[tuple[str, list[Any]]], mark: str) -> str:
    """Return the line of profiles: the default's as a comment, or a guess where there is no default."""
    free = [(name, shape) for name, shape in inputs if not all(isinstance(size, int) for size in shape)]
    if not free:
        return ""
    if all(isinstance(size, int) for _, shape in free for size in shape[1:]):
        chosen = [f"{name}:{','.join(map(str, DEFAULT_BATCH))}" for name, _ in free]
        return f"{mark}    # profiles: {json.dumps(chosen)}    # smallest, usual and largest batch\n"
    chosen = [example_profile(name, shape) for name, shape in free]
    return f"{mark}    profiles: {json.dumps(chosen)}    # smallest, usual, largest: a guess\n"


def _quoted(text: str) -> str:
    """Return a text as YAML reads it back, whatever it holds: JSON's strings are YAML's."""
    return json.dumps(text)


def _word(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
