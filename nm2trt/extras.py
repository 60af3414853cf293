"""Extras: which optional library comes with which extra, and the sentence that says how to install it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nm2trt.errors import BackendMissingError, first_line
from nm2trt.terminal_text import shell_word

# Module -> its name for people, and the extra of setup.cfg that it comes with.
_EXTRAS = {
    "torch": ("PyTorch", "torch"),
    "onnxscript": ("onnxscript", "torch"),
    "onnx_ir": ("onnx-ir", "torch"),
    "safetensors": ("safetensors", "torch"),
    "onnxruntime": ("ONNX Runtime", "ort"),
    "tensorrt": ("TensorRT", "trt"),
    "tensorrt_rtx": ("TensorRT for RTX", "rtx"),
    "pydantic": ("pydantic", "recipes"),
    "pydantic_core": ("pydantic", "recipes"),
    "yaml": ("PyYAML", "recipes"),
    "PIL": ("Pillow", "recipes"),
    "jinja2": ("jinja2", "recipes"),
    "matplotlib": ("matplotlib", "report"),
    "tritonclient": ("tritonclient", "serving"),
    "jiwer": ("jiwer", "metrics"),
    "pycocotools": ("pycocotools", "metrics"),
    "polygraphy": ("Polygraphy", "metrics"),
}


def install_line(extra: str) -> str:
    """Return the line that installs an extra from where nm2trt came from: a clone, a wheel, or an address.

    The quotes are for shells in which brackets are a pattern.
    """
    tree = Path(__file__).resolve().parents[1]
    if (tree / "setup.cfg").is_file():
        return f"pip install -e {shell_word(f'{tree}[{extra}]')}"
    source = _source()
    return f"pip install {shell_word(f'nm2trt[{extra}] @ {source}' if source else f'nm2trt[{extra}]')}"


def _source() -> str:
    """Return the address that nm2trt was installed from; "" for an index, or if the file has gone."""
    # Only here: the command line imports this module, and its help must answer at once.
    import importlib.metadata
    import json
    from urllib.parse import unquote, urlsplit

    try:
        record = importlib.metadata.distribution("nm2trt").read_text("direct_url.json")
        told = json.loads(record or "{}")
        url, system = str(told.get("url", "")), told.get("vcs_info", {})
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        return ""
    if url.startswith("file://"):
        return url if Path(unquote(urlsplit(url).path)).exists() else ""
    return f"{system['vcs']}+{url}@{system['commit_id']}" if {"vcs", "commit_id"} <= set(system) else url


def missing(error: ImportError, module: str = "") -> BackendMissingError | None:
    """Return the error to raise for an optional library that is missing or broken; None for any other module.

    Args:
        error: What the import raised.
        module: The library that was imported, if the error names none: it may lack a library of its own.
    """
    named = (error.name or "").partition(".")[0]
    if named in _EXTRAS:
        module = named
    if module not in _EXTRAS:
        return None
    name, extra = _EXTRAS[module]
    absent = isinstance(error, ModuleNotFoundError) and named == module
    why = "is not installed" if absent else f"does not load ({first_line(error)})"
    return BackendMissingError(f"{name} {why}: {install_line(extra)}")


@contextlib.contextmanager
def names_the_extra(module: str = "") -> Iterator[None]:
    """Let a block, or as `@names_the_extra()` a function, name the extra of a library that it cannot import.

    Args:
        module: As `missing` takes it.

    Raises:
        BackendMissingError: An optional library is missing or broken.
    """
    try:
        yield
    except (ImportError, RuntimeError) as error:
        # tritonclient raises a RuntimeError from what it could not import.
        reason = error if isinstance(error, ImportError) else error.__cause__
        found = missing(reason, module) if isinstance(reason, ImportError) else None
        if found is None:
            raise
        raise found from error
