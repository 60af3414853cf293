"""Post-training from a file: a YAML recipe names a model, its weights, calibration and method.

    model: net.py:make_net          # a file beside the recipe, or package.module:function
    weights: net.safetensors
    calibration: digits.yaml
    method: fcpts
    pattern: "2:4"
    options: {steps: 400, lr: 0.01}

The recipe names code that is then run: it is a script in another form, not data to take from strangers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from nm2trt.calibration.recipe import load_recipe
from nm2trt.calibration.sample_set import SampleSet
from nm2trt.calibration.strict import Strict, validated
from nm2trt.calibration.yaml_file import read_yaml
from nm2trt.errors import InputError
from nm2trt.files import atomic_path, check_input, check_output
from nm2trt.named_code import refuse_code
from nm2trt.sparsity.core.session import SparseSession
from nm2trt.sparsity.registry import METHODS
from nm2trt.sparsity.sparsify import sparsify


class JobRecipe(Strict):
    """What to sparsify, and how.

    `arguments` go to the model's function, `options` to the method. `output` is the path of the result
    without its suffix; by default the weights' name with `.sparse`, beside the recipe.
    """

    model: str = Field(pattern=r"^[^:]+:[A-Za-z_]\w*$")
    arguments: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    weights: str
    calibration: str | None = None
    method: str = "fcpts"
    pattern: str | dict[str, str | None] | None = "2:4"
    rate: float | None = None
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)
    min_channels: int = 16
    options: dict[str, Any] = Field(default_factory=dict)
    output: str | None = None


@dataclass(frozen=True, slots=True)
class SparsifyJob:
    """A recipe with its model, weights and samples loaded.

    Args:
        recipe: The recipe.
        model: The dense model, in eval mode.
        samples: Calibration samples; None for methods that take none.
        weights_path: Where the sparse weights go, a `.safetensors`.
        onnx_path: Where the ONNX file goes.
    """

    recipe: JobRecipe
    model: nn.Module
    samples: SampleSet | None
    weights_path: Path
    onnx_path: Path

    @property
    def checkpoint_path(self) -> Path:
        """Where a stopped run leaves what it has done; the next run goes on from there."""
        return self.weights_path.with_suffix(".partial.safetensors")

    def run(self) -> SparseSession:
        """Prune and repair the model; a run that was stopped goes on.

        Raises:
            InputError: An option, the model, the pattern or the samples do not fit.
        """
        recipe = self.recipe
        options = dict(recipe.options)
        spec = METHODS[recipe.method]
        if spec.post_training:
            given: dict[str, Any] = {"calibration": self.samples}
            if recipe.rate is not None:
                given["rate"] = recipe.rate
            if any(field.name == "checkpoint" for field in fields(spec.options)):
                given["checkpoint"] = str(self.checkpoint_path)
            options = {**given, **options}
        return sparsify(
            self.model,
            method=recipe.method,
            pattern=recipe.pattern,
            include=recipe.include,
            exclude=recipe.exclude,
            min_channels=recipe.min_channels,
            **options,
        )

    def save(self) -> None:
        """Write the finalised weights, whole or not at all.

        Raises:
            OutputError: The file cannot be written.
        """
        state = {key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()}
        with atomic_path(self.weights_path) as temporary:
            save_file(state, temporary)

    def example(self) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return two calibration samples, for the export.

        Raises:
            InputError: The recipe has no calibration.
        """
        if self.samples is None:
            raise InputError("the export needs samples: add calibration: to the recipe")
        arrays = {name: torch.from_numpy(array[:2].copy()) for name, array in self.samples.arrays.items()}
        return next(iter(arrays.values())) if len(arrays) == 1 else arrays


_FILE_MODULE = "nm2trt_model_file_"


def read_job(path: str | os.PathLike[str]) -> JobRecipe:
    """Read a recipe; nothing that it names is opened.

    Raises:
        InputError: It is missing, no YAML, or has a wrong key or value.
    """
    recipe = validated(JobRecipe, read_yaml(path), path)
    if recipe.method not in METHODS:
        raise InputError(f"{path}: method: {recipe.method!r} is unknown; choose fcpts or magnitude")
    spec = METHODS[recipe.method]
    if not spec.post_training and recipe.method != "magnitude":
        raise InputError(
            f"{path}: method: {recipe.method!r} trains in your own loop; a recipe takes fcpts or magnitude"
        )
    if recipe.calibration is None:
        needs = f"{recipe.method!r} learns from samples" if spec.post_training else "the export needs samples"
        raise InputError(f"{path}: calibration: {needs}; name a calibration recipe")
    return recipe


def load_job(
    path: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> SparsifyJob:
    """Load what a recipe names: model, weights, samples.

    Args:
        path: The YAML file; the paths in it are relative to its folder.
        output: The result's path without its suffix, in place of the recipe's.
        data_root: Folder of the calibration recipe's paths, in place of its own.
        allow_functions: Run the code that the recipe names: the function that makes the model, and a
            calibration source of kind `function`.

    Raises:
        InputError: The recipe names code that is not allowed, or what it names is missing or does not fit.
        OutputError: The result cannot be written where it should go.
    """
    recipe, folder = read_job(path), Path(path).resolve().parent
    weights = folder / recipe.weights
    stem = Path(output) if output is not None else folder / (recipe.output or f"{weights.stem}.sparse")
    weights_path, onnx_path = (check_output(Path(f"{stem}{suffix}")) for suffix in (".safetensors", ".onnx"))
    if weights_path == weights:
        raise InputError(f"{path}: output: the result would take the place of {weights}; name another")
    refuse_code(f"{recipe.model} of {path}", allowed=allow_functions)
    model = make_model(recipe.model, recipe.arguments, folder)
    load_weights(model, weights)
    samples = None
    if recipe.calibration is not None:
        where = folder / recipe.calibration
        samples = load_recipe(where, data_root=data_root, allow_functions=allow_functions)
    return SparsifyJob(recipe, model.eval(), samples, weights_path, onnx_path)


def make_model(named: str, arguments: Mapping[str, Any], folder: Path) -> nn.Module:
    """Call the function that makes a model.

    Args:
        named: `file.py:function`, the file below `folder`, or `package.module:function`.
        arguments: What it is given.
        folder: Folder of the file.

    Raises:
        InputError: The function is missing, fails, or returns something else.
    """
    module_name, _, function_name = named.rpartition(":")
    try:
        module = _import(module_name, folder)
        function = getattr(module, function_name)
    except AttributeError as error:
        raise InputError(f"model: {module_name} has no function {function_name!r}") from error
    try:
        model = function(**arguments)
    except Exception as error:
        raise InputError(f"model: {named} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {named} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _import(name: str, folder: Path) -> ModuleType:
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise InputError(f"model: {name} cannot be imported ({error})") from error
    path = check_input(folder / name, "a Python")
    # Not the bare stem, which may be the name of an installed module.
    own = f"{_FILE_MODULE}{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(own, path)
    if spec is None or spec.loader is None:
        raise InputError(f"model: {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pickle look a class's module up there.
    sys.modules[own] = module
    sys.path.insert(0, str(path.parent))  # for what the file imports from beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[own]
        raise InputError(f"model: {path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into a model.

    Raises:
        InputError: The file is missing or damaged, or does not fit the model.
    """
    check_input(path, "a safetensors")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a sound safetensors file") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise InputError(f"{path} does not fit the model: {lines[0] if lines else error}") from error
