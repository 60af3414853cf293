"""The commands on a GPU with TensorRT 8.6: build --sparsity, info, explain, bench, prove (through Python: cuBLAS and cuDNN are stand-ins).

python cli86.py MODELS OUT [--project NM2TRT]      writes OUT/cli86.txt and OUT/prove86.json
"""

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("models", type=Path)
    a.add_argument("out", type=Path)
    a.add_argument("--model", default="conv-fp16")
    a.add_argument("--project", type=Path, default=Path(__file__).resolve().parent.parent / "nm2trt")
    o = a.parse_args()
    sys.path.insert(0, str(o.project))
    import nm2trt
    from nm2trt.backends.options import BuildOptions
    from nm2trt.cli import main as command

    folder = Path(tempfile.mkdtemp())
    net, cache = folder / "net.onnx", folder / "timing.cache"
    shutil.copy(o.models / o.model / "sparse.onnx", net)
    if (o.out / "trt" / "timing.cache").exists():
        shutil.copy(o.out / "trt" / "timing.cache", cache)
    with (o.out / "cli86.txt").open("w") as log:
        for words in (
            ["doctor"],
            [
                "build",
                str(net),
                "--sparsity",
                "--backend",
                "trt",
                "--no-library-tactics",
                "--timing-cache",
                str(cache),
            ],
            ["info", str(folder / "net.engine")],
            ["explain", str(folder / "net.engine")],
            ["bench", str(folder / "net.engine"), "--batch", "32"],
            [
                "build",
                str(net),
                "--sparsity",
                "--backend",
                "trt",
                "--no-library-tactics",
                "--timing-cache",
                str(cache),
                "--require-sparse",
                "50%",
            ],
        ):
            text, start = io.StringIO(), time.perf_counter()
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                try:
                    status = command(words)
                except BaseException:
                    status = traceback.format_exc()
            log.write(
                f"$ nm2trt {' '.join(words)}\n{text.getvalue()}-> {status}, {time.perf_counter() - start:.1f} s\n\n"
            )
            log.flush()
            print(words[0], "->", str(status)[-300:])
    try:
        report = nm2trt.prove(
            net, options=BuildOptions(library_tactics=False, timing_cache=cache), backend="trt", runs=100
        )
        (o.out / "prove86.json").write_text(json.dumps(report.to_json(), indent=1, default=str) + "\n")
        with (o.out / "cli86.txt").open("a") as log:
            log.write(f"$ nm2trt prove\n{report}\n")
        print(
            "prove",
            report.measured,
            report.why_not,
            report.sparse_share,
            [(x.name, x.against, round(x.speedup, 3)) for x in report.comparisons],
        )
        print("clocks", dict(report.clocks_after))
    except BaseException:
        (o.out / "prove86.error.txt").write_text(traceback.format_exc())
        print(traceback.format_exc()[-600:])
        sys.exit(1)


if __name__ == "__main__":
    main()
