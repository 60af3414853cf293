"""Options of FCPTS and its N:M weight; the method itself is `nm2trt.sparsity.fcpts.session`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from nm2trt.errors import SparsifyError
from nm2trt.nm.torch_mask import magnitude_mask
from nm2trt.sparsity.core.training_step import keep_straight_through
from nm2trt.sparsity.fcpts.distill import Loss, Settings
from nm2trt.sparsity.fcpts.step_size import START
from nm2trt.sparsity.fcpts.thresholds import Bridge
from nm2trt.sparsity.methods.fixed_mask import FixedMaskWeight

_CHOICES: dict[str, tuple[str, ...]] = {
    "allocation": ("learned", "erk", "uniform"),
    "cost": ("rates", "sensitivity"),
    "threshold_grad": ("ste", "release"),
    "loss": get_args(Loss),
    "batch_norm": ("train", "frozen"),
}


@dataclass(frozen=True, slots=True)
class FcptsOptions:
    """Options of FCPTS.

    Args:
        calibration: Unlabelled input: any iterable of batches, a DataLoader, or the path of a recipe; read
            once. A function of the epoch's number that returns one of these gives each epoch its own samples,
            e.g. augmented anew (`lambda epoch: loader`); the dense model teaches on the same ones.
        rate: Global share of zeros, 0..1. With a pattern: over all convolution and linear weights, met by
            giving some layers the pattern; None gives it to every layer that can hold it. Without one
            (`pattern=None`): over the layers that become sparse; required.
        menu: Patterns to choose from under `rate`, beside dense; the one `pattern` by default.
        allocation: Unstructured: "learned" starts from ERK and moves the thresholds; "erk" and "uniform" fix
            the rates, and only the weights are trained.
        cost: What the choice from the menu minimises: the squared distance from "rates" that are learned in a
            quarter of `steps`, or the "sensitivity" of the loss to each layer alone.
        threshold_grad: "ste" lets the distillation move the thresholds, as the paper says; "release" leaves
            that to the rate, as its released code does.
        bridge: How the rate's gradient estimates densities, e.g. `Bridge("gaussian")`.
        rate_weight: Weight of the rate's term in the loss, lambda.
        rate_band: How far the rate may stray while the thresholds learn; a common shift of all of them brings
            it back (ours: the loss alone lets "ste" drift where the distillation is strong). 1 never does.
        loss: Distillation by "kl" between class scores, or "mse" of any output.
        temperature: Of "kl".
        steps: Optimizer steps; 0 prunes without repair.
        lr: Peak learning rate of weights, biases and BatchNorms. "auto" starts at 0.01; while the loss stands
            above its start at the end of an epoch in the first half, it is halved and the run starts again.
        threshold_lr: Peak learning rate of the thresholds; `lr` by default.
        weight_decay: Of everything but thresholds.
        blocks: Globs on module names whose outputs are held to the dense model's too, e.g. "layer*.*"; each
            costs a forward of the dense model per step in all, and the memory of a second model.
        block_weight: Of that in the loss: the mean squared distance, as a share of the outputs' variance.
        batch_norm: "train" uses and collects batch statistics, "frozen" keeps the model's.
        refresh_every: N:M: steps between two new masks in the first half of the run; 0 keeps the first.
        layer_fit: After pruning, fit each layer in turn to the dense layers' outputs by least squares, and
            shift BatchNorm statistics alike (ours; see `layer_fit.py`). N:M masks then stay
            as they are; learned thresholds are frozen first. It is kept only if the loss falls.
        fit_samples: Calibration samples that the fit runs at once.
        straight_through: N:M: give pruned weights the gradient too.
        max_samples: Stop reading calibration there.
        seed: Of the order of batches.
        checkpoint: File that a stopped run goes on from; it is removed at the end.
        checkpoint_every: Steps between two saves.

    Raises:
        SparsifyError: A value is out of range.
    """

    calibration: Any = None
    rate: float | None = None
    menu: tuple[str, ...] | list[str] | None = None
    allocation: Literal["learned", "erk", "uniform"] = "learned"
    cost: Literal["rates", "sensitivity"] = "rates"
    threshold_grad: Literal["ste", "release"] = "ste"
    bridge: Bridge = field(default_factory=Bridge)
    rate_weight: float = 1.0
    rate_band: float = 0.005
    loss: Loss = "kl"
    temperature: float = 4.0
    steps: int = 1600
    lr: float | Literal["auto"] = 0.01
    threshold_lr: float | None = None
    weight_decay: float = 3e-4
    blocks: str | tuple[str, ...] | list[str] = ()
    block_weight: float = 1.0
    batch_norm: Literal["train", "frozen"] = "train"
    refresh_every: int = 100
    layer_fit: bool = False
    fit_samples: int = 256
    straight_through: bool = False
    max_samples: int = 1024
    seed: int = 0
    checkpoint: str | None = None
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise SparsifyError(
                    f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}"
                )
        if self.rate is not None and not 0 < self.rate < 1:
            raise SparsifyError(f"rate is the share of zeros, above 0 and below 1, not {self.rate}")
        for name, least in (
            ("steps", 0),
            ("refresh_every", 0),
            ("checkpoint_every", 1),
            ("max_samples", 2),
            ("fit_samples", 2),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise SparsifyError(f"{name} must be a whole number of at least {least}, not {value!r}")
        for name in ("lr", "temperature", "block_weight"):
            value = getattr(self, name)
            if name == "lr" and value == "auto":
                continue
            if isinstance(value, str) or not (math.isfinite(value) and value > 0):
                also = ' or "auto"' if name == "lr" else ""
                raise SparsifyError(f"{name} must be a positive number{also}, not {value!r}")
        if not isinstance(self.bridge, Bridge):
            raise SparsifyError(
                f"bridge is a Bridge of nm2trt.sparsity.fcpts.thresholds, not {self.bridge!r}"
            )

    def settings(self, steps: int) -> Settings:
        """Return what the training loop needs, for that many steps."""
        return Settings(
            steps=steps,
            learning_rate=self.peak_rate(),
            threshold_learning_rate=self.peak_rate() if self.threshold_lr is None else self.threshold_lr,
            weight_decay=self.weight_decay,
            loss=self.loss,
            temperature=self.temperature,
            train_norms=self.batch_norm == "train",
            seed=self.seed,
            backtrack=self.lr == "auto",
            blocks=(self.blocks,) if isinstance(self.blocks, str) else tuple(self.blocks),
            block_weight=self.block_weight,
        )

    def peak_rate(self) -> float:
        """Return the learning rate to begin with."""
        return START if isinstance(self.lr, str) else self.lr

    def described(self) -> str:
        """Return everything that a run's result depends on, apart from its data, as text."""
        left_out = {"calibration", "checkpoint", "checkpoint_every"}
        return repr([(f.name, getattr(self, f.name)) for f in fields(self) if f.name not in left_out])


class FcptsWeight(FixedMaskWeight):
    """An N:M weight whose mask is set by magnitude, from time to time and then no more."""

    nm2trt_method: ClassVar[str] = "fcpts"
    options: FcptsOptions

    def masked(self, weight: Tensor) -> Tensor:
        """Zero the pruned entries."""
        if self.options.straight_through:
            return keep_straight_through(weight, self.mask)
        return super().masked(weight)

    def remask(self, weight: Tensor) -> None:
        """Set the mask from the weight's magnitudes as they stand."""
        self.mask.copy_(magnitude_mask(weight.detach(), self.pattern, axis=self.axis))
