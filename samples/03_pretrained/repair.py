"""Sparsify a pretrained MobileNetV2 without its training set, and see how much of it is left.

python samples/03_pretrained/repair.py --archives ARCHIVES
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import data
import torch
from mobilenet import mobilenet_v2
from safetensors.torch import save_file
from torch import Tensor, nn

import nm2trt
from nm2trt.validation.paired import wilson_interval

# Name -> arguments of sparsify; `repair` says whether the distillation runs.
ARMS: dict[str, dict[str, Any]] = {
    "2:4 one-shot": {"pattern": "2:4", "repair": False},
    "2:4 distilled": {"pattern": "2:4", "repair": True},
    "menu 0.35 distilled": {"pattern": "2:4", "rate": 0.35, "cost": "sensitivity", "repair": True},
    **{
        f"{allocation} {rate} {what}": {
            "pattern": None,
            "rate": rate,
            "allocation": allocation,
            "repair": what == "distilled",
        }
        for rate in (0.5, 0.6, 0.7, 0.8)
        for allocation in ("uniform", "erk", "learned")
        for what in ("one-shot", "distilled")
        if (allocation, what) != ("learned", "one-shot") and (rate in (0.5, 0.8) or what == "distilled")
    },
}
QUICK = ("2:4 one-shot", "2:4 distilled")


@torch.no_grad()
def scores(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model.eval()(part) for part in images.split(50)])


def compared(
    model: nn.Module, dense: Tensor, images: Tensor, photos: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Compare predictions and logits with the dense model's, and look at the labelled photographs."""
    found = scores(model, images)
    same = int((found.argmax(1) == dense.argmax(1)).sum())
    noise = (found - dense).double().square().sum()
    return {
        "agreement": same / len(images),
        "agreement_interval": wilson_interval(same, len(images)),
        "logit_sqnr_db": float(10 * torch.log10(dense.double().square().sum() / noise)),
        "photos_right": int((scores(model, photos).argmax(1) == labels).sum()),
    }


def run(name: str, model: nn.Module, batches: list[Tensor], steps: int) -> tuple[nn.Module, dict[str, Any]]:
    arguments = dict(ARMS[name])
    arguments["steps"] = steps if arguments.pop("repair") else 0
    pruned = copy.deepcopy(model)
    start = time.perf_counter()
    sparse = nm2trt.sparsify(
        pruned, method="fcpts", calibration=batches, lr=0.01, min_channels=16, refresh_every=50, **arguments
    )
    seconds = time.perf_counter() - start
    report = sparse.report()
    kept = (
        "rate",
        "rate_of_all",
        "loss_before",
        "loss_after",
        "rate_before_correction",
        "held",
        "allocation_exact",
    )
    layers = {weight: layer["sparsity"] for weight, layer in report["layers"].items()}
    sparse.finalize()
    facts = {key: report[key] for key in kept if key in report}
    return pruned, {"seconds": seconds, "steps": arguments["steps"], **facts, "sparsity_by_layer": layers}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=Path, required=True, help="folder of the downloaded packages")
    parser.add_argument("--out", type=Path, default=Path("results/03_pretrained"))
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels (default: 160)")
    parser.add_argument(
        "--steps", type=int, default=120, help="optimizer steps of each repair (default: 120)"
    )
    parser.add_argument("--quick", action="store_true", help="two of the variants, 10 steps, 96 pixels")
    parser.add_argument("--only", action="append", default=[], help="run this variant; may be repeated")
    options = parser.parse_args()
    size, steps = (96, 10) if options.quick else (options.size, options.steps)
    names = options.only or (QUICK if options.quick else list(ARMS))
    options.out.mkdir(parents=True, exist_ok=True)

    model = mobilenet_v2()
    model.load_state_dict(data.mobilenet_weights(options.archives))
    model.eval()
    half = 16 if options.quick else 128
    # No emoji and no photograph is in both sets; the vendors' drawings differ as well.
    calibration = torch.cat(
        [
            data.emoji(options.archives, size, "google", slice(0, 2 * half))[:half],
            data.photo_crops(options.archives, size, half, seed=0),
        ]
    )
    calibration = calibration[torch.randperm(len(calibration), generator=torch.Generator().manual_seed(0))]
    evaluation = data.emoji(options.archives, size, "twitter", slice(1000, 1040 if options.quick else 1450))
    photos, labels = data.labelled_photos(options.archives, size)
    dense = scores(model, evaluation)
    results: dict[str, Any] = {
        "size": size,
        "calibration": f"{half} emoji (google) and {half} crops of 9 photographs",
        "evaluation": f"{len(evaluation)} other emoji (twitter)",
        "threads": torch.get_num_threads(),
        "dense_photos_right": int((scores(model, photos).argmax(1) == labels).sum()),
        "arms": {},
    }
    print(f"dense: {results['dense_photos_right']} of 20 photographs right", flush=True)
    for name in names:
        pruned, facts = run(name, model, list(calibration.split(16)), steps)
        facts |= compared(pruned, dense, evaluation, photos, labels)
        facts["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        results["arms"][name] = facts
        (options.out / "mobilenet.json").write_text(json.dumps(results, indent=1))
        low, high = facts["agreement_interval"]
        print(
            f"{name:22s} zeros {facts['rate_of_all']:.3f}  agreement {facts['agreement']:.3f} "
            f"[{low:.3f}, {high:.3f}]  SQNR {facts['logit_sqnr_db']:5.1f} dB  photographs "
            f"{facts['photos_right']:2d}/20  {facts['seconds']:.0f} s",
            flush=True,
        )
        if name == "2:4 distilled":
            deploy(pruned, evaluation[:2], options.out)
    return 0


def deploy(model: nn.Module, example: Tensor, out: Path) -> None:
    """Write the repaired 2:4 model, and let `verify` hold it to its plan."""
    save_file(model.state_dict(), out / "mobilenet_2to4.safetensors")
    nm2trt.export(model, example, out / "mobilenet_2to4.onnx")
    statuses = [verdict.pattern for verdict in nm2trt.verify(out / "mobilenet_2to4.onnx").weights]
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    print("verify:", ", ".join(f"{count} {status}" for status, count in counts.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
