"""Writing an exported model, with its weights inside or in a file beside it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from nm2trt.file_replacement import copy_rights, create, rights_of
from nm2trt.locks import OutputLock

# Protobuf cannot hold 2 GiB; the graph itself needs some of it.
_EMBEDDED_LIMIT_BYTES = (1 << 31) - (1 << 25)


@contextlib.contextmanager
def saved(
    model: Any, temporary: Path, target: Path, lock: OutputLock, *, external: bool | None
) -> Iterator[Path | None]:
    """Save `model` to `temporary`; the lock removes the data file beside it if the model is not written.

    Args:
        model: An onnx_ir model.
        temporary: Where the ONNX file is written.
        target: The name that it will take.
        lock: The lock of the target.
        external: Whether the weights go to a data file; None decides by size.

    Yields:
        The data file, or None when the weights are inside.
    """
    _remove_unfinished(target)
    tensors = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    if external is None:
        external = sum(tensor.nbytes for tensor in tensors) > _EMBEDDED_LIMIT_BYTES
    if not external:
        onnx_ir.save(model, temporary)
        yield None
        return
    data_path = _unused_data_path(target)
    lock.will_write(data_path)
    rights = create(data_path, rights_of(*own_data_files(target), target))
    onnx_ir.save(model, temporary, external_data=data_path.name)
    copy_rights(data_path, rights)
    # onnx_ir leaves small tensors inside; a model of only those has no data file.
    if not data_path.stat().st_size:
        data_path.unlink()
    yield data_path if data_path.exists() else None


def _remove_unfinished(target: Path) -> None:
    """Remove the folders in which killed exports left weights; the lock says that nobody works in them.

    onnx_ir writes a data file in a folder that `tempfile.mkdtemp` names after it.
    """
    own = re.compile(rf"\.({re.escape(target.name)}(\.[0-9a-f]+)?\.data)\.[a-z0-9_]{{8}}")
    for folder in target.parent.iterdir():
        found = own.fullmatch(folder.name)
        if found and folder.is_dir() and not folder.is_symlink():
            with contextlib.suppress(OSError):  # not empty: it holds more than such a file
                (folder / found[1]).unlink(missing_ok=True)
                folder.rmdir()


def _unused_data_path(target: Path) -> Path:
    # Until the new model has its name, the old one needs its data: never write into a file in use.
    candidate, number = target.with_name(f"{target.name}.data"), 1
    while candidate.exists():
        candidate, number = target.with_name(f"{target.name}.{number}.data"), number + 1
    return candidate


def own_data_files(target: Path) -> list[Path]:
    """Return the data files that the model now at `target` reads and that only `saved` can have named."""
    try:
        model = onnx.load(str(target), load_external_data=False)
    except Exception:  # whatever stands there is replaced, and nothing of it is removed
        return []
    ours = re.compile(rf"{re.escape(target.name)}(\.[0-9a-f]+)?\.data")
    locations = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location" and ours.fullmatch(entry.value)
    }
    return [target.with_name(location) for location in sorted(locations)]
