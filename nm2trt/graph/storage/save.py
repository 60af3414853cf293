"""Write a model: weights in memory, weights made while they are written, weights copied by the kernel.

External data that did not change goes from file to file without passing through the process. The data
file is written first, under a name that nothing uses yet; then the model is renamed into place. So at
every instant the model on disk, old or new, finds the data that it names.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from nm2trt.errors import InputError, Nm2trtError
from nm2trt.file_replacement import rights_of
from nm2trt.files import check_output, real_output
from nm2trt.graph.storage.element_types import ELEMENT_TYPES, ElementType, element_type
from nm2trt.graph.storage.external_data import (
    Chunks,
    Placed,
    clear_values,
    in_memory,
    lay_out,
    point_to,
    write_data,
)
from nm2trt.graph.storage.light_onnx import TensorProto, onnx
from nm2trt.graph.storage.model import Model, load
from nm2trt.graph.storage.model_file import Rewrite, raw_bytes, stream_model, write_whole
from nm2trt.graph.storage.tensors import external_location, stored_at
from nm2trt.locks import output_lock

# A protobuf message ends at 2 GiB; some room is left for everything except tensors.
_MOST_INLINE_BYTES = (1 << 31) - (64 << 20)


def save(
    model: Model,
    target: str | os.PathLike[str],
    *,
    rewrites: Sequence[Rewrite] = (),
    external: Sequence[TensorProto] = (),
    finish: Callable[[Model], None] | None = None,
    most_inline_bytes: int = _MOST_INLINE_BYTES,
) -> None:
    """Write a model and its external data, if it has any, beside it: both, or neither.

    Args:
        model: The model. It is spent: its tensors' locations become those of the new data file, and
            large inline tensors are empty afterwards.
        target: The `.onnx` to write. An old one, and the data file that only it names, are replaced.
        rewrites: Tensors whose numbers change.
        external: Tensors with raw data in memory, or made by a rewrite, that should go into the data file.
        finish: Called with the model as it will be read back, its data file in place, before the model
            itself is written. It may change metadata; if it raises, nothing is written.
        most_inline_bytes: When more than this is stored inline, the largest initializers move to the
            data file, since no ONNX file may reach 2 GiB.

    Raises:
        ModelError: External data is missing or damaged, or the model without its weights is too large.
        OutputError: A file cannot be written.
        InputError: `target` is a data file of the model.
    """
    # Data lies beside the real file, where it is read too.
    real = real_output(check_output(target)).absolute()
    sources = refuse_data_file(model, real)
    with output_lock(real) as lock:
        own = model.path is not None and real.exists() and real.samefile(model.path)
        stale = _stale_data(real, keep=set() if own else sources)
        for path in stale:
            lock.will_write(path)
        placed, streamed = _place(model, rewrites, external, most_inline_bytes)
        if placed:
            data = _free_name(real)
            lock.will_write(data)
            write_data(data, placed, lock, like=rights_of(*stale, real))
            for item in placed:
                point_to(item, data.name)
        model.check_unchanged()
        if streamed:
            stream_model(model, real, streamed, finish)
            return
        if finish is not None:
            finish(Model(model.proto, None, real.parent.resolve()))
        write_whole(model, real)


def refuse_data_file(model: Model, target: str | os.PathLike[str]) -> set[Path]:
    """Return the model's data files; raise InputError when an output would replace one of them."""
    files = data_files(model)
    if Path(target).resolve() in files:
        raise InputError(f"{target} holds weights of {model.name}; give another output path")
    return files


def refuse_same_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Raise when the output would replace the input.

    Raises:
        InputError: Both paths are one file, through links too.
    """
    if is_same_file(source, target):
        raise InputError(f"the output {Path(target)} is the input; give another path with -o")


def is_same_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> bool:
    """Tell whether two paths are one file, through links too."""
    source, target = Path(source), Path(target)
    with contextlib.suppress(OSError):
        return source.resolve() == target.resolve() or (target.exists() and source.samefile(target))
    return False


def embed(model: Model, *, rewritten: Sequence[TensorProto] = ()) -> None:
    """Take in the weights that `load(..., leave_weights=True)` left in the model's own file.

    Args:
        model: The model.
        rewritten: Tensors that `save` rewrites anyway; they stay in the file until then.

    Raises:
        ModelError: The file has become shorter since.
        InputError: It was changed since.
    """
    skipped = {id(tensor) for tensor in rewritten}
    for tensor in list(all_tensors(model.proto)):
        if id(tensor) not in skipped and model.refers_to_itself(tensor):
            length, (path, offset) = stored_at(tensor, model.root)
            with path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, offset)
            clear_values(tensor)
            tensor.raw_data = data
    model.check_unchanged()


def all_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor that a model stores: in graphs, bodies, functions, attributes, training info."""
    graphs = [proto.graph]
    for training in proto.training_info:
        graphs += [training.initialization, training.algorithm]
    nodes = [node for function in proto.functions for node in function.node]
    defaults = [a for function in proto.functions for a in getattr(function, "attribute_proto", [])]
    while graphs or nodes or defaults:
        found = list(defaults)
        for node in nodes:
            found.extend(node.attribute)
        nodes, defaults = [], []
        for attribute in found:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for item in [*sparse, *attribute.sparse_tensors]:
                yield from (item.values, item.indices)
            graphs += [attribute.g] if attribute.HasField("g") else []
            graphs += attribute.graphs
        for graph in graphs:
            yield from graph.initializer
            for item in graph.sparse_initializer:
                yield from (item.values, item.indices)
            nodes.extend(graph.node)
        graphs = []


