"""Names of an engine's layers, taken back to ONNX nodes through fusions.

| layer's name                        | nodes                                                             |
|-------------------------------------|-------------------------------------------------------------------|
| `Conv_1 + Add_2 + Relu_3`           | each part                                                         |
| `q_proj || k_proj`                  | each part; they are run side by side as one                       |
| `PWN(PWN(relu_1), add_1)`           | what stands inside                                                |
| `{ForeignNode[a...b]}`              | a, b, and an unknown number between: a region that Myelin compiles |
| `conv0_myl0_1`                      | conv0                                                             |
| `conv0 [profile 1]`                 | conv0; TensorRT 8 has a layer for each profile, the first unmarked |
| `__myl_FcAdd_myl0_3`, `Reformat...` | none                                                              |

Where the layer has metadata, `[ONNX Layer: name]` for each node, that is taken instead. A node without a
name is called `node_of_` and its first output by the parser (seen in TensorRT for RTX 1.7.1.116).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_METADATA = "[ONNX Layer: "
# No builder nests point-wise kernels deeper; a text that does is not a log.
_DEEPEST = 64
_REGION = re.compile(r"\{ForeignNode\[(.*)\.\.\.(.*)\]\}", re.DOTALL)
# As NVIDIA's trt-engine-explorer and Polygraphy's example of an engine with two profiles have it.
_PROFILE = re.compile(r" \[profile \d{1,4}\]")
_MYELIN_SUFFIX = re.compile(r"_myl\d+_\d+$")
_NO_NODES = re.compile(
    r"(Reformatting CopyNode|reformatt?ed? |__my[el]|\(Unnamed Layer\*|copied_squeeze)", re.I
)


def onnx_nodes(name: str, metadata: str = "") -> tuple[str, ...]:
    """Return the ONNX nodes that a layer runs, as far as its metadata, else its name, tells."""
    # Each entry ends at its last bracket: names may have brackets of their own.
    parts = metadata.split(_METADATA)[1:]
    named = [part[: part.rfind("]")] for part in parts if "]" in part]
    if named:
        return tuple(dict.fromkeys(named))
    return tuple(dict.fromkeys(_from_name(_PROFILE.sub("", name).strip())))


def is_of_a_later_profile(name: str) -> bool:
    """Tell whether a layer is of another profile than the first, the only one that is timed."""
    return _PROFILE.search(name) is not None


def is_region(name: str) -> bool:
    """Tell whether a name stands for a region of nodes, of which it names only the first and the last."""
    return name.startswith("{ForeignNode[") and name.endswith("]}")


def split_list(text: str) -> tuple[str, ...]:
    """Split the builder's list of layers at its commas, but not at those inside brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return tuple(part.strip() for part in parts if part.strip())


def _from_name(name: str) -> Iterable[str]:
    region = _REGION.fullmatch(name) if is_region(name) else None
    if region:
        return [part for part in region.groups() if part]
    for separator in (" || ", " + "):
        if separator in name:
            return [node for part in name.split(separator) for node in _from_name(part.strip())]
    inside = re.fullmatch(r"PWN\((.*)\)", name, re.DOTALL)
    if inside and name.count("PWN(") <= _DEEPEST:
        return [node for part in split_list(inside[1]) for node in _from_name(part)]
    if not name or _NO_NODES.match(name):
        return []
    return [_MYELIN_SUFFIX.sub("", name)]
