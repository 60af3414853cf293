"""benchmarks/gpu_gain.py in a time box: the same products and measurements, the most telling first, written as they come.

    python gain_boxed.py OUT.json [--minutes 4] [--project NM2TRT]
Order: batch 32, then 8, 128, 1; fp16 and int8 before bf16. The table is the script's own; `conditions.stopped` says what is left.
Run again with the same OUT.json, it goes on where it stopped. `--stop FILE`: end soon after FILE appears (something else waits).
"""

import argparse
import importlib.util
import json
import sys
import time
import warnings
from pathlib import Path

import torch


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("out", type=Path)
    a.add_argument("--minutes", type=float, default=4.0)
    a.add_argument("--runs", type=int, default=30)
    a.add_argument("--stop", type=Path)
    a.add_argument("--most", type=int, help="most products, to try the script")
    a.add_argument("--dry", action="store_true", help="measure nothing: made-up times")
    a.add_argument("--project", type=Path, default=Path(__file__).resolve().parent.parent / "nm2trt")
    o = a.parse_args()
    sys.path.insert(0, str(o.project))
    spec = importlib.util.spec_from_file_location("gpu_gain", o.project / "benchmarks" / "gpu_gain.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules["gpu_gain"] = script
    spec.loader.exec_module(script)
    warnings.simplefilter("ignore")
    options = script.parse(["-o", str(o.out), "--runs", str(o.runs)])
    found, layers = [], {}
    for dtypes in (("fp16", "int8"), ("bf16",)):
        for batch in (32, 8, 128, 1):
            for size, where in script.products([batch]).items():
                layers.setdefault(size, []).extend(x for x in where if x not in layers.get(size, []))
                found += [(size, dtype) for dtype in dtypes if (size, dtype) not in found]
    found = found[: o.most]
    rows, failed, begun, spent = [], [], time.perf_counter(), []
    if o.out.exists():
        old = json.loads(o.out.read_text())
        rows, failed = old["rows"], old["failed"]
        names = {v: k for k, v in script.NAMES.items()}
        done = {((r["m"], r["n"], r["k"]), names[r["dtype"]]) for r in rows}
        found = [
            x
            for x in found
            if x not in done
            and f"{'x'.join(map(str, x[0]))} {x[1]}" not in {f.partition(":")[0] for f in failed}
        ]

    def write(left):
        if o.dry and not torch.cuda.is_available():
            table = {"rows": rows, "failed": failed, "conditions": {}}
        else:
            table = script.table(rows, failed, options)
        table["conditions"]["stopped"] = f"{left} of {len(found)} products and types left" if left else ""
        table["conditions"]["seconds"] = round(time.perf_counter() - begun, 1)
        o.out.write_text(json.dumps(table, indent=1) + "\n")

    for index, ((m, n, k), dtype) in enumerate(found):
        start = time.perf_counter()
        if start - begun > o.minutes * 60 or (o.stop and o.stop.exists() and start - begun > 5):
            write(len(found) - index)
            break
        try:
            if o.dry:
                script.operands(min(m, 64), n, k, dtype)
                row = {
                    "m": m,
                    "n": n,
                    "k": k,
                    "dtype": script.NAMES[dtype],
                    "dense_ms": 1.0,
                    "sparse_ms": 1.0,
                }
            else:
                row = script.measure(m, n, k, dtype, rounds=options.runs, warmup=options.warmup)
            rows.append({**row, "layers": layers[m, n, k]})
        except Exception as error:
            failed.append(f"{m}x{n}x{k} {dtype}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            if len(failed) < 4:
                print(failed[-1], flush=True)
        spent.append(time.perf_counter() - start)
        if index % 20 == 19:
            write(len(found) - index - 1)
    else:
        write(0)
    took = sorted(spent) or [0.0]
    print(
        f"{o.out}: {len(rows)} rows, {len(failed)} failed, of {len(found)}, {time.perf_counter() - begun:.0f} s; "
        f"a row took {took[len(took) // 2]:.2f} s in the middle, {took[-1]:.2f} s at most"
    )
    fast = {}
    for row in rows:
        fast.setdefault(row["dtype"], []).append(row["dense_ms"] / row["sparse_ms"])
    for dtype, values in fast.items():
        values.sort()
        pays = sum(v >= 1.05 for v in values)
        print(
            f"{dtype}: {len(values)} products, median {values[len(values) // 2]:.2f}x, best {values[-1]:.2f}x, {pays} of them 1.05x or more"
        )


if __name__ == "__main__":
    main()
