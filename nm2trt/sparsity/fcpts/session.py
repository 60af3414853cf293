"""FCPTS: sparsity after training, from unlabelled data (Gong et al., AAAI 2024, arXiv 2405.05808).

The dense model teaches its sparse self on calibration inputs. Three forms:

- `pattern=None, rate=R`: the paper's. One learnable magnitude threshold a layer starts from ERK; distillation
  and the global rate move all thresholds and weights together, and a last common shift makes the count
  of zeros exact.
- `pattern="2:4"`: every layer that can takes the pattern; only the distillation is left.
- `pattern="2:4", rate=R`: each layer takes the pattern (or one of `menu`) or stays dense, chosen under the
  global rate; then as above. This form is ours, not the paper's.

Unlike the released code, the teacher stays in eval mode and masks are exact (a tie is kept, not halved).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nm2trt.errors import SparsifyError
from nm2trt.figures import counted
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import Plan
from nm2trt.progress import bar
from nm2trt.sparsity.core.borrowed_model import hash_tensors, kept_on_error, named_values
from nm2trt.sparsity.core.calibration_batches import CalibrationBatch, read_batches
from nm2trt.sparsity.core.layer_choice import Choice
from nm2trt.sparsity.core.method_spec import Request
from nm2trt.sparsity.core.session import SparseSession
from nm2trt.sparsity.core.tracked_weight import TrackedWeight
from nm2trt.sparsity.fcpts.allocate import erk_densities
from nm2trt.sparsity.fcpts.checkpoint import Checkpoint
from nm2trt.sparsity.fcpts.denormals import denormals_flushed
from nm2trt.sparsity.fcpts.distill import Distiller
from nm2trt.sparsity.fcpts.layer_fit import LayerFit
from nm2trt.sparsity.fcpts.options import FcptsOptions, FcptsWeight
from nm2trt.sparsity.fcpts.pattern_menu import choose_patterns
from nm2trt.sparsity.fcpts.threshold_training import train_thresholds
from nm2trt.sparsity.fcpts.thresholds import ThresholdWeight, exact_masks

# Further from the target than this, the thresholds have run away rather than settled.
_RATE_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class _Outcome:
    choices: tuple[Choice, ...]
    weights: tuple[TrackedWeight, ...]
    facts: dict[str, Any]


def start(request: Request) -> FcptsSession:
    """Prune and repair a model from calibration data; on any error it is left as it was.

    Raises:
        SparsifyError: No layer fits, the rate is out of reach, or the training diverged.
        DataError: The calibration data is empty, not finite, or not what the model takes.
    """
    options: FcptsOptions = request.options
    if request.pattern is None and options.rate is None:
        raise SparsifyError(
            "pattern=None puts zeros anywhere: give rate=, the global share of them, as in rate=0.7"
        )
    if options.menu is not None and options.rate is None:
        raise SparsifyError("a menu needs rate=, the global share of zeros that the layers reach together")
    given = options.calibration
    fresh = _read_epochs(given, options.max_samples) if callable(given) else None
    batches = fresh(0) if fresh is not None else read_batches(given, max_samples=options.max_samples)
    checkpoint = None
    if options.checkpoint is not None:
        fingerprint = _fingerprint(request, batches)
        checkpoint = Checkpoint(options.checkpoint, fingerprint, options.checkpoint_every)
    with denormals_flushed(), kept_on_error(request.model):
        distiller = Distiller(request.model, batches, options.settings(options.steps), checkpoint, fresh)
        if request.pattern is None:
            outcome = _unstructured(request, distiller)
        else:
            outcome = _structured(request, distiller)
        untrained = not options.steps and "loss_fitted" in outcome.facts
        loss_after = outcome.facts["loss_fitted"] if untrained else distiller.loss()
    if checkpoint is not None:
        checkpoint.done()
    facts = {
        **outcome.facts,
        "loss_after": loss_after,
        "samples": sum(batch.samples for batch in batches),
        "learning_rates": distiller.learning_rates,
        "resumed_at": 0 if checkpoint is None else checkpoint.resumed_at,
    }
    plan = Plan(tuple(choice.entry for choice in outcome.choices), request.spec.name)
    return FcptsSession(request.model, plan, outcome.weights, facts)


def _read_epochs(
    given: Callable[[int], Any], max_samples: int
) -> Callable[[int], tuple[CalibrationBatch, ...]]:
    return lambda epoch: read_batches(given(epoch), max_samples=max_samples)


class FcptsSession(SparseSession):
    """The handle of a model that FCPTS has pruned; made by `sparsify(method="fcpts")`.

    `finalize()` bakes the zeros in. Before it, `attach(optimizer)` allows further training with masks fixed.
    """

    def report(self) -> dict[str, Any]:
        """Return the base's numbers and those of the run.

        `rate` is the share of zeros over the layers that are sparse, `rate_of_all` over every convolution and
        linear weight; `loss_before` is the distillation loss right after pruning, `loss_after` that of the
        result, both in eval mode on the calibration data. `learning_rates` has the peak rate of each phase.
        With `layer_fit`, `fitted` names the weights that were fitted; it is empty if the fit raised the loss
        and was dropped (`loss_of_dropped_fit`). `fits` gives their lambda (`ridge`) and their errors, as
        shares of the variance, `held_out` or not.
        """
        result = super().report()
        for entry in self.plan:
            if entry.unstructured:
                result["layers"][entry.weight]["pattern"] = "unstructured"
        zeros = sum(w.sparse.mask.numel() - int(w.sparse.mask.count_nonzero()) for w in self.weights)
        sizes = {entry.weight: torch.Size(entry.shape).numel() for entry in self.plan}
        sparse = sum(sizes[weight.name] for weight in self.weights)
        rates = {"rate": zeros / sparse, "rate_of_all": zeros / sum(sizes.values())}
        return {**result, **rates}


def _structured(request: Request, distiller: Distiller) -> _Outcome:
    """Uniform N:M, or a choice from the menu; then distil."""
    options: FcptsOptions = request.options
    facts: dict[str, Any] = {}
    if options.rate is None:
        choices = request.choose()
    else:
        choices, facts = choose_patterns(request, distiller)
    fit = _layer_fit(options, distiller, choices)
    weights = request.parametrize(choices)
    facts["loss_before"] = distiller.loss()
    facts |= _fitted(fit, distiller, weights)

    def refresh(step: int) -> None:
        if (
            options.refresh_every
            and fit is None
            and step % options.refresh_every == 0
            and step <= options.steps // 2
        ):
            for weight in weights:
                if isinstance(weight.sparse, FcptsWeight):
                    weight.sparse.remask(weight.original)

    with bar("distilling", options.steps) as shown:
        distiller.run("distil", shown, after_step=refresh)
    return _Outcome(choices, weights, facts)


def _unstructured(request: Request, distiller: Distiller) -> _Outcome:
    """Learn the thresholds, or fix the masks at ERK's or one rate; then make the count exact."""
    options: FcptsOptions = request.options
    rate = options.rate or 0.0
    everywhere = replace(request, pattern=NMPattern(1, 1))
    choices = everywhere.choose(unstructured=True)
    fit = _layer_fit(options, distiller, choices)
    weights = everywhere.parametrize(choices, ThresholdWeight)
    originals = [weight.original for weight in weights]
    sparse = [weight.sparse for weight in weights if isinstance(weight.sparse, ThresholdWeight)]
    sizes = [original.numel() for original in originals]
    zeros = round(rate * sum(sizes))
    densities = erk_densities([tuple(original.shape) for original in originals], rate)
    if options.allocation == "uniform":
        densities = tuple(1 - rate for _ in originals)
    for original, layer, density in zip(originals, sparse, densities, strict=True):
        layer.live = options.threshold_grad == "ste"
        layer.prune_smallest(original, round((1 - density) * original.numel()))
    facts: dict[str, Any] = {"loss_before": distiller.loss()}
    if options.allocation == "learned":
        names = [weight.name for weight in weights]
        facts["held"] = train_thresholds(options, distiller, "thresholds", names, originals, sparse, rate)
        facts["rate_before_correction"] = _check_settled(options, originals, sparse, rate, facts["held"])
    for layer, mask in zip(sparse, exact_masks(originals, sparse, zeros), strict=True):
        layer.freeze(mask)
    facts |= _fitted(fit, distiller, weights)
    if options.allocation != "learned":
        with bar("distilling", options.steps) as shown:
            distiller.run("distil", shown)
    return _Outcome(tuple(_anywhere(choice) for choice in choices), weights, facts)


