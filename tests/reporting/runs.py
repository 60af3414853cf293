"""Folders of runs to report on, written as the stages would write them."""

import json
import math

from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.records import FileRecord, StageRecord


def verdict(weight, *, status="holds", shape=(64, 64, 3, 3), zero_share=0.5, consumer=None, **changes):
    held = status == "holds"
    return {
        "weight": weight,
        "consumer": consumer or f"node_{weight}",
        "operator": "Conv" if len(shape) == 4 else "Gemm",
        "shape": list(shape),
        "dtype": "float16",
        "axis": 1,
        "wanted": "2:4" if held or status == "broken" else "",
        "pattern": status,
        "groups": 100,
        "broken_groups": 3 if status == "broken" else 0,
        "first_broken": [0, 4, 0, 0] if status == "broken" else None,
        "zero_share": zero_share if status != "dense-by-plan" else 0.0,
        "nonfinite": 0,
        "parameters": math.prod(shape),
        "macs": math.prod(shape) * 196,
        "eligible": "yes" if held else "no",
        "reason": "eligible" if held else status,
        "sentence": "2:4 holds along axis 1; a sparse float16 kernel may run it"
        if held
        else f"{status}: 3 input channels are fewer than 16",
        "source": "TensorRT 8.x developer guide",
        **changes,
    }


def ladder_row(row):
    held = row["pattern"] == "holds"
    later = (
        {"answer": "not measured", "detail": "not measured"}
        if held
        else {"answer": "not reached", "detail": "-"}
    )
    return {
        **{key: row[key] for key in ("weight", "consumer", "operator", "shape", "reason", "sentence")},
        "pattern": {
            "answer": "yes" if held else "no",
            "detail": "2:4" if held else row["pattern"].replace("-", " "),
        },
        "fits": {"answer": "yes", "detail": "fits"} if held else later,
        "dtype": {"answer": "yes", "detail": row["dtype"]} if held else later,
        "listed": later,
        "chosen": later,
        "gain": later,
    }


def validation(candidate, reference, *, right=(392, 394), n=397, p50=(0.041, 0.043)):
    def score(count):
        share = count / n
        half = 1.96 * math.sqrt(share * (1 - share) / n)
        return {"right": count, "value": share, "low": share - half, "high": min(1.0, share + half)}

    def latency(ms):
        return {"p50_ms": ms, "p90_ms": 1.2 * ms, "p99_ms": 1.9 * ms, "mean_ms": 1.05 * ms, "runs": 200}

    difference = (right[0] - right[1]) / n
    return {
        "candidate": candidate,
        "reference": reference,
        "data": "test.npz",
        "n": n,
        "metrics": [
            {
                "name": "top-1",
                "against_reference": False,
                "candidate": score(right[0]),
                "reference": score(right[1]),
                "paired": {
                    "n": n,
                    "gained": 1,
                    "lost": 3,
                    "difference": difference,
                    "low": difference - 0.008,
                    "high": difference + 0.007,
                    "confidence": 0.95,
                    "p_value": 0.6,
                    "method": "Tango",
                },
            }
        ],
        "differences": [],
        "conversions": {},
        "benchmark": {
            "latencies": {"candidate": latency(p50[0]), "reference": latency(p50[1])},
            "batch": {"candidate": 1, "reference": 1},
            "warmup": {"runs": 20, "stable": True},
            "conditions": {
                "machine": "x86_64",
                "cores": "2",
                "order": "interleaved",
                "backend": "ONNX Runtime on the CPU",
            },
        },
    }


def file(name, digest, size=134_401):
    return FileRecord(f"artefacts/{name}", digest * 16, size)


