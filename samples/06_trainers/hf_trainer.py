"""Hugging Face's Trainer, unchanged: a small ViT on handwritten digits, 2:4 by SR-STE.

    python samples/06_trainers/hf_trainer.py

No callback: the optimizer is made and attached beforehand, and given to the Trainer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import nm2trt


class Digits(Dataset):
    """1,400 digits to train on, 397 to test."""

    def __init__(self, part: slice) -> None:
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(labels))[part]
        self.images = torch.tensor(images[order] / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8)
        self.labels = torch.tensor(labels[order])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


class Logits(torch.nn.Module):
    """Return a tensor where the model returns a dataclass, for the exporter."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("results", "06_hf_trainer"))
    options = parser.parse_args()
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
    )
    model = ViTForImageClassification(config)
    train, test = Digits(slice(1400)), Digits(slice(1400, None))

    sparse = nm2trt.sparsify(model, method="sr-ste", pattern="2:4", exclude="classifier", decoupled=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    sparse.attach(optimizer)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(options.out),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=64,
            report_to=[],
            save_strategy="epoch",
            save_total_limit=1,
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
        ),
        train_dataset=train,
        eval_dataset=test,
        optimizers=(optimizer, None),
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    print(f"{sparse.step} steps, SAD since the start {sparse.report()['sad_anchored']['fraction']:.2%}")
    sparse.finalize()
    print(f"accuracy on {len(test)} test images: {trainer.evaluate()['eval_accuracy']:.2%}")

    path = options.out / "model.onnx"
    nm2trt.export(Logits(model.eval()), test.images[:2], path, plan=model._nm2trt_plan)
    held = [weight.pattern for weight in nm2trt.verify(path).weights]
    print(f"{path}: {held.count('holds')} weights hold 2:4, {held.count('broken')} are broken")


if __name__ == "__main__":
    main()
