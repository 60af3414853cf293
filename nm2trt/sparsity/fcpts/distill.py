"""Train a sparse model towards its dense self's outputs, without labels.

The dense outputs are computed in eval mode, once or for each epoch's own samples. The weights, biases and
BatchNorms of the sparse model follow them by SGD with a warm-up of one epoch and a cosine to zero. Only
BatchNorm layers are ever in training mode: dropout would be noise on the target.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nm2trt.errors import DataError, SparsifyError
from nm2trt.figures import counted
from nm2trt.progress import Bar
from nm2trt.sparsity.core.borrowed_model import eval_mode
from nm2trt.sparsity.core.calibration_batches import CalibrationBatch, outputs_of
from nm2trt.sparsity.fcpts.block_loss import BlockLoss
from nm2trt.sparsity.fcpts.checkpoint import Checkpoint
from nm2trt.sparsity.fcpts.step_size import Backtracking

Loss = Literal["kl", "mse"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train.

    Args:
        steps: Optimizer steps; 0 trains nothing.
        learning_rate: Peak rate of SGD with momentum 0.9, for weights, biases and BatchNorms.
        threshold_learning_rate: Peak rate of the thresholds.
        weight_decay: Of everything but thresholds.
        loss: "kl" between class scores, or "mse".
        temperature: Of "kl".
        train_norms: Let BatchNorms use and collect batch statistics; False keeps them as they are.
        seed: Of the order of the batches.
        backtrack: Halve both rates, and start again, while the loss stands above its start at the end of an
            epoch in the first half of the run.
        blocks: Globs on modules whose outputs are compared with the dense model's too.
        block_weight: Of that comparison in the loss.
    """

    steps: int
    learning_rate: float
    threshold_learning_rate: float
    weight_decay: float
    loss: Loss
    temperature: float
    train_norms: bool
    seed: int
    backtrack: bool = False
    blocks: tuple[str, ...] = ()
    block_weight: float = 1.0


def distillation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, loss: Loss, temperature: float
) -> Tensor:
    """Return how far a model's outputs are from its teacher's, summed over the outputs.

    Args:
        student: Outputs, the sample first. For "kl" classes are on axis 1 of rank 2 and of images (rank 4 or
            more), and last in between.
        teacher: The same of the dense model.
        loss: "kl" is T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over classes and averaged
            over everything else; "mse" is the mean squared difference.
        temperature: T.
    """
    total = torch.zeros((), device=student[0].device)
    for mine, theirs in zip(student, teacher, strict=True):
        # In half precision the probabilities do not add up to 1, and their divergence comes out below 0.
        wide = torch.promote_types(mine.dtype, torch.float32)
        mine, theirs = mine.to(wide), theirs.to(wide)
        if loss == "mse":
            total = total + functional.mse_loss(mine, theirs)
            continue
        axis = -1 if mine.ndim in (1, 3) else 1
        wanted = functional.log_softmax(theirs / temperature, axis)
        got = functional.log_softmax(mine / temperature, axis)
        # With sum(q - p) = 0 added, no term is below 0, and rounding does not drown a small divergence.
        share, gap = wanted.exp(), wanted - got
        near = gap.clamp(min=-1)
        terms = torch.where(gap < -1, gap * share + got.exp() - share, (near + torch.expm1(-near)) * share)
        total = total + temperature**2 * terms.sum(axis).mean()
    return total