def small_run(folder, *, names=("stem.weight", "body.0.weight", "body.1.weight", "head.weight")):
    """Write a run of every kind of result; its first layer is dense by plan and its second broken."""
    run = RunFolder(folder)
    run.start("digits, SR-STE 2:4", ["export", "fuse", "cast", "verify", "build", "validate", "deploy"])
    statuses = ["dense-by-plan", "broken", *["holds"] * (len(names) - 2)]
    rows = [verdict(name, status=status) for name, status in zip(names, statuses, strict=True)]
    versions = {"nm2trt": "0.1.0", "onnx": "1.23.2"}
    for stage, source, target, relation in (
        ("export", "net.safetensors", "export.onnx", "equal"),
        ("fuse", "export.onnx", "fuse.onnx", "merged"),
        ("cast", "fuse.onnx", "cast.onnx", "subset"),
    ):
        digests = {"net.safetensors": "0a1b", "export.onnx": "17c4", "fuse.onnx": "e02d", "cast.onnx": "5b9f"}
        result = {
            "model": source,
            "output": target,
            "relation": relation,
            "mask_sha256": digests[target][::-1] * 16,
        }
        run.write(
            StageRecord(
                stage,
                stage,
                "done",
                f"wrote {target}",
                f"nm2trt {stage} {source} -o {target}",
                0.8,
                "2026-01-01T00:00:00+00:00",
                versions,
                (file(source, digests[source]),),
                (file(target, digests[target]),),
                "k",
                result,
            )
        )
    run.write(
        StageRecord(
            "verify",
            "verify",
            "done",
            f"{len(names) - 2} hold, 1 broken, 1 dense by plan",
            "nm2trt verify artefacts/cast.onnx",
            0.1,
            versions=versions,
            result={"model": "cast.onnx", "weights": rows, "mask_sha256": "f9b5" * 16},
        )
    )
    notes = ["input 'image' has a dynamic batch and no profile: built for batches 1/8/32"]
    run.write(
        StageRecord(
            "build",
            "build",
            "done",
            "0.6 MB for sm80, sm86",
            "nm2trt build artefacts/cast.onnx --sparsity",
            1.4,
            versions={"trt-rtx": "1.7.1.116"},
            inputs=(file("cast.onnx", "5b9f"),),
            outputs=(file("model.rtx", "77aa", 612_000),),
            key="k",
            result={
                "engine": "model.rtx",
                "model": "cast.onnx",
                "kind": "TensorRT for RTX plan: runs only in the TensorRT-RTX runtime",
                "ladder": [ladder_row(row) for row in rows],
                "notes": notes,
            },
        )
    )
    run.write(
        StageRecord(
            "validate",
            "validate",
            "done",
            "-0.50 points",
            "nm2trt validate artefacts/cast.onnx --against dense.onnx --data test.npz",
            3.2,
            result=validation("artefacts/cast.onnx", "dense.onnx"),
        )
    )
    run.write(
        StageRecord(
            "accuracy",
            "accuracy",
            result={
                "entries": [
                    {
                        "stage": "PyTorch",
                        "name": "sparse, seed 0",
                        "metric": "top-1",
                        "value": 0.9899,
                        "low": 0.974,
                        "high": 0.996,
                        "n": 397,
                    }
                ]
            },
        )
    )
    reasons = [
        {
            "rung": "pattern",
            "code": "broken",
            "sentence": "3 of 100 groups have more than 2 non-zeros",
            "weights": ["body.0.weight"],
            "share": 0.31,
            "remedy": "export the finalised model again",
            "source": "",
            "basis": "",
        }
    ]
    run.write(
        StageRecord(
            "explain",
            "explain",
            result={
                "subject": "model.rtx",
                "reasons": reasons,
                "ladder": [ladder_row(row) for row in rows],
                "notes": [],
            },
        )
    )
    for epoch in range(1, 31):
        for seed in (0, 1):
            settled = 1 - math.exp(-epoch / (8 + seed))
            report = {
                "sparsity": 0.5,
                "sad_step": {"normalised": 0.05 * (1 - settled)},
                "sad_anchored": {"normalised": 0.4 * settled},
            }
            run.log(
                f"sparse, seed {seed}",
                22 * epoch,
                report,
                loss=2.3 * math.exp(-epoch / 6) + 0.02 * seed + 0.03,
                accuracy=0.99 - 0.5 * math.exp(-epoch / 3),
            )
    return run


def large_run(folder, layers=1000):
    """Write a run of a model of many layers, with everything else that a run has."""
    run = small_run(folder)
    rows = [
        verdict(
            f"encoder.layers.{at // 8}.blocks.{at % 8}.attention.self.query_key_value.weight",
            status="dense-by-plan" if at % 17 == 0 else "holds",
            shape=(768, 768) if at % 3 else (256, 128, 3, 3),
            zero_share=0.5 + 0.1 * math.sin(at / 40),
        )
        for at in range(layers)
    ]
    run.write(
        StageRecord(
            "verify",
            "verify",
            "done",
            f"{layers} weights",
            "nm2trt verify big.onnx",
            3.0,
            result={"model": "big.onnx", "weights": rows},
        )
    )
    run.write(
        StageRecord(
            "build",
            "build",
            "done",
            "",
            "",
            9.0,
            result={"model": "big.onnx", "engine": "big.rtx", "ladder": [ladder_row(row) for row in rows]},
        )
    )
    run.write(
        StageRecord(
            "explain",
            "explain",
            result={"subject": "big.rtx", "reasons": [], "ladder": [ladder_row(row) for row in rows]},
        )
    )
    return run


def damage(path):
    """Cut a JSON file as a crash without atomic writes would."""
    text = path.read_text()
    path.write_text(text[: len(text) // 2])


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
