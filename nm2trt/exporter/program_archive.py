"""Code in a `.pt2` archive that PyTorch could run on opening; such archives are refused before they are.

`torch.export.load` unpickles without restriction if the archive says so, evaluates shape expressions, and
resolves any name below `torch` to a function that the program then calls. An archive passes here only if

- every weight and constant is stored as raw numbers, and the sample inputs load with `weights_only=True`;
- every call is an ATen operator, or arithmetic on sizes;
- every shape expression is arithmetic over names of sizes;
- arguments and results are arranged in tuples, lists and dicts: other arrangements name modules to import.

Its members hold no more bytes than the file itself: PyTorch compresses none.

What passes is copied into a new archive, member by member, and the copy is what PyTorch opens: two readers of
ZIP need not see the same members in one file.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import torch

from nm2trt.errors import ModelError

_LARGEST_TEXT = 1 << 28
_UNSOUND = (
    *(zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError),
    *(RecursionError, OSError, EOFError),
)

_WEIGHTS = re.compile(r"data/weights/weight_\d+")
_CONSTANTS = re.compile(r"data/constants/tensor_\d+")
_CONFIG = re.compile(r"data/(weights|constants)/[\w.\-]+_config\.json")
_MODEL = re.compile(r"models/[\w.\-]+\.json")
_SAMPLE = re.compile(r"data/sample_inputs/[\w.\-]+\.pt")
_INERT = re.compile(
    r"archive_format|archive_version|version|byteorder|\.data/(version|serialization_id)|\.format_version"
)

# aten::from_file maps, and may create, any file; aten::save writes one.
_OPERATOR = re.compile(r"torch\.ops\.aten\.(?!(?:from_file|save)\b)\w+\.\w+")
_SIZE_CALL = re.compile(
    r"_operator\.(add|sub|mul|floordiv|mod|neg|pos|truediv|pow|eq|ne|lt|le|gt|ge|getitem|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.sym_\w+"
)
_SYMBOL = re.compile(r"[a-z]{1,3}\d+")
_FUNCTIONS = frozenset(
    "Max Min Mod PythonMod FloorDiv CeilDiv ModularIndexing CleanDiv IntTrueDiv FloatTrueDiv TruncToInt "
    "FloorToInt CeilToInt RoundToInt ToFloat PowByNatural FloatPow Where Identity "
    "Eq Ne Lt Le Gt Ge And Or Not True False oo int_oo Add Mul Pow Integer Float Rational "
    "Symbol positive nonnegative integer precision".split()
)
_QUOTED = re.compile(r"'([a-z]{1,3}\d+|[\d.+\-e]+)'")
_WORD = re.compile(r"[^\W\d]\w*")
_ARITHMETIC = re.compile(r"[\w\s+\-*/(),<>=]*")
_ARRANGEMENTS = frozenset(
    {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
)


def copy_checked(file: IO[bytes], copy: IO[bytes], name: str) -> None:
    """Copy an archive, or refuse one that is unsound, or that could execute what it carries.

    Args:
        file: The archive.
        copy: Where the checked members are written; its position is left at the start.
        name: The archive's name in messages.

    Raises:
        ModelError: It is refused; the message names the member and the reason.
    """
    seen: set[str] = set()
    try:
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w", allowZip64=True) as checked:
            members = archive.infolist()
            if sum(info.file_size for info in members) > file.seek(0, io.SEEK_END):
                raise _unsafe(name, "its members unpack to more than the file holds")
            for info in members:
                if info.filename in seen:
                    raise _unsafe(name, f"it has two members {info.filename!r}")
                seen.add(info.filename)
                _copy_member(archive, info, checked, name)
    except _UNSOUND as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{name} is not a sound .pt2 archive; write it with torch.export.save") from error
    copy.seek(0)


def _copy_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, checked: zipfile.ZipFile, name: str
) -> None:
    # All members lie below one folder, whose name is the file's when it was written.
    folder, _, inner = info.filename.partition("/")
    numbers = _WEIGHTS.fullmatch(inner) or _CONSTANTS.fullmatch(inner)
    with archive.open(info) as source:
        if numbers:
            with checked.open(f"{folder}/{inner}", "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            return
        if info.file_size > _LARGEST_TEXT:
            raise _unsafe(name, f"its member {info.filename!r} is larger than {_LARGEST_TEXT >> 20} MB")
        data = source.read()
    if not _INERT.fullmatch(inner):
        _check_member(data, inner, info.filename, name)
    checked.writestr(f"{folder}/{inner}", data)


def _check_member(data: bytes, inner: str, member: str, name: str) -> None:
    if _CONFIG.fullmatch(inner):
        for key, payload in json.loads(data).get("config", {}).items():
            if payload.get("use_pickle") is not False:
                raise _unsafe(name, f"{key!r} is pickled")
            if not re.fullmatch(r"(weight|tensor)_\d+", str(payload.get("path_name"))):
                raise _unsafe(name, f"{key!r} is a Python object, not a tensor")
    elif _MODEL.fullmatch(inner):
        _check_program(json.loads(data), name)
    elif _SAMPLE.fullmatch(inner):
        try:
            torch.load(io.BytesIO(data), weights_only=True)
        except Exception as error:
            raise _unsafe(name, "its sample inputs are Python objects beyond plain tensors") from error
    else:
        raise _unsafe(name, f"it has a member {member!r} that no plain exported program has")


def _check_program(program: Any, name: str) -> None:
    for key, value in _pairs(program):
        if not isinstance(value, str):
            continue
        if key == "target" and not (_OPERATOR.fullmatch(value) or _SIZE_CALL.fullmatch(value)):
            raise _unsafe(name, f"it calls {value!r}, which is not an ATen operator")
        if key == "expr_str" and not _is_arithmetic(value):
            raise _unsafe(name, f"its size {value[:40]!r} is not plain arithmetic")
        if key in ("in_spec", "out_spec") and value and not _is_plain(json.loads(value)[1]):
            raise _unsafe(name, "its inputs or outputs are Python classes")


def _is_arithmetic(text: str) -> bool:
    text = _QUOTED.sub(r" \1 ", text)
    words = _WORD.findall(text)
    return _ARITHMETIC.fullmatch(text) is not None and all(
        word in _FUNCTIONS or _SYMBOL.fullmatch(word) for word in words
    )


def _is_plain(arrangement: Any) -> bool:
    """Tell tuples, lists and dicts with texts or numbers for keys from what names a module to import."""
    keys = arrangement["context"]
    keys = json.loads(keys) if isinstance(keys, str) else keys
    return (
        arrangement["type"] in _ARRANGEMENTS
        and (keys is None or all(isinstance(key, str | int) for key in keys))
        and all(map(_is_plain, arrangement["children_spec"]))
    )


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)


def _unsafe(name: str, why: str) -> ModelError:
    return ModelError(
        f"{name} is not opened: {why}, and opening it could run code; export the model to ONNX instead"
    )
