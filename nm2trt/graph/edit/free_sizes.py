"""Free sizes of a model's inputs whose name says nothing, such as the "?" of paddle2onnx."""

from __future__ import annotations

from nm2trt.graph.storage.model import Model

# Words for "any size", beside names without a letter or digit.
_ANY = frozenset({"-1", "none", "null", "unk", "unknown", "dynamic"})


def untie_free_sizes(model: Model) -> bool:
    """Take the name off every free size that is called "?" or the like.

    TensorRT takes sizes of one name as equal. An exporter that calls every free size "?" would tie the height
    to the width and to the batch: a profile in which they differ is refused, or its engine later refuses the
    shapes. An empty name, which TensorRT's parser takes for a size of 0, goes too.

    Args:
        model: An open model, which is changed.

    Returns:
        Whether a name was taken off, which is only done if two sizes of the inputs share it, or it is empty.
    """
    graph = model.proto.graph
    dims = [
        dim
        for value in graph.input
        for dim in value.type.tensor_type.shape.dim
        if dim.HasField("dim_param") and _says_nothing(dim.dim_param)
    ]
    names = [dim.dim_param for dim in dims]
    shared = {name for name in names if names.count(name) > 1 or not name}
    if not shared:
        return False
    model.touch()
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param") and dim.dim_param in shared:
                dim.ClearField("dim_param")
    return True


def _says_nothing(name: str) -> bool:
    return name.casefold() in _ANY or not any(letter.isalnum() for letter in name)