def _layer_fit(options: FcptsOptions, distiller: Distiller, choices: Sequence[Choice]) -> LayerFit | None:
    """Record the dense model, if the fit is wanted."""
    if not options.layer_fit:
        return None
    sparse = [choice for choice in choices if choice.entry.pattern is not None]
    return LayerFit(distiller.model, distiller.batches, sparse, samples=options.fit_samples)


@torch.no_grad()
def _fitted(fit: LayerFit | None, distiller: Distiller, weights: Sequence[TrackedWeight]) -> dict[str, Any]:
    """Apply the fit, keep it only if the loss falls, and say which layers it reached and what loss is left.

    After learned thresholds the weights are distilled already: a fit to each layer's dense outputs may then
    undo more than it repairs.
    """
    if fit is None:
        return {}
    model = distiller.model
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
    before = distiller.loss()
    masks = {weight.name: weight.sparse.mask for weight in weights}
    fit.apply(masks, {weight.name: weight.original for weight in weights})
    after = distiller.loss()
    if after < before:
        return {"loss_fitted": after, "fitted": list(fit.fits), "fits": fit.fits}
    for tensor, value in kept:
        tensor.copy_(value)
    return {"loss_fitted": before, "loss_of_dropped_fit": after, "fitted": []}


@torch.no_grad()
def _check_settled(
    options: FcptsOptions,
    originals: Sequence[Tensor],
    sparse: Sequence[ThresholdWeight],
    rate: float,
    held: Sequence[str],
) -> float:
    pruned = sum(
        int((original.abs() < layer.threshold).sum())
        for original, layer in zip(originals, sparse, strict=True)
    )
    found = pruned / sum(original.numel() for original in originals)
    if abs(found - rate) > _RATE_TOLERANCE:
        at = options.peak_rate() if options.threshold_lr is None else options.threshold_lr
        ends = (
            f", and {counted(len(held), 'layer')} ran into the upper guard ({', '.join(held[:4])})"
            if held
            else ""
        )
        raise SparsifyError(
            f"the thresholds ran away: the rate is {found:.3f} after training for {rate:g}{ends}; lower "
            f"threshold_lr, now {at:g}, or raise rate_weight, now {options.rate_weight:g}"
        )
    return found


def _anywhere(choice: Choice) -> Choice:
    entry = choice.entry
    if entry.pattern is None:
        return choice
    reason = "zeros anywhere, by a magnitude threshold"
    return replace(choice, entry=replace(entry, pattern=None, unstructured=True, reason=reason))


def _fingerprint(request: Request, batches: Sequence[CalibrationBatch]) -> str:
    """Hash what the result depends on: options, pattern, layer choice, weights and samples."""
    asked = (request.pattern, request.include, request.exclude, request.min_channels)
    inputs = [(str(i), v) for i, b in enumerate(batches) for v in (*b.args, *b.kwargs.values())]
    return hash_tensors(request.options.described() + repr(asked), [*named_values(request.model), *inputs])
