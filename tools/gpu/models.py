"""Write the twins' ONNX models with the project's own makers, so that the TensorRT side needs neither ONNX Runtime nor time.

    python models.py OUT [conv-int8 wide-fp16 wide-int8 resnet50-int8 resnet50-fp16 minilm-fp16 ...] [--batch 32] [--tiny]
A name is NET-PRECISION, or NET-PRECISION@BATCH. Writes OUT/NAME/{dense,sparse}.onnx and OUT/NAME/feeds.npz, then OUT/NAME/ready.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import onnx


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out", type=Path)
    a.add_argument(
        "names",
        nargs="*",
        default="resnet50-int8 wide-fp16 resnet50-fp16 conv-int8 wide-int8 minilm-fp16".split(),
    )
    a.add_argument("--batch", type=int, default=32)
    a.add_argument("--tiny", action="store_true", help="small nets, to try the script")
    a.add_argument(
        "--project",
        type=Path,
        default=Path(__file__).resolve().parent.parent / "nm2trt",
        help="the project's checkout",
    )
    o = a.parse_intermixed_args()
    sys.path[:0] = [str(o.project), str(o.project / "benchmarks")]
    import trt_twin

    small = {
        "conv": {"channels": 32, "size": 8, "layers": 2},
        "wide": {"layers": 2, "width": 64},
        "minilm": {"layers": 1, "tokens": 8},
    }
    for name in o.names:
        folder = o.out / name
        if (folder / "ready").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        text, _, at = name.partition("@")
        net, precision = text.split("-")
        batch, start = int(at or o.batch), time.perf_counter()
        for kind in ("dense", "sparse"):
            made = trt_twin.make(
                net,
                precision,
                folder / f"{kind}.tmp.onnx",
                sparse=kind == "sparse",
                batch=batch,
                **(small.get(net, {}) if o.tiny else {}),
            )
            made.rename(folder / f"{kind}.onnx")
        feeds = trt_twin.feeds(onnx.load(folder / "sparse.onnx"))
        np.savez(folder / "feeds.npz", **feeds)
        for left in folder.glob("*.tmp*"):
            left.unlink()
        (folder / "ready").touch()
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
