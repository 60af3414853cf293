"""The engine inspector's JSON, as `get_engine_information` or `trtexec --exportLayerInfo` write it.

| version    | tensors of the engine | a layer's tensors                         | kernel          |
|------------|-----------------------|-------------------------------------------|-----------------|
| 8.6 to 10  | `Bindings`, names     | `Format/Datatype` in one text             | `TacticName`    |
| 11         | `I/O Tensors`, records| `Format` and `DataType` apart             | `TacticName`    |

Sources: NVIDIA/TensorRT issues 4020 and 4056; the migration guide from TensorRT 10 to 11. Read are the keys
that all versions share. An engine built without detailed verbosity lists only names, which prove nothing.
"""

from __future__ import annotations

import json
from typing import Any

from nm2trt.engine.evidence.build_log import knows, unknown_version
from nm2trt.engine.evidence.evidence import Evidence, LayerRecord
from nm2trt.engine.evidence.layer_names import is_of_a_later_profile, onnx_nodes
from nm2trt.errors import InputError

NAMES_ONLY = (
    "the engine was built without detailed profiling verbosity: its layers have names and no kernels; "
    "build it with nm2trt build, or trtexec --profilingVerbosity=detailed"
)
_FIRST_ONLY = (
    "the engine has kernels for each profile; those of the first are looked at, and may differ from others"
)


def parse_layer_information(text: str, *, builder: str = "trt", version: str = "") -> Evidence:
    """Read the inspector's JSON.

    Args:
        text: The JSON.
        builder: "trt" or "trt-rtx".
        version: The library's version; "" tells it by the JSON's own keys.

    Raises:
        InputError: The text is no JSON of the inspector.
    """
    data = _decoded(text)
    generation = "11" if "I/O Tensors" in data else "10" if "Bindings" in data else ""
    if not knows(builder, version or ("1" if generation and builder == "trt-rtx" else generation)):
        sentence = unknown_version("the inspector's output", builder, version)
        return Evidence(notes=(sentence,))
    layers = [_layer(item) for item in data["Layers"]]
    named = [layer for layer in layers if layer is not None]
    if len(named) < len(layers) or not any(layer.kind or layer.tactic for layer in named):
        return Evidence(tuple(named), notes=(NAMES_ONLY,))
    first = tuple(layer for layer in named if not is_of_a_later_profile(layer.name))
    return Evidence(first, notes=(_FIRST_ONLY,) if len(first) < len(named) else ())


def _decoded(text: str) -> dict[str, Any]:
    try:
        # TensorRT 8.6 parts the names in "Metadata" by a bare control character, which strict JSON forbids.
        data = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise InputError(
            "the layer information is not JSON; give what trtexec --exportLayerInfo or the inspector wrote"
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("Layers"), list):
        raise InputError(
            "the layer information has no list of Layers; give what trtexec --exportLayerInfo or the engine "
            "inspector wrote"
        )
    return data


def _layer(item: Any) -> LayerRecord | None:
    """Return one layer's record; None for one that is a name and nothing else."""
    if not isinstance(item, dict):
        return None
    name = _text(item, "Name")
    sparse = item.get("HasSparseWeights")
    return LayerRecord(
        name,
        _text(item, "LayerType"),
        onnx_nodes(name, _text(item, "Metadata")),
        _text(item, "TacticName"),
        None if sparse is None else bool(sparse),
    )


def _text(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    return value if isinstance(value, str) else ""
