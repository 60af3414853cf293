"""Reconstruction: N:M after training, by least squares, layer by layer, from unlabelled samples.

Layers are solved in the order in which the model calls them. Each gets the mask, values and bias that bring
its outputs on the pruned network's activations nearest to those of the dense network; see
`nm2trt.nm.solver.layer_solver`. Dense layers after the first pruned one are refitted too. Nothing is trained.
`nm2trt prune --calib` does the same to an ONNX file, and also repairs what skip connections lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nm2trt.errors import SparsifyError, SparsityError
from nm2trt.nm.plan import Plan
from nm2trt.nm.solver.layer_moments import Sums
from nm2trt.nm.torch_mask import magnitude_mask
from nm2trt.sparsity.core.borrowed_model import hash_tensors, kept_on_error, named_values
from nm2trt.sparsity.core.calibration_batches import CalibrationBatch, joined, read_batches
from nm2trt.sparsity.core.layer_choice import Choice
from nm2trt.sparsity.core.method_spec import Request
from nm2trt.sparsity.core.session import SparseSession
from nm2trt.sparsity.reconstruct.options import RebuildOptions
from nm2trt.sparsity.reconstruct.parts import Part
from nm2trt.sparsity.reconstruct.processes import Processes
from nm2trt.sparsity.reconstruct.solve import described, layers_of, solve_part
from nm2trt.sparsity.reconstruct.walk import Walk, held_out


def start(request: Request) -> ReconstructSession:
    """Prune and rebuild a model from calibration input; on any error it is left as it was.

    Raises:
        SparsifyError: No layer can be rebuilt.
        DataError: The calibration input is empty, not finite, or not what the model takes.
    """
    options: RebuildOptions = request.options
    group = Processes.of_group() if options.distributed else Processes(0, 0)
    batch, choices = group.all_do(lambda: _read(request))
    processes = group.with_samples(batch.samples, _alike(request, batch, choices) if group.count > 1 else {})
    with kept_on_error(request.model):
        layers, reasons = layers_of(request.model, choices)
        valid = group.all_do(lambda: _valid(batch, options.valid))
        walk = Walk(request.model, batch, layers, options.seed, valid, processes)
        rebuilt = _Rebuilt(walk, choices)
        outputs = walk.solve(rebuilt.solve)
        choices = rebuilt.outcome(reasons)
        if not rebuilt.masks:
            why = "; ".join(f"{c.entry.weight}: {c.entry.reason}" for c in choices[:4])
            raise SparsifyError(f"no layer of {type(request.model).__name__} could be rebuilt ({why})")
        facts = {
            "samples": processes.samples,
            "outputs": _verdicts(walk.outputs, outputs, batch.samples, processes),
            "fits": rebuilt.fits,
        }
        weights = request.parametrize(choices)
        for weight in weights:
            weight.sparse.mask.copy_(rebuilt.masks[weight.name])
    plan = Plan(tuple(choice.entry for choice in choices), request.spec.name)
    return ReconstructSession(request.model, plan, weights, facts)


def _read(request: Request) -> tuple[CalibrationBatch, tuple[Choice, ...]]:
    options: RebuildOptions = request.options
    batches = read_batches(options.calibration, max_samples=options.max_samples)
    device = next((p.device for p in request.model.parameters()), torch.device("cpu"))
    return joined(batches, options.max_samples).to(device), tuple(request.choose())


def _alike(request: Request, batch: CalibrationBatch, choices: Sequence[Choice]) -> dict[str, str]:
    """Return what must be equal in all processes."""
    options: RebuildOptions = request.options
    inputs = [*enumerate(batch.args), *sorted(batch.kwargs.items())]
    shapes = [(name, x.dtype, tuple(x.shape[1:])) for name, x in inputs if isinstance(x, Tensor)]
    return {
        "weights": hash_tensors("", named_values(request.model)),
        "options or layers": repr((options.seed, options.valid, [choice.entry for choice in choices])),
        "shapes of calibration input": repr(shapes),
    }


def _valid(batch: CalibrationBatch, name: str | None) -> Tensor | None:
    """Return the input that is not 0 at real tokens, (samples, tokens)."""
    if name is None:
        return None
    mask = batch.kwargs.get(name)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        known = ", ".join(batch.kwargs) or "given by position"
        raise SparsifyError(
            f"valid={name!r} is not a calibration input of shape (samples, tokens); the inputs are {known}: "
            "give batches as mappings from names to tensors"
        )
    return mask


class ReconstructSession(SparseSession):
    """The handle of a model that was rebuilt; made by `sparsify(method="reconstruct")`.

    `finalize()` bakes the zeros in. Before it, `attach(optimizer)` allows further training with masks fixed.
    """

    def report(self) -> dict[str, Any]:
        """Return the base's numbers and those of the run.

        `fits` has, by weight, one entry per part that was solved (several if its rows read different inputs):
        `chosen` ("admm", "magnitude", or "dense" for a refitted layer), `ridge` (lambda), and the errors as
        shares of the dense outputs' variance, on samples that were not fitted if `held_out`.
        `outputs` compares the model's outputs with the dense ones: squared `error` as a share of the variance
        and, over rows of class scores, `kl` in nats and `agreement`.
        """
        return super().report()


class _Rebuilt:
    """What the pruned pass has done so far."""

    def __init__(self, walk: Walk, choices: Sequence[Choice]) -> None:
        self._walk, self._choices = walk, choices
        self._patterns = {choice.entry.weight: choice.entry.pattern for choice in choices}
        self._failed: dict[str, str] = {}
        self.masks: dict[str, Tensor] = {}
        self.fits: dict[str, list[dict[str, Any]]] = {}

    def solve(self, part: Part, fitted: Sums, held: Sums | None) -> None:
        pattern = None if part.depthwise else self._patterns[part.weight]
        if pattern is None and not self.masks:
            return  # nothing before it has changed
        target: Tensor = getattr(part.module, part.tensor)
        try:
            fit, mask = solve_part(self._walk, part, (fitted, held), target, pattern=pattern)
        except SparsityError as error:
            if pattern is None or part.rows.stop is None:
                self._failed[part.weight] = str(error)
                return
            # The weight's other rows are pruned; a weight that is half dense would hold no pattern.
            mine = part.of(target)
            mask = magnitude_mask(mine, pattern, axis=1)
            mine *= mask
        else:
            self.fits.setdefault(part.weight, []).append(described(fit))
        if mask is not None:
            whole = self.masks.setdefault(part.weight, torch.zeros_like(target, dtype=torch.bool))
            part.of(whole).copy_(mask)

    def outcome(self, reasons: Any) -> tuple[Choice, ...]:
        """Return the choices with those that were not rebuilt dense, each with its reason."""
        found = []
        for choice in self._choices:
            entry = choice.entry
            if entry.pattern is not None and entry.weight not in self.masks:
                why = reasons.get(entry.weight) or self._failed.get(entry.weight)
                if why is None and choice.sites[0].module_name in self._walk.reused:
                    why = "its layer is called more than once"
                why = why or "the model does not call its layer on the calibration input"
                choice = replace(choice, entry=replace(entry, pattern=None, reason=why))
            found.append(choice)
        return tuple(found)


@torch.no_grad()
def _verdicts(
    dense: Sequence[Tensor], pruned: Sequence[Tensor], samples: int, processes: Processes
) -> list[dict[str, float | int | bool | None]]:
    """Compare outputs on the samples that were not fitted, or on all if there are too few."""
    numbers = torch.arange(processes.samples)
    outside = held_out(numbers, processes.samples)
    some = bool(outside.any())
    mine = outside[processes.first : processes.first + samples]
    rows = []
    for wanted, got in zip(dense, pruned, strict=True):
        if wanted.ndim and len(wanted) == samples and some:
            picked = mine.to(wanted.device)
            wanted, got = wanted[picked], got[picked]
        rows.append({**_verdict(wanted.double(), got.double(), processes), "held_out": some})
    return rows


def _verdict(wanted: Tensor, got: Tensor, processes: Processes) -> dict[str, float | int | bool | None]:
    """Compare one output over all processes, any of which may hold no sample of it."""
    size, total = processes.summed((wanted.new_tensor(wanted.numel()), wanted.sum()))
    parts = [(wanted - total / size).square().sum(), (got - wanted).square().sum()]
    parts.append(wanted.new_tensor(len(wanted) if wanted.ndim else processes.rank == 0))
    axis = -1 if wanted.ndim == 3 else 1
    classes = wanted.shape[axis] if wanted.ndim >= 2 else 1
    if classes > 1:
        theirs, ours = (functional.log_softmax(t, axis) for t in (wanted, got))
        parts.append((theirs.exp() * (theirs - ours)).sum())
        parts.append((wanted.argmax(axis) == got.argmax(axis)).sum())
    variance, error, count, *scores = (float(part) for part in processes.summed(parts))
    kl, agreement = (score * classes / float(size) for score in scores) if scores else (None, None)
    error /= max(variance, 1e-30 * float(size))
    return {"samples": int(count), "error": error, "kl": kl, "agreement": agreement}
