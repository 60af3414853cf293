"""An exported PyTorch program, `.pt2`, as a session: the reference that ONNX came from."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.feeds import check_feeds, numpy_dtype
from nm2trt.backends.protocol import Closing, TensorSpec
from nm2trt.errors import BackendError, ModelError, Nm2trtError, first_line
from nm2trt.exporter.program_archive import copy_checked
from nm2trt.exporter.reference import output_names_of
from nm2trt.files import check_input


class ProgramSession(Closing):
    """An exported program on the CPU; a `Session`.

    Inputs have the names of `forward`; outputs those that `nm2trt.export` gives them: a returned dict's keys,
    else "output", or "output_0" and so on.

    Args:
        program: The loaded program.
        name: Its name in messages.
    """

    def __init__(self, program: torch.export.ExportedProgram, name: str) -> None:
        self._name = name
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        self.inputs = tuple(_spec(n, n, values, name) for n in program.graph_signature.user_inputs)
        made = program.graph_signature.user_outputs
        structure = program.call_spec.out_spec
        if structure is None or program.call_spec.in_spec is None:
            raise ModelError(f"{name} does not say how its inputs and outputs are arranged; export it again")
        returned = _pytree.tree_unflatten([torch.empty(0)] * structure.num_leaves, structure)
        names = output_names_of(returned, None)
        self.outputs = tuple(_spec(*pair, values, name) for pair in zip(made, names, strict=True))
        self._in_spec = program.call_spec.in_spec
        # Guards are source code that the file carries.
        self._module: Any = program.module(check_guards=False)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run one batch; see `Session.run`."""
        check_feeds(self.inputs, feeds)
        tensors = [_tensor(feeds[spec.name]) for spec in self.inputs]
        args, kwargs = _pytree.tree_unflatten(tensors, self._in_spec)
        try:
            with torch.no_grad():
                returned = self._module(*args, **kwargs)
        except Exception as error:
            raise BackendError(f"PyTorch failed to run {self._name}: {first_line(error)}") from error
        leaves = _pytree.tree_leaves(returned)
        return {spec.name: _array(leaf) for spec, leaf in zip(self.outputs, leaves, strict=True)}

    def close(self) -> None:
        """Free the program."""
        self._module = None


def open_program(path: str | os.PathLike[str]) -> ProgramSession:
    """Open what `torch.export.save` wrote, unless loading it could run code.

    Raises:
        InputError: The file is missing.
        ModelError: The file is damaged, needs pickle, or its program takes or returns more than tensors.
    """
    path = check_input(path, "an exported PyTorch program")
    loader = logging.getLogger("torch.export")
    level = loader.level
    with path.open("rb") as file, tempfile.TemporaryFile() as checked:
        copy_checked(file, checked, str(path))
        loader.setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ProgramSession(torch.export.load(checked), str(path))
        except Nm2trtError:
            raise
        except Exception as error:
            raise ModelError(f"PyTorch cannot load {path}: {first_line(error)}") from error
        finally:
            loader.setLevel(level)


def _tensor(array: Array) -> torch.Tensor:
    array = np.require(array, requirements=["C", "W"])
    if array.dtype.name != "bfloat16":
        return torch.from_numpy(array)
    # Neither library knows the other's bfloat16; the bits are the same.
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach()
    if tensor.dtype != torch.bfloat16:
        return np.asarray(tensor.numpy())
    return np.asarray(tensor.contiguous().view(torch.int16).numpy().view(numpy_dtype("bfloat16")))


def _spec(node: str | None, name: str, values: Mapping[str, Any], path: str) -> TensorSpec:
    value = values.get(node or "")
    if not isinstance(value, torch.Tensor):
        raise ModelError(
            f"{path} takes or returns {name!r}, which is not a tensor; only tensors can be compared"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return TensorSpec(name, dtype, shape)
