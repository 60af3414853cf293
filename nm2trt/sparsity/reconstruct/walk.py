"""Two passes over a torch model: the dense one records each layer, the pruned one solves it and goes on.

In the second pass a layer sees what the layers before it, already pruned, make of the samples; it is solved
towards what the dense layer made of the dense inputs, at the same positions. Every eighth chunk of samples
is never fitted. The work runs on the model's device. Several processes may each hold a part of the samples;
see `nm2trt.sparsity.reconstruct.processes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nm2trt.nm.solver.kept_rows import ROWS, KeptRows, are_kept, rows_to_draw
from nm2trt.nm.solver.layer_moments import Moments, Sums, moments_of
from nm2trt.sparsity.core.borrowed_model import eval_mode
from nm2trt.sparsity.core.calibration_batches import CalibrationBatch, outputs_of
from nm2trt.sparsity.reconstruct.attention import attention_context, projection_inputs
from nm2trt.sparsity.reconstruct.parts import Part, norms_behind
from nm2trt.sparsity.reconstruct.processes import Processes
from nm2trt.sparsity.reconstruct.rows import Rows

_ROWS_AT_ONCE = 4096
_CHUNKS, _MOST_SAMPLES = 8, 32

# Solves a part from the moments of fitted and held-out rows, and changes the weight.
Solve = Callable[[Part, Sums, "Sums | None"], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Record:
    """What the dense pass left of a part: positions, and the rows or their products, whichever is smaller."""

    picked: Tensor
    weight: Tensor
    scale: Tensor
    rows: Tensor | None
    outputs: Tensor | None

    def wanted(self, part: slice) -> Tensor:
        """Return the wanted outputs of some of the rows, float32 (p, o)."""
        if self.outputs is not None:
            return self.outputs[part]
        if self.rows is None:
            raise AssertionError("a record holds rows or outputs")
        return self.rows[part] @ self.weight.T


class Walk:
    """The dense pass, made at once, and the pruned one.

    Args:
        model: Still dense.
        batch: All samples, in one call.
        layers: Names of the layers to record, with the weights' names by parameter name of each.
        seed: Draws the rows.
        valid: Not 0 at real tokens, (samples, tokens): rows of a matrix with one row per token are drawn from
            those, as many per sample; None draws from all.
        processes: This process among those that share the samples; None if it has all of them.

    Attributes:
        processes: This process among those that share the samples.
        outputs: What the dense model made of the samples.
        reused: Layers that are called more than once; they are not solved.
        norms: The BatchNorm that is a layer's only reader, by the layer's name.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: CalibrationBatch,
        layers: Mapping[str, Mapping[str, str]],
        seed: int = 0,
        valid: Tensor | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.model, self.batch, self.layers, self.seed = model, batch, layers, seed
        self.processes = processes or Processes(0, batch.samples)
        self._lead = None if valid is None else tuple(valid.shape)
        self._valid = None if valid is None else self.processes.joined(valid != 0)
        self.norms = norms_behind(model, list(layers))
        self.reused: set[str] = set()
        self._records: dict[tuple[str, int], _Record] = {}
        self._modules = {name: model.get_submodule(name) for name in layers}
        self.outputs = self._pass(self._record)

    def solve(self, solve: Solve, hooks: Sequence[tuple[nn.Module, Callable[..., Any]]] = ()) -> Any:
        """Make the pruned pass and return the model's outputs.

        Args:
            solve: Called for each part in the order of the calls.
            hooks: Other modules, and what runs before each of their calls.
        """

        def at(part: Part, rows: Rows) -> None:
            record = self._records.get((part.weight, part.rows.start or 0))
            if record is not None:
                found = self._moments(part, record, rows)
                if found is not None:
                    solve(part, *found)

        return self._pass(at, hooks)

    @torch.no_grad()
    def _pass(
        self, at: Callable[[Part, Rows], None], hooks: Sequence[tuple[nn.Module, Callable[..., Any]]] = ()
    ) -> Any:
        handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
        for name, module in self._modules.items():
            handles.append(module.register_forward_pre_hook(self._hook(name, at), with_kwargs=True))
        try:
            with eval_mode(self.model), _every_call_seen():
                return outputs_of(self.model, self.batch, 0)
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, at: Callable[[Part, Rows], None]) -> Callable[..., None]:
        seen = False

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal seen
            if seen:
                self.reused.add(name)
                for key in [key for key in self._records if key[0] in self.layers[name].values()]:
                    del self._records[key]
            elif name not in self.reused:
                for part, rows in self._parts(name, module, args, kwargs):
                    # The user's autocast is for the model: sums of products in half precision solve nothing.
                    with torch.autocast(part.dense().device.type, enabled=False):
                        at(part, rows)
            seen = True

        return hook

    def _parts(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Iterator[tuple[Part, Rows]]:
        weights = self.layers[name]
        every = slice(0, None)
        if not isinstance(module, nn.MultiheadAttention):
            x = args[0] if args else next(iter(kwargs.values()))
            plain, norm = module._parameters.get("bias"), self.norms.get(name)
            yield Part(weights["weight"], module, "weight", every, plain, norm), Rows(module, x)
            return
        for number, (tensor, rows, x) in enumerate(projection_inputs(module, args, kwargs)):
            if tensor in weights:
                bias: Tensor | None = module.in_proj_bias
                if tensor != "in_proj_weight" and bias is not None:
                    width = module.embed_dim
                    bias = bias[number * width : (number + 1) * width]  # a view: changes reach the parameter
                yield Part(weights[tensor], module, tensor, rows, bias, None), Rows(module, x)
        if "out_proj.weight" in weights:
            out = module.out_proj
            context = attention_context(module, args, kwargs)
            yield Part(weights["out_proj.weight"], out, "weight", every, out.bias, None), Rows(out, context)

    def _record(self, part: Part, rows: Rows) -> None:
        weight, scale = part.dense().float(), part.scale()
        weight = weight * scale[:, None].float()
        inputs = weight.shape[1]
        wanted = rows_to_draw(inputs, ROWS // (4 if part.depthwise else 1))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + len(self._records))
        picked = self._pick(rows, wanted, generator).to(weight.device)
        keep_rows = not part.depthwise and weight.shape[0] > inputs
        parts = []
        for start in range(0, max(len(picked), 1), _ROWS_AT_ONCE):
            x = rows.at(picked[start : start + _ROWS_AT_ONCE])
            if part.depthwise:
                parts.append(torch.einsum("pkc,ck->pc", x, weight))
            else:
                x = x.flatten(1)
                parts.append(x if keep_rows else x @ weight.T)
        joined = torch.cat(parts)
        key = (part.weight, part.rows.start or 0)
        self._records[key] = _Record(
            picked, weight, scale, joined if keep_rows else None, None if keep_rows else joined
        )

    def _pick(self, rows: Rows, wanted: int, generator: torch.Generator) -> Tensor:
        """Draw output positions among those of all processes, and return this one's, sorted."""
        first, count = self.processes.place(rows.count)
        drawn = self._draw(rows, count, wanted, generator)
        if count == rows.count:
            return drawn
        return drawn[(drawn >= first) & (drawn < first + rows.count)] - first

    def _draw(self, rows: Rows, count: int, wanted: int, generator: torch.Generator) -> Tensor:
        valid = self._valid
        if valid is not None and rows.lead == self._lead and bool(valid.any()):
            lengths = valid.sum(1)
            # More than the longest sample has would say nothing new.
            per_sample = min(-(-wanted // len(valid)), int(lengths.max()))
            # In an order of its own, and round again in a short one, so that it weighs as much as a long one.
            noise = torch.rand(valid.shape, generator=generator).masked_fill(~valid, 2)
            turns = torch.arange(per_sample) % lengths.clamp(min=1)[:, None]
            first = torch.arange(len(valid))[:, None] * valid.shape[1]
            return (noise.argsort(1).gather(1, turns) + first)[lengths > 0].flatten().sort().values
        if wanted < count:
            return torch.randperm(count, generator=generator)[:wanted].sort().values
        return torch.arange(count)

    def _moments(self, part: Part, record: _Record, rows: Rows) -> tuple[Sums, Sums | None] | None:
        """Return the moments of fitted and held-out rows in units of what the BatchNorm makes of them."""
        _, count = self.processes.place(len(record.picked))
        sample = record.picked * self.batch.samples // max(rows.count, 1)
        outside = held_out(self.processes.first + sample, self.processes.samples)
        of: Callable[[Tensor, Tensor], Sums] = _depthwise_moments if part.depthwise else _moments
        if not part.depthwise and are_kept(record.weight.shape[1], count):
            of = _kept_rows
        found: dict[bool, Sums] = {}
        for start in range(0, len(record.picked), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            x, y = rows.at(record.picked[some]), record.wanted(some)
            for kind in (False, True):
                mine = outside[some] == kind
                if bool(mine.any()):
                    made = of(x[mine], y[mine])
                    found[kind] = found[kind] + made if kind in found else made
        if self.processes.count > 1:
            for kind in (False, True):
                found[kind] = self.processes.summed_moments(found.get(kind) or _no_rows(of, rows, record))
        fitted, held = (m if m is not None and m.rows else None for m in map(found.get, (False, True)))
        return None if fitted is None else (fitted, held)

    def dense_weight(self, part: Part) -> Tensor:
        """Return the dense weight of a part, in the same units as its moments: float64 (outputs, inputs)."""
        return self._records[part.weight, part.rows.start or 0].weight.double()

    def scale(self, part: Part) -> Tensor:
        """Return what divides those units back: float64 (outputs,)."""
        return self._records[part.weight, part.rows.start or 0].scale


def held_out(sample: Tensor, samples: int) -> Tensor:
    """Tell which samples are never fitted, by their numbers: every eighth chunk."""
    size = min(max(samples // _CHUNKS, 1), _MOST_SAMPLES)
    return sample // size % _CHUNKS == _CHUNKS - 1


def _moments(x: Tensor, y: Tensor) -> Moments:
    return moments_of(x.flatten(1), y)


def _kept_rows(x: Tensor, y: Tensor) -> KeptRows:
    return KeptRows(x.flatten(1), y)


def _no_rows(of: Callable[[Tensor, Tensor], Sums], rows: Rows, record: _Record) -> Sums:
    """Return moments that add nothing, in the shapes of a layer."""
    nowhere = record.picked.new_zeros(1)
    one = of(rows.at(nowhere), record.weight.new_zeros((1, record.weight.shape[0])))
    if isinstance(one, KeptRows):
        return KeptRows(one.inputs[:0], one.outputs[:0])
    return Moments(0 * one.xx, 0 * one.yx, 0 * one.x, 0 * one.y, 0.0, 0)


def _depthwise_moments(x: Tensor, y: Tensor) -> Moments:
    by_channel = x.permute(2, 0, 1)
    return Moments(
        xx=(by_channel.transpose(1, 2) @ by_channel).double(),
        yx=(y.T[:, None, :] @ by_channel)[:, 0, :].double(),
        x=x.sum(0, dtype=torch.float64).T,
        y=y.sum(0, dtype=torch.float64),
        yy=float((y.double() ** 2).sum()),
        rows=len(x),
    )


@contextmanager
def _every_call_seen() -> Iterator[None]:
    """Keep torch from its fused transformer layers, which call no module."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
