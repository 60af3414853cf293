"""Models and files in which every text that a stranger may choose carries characters that no terminal should see."""

import json
import random
import re
import zipfile

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import helper

from tests.hostile import forms

# A window title, a bell, a right-to-left override, a zero-width space, a one-byte escape, a reference of HTML.
MARK = "\x1b]0;t\x07\u202eb\u200b\x9b&#8238;"
# Marked in foreign domains only: elsewhere their meaning is fixed.
_FIXED = {"onnx.NodeProto.op_type", "onnx.AttributeProto.name"}
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def raw(text, *, terminal=False):
    """Return the characters of an output that should have been spelt out.

    Args:
        text: The output.
        terminal: Whether it went to a terminal, where colours and the moves of a progress bar are our own.
    """
    own = "\n\t\r" if terminal else "\n\t"
    return {c for c in (_COLOURS.sub("", text) if terminal else text) if not (c.isprintable() or c in own)}


def string_fields(descriptor, seen):
    """Yield the name of every text field below a message of ONNX."""
    if descriptor.full_name in seen:
        return
    seen.add(descriptor.full_name)
    for one in descriptor.fields:
        if one.type == FieldDescriptor.TYPE_STRING:
            yield one.full_name
        elif one.message_type:
            yield from string_fields(one.message_type, seen)


def mark(message, marked):
    """Append the mark to every text below a message, so that all who name one thing still agree.

    Args:
        message: A message of ONNX; changed in place.
        marked: Set to which the names of the fields that got a mark are added.
    """
    own = isinstance(message, onnx.NodeProto) and not message.domain
    for field, value in message.ListFields():
        name = field.full_name
        if field.type == FieldDescriptor.TYPE_STRING:
            if name in _FIXED or _read_as_number(message, field.name):
                continue
            marked.add(name)
            if not isinstance(value, str):
                value[:] = [one + MARK if one else one for one in value]
            elif value:
                setattr(message, field.name, value + MARK)
        elif field.message_type:
            for one in value if hasattr(value, "__len__") else [value]:
                mark(one, marked)
    if isinstance(message, onnx.NodeProto) and not own:
        marked |= _FIXED
        message.op_type += MARK
        for attribute in message.attribute:
            attribute.name += MARK


def _read_as_number(message, field):
    """Tell whether a text of external data is a key of the format, or a number."""
    keys = ("location", "offset", "length") if field == "key" else ("offset", "length")
    return isinstance(message, onnx.StringStringEntryProto) and message.key in keys


def described(proto):
    """Fill the text fields of a model that its form leaves empty."""
    graph = proto.graph
    proto.producer_name = proto.producer_version = proto.domain = proto.doc_string = "words"
    graph.doc_string = "words"
    helper.set_model_props(proto, {"key": "value"})
    graph.metadata_props.add(key="key", value="value")
    for node in graph.node:
        node.doc_string = "words"
        node.metadata_props.add(key="key", value="value")
        for attribute in node.attribute:
            attribute.doc_string = "words"
    for tensor in graph.initializer:
        tensor.doc_string = "words"
    for value in (*graph.input, *graph.output):
        value.doc_string, value.type.denotation = "words", "TENSOR"
        value.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.quantization_annotation.add(tensor_name="x").quant_parameter_tensor_names.add(
        key="SCALE", value="x"
    )
    for function in proto.functions:
        function.doc_string = "words"
        function.metadata_props.add(key="key", value="value")
    configuration = proto.configuration.add(name="machine", device=["first"])
    used = graph.node[0].device_configurations.add(configuration_id=configuration.name)
    used.sharding_spec.add(tensor_name="x").sharded_dim.add(axis=0).simple_sharding.add(dim_param="n")
    return proto


def foreign(proto):
    """Add an operator that nobody knows, and a local function with an attribute and an overload."""
    graph = proto.graph
    node = helper.make_node("Far", ["far"], ["x_far"], name="far", domain="far", word="word")
    graph.node.insert(0, node)
    graph.input.append(helper.make_tensor_value_info("far", 1, ["n", 16]))
    opaque = graph.value_info.add(name="x_far").type.opaque_type
    opaque.domain, opaque.name = "far", "Far"
    body = helper.make_node("Selu", ["p"], ["r"], name="inner")
    body.attribute.add(name="gamma", ref_attr_name="level", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function(
        "far", "G", ["p"], ["r"], [body], [helper.make_opsetid("", 18)], ["level"]
    )
    function.overload = "second"
    proto.functions.append(function)
    call = helper.make_node(
        "G", ["x_far"], ["x_g"], name="call_g", domain="far", overload="second", level=1.0
    )
    graph.node.insert(1, call)
    graph.node[-1].output[0] = "y_near"
    graph.node.append(helper.make_node("Add", ["y_near", "x_g"], ["y"], name="sum"))
    proto.opset_import.append(helper.make_opsetid("far", 1))
    return proto


def elsewhere(proto):
    """Store the weights in a data file whose name is marked, and which is not there."""
    for tensor in proto.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "weights"), ("offset", "0"), ("length", "1024")):
            tensor.external_data.add(key=key, value=value)
    return proto


KINDS = {"sound": lambda proto: proto, "foreign": foreign, "elsewhere": elsewhere}


def model(form, kind, marked):
    """Return a model of a form of `tests.hostile.mutants` in which every name is marked."""
    proto, _ = forms.sound(random.Random(0), form)
    proto = KINDS[kind](described(proto))
    mark(proto, marked)
    return proto


def marked_json(value, *, keys):
    """Return JSON data with every text marked, or every key."""
    if isinstance(value, dict):
        return {key + MARK * keys: marked_json(one, keys=keys) for key, one in value.items()}
    if isinstance(value, list):
        return [marked_json(one, keys=keys) for one in value]
    return value + MARK if isinstance(value, str) and not keys else value


def mark_file(path, *, keys):
    """Mark the texts that a file holds, or, with `keys`, the names under which it holds them."""
    if zipfile.is_zipfile(path):
        with np.load(path) as archive:
            arrays = dict(archive.items())
        np.savez(path, **{name + MARK * keys: _marked_array(array, keys) for name, array in arrays.items()})
    elif path.suffix in (".json", ".yaml"):
        import yaml

        load = json.loads if path.suffix == ".json" else yaml.safe_load
        path.write_text(json.dumps(marked_json(load(path.read_text()), keys=keys)))
    else:
        lines = path.read_text(errors="replace").splitlines()
        path.write_text("\n".join(MARK + line if keys else line + MARK for line in lines))


def _marked_array(array, keys):
    if array.dtype.kind != "U" or keys:
        return array
    try:
        return np.array(json.dumps(marked_json(json.loads(str(array)), keys=False)))
    except ValueError:
        return np.char.add(array, MARK)