class Distiller:
    """Trains one model towards outputs that its dense form gave.

    Args:
        model: Still dense; its outputs are taken now.
        batches: Calibration input, on any device.
        settings: How to train.
        checkpoint: Where a stopped run goes on from, or None.
        fresh: Gives other samples for an epoch, by its number; epoch 0 has `batches`. The dense model is then
            kept, and teaches on the same samples. None trains on `batches` in every epoch.

    Attributes:
        learning_rates: Peak rate that each phase was run with.

    Raises:
        DataError: The model cannot run a batch.
        SparsifyError: A glob on blocks matches none.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[CalibrationBatch],
        settings: Settings,
        checkpoint: Checkpoint | None = None,
        fresh: Callable[[int], Sequence[CalibrationBatch]] | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.checkpoint = checkpoint
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.batches = [batch.to(self.device) for batch in batches]
        with eval_mode(model), torch.no_grad():
            self.targets = [outputs_of(model, batch, i) for i, batch in enumerate(self.batches)]
        self._fresh = fresh
        wanted = fresh is not None or settings.blocks
        self._teacher = copy.deepcopy(model).eval() if wanted else None
        self._blocks: BlockLoss | None = None
        if settings.blocks and self._teacher is not None:
            self._blocks = BlockLoss(model, self._teacher, settings.blocks)
        self.learning_rates: dict[str, float] = {}
        self._epoch, self._pairs = 0, list(zip(self.batches, self.targets, strict=True))

    @torch.no_grad()
    def loss(self, limit: int | None = None) -> float:
        """Return the mean loss in eval mode, over all batches or the first `limit` samples' worth."""
        total, samples = 0.0, 0
        with eval_mode(self.model):
            for index, batch in enumerate(self.batches):
                total += float(self._batch_loss(batch, self.targets[index], index)) * batch.samples
                samples += batch.samples
                if limit is not None and samples >= limit:
                    break
        return total / samples

    def run(
        self,
        phase: str,
        bar: Bar,
        *,
        thresholds: Mapping[str, nn.Parameter] | None = None,
        penalty: Callable[[], Tensor] | None = None,
        after_step: Callable[[int], None] | None = None,
    ) -> None:
        """Take the settings' steps.

        Args:
            phase: Name of this run among those of one checkpoint.
            bar: Told of each step.
            thresholds: Learnable thresholds, with a learning rate of their own and no decay.
            penalty: Added to the loss.
            after_step: Called with the number of steps taken.

        Raises:
            SparsifyError: The loss became infinite or NaN, rises at any learning rate, or nothing is trained.
        """
        if self.settings.steps == 0:
            return
        if torch.is_inference_mode_enabled():
            raise SparsifyError("fcpts trains: call it outside of torch.inference_mode(), or give steps=0")
        trial = Backtracking(self.model, self.loss) if self.settings.backtrack else None
        if trial is not None and self.checkpoint is not None:
            saved = self.checkpoint.notes_of(phase) or {}
            trial.halvings = int(saved.get("halvings", 0))
        while self._descend(phase, bar, trial, thresholds or {}, penalty, after_step):
            if trial is not None:
                trial.back(self.settings.learning_rate)
            if self.checkpoint is not None:
                self.checkpoint.done()  # it is of the larger rate
        factor = 1.0 if trial is None else trial.factor
        self.learning_rates[phase] = self.settings.learning_rate * factor

    def _descend(
        self,
        phase: str,
        bar: Bar,
        trial: Backtracking | None,
        thresholds: Mapping[str, nn.Parameter],
        penalty: Callable[[], Tensor] | None,
        after_step: Callable[[int], None] | None,
    ) -> bool:
        """Take all steps at one learning rate; returns True as soon as the loss has risen."""
        settings = self.settings
        optimizer = self._optimizer(thresholds)
        warmup = min(len(self.batches), max(1, settings.steps // 10))
        factor = 1.0 if trial is None else trial.factor
        peaks = [float(group["lr"]) * factor for group in optimizer.param_groups]
        start = 0
        if self.checkpoint is not None:
            if trial is not None:
                self.checkpoint.notes = {**self.checkpoint.notes, "halvings": trial.halvings}
            start = self.checkpoint.restore(phase, self.model, optimizer)
        with torch.enable_grad(), eval_mode(self.model, train_norms=settings.train_norms):
            for step in range(start, settings.steps):
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * _factor(step, warmup, settings.steps)
                if self._step(optimizer, penalty, step):
                    return True
                if after_step is not None:
                    after_step(step + 1)
                if trial is not None and self._is_looked_at(step + 1) and trial.rose():
                    return True
                bar.update(step + 1)
                if self.checkpoint is not None:
                    self.checkpoint.maybe_save(phase, step + 1, settings.steps, self.model, optimizer)
        return False

    def _step(
        self, optimizer: torch.optim.Optimizer, penalty: Callable[[], Tensor] | None, step: int
    ) -> bool:
        """Take one step; returns True if the loss is not finite and the learning rate may be halved."""
        optimizer.zero_grad(set_to_none=True)
        index = self._index(step)
        batch, targets = self._of_epoch(step // len(self.batches))[index]
        with self._blocks.recording() if self._blocks is not None else contextlib.nullcontext():
            loss = self._batch_loss(batch, targets, index)
        if self._blocks is not None:
            loss = loss + self.settings.block_weight * self._blocks.value(batch, index)
        loss = loss if penalty is None else loss + penalty()
        if not loss.requires_grad:
            raise SparsifyError(
                "no parameter that the outputs depend on is trained: all are frozen; call "
                "model.requires_grad_(True), or give steps=0"
            )
        if not bool(loss.isfinite()):
            if self.settings.backtrack:
                return True
            what, remedy = f"diverged at step {step + 1}", f"lower lr, now {self.settings.learning_rate:g}"
            given = (value for one in self.batches for value in (*one.args, *one.kwargs.values()))
            if any(isinstance(value, Tensor) and bool(value.isinf().any()) for value in given):
                remedy += ", or remove infinite values from the calibration"
            if step == 0:  # nothing has been learned yet
                what = "cannot start"
                remedy = "remove infinite values from the calibration, or load another checkpoint"
            raise SparsifyError(f"the distillation {what}: its loss is {float(loss.detach())}; {remedy}")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return False

    def _is_looked_at(self, steps: int) -> bool:
        """Whether an epoch of the first half of the run ends here, or its first quarter in short runs."""
        first_half = steps <= max(1, self.settings.steps // 2)
        every = min(len(self.batches), max(1, self.settings.steps // 4))
        return first_half and steps % every == 0

    def _of_epoch(self, epoch: int) -> list[tuple[CalibrationBatch, tuple[Tensor, ...]]]:
        """Return an epoch's batches with the dense model's outputs."""
        if self._fresh is not None and self._teacher is not None and epoch != self._epoch:
            batches = [batch.to(self.device) for batch in self._fresh(epoch)]
            if len(batches) != len(self.batches):
                raise DataError(
                    f"calibration gave {counted(len(batches), 'batch', 'batches')} for epoch {epoch} and "
                    f"{len(self.batches)} for epoch 0; give as many each time"
                )
            with torch.no_grad():
                targets = [outputs_of(self._teacher, batch, i) for i, batch in enumerate(batches)]
            self._epoch, self._pairs = epoch, list(zip(batches, targets, strict=True))
        return self._pairs

    def _batch_loss(self, batch: CalibrationBatch, targets: tuple[Tensor, ...], index: int) -> Tensor:
        outputs, settings = outputs_of(self.model, batch, index), self.settings
        return distillation_loss(outputs, targets, loss=settings.loss, temperature=settings.temperature)

    def _index(self, step: int) -> int:
        """Return the batch of a step: all once an epoch, in an order that the seed and epoch give."""
        epoch, within = divmod(step, len(self.batches))
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        return int(torch.randperm(len(self.batches), generator=generator)[within])

    def _optimizer(self, thresholds: Mapping[str, nn.Parameter]) -> torch.optim.SGD:
        own = {id(p) for p in thresholds.values()}
        rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": self.settings.weight_decay}]
        if thresholds:
            rate = self.settings.threshold_learning_rate
            groups.append({"params": list(thresholds.values()), "weight_decay": 0.0, "lr": rate})
        return torch.optim.SGD(groups, lr=self.settings.learning_rate, momentum=0.9)


def _factor(step: int, warmup: int, steps: int) -> float:
    """Return the share of the peak rate: linear over `warmup` steps, then a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
