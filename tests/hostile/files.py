"""Sound files of every kind that a command reads beside models, and damage to each kind."""

import base64
import contextlib
import gzip
import io
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np

from tests.hostile.mutants import damaged

ROOT = Path(__file__).parents[2]
STRANGE = (
    None,
    True,
    -1,
    0,
    2**40,
    2**70,
    1.5,
    1e308,
    float("nan"),
    "",
    "9" * 5000,
    "\x1b[31m\u202e",
    "../../x",
    "/etc/passwd",
    [],
    {},
    [[]],
    [None],
    [2**70],
    {"name": 3},
)

# File -> commands that read it; {out} is a new file.
READERS = {
    "e.rtx.json": [
        "info e.rtx",
        "deploy e.rtx --repository models --name n",
        "explain e.rtx",
        "info e.rtx --json",
        "bench e.rtx --runs 1",
        "report run -o {out}.md",
    ],
    "e.rtx": ["info e.rtx", "deploy e.rtx --repository models --name n", "explain e.rtx"],
    "x.npz": [
        "validate m.onnx --against m.onnx --data x.npz --runs 0",
        "quantize m.onnx --calib x.npz -o {out}.onnx",
        "infer m.onnx --data x.npz -o {out}.npz",
        "bench m.onnx --data x.npz --runs 1 --warmup 0",
        "prune d.onnx --calib x.npz -o {out}.onnx",
        "cast m.onnx --calib x.npz -o {out}.onnx",
        "init m.onnx --calib x.npz -o {out}.yaml",
        "deploy m.onnx --repository models --name n --sample x.npz",
    ],
    "ranges.npz": [
        "quantize m.onnx --calib x.npz --cache ranges.npz -o {out}.onnx",
        "cast m.onnx --calib x.npz --cache ranges.npz -o {out}.onnx",
    ],
    "gain.json": [
        "gain m.onnx --table gain.json --device sm90",
        "gain m.onnx --table gain.json",
        "prune d.onnx --calib x.npz --data judge.npz --max-drop 90pt --gain gain.json --shape x:64 -o {out}.onnx",
    ],
    "judge.npz": [
        "prune d.onnx --calib x.npz --data judge.npz --max-drop 90pt -o {out}.onnx",
        "validate m.onnx --against d.onnx --data judge.npz --metric top-1 --runs 0",
    ],
    "calib.yaml": [
        "calib check calib.yaml",
        "quantize m.onnx --calib calib.yaml -o {out}.onnx",
        "validate m.onnx --against m.onnx --data calib.yaml --runs 0",
    ],
    "idx.yaml": ["calib check idx.yaml", "quantize m.onnx --calib idx.yaml -o {out}.onnx"],
    "digits.idx.gz": [
        "calib check idx.yaml",
        "quantize m.onnx --calib idx.yaml -o {out}.onnx",
        "prune d.onnx --calib idx.yaml -o {out}.onnx",
        "validate m.onnx --against m.onnx --data idx.yaml --runs 0",
    ],
    "recipe.yaml": ["run recipe.yaml --dry-run", "run recipe.yaml -o run", "report run -o {out}.html"],
    "job.yaml": ["sparsify job.yaml -o {out}.safetensors"],
    "bench.json": ["bench m.onnx --runs 1 --warmup 0 --compare bench.json"],
    "times.json": ["bench times.json m.onnx --runs 1 --warmup 0", "bench times.json"],
    "validate.json": ["report run -o {out}.html"],
    "poly.json": [
        "validate m.onnx --against m.onnx --data poly.json --runs 0",
        "infer m.onnx --data poly.json -o {out}.npz",
    ],
    "build.log": [
        "explain m.onnx --log build.log",
        "explain m.onnx --log build.log --layers layers.json --version 8.6",
    ],
    "layers.json": [
        "explain m.onnx --layers layers.json --version 8.6",
        "explain m.onnx --log build.log --layers layers.json",
    ],
    "trace.csv": ["explain m.onnx --log build.log --trace trace.csv"],
    "labels.txt": ["deploy m.onnx --repository models --name n --labels labels.txt"],
    "models/n/config.pbtxt": [
        "rollback --repository models --name n",
        "deploy m.onnx --repository models --name n",
    ],
    "models/n/2/deployment.json": [
        "rollback --repository models --name n",
        "deploy m.onnx --repository models --name n",
    ],
    "models/n/1/deployment.json": [
        "rollback --repository models --name n",
        "deploy m.onnx --repository models --name n --keep 1",
    ],
    "run/*": [
        "report run -o {out}.html",
        "report run -o {out}.md",
        "report run --json -o {out}.json",
        "run recipe.yaml -o run",
    ],
    "cache/*": ["prune d.onnx --calib x.npz --cache cache -o {out}.onnx"],
}
SETUP = (
    "prune d.onnx -o m.onnx --min-channels 4",
    "build m.onnx --sparsity --target sm86 -o e.rtx",
    "quantize m.onnx --calib x.npz --cache ranges.npz -o q.onnx",
    "bench m.onnx --runs 2 --warmup 0 -o bench.json",
    "validate m.onnx --against m.onnx --data x.npz --runs 0 -o validate.json",
    "run recipe.yaml -o run",
    "deploy m.onnx --repository models --name n",
    "deploy m.onnx --repository models --name n",
    "prune d.onnx --calib x.npz --cache cache -o p.onnx",
)


