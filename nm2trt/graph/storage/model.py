"""An open ONNX model: the parsed protobuf, its path and folder, and the facts that were found of it so far.

The protobuf itself is kept, not a translation of it, so that whatever stands in a file (sparse
initializers, quantization annotations, training information, functions, metadata) survives a round trip.
External data stays where it is. A stage takes an open model and hands it on, so that a command parses its
file once and reads the weights only as often as they change.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nm2trt.errors import InputError, ModelError
from nm2trt.files import check_input
from nm2trt.graph.storage.light_onnx import TensorProto, onnx
from nm2trt.graph.storage.protobuf_stream import referring

_Fact = TypeVar("_Fact")
# Inode, bytes and nanoseconds of the last change: they tell whether a file is still the one that was read.
_Stamp = tuple[int, int, int]


@dataclass(slots=True, eq=False)
class Model:
    """A model, the folder of its external data, and the facts that were found of it.

    Args:
        proto: The model; tensors with external data hold only their location.
        path: Where it was read from, or None.
        root: Folder below which its external data is read, or None.
        changed: Whether `proto` differs from the file at `path`.
        facts: Facts about `proto`, by the question that they answer; see `once`.
        digests: SHA-256 of files that the model reads.
        stamps: The files that the model reads, as they were when it was opened; see `check_unchanged`.
        outside: Names of the tensors that a pass took into memory and that belong in the data file.
        called: What messages call it, e.g. the file that a temporary copy was made from; "" for its path.
    """

    proto: onnx.ModelProto
    path: Path | None
    root: Path | None
    changed: bool = False
    facts: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    digests: dict[Path, str] = field(default_factory=dict, repr=False)
    stamps: Mapping[Path, _Stamp] = field(default_factory=dict, repr=False)
    outside: set[str] = field(default_factory=set, repr=False)
    called: str = ""

    @property
    def name(self) -> str:
        """What to call it in messages: the path unless `called` says otherwise."""
        if self.called:
            return self.called
        return str(self.path) if self.path is not None else "the model"

    @property
    def file(self) -> Path | None:
        """The file that holds the model as it is now, or None if it is only in memory."""
        return None if self.changed else self.path

    def once(self, question: Hashable, find: Callable[[], _Fact]) -> _Fact:
        """Return a fact about the model, found at the first call and remembered until the model changes."""
        if question not in self.facts:
            self.facts[question] = find()
        found: _Fact = self.facts[question]
        return found

    def touch(self) -> None:
        """Say that the protobuf was changed: what was found of it no longer holds."""
        self.changed = True
        self.facts.clear()

    def check_unchanged(self) -> None:
        """Raise if a file that the model reads was replaced or written to since it was opened.

        Weights are read at the places that the file named then; in another file they would be other numbers.

        Raises:
            InputError: One was.
        """
        for path, stamp in self.stamps.items():
            try:
                same = _stamp(path.stat()) == stamp
            except OSError:
                same = False
            if not same:
                raise InputError(
                    f"{path} was changed while it was being read; run the command again when nothing "
                    "writes to it"
                )

    def refers_to_itself(self, tensor: TensorProto) -> bool:
        """Tell whether the numbers of a tensor were left in the model's own file."""
        if self.path is None or tensor.data_location != TensorProto.EXTERNAL:
            return False
        name = self.path.resolve().name
        return any(entry.key == "location" and entry.value == name for entry in tensor.external_data)

    def stores_apart(self, tensor: TensorProto) -> bool:
        """Tell whether the numbers of a tensor lie in a data file."""
        return tensor.data_location == TensorProto.EXTERNAL and not self.refers_to_itself(tensor)


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | Model,
    *,
    external_data_root: str | os.PathLike[str] | None = None,
    leave_weights: bool = False,
) -> Model:
    """Read a model, unless it is open already; external data is not read.

    Args:
        source: A path, the bytes of a file, a protobuf, or an open model, which is returned as it is.
        leave_weights: Leave large weights in the file too; they then look like external data of it. For
            reading only.
        external_data_root: Folder of the external data; by default the folder of the real file behind
            `source`.

    Raises:
        InputError: The path is missing, a folder, empty, or may not be read.
        ModelError: The content is not an ONNX model.
    """
    if isinstance(source, Model):
        return source
    root = None if external_data_root is None else Path(external_data_root).resolve()
    if root is not None and not root.is_dir():
        raise InputError(
            f"{external_data_root} is not a folder; give the folder that holds the external data"
        )
    if isinstance(source, onnx.ModelProto):
        return Model(source, None, root)
    if isinstance(source, bytes):
        return Model(_parse(source, "the model"), None, root)
    path = check_input(source, "an ONNX model")
    try:
        own = _stamp(path.stat())
        data = _referring(path.resolve()) if leave_weights and root is None else None
        data = path.read_bytes() if data is None else data
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    model = Model(_parse(data, str(path)), path, root or path.resolve().parent)
    model.stamps = {**_data_stamps(model), path: own}
    return model


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _data_stamps(model: Model) -> dict[Path, _Stamp]:
    """Return the stamps of the data files; one that is missing is found when a weight is read from it."""
    names = {
        entry.value
        for tensor in model.proto.graph.initializer
        if model.stores_apart(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    stamps = {}
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            path = (model.root or Path()) / name
            stamps[path] = _stamp(path.stat())
    return stamps


def _referring(path: Path) -> bytes | None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            return referring(view, path.name)
        finally:
            view.release()


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's own exception differs between its implementations
        from nm2trt.backends.choice import engine_kind

        if engine_kind(data) is not None:
            raise ModelError(f"{name} is an engine, not an ONNX model; nm2trt info shows it") from error
        raise ModelError(f"{name} is not an ONNX model, or it is truncated") from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{name} is not an ONNX model: it has no graph or no opset")
    try:
        _read_names(proto.graph)
        for function in proto.functions:
            _read_nodes(function.node)
    except (UnicodeDecodeError, TypeError) as error:
        raise ModelError(f"{name} is not a sound ONNX model: a name in it is not UTF-8 text") from error
    return proto


def _read_names(graph: onnx.GraphProto) -> None:
    """Touch every name, so that bytes that are not text are found here and not half-way through a pass.

    Joining names is the quickest way to refuse bytes.
    """
    _read_nodes(graph.node)
    "".join(stored.name for stored in (*graph.initializer, *graph.input, *graph.output, *graph.value_info))


def _read_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        names = (node.name, node.op_type, node.domain, *node.input, *node.output)
        "".join((*names, *(attribute.name for attribute in node.attribute)))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _read_names(attribute.g)
            for graph in attribute.graphs:
                _read_names(graph)


def serialized(model: Model) -> bytes:
    """Return the protobuf as bytes; external data, and weights that were left in the file, are not in it.

    Raises:
        ModelError: It is larger than 2 GiB, which no protobuf may be.
    """
    try:
        return bytes(model.proto.SerializeToString())
    except Exception as error:  # protobuf's own exception differs between its implementations
        raise ModelError(f"{model.name} is larger than 2 GiB in memory; run the stages one by one") from error


def metadata(proto: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata entries."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def set_metadata(proto: onnx.ModelProto, entries: dict[str, str]) -> None:
    """Set metadata entries; others stay as they are."""
    missing = dict(entries)
    for entry in proto.metadata_props:
        if entry.key in missing:
            entry.value = missing.pop(entry.key)
    for key, value in missing.items():
        proto.metadata_props.add(key=key, value=value)


def opset(proto: onnx.ModelProto) -> int | None:
    """Return the version of ONNX's own operators, or None."""
    own = ("", "ai.onnx")
    return next((int(entry.version) for entry in proto.opset_import if entry.domain in own), None)
