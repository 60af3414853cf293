"""Parameter names for the weights that PyTorch's exporter transposes or packs, and renames.

A Linear on inputs of rank 3 becomes a MatMul whose weight is stored as (in, out), under a name such as
"val_9". Its numbers are the parameter's, so the name can be given back. An LSTM or GRU packs both directions
into one tensor (directions, gates, in), with the gates in ONNX's order; it gets the forward direction's name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from nm2trt.arrays import Array
from nm2trt.nm.plan import Plan, PlanEntry

# Where each of ONNX's gates stands among torch's: LSTM i, o, f, c of i, f, c, o; GRU z, r, h of r, z, n.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


def restore_names(model: Any, module: nn.Module) -> None:
    """Rename each initializer that is a parameter transposed or packed after that parameter, in place.

    Args:
        model: The exported onnx_ir model.
        module: What it was exported from, on the CPU.
    """
    graph = model.graph
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    taken |= {value.name for node in graph.all_nodes() for value in node.outputs}
    parameters = dict(module.named_parameters())
    unnamed: dict[tuple[int, ...], list[Any]] = {}
    for name, value in graph.initializers.items():
        shape = () if value.const_value is None else tuple(value.const_value.shape.numpy())
        if name not in parameters and len(shape) in (2, 3):
            unnamed.setdefault(shape, []).append(value)
    stored = {name: p.detach().numpy().T for name, p in parameters.items() if p.ndim == 2} | _packed(module)
    for name, numbers in stored.items():
        if name in taken:
            continue
        candidates = unnamed.get(numbers.shape, [])
        found = next((value for value in candidates if _equal(value, numbers)), None)
        if found is not None:
            candidates.remove(found)
            found.name = name
            taken.add(name)


def _packed(module: nn.Module) -> dict[str, Array]:
    """Return what the exporter makes of LSTM and GRU weights, by the name of the forward direction's."""
    found = {}
    for name, layer in module.named_modules():
        gates = _GATES.get(getattr(layer, "mode", "")) if isinstance(layer, nn.RNNBase) else None
        if gates is None:
            continue
        for tensor in (f"weight_{part}_l{n}" for n in range(layer.num_layers) for part in ("ih", "hh")):
            directions = [tensor, f"{tensor}_reverse"] if layer.bidirectional else [tensor]
            parts = [getattr(layer, direction).detach().numpy() for direction in directions]
            rows = [np.concatenate([np.split(part, len(gates))[gate] for gate in gates]) for part in parts]
            found[f"{name}.{tensor}" if name else tensor] = np.stack(rows)
    return found


def _equal(value: Any, numbers: Any) -> bool:
    stored = value.const_value.numpy()
    # The first row nearly always decides, and spares the rest of a large matrix.
    return bool(
        stored.dtype == numbers.dtype
        and np.array_equal(stored[:1], numbers[:1])
        and np.array_equal(stored, numbers)
    )


def without_merged(plan: Plan, model: Any, module: nn.Module) -> Plan:
    """Return a plan without the entries of small parameters that the exporter stored once with an equal one.

    A new `nn.TransformerEncoder` has such parameters: its layers are copies of one.

    Args:
        plan: The plan under the names of the parameters.
        model: The exported onnx_ir model, its names restored.
        module: What it was exported from, on the CPU.
    """
    parameters = dict(module.named_parameters())
    stored = [entry for entry in plan if entry.weight in model.graph.initializers]

    def merged(entry: PlanEntry) -> bool:
        mine = parameters.get(entry.weight)
        return mine is not None and any(
            other.pattern == entry.pattern and torch.equal(mine, parameters[other.weight])
            for other in stored
            if other.shape == entry.shape and other.weight in parameters
        )

    kept = (e for e in plan if e.weight in model.graph.initializers or not merged(e))
    return replace(plan, entries=tuple(kept))


def without_unread(plan: Plan, exported: torch.export.ExportedProgram | None) -> Plan:
    """Return a plan without the entries of parameters that the traced forward never reads.

    A BERT of which only the last hidden state is returned has such ones: its pooler's.

    Args:
        plan: The plan under the names of the parameters.
        exported: What was traced; None leaves the plan as it is.
    """
    if exported is None:
        return plan
    parameters = exported.graph_signature.inputs_to_parameters
    holders = [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in parameters]
    stored = exported.state_dict
    # A tied parameter has a holder under each of its names, and the forward may read it under the other.
    read = {stored[parameters[node.name]].data_ptr() for node in holders if node.users}
    names = (parameters[node.name] for node in holders)
    unread = {name for name in names if stored[name].data_ptr() not in read}
    return replace(plan, entries=tuple(entry for entry in plan if entry.weight not in unread))