STAGES_OF_A_RUN = """version: 1
model: m.onnx
stages:
  verify:
  fuse:
  validate: {data: x.npz, runs: 2, warmup: 0}
  report: {formats: [html, md]}
"""
TEXTS = {
    "calib.yaml": "source: {kind: npz, path: x.npz}\ncount: 4\ninput: x\nbatch: 2\n"
    "preprocess: {mean: [0.5], std: [2.0]}\n",
    "idx.yaml": "source: {kind: idx, path: digits.idx.gz}\ncount: 4\ninput: x\nbatch: 2\npreprocess: {divide: 255}\n",
    "recipe.yaml": STAGES_OF_A_RUN,
    "job.yaml": "model: sent.py:made\nweights: w.safetensors\nmethod: magnitude\ncalibration: calib.yaml\n",
    "labels.txt": "".join(f"class {i}\n" for i in range(16)),
    "trace.csv": "Time (%),Total Time (ns),Instances,Name\n60,600,3,sm80_sparse_conv\n40,400,3,other\n",
}
LAYER = {
    "Name": "conv + relu",
    "LayerType": "CaskConvolution",
    "TacticName": "sm80_xmma_sparse_conv",
    "HasSparseWeights": 1,
    "Metadata": "[ONNX Layer: conv]",
}
COPIES = {
    "gain.json": "benchmarks/results/gpu/h200/gain.json",
    "build.log": "tests/engine/evidence/logs/trt_8_6_conv.log",
}


def _times():
    """Return what trtexec exports: the times of 20 runs."""
    ends = ("startH2dMs", "endH2dMs", "startInMs", "endInMs", "startComputeMs", "endComputeMs", "startOutMs", "endOutMs")  # fmt: skip
    after = {"endInMs": 0.1, "endComputeMs": 0.5}
    own = {"latencyMs": 0.7, "computeMs": 0.5, "enqueueMs": 0.1, "inMs": 0.1, "outMs": 0.1}
    return [{**{name: i + after.get(name, 0) for name in ends}, **own} for i in range(20)]


def _polygraphy():
    """Return one sample as Polygraphy writes it."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 16), "f4"))
    array = base64.b64encode(buffer.getvalue()).decode()
    return [{"x": {"array": array, "polygraphy_class": "ndarray"}}]


def _digits():
    """Return 8 samples of 16 bytes as a gzipped IDX file."""
    return gzip.compress(struct.pack(">HBBII", 0, 8, 2, 8, 16) + bytes(range(128)), mtime=0)


def make(folder, network):
    """Fill a folder with sound files; raises if a command that makes one fails."""
    from nm2trt.cli import main

    network(folder / "d.onnx")
    draw = np.random.default_rng(1)
    for name in ("x", "judge"):
        arrays = {"x": draw.standard_normal((8, 16)).astype("f4"), "labels": draw.integers(0, 16, 8)}
        np.savez(folder / f"{name}.npz", **arrays)
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    for name, data in (
        ("times.json", _times()),
        ("poly.json", _polygraphy()),
        ("layers.json", {"Layers": [LAYER], "Bindings": []}),
    ):
        (folder / name).write_text(json.dumps(data))
    for name, source in COPIES.items():
        shutil.copy(ROOT / source, folder / name)
    (folder / "digits.idx.gz").write_bytes(_digits())
    here = Path.cwd()
    os.chdir(folder)
    try:
        for words in SETUP:
            if main(words.split()) != 0:
                raise RuntimeError(f"{words} failed")
    finally:
        os.chdir(here)


def strange(value, draw, depth=0):
    """Return JSON data with one part replaced, gone, repeated or renamed."""
    value = json.loads(json.dumps(value))
    places = [(None, None)]
    waiting = [value]
    while waiting:
        one = waiting.pop()
        for key in one if isinstance(one, dict) else range(len(one)):
            places.append((one, key))
            if isinstance(one[key], (dict, list)):
                waiting.append(one[key])
    holder, key = draw.choice(places)
    new = draw.choice(STRANGE)
    if holder is None:
        return (
            new
            if draw.random() < 0.3 or not isinstance(value, (dict, list)) or depth > 2
            else strange(value, draw, depth + 1)
        )
    kind = draw.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[draw.choice(["name", "\x1b[31m", "__class__", "path", key.upper()])] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[key] = new
    return value


def strange_arrays(path, draw):
    """Change one array of an archive, its name, or its type."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive.items())
    name = draw.choice(list(arrays))
    array = arrays[name]
    choices = [
        np.array("[" * 3000),
        np.array("{}"),
        np.array(float("nan")),
        np.resize(array, 0),
        np.zeros(3, "S5"),
        np.array([1, "a"], dtype=object),
        np.zeros((2**16, 0), "f4"),
        np.array("\x1b[31m"),
    ]
    if array.dtype.kind == "f":
        choices += [array * np.nan, array.astype("f8") * 1e300, array[..., None], -array, array.astype("c8")]
    if array.dtype.kind == "U":
        with contextlib.suppress(ValueError):
            choices += [np.array(json.dumps(strange(json.loads(str(array)), draw))) for _ in range(20)]
    if draw.random() < 0.2:
        del arrays[name]
    elif draw.random() < 0.2:
        arrays[draw.choice(["\x1b[31mx", "x/../y", "labels", "a" * 300])] = arrays.pop(name)
    else:
        arrays[name] = draw.choice(choices)
    np.savez(path, **arrays)


