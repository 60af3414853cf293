"""`nm2trt info`: what an engine or ONNX file is, and whether an engine's manifest fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import plain_table, print_json, say
from nm2trt.options.models import InfoCommand

if TYPE_CHECKING:
    from nm2trt.engine.inspection import EngineInfo
    from nm2trt.graph.storage.model_info import OnnxInfo
    from nm2trt.manifest import Manifest

__all__ = ["OPTIONS", "run"]

OPTIONS = InfoCommand


def run(options: InfoCommand) -> int:
    """Print what the file is."""
    from nm2trt.pipeline.info import info

    result = info(options.file)
    if options.json:
        print_json(result.to_json())
    elif result.family == "engine":
        _print_engine(result)
    else:
        _print_model(result)
    return 0


def _print_model(model: OnnxInfo) -> None:
    say(f"{model.path}: ONNX model, opset {model.opset}")
    rows = [("size", f"{model.file_bytes / 1e6:.2f} MB"), ("nodes", str(model.nodes))]
    if model.producer:
        rows.append(("written by", model.producer))
    for title, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            shape = "?" if tensor.shape is None else "x".join(str(size or "?") for size in tensor.shape)
            rows.append((title, f"{tensor.name}: {tensor.dtype or 'no tensor'} {shape}"))
    if model.plan is None:
        rows.append(("plan", "none; nm2trt verify judges every weight against 2:4"))
    else:
        sparse = len(model.plan.sparse)
        method = model.plan.method or "unknown method"
        rows.append(
            ("plan", f"{sparse} weights sparse, {len(model.plan) - sparse} dense on purpose ({method})")
        )
        rows.append(("masks", model.mask_sha256 or "not recorded"))
    plain_table(("", ""), rows)


def _print_engine(engine: EngineInfo) -> None:
    say(f"{engine.path}: {engine.kind}")
    header = {} if engine.header is None else engine.header.to_json()
    manifest = engine.fit.manifest
    rows = [("size", f"{engine.file_bytes / 1e6:.2f} MB"), ("sha256", engine.fit.engine_sha256)]
    if header:
        rows.append(("built by", f"{engine.product} {header['version'] or 'of an unknown version'}"))
    if header.get("targets"):
        rows.append(("runs on", ", ".join(header["targets"])))
        rows.append(("weights", f"{(header['weights_bytes'] or 0) / 1e6:.2f} MB"))
    elif header and not (header.get("version") and engine.backend == "trt"):
        rows.append(("header", "its layout is not known for this version; nothing more is read from it"))
    if manifest is not None and manifest.device:
        rows.append(("built on", manifest.device))
    rows += [("here", engine.here), ("manifest", engine.fit.sentence)]
    if manifest is not None:
        rows += _manifest_rows(manifest)
    plain_table(("", ""), rows)


def _manifest_rows(manifest: Manifest) -> list[tuple[str, str]]:
    profiles = [
        f"{shapes['input']}: "
        + ", ".join("x".join(str(size) for size in shapes[end]) for end in ("min", "opt", "max"))
        for profile in manifest.options.get("profiles", ())
        for shapes in profile
    ]
    holding = sum(row.get("pattern", {}).get("answer") == "yes" for row in manifest.ladder)
    sparsity = manifest.options.get("sparsity", "not recorded")
    rows = [
        ("model", f"{manifest.model} (sha256 {manifest.model_sha256[:16]}…)"),
        ("sparsity", f"{sparsity}; {holding} of {len(manifest.ladder)} weights hold 2:4"),
        *(("profile", profile) for profile in profiles),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("created", manifest.created),
    ]
    return rows + [("note", note) for note in manifest.notes]
