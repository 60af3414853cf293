"""Inspection of an engine file: its header, and whether its manifest and this machine fit it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nm2trt.backends import ort, trt, trt_rtx
from nm2trt.backends.choice import BACKENDS, PRODUCTS, identify
from nm2trt.backends.cuda import probe_gpus
from nm2trt.engine.machine import library_version
from nm2trt.errors import InputError
from nm2trt.figures import size
from nm2trt.files import check_input
from nm2trt.manifest import Fit, Manifest, read_manifest
from nm2trt.tables.result import Result
from nm2trt.tables.table import Table, small_table

_KINDS = {"trt": trt.KIND, "trt-rtx": trt_rtx.KIND, "ort": ort.KIND}

Header = trt.EngineHeader | trt_rtx.PlanHeader


@dataclass(frozen=True, slots=True, repr=False)
class EngineInfo(Result):
    """An engine, from outside: nothing is loaded into a runtime.

    Args:
        path: The file.
        backend: The backend that it is for, e.g. "trt-rtx".
        product: That library's name.
        kind: What it is and where it runs.
        file_bytes: Its size.
        header: What its first bytes say; None for a kind whose header says nothing.
        fit: What its manifest says, and whether the two belong together.
        here: What speaks against loading it on this machine, in a sentence.
        family: Tells it apart from `nm2trt.graph.storage.model_info.OnnxInfo`.
    """

    json_names = "path backend kind file_bytes header here **fit"

    path: Path
    backend: str
    product: str
    kind: str
    file_bytes: int
    header: Header | None
    fit: Fit
    here: str
    family: Literal["engine"] = "engine"

    def tables(self) -> tuple[Table, ...]:
        """Return what the header and the manifest say, and whether the engine runs here."""
        header = {} if self.header is None else self.header.to_json()
        manifest = self.fit.manifest
        rows = [("size", size(self.file_bytes)), ("sha256", self.fit.engine_sha256)]
        if header:
            rows.append(("built by", f"{self.product} {header['version'] or 'of an unknown version'}"))
        if header.get("targets"):
            rows.append(("runs on", ", ".join(header["targets"])))
            rows.append(("weights", size(header["weights_bytes"] or 0)))
        elif header and not (header.get("version") and self.backend == "trt"):
            rows.append(("header", "the layout of this version is unknown; nothing more is read from it"))
        if manifest is not None and manifest.device:
            rows.append(("built on", manifest.device))
        rows += [("here", self.here), ("manifest", self.fit.sentence)]
        if manifest is not None:
            rows += _manifest_rows(manifest)
        return (small_table(("", ""), rows, f"{self.path}: {self.kind}"),)


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


def is_engine(path: Path) -> bool:
    """Tell whether a file's first bytes are those of an engine that `inspect_engine` reads.

    Raises:
        InputError: The file is missing, a folder, empty, or may not be read.
    """
    return identify(check_input(path, "an engine or ONNX model")) is not None


def inspect_engine(path: Path) -> EngineInfo:
    """Read an engine's header and manifest; no library is loaded, so a damaged file cannot end the process.

    Raises:
        InputError: The file is not an engine, is damaged or cut short, or its manifest is damaged.
    """
    backend = identify(path)
    if backend is None:
        raise InputError(
            f"{path} is not an engine that nm2trt can read; for an ONNX model, use nm2trt verify"
        )
    header: Header | None = None
    if backend != "ort":
        header = trt.read_header(path) if backend == "trt" else trt_rtx.read_header(path)
    try:
        fit = read_manifest(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return EngineInfo(
        path,
        backend,
        PRODUCTS[backend],
        _KINDS[backend],
        path.stat().st_size,
        header,
        fit,
        _here(backend, header, fit),
    )


def _here(backend: str, header: Header | None, fit: Fit) -> str:
    """Compare version and architecture with this machine's; what only loading can tell is not claimed."""
    product = PRODUCTS[backend]
    if importlib.util.find_spec(BACKENDS[backend][1]) is None:
        return f"{product} is not installed"
    installed = library_version(backend)
    if not installed:
        return f"{product} is here, and its package does not tell its version"
    if header is None:
        return f"{product} {installed} is here and runs it on the CPU"
    built = header.version or "an unknown version"
    # The package may have been packed again: 8.6.1.post1 holds the library 8.6.1.6.
    if not f"{built}.".startswith(f"{installed.partition('.post')[0]}."):
        return f"built by {product} {built}, here is {installed}: build it again with this version"
    gpus, driver = probe_gpus()
    if not gpus:
        return f"no GPU to load it: {driver}"
    targets = fit.manifest.targets if fit.manifest is not None else getattr(header, "targets", None) or ()
    if targets and gpus[0].target not in targets:
        return f"built for {', '.join(targets)}, the GPU here is {gpus[0].target}: build it again for that"
    return f"version and GPU ({gpus[0].name}, {gpus[0].target}) are those that it was built for"
