"""Sparsify a pretrained MobileNetV2 without its training set, and see how much of it is left.

python samples/03_pretrained/repair.py --archives ARCHIVES
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import shlex
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import data
import torch
from archives import Unavailable
from mobilenet import mobilenet_v2
from safetensors.torch import save_file
from torch import Tensor, nn

import nm2trt
from nm2trt.validation.statistics.paired import score_interval, wilson_interval

# The sharpest direction of the loss allows no more than about 2e-4 with momentum; see the README.
GENTLE = {"lr": 1e-4, "batch_norm": "frozen"}
RECIPE = {"lr": 0.01, "batch_norm": "train"}
DENSE = {"pattern": None, "rate": 0.001, "allocation": "uniform"}
# Name -> arguments of sparsify; `repair` says whether the distillation runs.
ARMS: dict[str, dict[str, Any]] = {
    # Controls: with next to nothing pruned, a sound repair must leave the network as it is.
    "0.001 distilled, lr 0.01": {**DENSE, "repair": True, **RECIPE},
    "0.001 distilled": {**DENSE, "repair": True},
    "2:4 one-shot": {"pattern": "2:4"},
    "2:4 distilled, lr 0.01": {"pattern": "2:4", "repair": True, **RECIPE},
    "2:4 distilled": {"pattern": "2:4", "repair": True},
    "2:4 fitted": {"pattern": "2:4", "layer_fit": True},
    "2:4 fitted, distilled": {"pattern": "2:4", "layer_fit": True, "repair": True},
    "menu 0.35 one-shot": {"pattern": "2:4", "rate": 0.35, "cost": "sensitivity"},
    "menu 0.35 fitted": {"pattern": "2:4", "rate": 0.35, "cost": "sensitivity", "layer_fit": True},
    **{
        f"{allocation} {rate} {what}": {
            "pattern": None,
            "rate": rate,
            "allocation": allocation,
            "layer_fit": "fitted" in what,
            "repair": "distilled" in what,
        }
        for rate in (0.5, 0.6, 0.7, 0.8)
        for allocation, what in (
            ("uniform", "one-shot"),
            ("uniform", "fitted"),
            ("erk", "one-shot"),
            ("erk", "fitted"),
            ("learned", "distilled"),
        )
    },
}
QUICK = ("2:4 one-shot", "2:4 fitted, distilled")
FACTS = ("rate", "rate_of_all", "loss_before", "loss_fitted", "loss_after", "rate_before_correction", "held")


@torch.no_grad()
def scores(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model.eval()(part) for part in images.split(50)])


def compared(found: Tensor, dense: Tensor) -> dict[str, Any]:
    """Compare predictions and logits with the dense model's."""
    same = int((found.argmax(1) == dense.argmax(1)).sum())
    noise = (found - dense).double().square().sum()
    return {
        "agreement": same / len(dense),
        "agreement_interval": wilson_interval(same, len(dense)),
        "logit_sqnr_db": float(10 * torch.log10(dense.double().square().sum() / noise)),
    }


def difference(mine: Tensor, theirs: Tensor, dense: Tensor) -> list[float]:
    """Return how much more often one model than another agrees with the dense one, with its interval."""
    right, other = (part.argmax(1) == dense.argmax(1) for part in (mine, theirs))
    gained, lost = int((right & ~other).sum()), int((other & ~right).sum())
    low, high = score_interval(n=len(dense), gained=gained, lost=lost)
    return [(gained - lost) / len(dense), low, high]


