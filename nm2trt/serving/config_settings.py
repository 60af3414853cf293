"""`--set path=value`: any field of a model configuration, checked against the protobuf.

A path is names joined by dots, with `[index]` after a list: `optimization.priority=PRIORITY_MAX`,
`instance_group[0].host_policy=node0`, `parameters.mode.string_value=fast`. One past the end of a list adds
to it. A list of plain values takes them separated by commas.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from nm2trt.errors import InputError
from nm2trt.figures import counted

# Written from the artefact and the options; another value would no longer describe what is deployed.
_OURS = frozenset(
    {
        "name",
        "platform",
        "backend",
        "input",
        "output",
        "version_policy",
        "default_model_filename",
        "max_batch_size",
    }
)
# What a server loads libraries, environments or files by; the parameters of a backend may name anything.
_CODE = re.compile(
    r"\s*(runtime|cc_model_filenames|parameters|model_operations|model_repository_agents|optimization\s*\."
    r"\s*execution_accelerators)\b"
)
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def apply_setting(config: Any, text: str) -> None:
    """Set one field of a model configuration.

    Args:
        config: The ModelConfig message, changed in place.
        text: "path=value".

    Raises:
        InputError: The field does not exist, the value does not fit it, or it is not to be set by hand.
    """
    path, equals, value = text.partition("=")
    steps = re.findall(r"[^.\[\]]+|\[[0-9]+\]", path)
    rebuilt = "".join(step if step.startswith("[") else f".{step}" for step in steps).removeprefix(".")
    if not equals or not steps or rebuilt != path.strip():
        raise InputError(
            f"{text!r} is not a setting; write PATH=VALUE, as in optimization.priority=PRIORITY_MAX"
        )
    if steps[0] in _OURS:
        raise InputError(
            f"{steps[0]!r} follows from what is deployed and its options, and is not set by hand ({text!r})"
        )
    # On a copy: a path that fails half-way has made the messages on its way.
    changed = type(config)()
    changed.CopyFrom(config)
    message = changed
    while steps:
        message = _descend(message, steps, value.strip(), text)
    config.CopyFrom(changed)


def names_code(text: str) -> bool:
    """Tell whether a setting, "path=value", may make a server load code or a file that the value names."""
    return _CODE.match(text) is not None


def _descend(message: Any, steps: list[str], value: str, text: str) -> Any:
    """Follow one name, and an index or key after it; set the value at the path's end."""
    name = steps.pop(0)
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        known = list(message.DESCRIPTOR.fields_by_name)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"do you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise InputError(
            f"a model configuration has no field {name!r} in {message.DESCRIPTOR.name} ({text!r}); {hint}"
        )
    if _is_map(field):
        return _into_map(message, field, steps, value, text)
    if _is_list(field):
        return _into_list(message, field, steps, value, text)
    if field.message_type is not None:
        if not steps:
            raise _whole_message(field, text)
        child = getattr(message, name)
        child.SetInParent()
        return child
    _end(steps, text)
    setattr(message, name, _scalar(field, value, text))
    return message


def _into_map(message: Any, field: Any, steps: list[str], value: str, text: str) -> Any:
    if not steps:
        raise InputError(f"{field.name!r} is a map; name a key, as in {field.name}.KEY=VALUE ({text!r})")
    entries, kind = getattr(message, field.name), field.message_type.fields_by_name["value"]
    key = _scalar(field.message_type.fields_by_name["key"], steps.pop(0).strip("[]"), text)
    if kind.message_type is None:
        _end(steps, text)
        entries[key] = _scalar(kind, value, text)
        return message
    if not steps:
        raise _whole_message(kind, text)
    return entries[key]


def _into_list(message: Any, field: Any, steps: list[str], value: str, text: str) -> Any:
    items = getattr(message, field.name)
    index = int(steps.pop(0)[1:-1]) if steps and steps[0].startswith("[") else None
    if index is not None and index > len(items):
        raise InputError(
            f"{field.name!r} has {counted(len(items), 'entry', 'entries')}, so there is no [{index}] "
            f"({text!r})"
        )
    if field.message_type is not None:
        if index is None:
            raise InputError(
                f"{field.name!r} is a list; write {field.name}[0] for its first entry ({text!r})"
            )
        if not steps:
            raise _whole_message(field, text)
        return items.add() if index == len(items) else items[index]
    _end(steps, text)
    values = [_scalar(field, part.strip(), text) for part in value.split(",")] if value else []
    if index is None:
        del items[:]
        items.extend(values)
    elif len(values) != 1:
        raise InputError(f"one entry of {field.name!r} takes one value ({text!r})")
    elif index == len(items):
        items.append(values[0])
    else:
        items[index] = values[0]
    return message


def _scalar(field: Any, value: str, text: str) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_name
        if value not in known:
            raise InputError(
                f"{value!r} is not a value of {field.name!r}; choose from {', '.join(known)} ({text!r})"
            )
        return known[value].number
    kind = field.cpp_type
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        if not re.fullmatch(r"-?[0-9]{1,20}", value) or not low <= int(value) <= high:
            raise InputError(
                f"{field.name!r} takes a whole number from {low} to {high}, not {value!r} ({text!r})"
            )
        return int(value)
    if kind in _FLOATS:
        try:
            return float(value)
        except ValueError as error:
            raise InputError(f"{field.name!r} takes a number, not {value!r} ({text!r})") from error
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if value.lower() not in _BOOLEANS:
            raise InputError(f"{field.name!r} takes true or false, not {value!r} ({text!r})")
        return _BOOLEANS[value.lower()]
    return value.encode() if field.type == FieldDescriptor.TYPE_BYTES else value


def _whole_message(field: Any, text: str) -> InputError:
    known = ", ".join(field.message_type.fields_by_name)
    return InputError(f"{field.name!r} is not one value; set a field of it: {known} ({text!r})")


def _end(steps: list[str], text: str) -> None:
    if steps:
        raise InputError(f"the path goes on after a plain value, at {steps[0]!r} ({text!r})")


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _is_list(field: Any) -> bool:
    # Later releases of protobuf have a property for it, and deprecate the label.
    repeated = getattr(field, "is_repeated", None)
    return bool(field.label == FieldDescriptor.LABEL_REPEATED if repeated is None else repeated)
