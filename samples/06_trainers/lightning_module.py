"""A LightningModule on handwritten digits, 2:4 by SR-STE, with Lightning's own optimizer loop.

    python samples/06_trainers/lightning_module.py

No callback: `attach` stands in `configure_optimizers`. Lightning runs forward and backward in a closure that
it hands to the optimizer's step; the decay is added after it, once.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import lightning
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import nm2trt


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
        self.sparse = nm2trt.sparsify(self.net, method="sr-ste", pattern="2:4")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        self.sparse.attach(optimizer)
        return optimizer

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        self.log("sad", self.sparse.report()["sad_step"]["normalised"])
        return nn.functional.cross_entropy(self.net(images), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("results", "06_lightning"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", module="lightning")
    lightning.seed_everything(0, verbose=False)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(
        x, torch.tensor(labels), test_size=397, random_state=0
    )

    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=options.out,
    )
    trainer.fit(model, DataLoader(TensorDataset(train_x, train_y), batch_size=64, shuffle=True))
    sad = model.sparse.report()["sad_anchored"]["fraction"]
    print(f"{model.sparse.step} steps, SAD since the start {sad:.2%}")
    net = model.sparse.finalize().eval()
    with torch.no_grad():
        accuracy = (net(test_x).argmax(1) == test_y).float().mean().item()
    print(f"accuracy on {len(test_y)} test images: {accuracy:.2%}")

    path = options.out / "model.onnx"
    nm2trt.export(net, test_x[:2], path)
    held = [weight.pattern for weight in nm2trt.verify(path).weights]
    print(f"{path}: {held.count('holds')} weights hold 2:4, {held.count('broken')} are broken")


if __name__ == "__main__":
    main()