def pictures(options: argparse.Namespace) -> tuple[Tensor, dict[str, Tensor], str]:
    """Return calibration pictures, evaluation pictures by kind, and what the former are; none is in both."""
    folder, size = options.archives, options.size
    if options.quick:
        calibration = data.emoji(folder, size, "google", slice(0, 32))
        return calibration, {"emoji": data.emoji(folder, size, "twitter", slice(1000, 1040))}, "32 emoji"
    photos, stamps = data.photographs(folder), data.stamps(folder)
    known = data.composed(stamps[140:], photos[:5], size, options.images, seed=1)
    drawn = data.emoji(folder, size, "google", slice(0, 2 * options.images))[: options.images // 4]
    calibration = torch.cat([known, drawn])
    order = torch.randperm(len(calibration), generator=torch.Generator().manual_seed(0))
    evaluation = {
        "stamps": data.composed(stamps[:140], photos[5:], size, 140, seed=2),
        "emoji": data.emoji(folder, size, "twitter", slice(1000, 1170)),
    }
    what = (
        f"{len(known)} pictures of {len(stamps) - 140} stamps on 5 photographs, {len(drawn)} emoji (google)"
    )
    return calibration[order], evaluation, what


def run(
    name: str, model: nn.Module, batches: list[Tensor], options: argparse.Namespace
) -> tuple[nn.Module, dict[str, Any]]:
    arguments = {**GENTLE, "min_channels": 16, **ARMS[name]}
    arguments["steps"] = options.steps if arguments.pop("repair", False) else 0
    arguments["fit_samples"] = options.fit_samples
    pruned = copy.deepcopy(model)
    start, cpu = time.perf_counter(), time.process_time()
    sparse = nm2trt.sparsify(pruned, method="fcpts", calibration=batches, **arguments)
    taken = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    report = sparse.report()
    sparse.finalize()
    return pruned, {
        **taken,
        "steps": arguments["steps"],
        **{key: report[key] for key in FACTS if key in report},
        "sparsity_by_layer": {weight: layer["sparsity"] for weight, layer in report["layers"].items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=Path, required=True, help="folder of packages, fetched if missing")
    parser.add_argument("--out", type=Path, default=Path("results/03_pretrained"))
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels (default: 128)")
    parser.add_argument(
        "--images", type=int, default=512, help="calibration pictures of stamps (default: 512)"
    )
    parser.add_argument("--steps", type=int, default=100, help="steps of each distillation (default: 100)")
    parser.add_argument(
        "--fit-samples", type=int, default=256, help="pictures that a fit uses (default: 256)"
    )
    parser.add_argument("--quick", action="store_true", help="two of the variants, 5 steps, 96 pixels")
    parser.add_argument("--only", action="append", default=[], choices=ARMS, help="may be repeated")
    options = parser.parse_args()
    if options.quick:
        options.size, options.steps = 96, 5
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        return every_arm(options)
    except Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def every_arm(options: argparse.Namespace) -> int:
    model = mobilenet_v2()
    model.load_state_dict(data.mobilenet_weights(options.archives))
    model.eval()
    calibration, evaluation, what = pictures(options)
    photos, labels = data.labelled_photos(options.archives, options.size)
    dense = {kind: scores(model, images) for kind, images in evaluation.items()}
    results: dict[str, Any] = {
        "command": shlex.join(["python", "samples/03_pretrained/repair.py", *sys.argv[1:]]),
        "size": options.size,
        "batch": 16,
        "fit_samples": options.fit_samples,
        "calibration": what,
        "evaluation": {kind: len(images) for kind, images in evaluation.items()},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dense_photos_right": int((scores(model, photos).argmax(1) == labels).sum()),
        "arms": {},
    }
    print(f"dense: {results['dense_photos_right']} of 20 photographs right", flush=True)
    first: dict[str, Tensor] = {}
    for name in options.only or (QUICK if options.quick else ARMS):
        pruned, facts = run(name, model, list(calibration.split(16)), options)
        found = {kind: scores(pruned, images) for kind, images in evaluation.items()}
        first = first or found
        for kind, logits in found.items():
            facts[kind] = compared(logits, dense[kind])
            facts[kind]["over_the_first"] = difference(logits, first[kind], dense[kind])
        facts["photos_right"] = int((scores(pruned, photos).argmax(1) == labels).sum())
        facts["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        results["arms"][name] = facts
        (options.out / "mobilenet.json").write_text(json.dumps(results, indent=1) + "\n")
        show(name, facts, list(evaluation))
        if name == "2:4 fitted, distilled":
            deploy(pruned, calibration[:2], options.out)
    return 0


def show(name: str, facts: dict[str, Any], kinds: list[str]) -> None:
    parts = [f"{name:27s} zeros {facts['rate_of_all']:.3f}"]
    for kind in kinds:
        low, high = facts[kind]["agreement_interval"]
        share = f"{facts[kind]['agreement']:.3f} [{low:.3f}, {high:.3f}]"
        parts.append(f"{kind} {share} {facts[kind]['logit_sqnr_db']:4.1f} dB")
    print(
        "  ".join([*parts, f"photographs {facts['photos_right']:2d}/20  {facts['seconds']:.0f} s"]),
        flush=True,
    )


def deploy(model: nn.Module, example: Tensor, out: Path) -> None:
    """Write the repaired 2:4 model, and let `verify` hold it to its plan."""
    save_file(model.state_dict(), out / "mobilenet_2to4.safetensors")
    nm2trt.export(model, example, out / "mobilenet_2to4.onnx")
    statuses = [verdict.pattern for verdict in nm2trt.verify(out / "mobilenet_2to4.onnx").weights]
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    print("verify:", ", ".join(f"{count} {status}" for status, count in counts.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