def _place(
    model: Model, rewrites: Sequence[Rewrite], external: Sequence[TensorProto], most_inline_bytes: int
) -> tuple[list[Placed], list[Rewrite]]:
    """Fill inline tensors, and lay out the data file.

    Returns:
        What goes into the data file, and what is made while the model itself is written.
    """
    changed = {id(rewrite.tensor): rewrite for rewrite in rewrites}
    wanted = {id(tensor) for tensor in external}
    # The wrappers are held, since `id` names an object only while it lives.
    tensors = list(all_tensors(model.proto))
    outside: list[tuple[TensorProto, int, tuple[Path, int] | Chunks]] = []
    inside_rewrites: list[Rewrite] = []
    for tensor in tensors:
        rewrite = changed.get(id(tensor))
        inside = rewrite is not None and model.refers_to_itself(tensor)
        if tensor.data_location == TensorProto.EXTERNAL and not inside:
            length, where = stored_at(tensor, model.root)
            outside.append((tensor, length, where if rewrite is None else rewrite.chunks))
        elif rewrite is not None and id(tensor) in wanted:
            outside.append((tensor, raw_bytes(tensor), rewrite.chunks))
        elif rewrite is not None:
            inside_rewrites.append(rewrite)
    streamed = [r for r in inside_rewrites if r.alone and model.refers_to_itself(r.tensor)]
    _fill(r for r in inside_rewrites if r not in streamed)
    inline = sum(map(inline_bytes, tensors)) + sum(raw_bytes(r.tensor) for r in streamed)
    if inline > most_inline_bytes:
        _fill(streamed)  # some of them move to the data file
        streamed = []
    movable = sorted(model.proto.graph.initializer, key=inline_bytes, reverse=True)
    for tensor in movable:
        size = inline_bytes(tensor)
        if size == 0 or (id(tensor) not in wanted and inline <= most_inline_bytes):
            continue
        if tensor.data_type != TensorProto.STRING:
            inline -= size
            outside.append((tensor, raw_bytes(tensor), in_memory(tensor, element_type(tensor))))
    # In the order of the model, so that writing what was written changes nothing.
    order = {id(tensor): position for position, tensor in enumerate(tensors)}
    return lay_out(sorted(outside, key=lambda item: order[id(item[0])])), streamed


def _fill(rewrites: Iterable[Rewrite]) -> None:
    for rewrite in rewrites:
        data = b"".join(rewrite.chunks())
        clear_values(rewrite.tensor)
        rewrite.tensor.raw_data = data


def inline_bytes(tensor: TensorProto) -> int:
    """Return about how many bytes of a model a tensor takes; 0 if its data lies outside."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return 0
    if tensor.HasField("raw_data"):
        # Reading the field would copy it; a damaged one is found when it is used.
        kind = ELEMENT_TYPES.get(tensor.data_type, ElementType("complex128", 128))
        return kind.raw_bytes(math.prod(tensor.dims))
    # A typed field spends up to ten bytes on an integer.
    fixed = 4 * len(tensor.float_data) + 8 * len(tensor.double_data) + sum(map(len, tensor.string_data))
    words = len(tensor.int32_data) + len(tensor.int64_data) + len(tensor.uint64_data)
    return int(fixed + 10 * words)


def data_locations(model: Model) -> dict[str, Path]:
    """Return the files of a model's external data, by the location that its tensors state.

    Raises:
        ModelError: A location is missing, or leaves the model's folder.
    """
    files: dict[str, Path] = {}
    for tensor in all_tensors(model.proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), None)
            if location is None or location not in files:  # to follow its links once is enough
                path = external_location(tensor, model.root)[0]
                files[str(location)] = path
    return files


def data_files(model: Model) -> set[Path]:
    """Return the files that hold the external data of a model."""
    return set(data_locations(model).values())


def _free_name(target: Path) -> Path:
    plain = target.with_name(f"{target.name}.data")
    if not os.path.lexists(plain):
        return plain
    return target.with_name(f"{target.name}.{os.urandom(4).hex()}.data")


def _stale_data(target: Path, *, keep: set[Path]) -> list[Path]:
    """List the data files that the model now at `target` names, and whose names say that they are its own."""
    own = re.compile(rf"{re.escape(target.name)}(\.[0-9a-f]+)?\.data")
    near = [path for path in target.parent.iterdir() if own.fullmatch(path.name)]
    if not near or not target.is_file():
        return []
    try:
        named = {path.resolve() for path in data_files(load(target, leave_weights=True))}
    except Nm2trtError:
        return []
    return [path for path in near if path.resolve() in named and path.resolve() not in keep]