def strange_gzip(path, draw):
    """Change the header of what an archive unpacks to, or give it more members."""
    body = gzip.decompress(path.read_bytes())
    kind = draw.randrange(5)
    if kind == 0:
        sizes = [draw.choice([0, 1, 8, 16, 2**31, 2**32 - 1]) for _ in range(draw.choice([0, 1, 2, 3, 9]))]
        code = draw.choice([8, 9, 11, 12, 13, 14, 0, 255])
        head = struct.pack(f">HBB{len(sizes)}I", draw.choice([0, 1]), code, len(sizes), *sizes)
        path.write_bytes(gzip.compress(head + body[12:]))
    elif kind == 1:
        path.write_bytes(gzip.compress(damaged(body, draw)))
    elif kind == 2:
        path.write_bytes(gzip.compress(body) + draw.choice([b"rest", bytes(100), gzip.compress(b"more")]))
    elif kind == 3:
        path.write_bytes(gzip.compress(body[:4]) + gzip.compress(bytes(1 << 20)) * draw.choice([1, 400]))
    else:
        path.write_bytes(b"\x1f\x8b\x08" + draw.randbytes(1) + bytes(6) + draw.randbytes(100))


def no_file(path, draw):
    """Put something that is not a regular file in a file's place, or nothing."""
    path.unlink()
    kind = draw.randrange(6)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(
            draw.choice(["/dev/zero", "/dev/stdin", "/dev/full", path.name, "/proc/self/mem", "/etc/shadow-"])
        )
    elif kind == 3:
        path.write_bytes(b"")
    elif kind == 4:
        path.write_bytes(b"\xff\xfe\0" * 1000)


def spoil(path, draw):
    """Damage a file by its kind."""
    kind = draw.random()
    if kind < 0.12:
        no_file(path, draw)
    elif kind < 0.25:
        path.write_bytes(damaged(path.read_bytes(), draw))
    elif zipfile.is_zipfile(path):
        strange_arrays(path, draw)
    elif path.suffix == ".gz":
        strange_gzip(path, draw)
    elif path.suffix in (".json", ".yaml"):
        import yaml

        text = path.read_text()
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        for _ in range(draw.randrange(1, 4)):
            if isinstance(data, (dict, list)):
                data = strange(data, draw)
        if draw.random() < 0.05:
            path.write_text("[" * 100_000)
        else:
            path.write_text(
                json.dumps(data) if path.suffix == ".json" or draw.random() < 0.3 else yaml.safe_dump(data)
            )
    else:
        lines = path.read_text(errors="replace").splitlines()
        for _ in range(draw.randrange(1, 6)):
            place = draw.randrange(len(lines) + 1)
            lines[place:place] = draw.choice(
                [["\x1b[31mred\u202e"], lines[: draw.randrange(9)], ["9" * 5000], ["(" * 3000], [""], ["\0"]]
            )
            if lines and draw.random() < 0.5:
                del lines[draw.randrange(len(lines))]
        path.write_text("\n".join(lines))
