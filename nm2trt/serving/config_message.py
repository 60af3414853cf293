"""A model's configuration as Triton's protobuf: read, written, and compared with what a server has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format, text_format

from nm2trt.errors import BackendError, InputError
from nm2trt.extras import names_the_extra


def to_text(config: Any) -> str:
    """Return a configuration as it is written to `config.pbtxt`."""
    return str(text_format.MessageToString(config))


def from_text(text: str, where: str, *, skip_unknown: bool = False) -> Any:
    """Read a `config.pbtxt`.

    Args:
        text: The file's text.
        where: Its name, for messages.
        skip_unknown: Pass over fields that only a later server knows.

    Raises:
        InputError: The text is not a model configuration.
    """
    try:
        return text_format.Parse(text, new_message(), allow_unknown_field=skip_unknown)
    except text_format.ParseError as error:
        raise InputError(
            f"{where} is not a model configuration: {str(error).rstrip('.')}; mend it by hand: "
            "deployment.json of each version holds its own"
        ) from error


def parameter_of(config: Mapping[str, Any], key: str) -> str:
    """Return the text of a parameter in a server's JSON of a configuration, or ""."""
    found: Any = config
    for step in ("parameters", key, "string_value"):
        found = found.get(step) if isinstance(found, Mapping) else None
    return "" if found is None else str(found)


def served_differences(deployed: Any, served: Mapping[str, Any]) -> list[str]:
    """Return what a server has otherwise than the configuration that was deployed, one sentence each.

    The server completes a configuration, so only what is set in the deployed one is compared.

    Args:
        deployed: The ModelConfig that was deployed.
        served: The server's, as its JSON.

    Raises:
        BackendError: The server's answer is not a configuration.
    """
    try:
        theirs = json_format.ParseDict(dict(served), new_message(), ignore_unknown_fields=True)
    except (json_format.Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BackendError(
            "the server's configuration of the model is not sound; it is not a Triton server"
        ) from error
    return _differences(_plain(deployed), _plain(theirs), "")


def new_message() -> Any:
    """Return an empty ModelConfig.

    Raises:
        BackendMissingError: tritonclient is not installed.
    """
    with names_the_extra("tritonclient"):
        from tritonclient.grpc import model_config_pb2
    return model_config_pb2.ModelConfig()


def _plain(config: Any) -> dict[str, Any]:
    return dict(json_format.MessageToDict(config, preserving_proto_field_name=True))


def _differences(ours: Any, theirs: Any, where: str) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key, value in ours.items():
            path = f"{where}.{key}" if where else key
            if key not in theirs and value not in ({}, []):
                found.append(f"{path} is {value!r} as deployed, and missing on the server")
            elif key in theirs:
                found += _differences(value, theirs[key], path)
        return found
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for at, (mine, other) in pairs for line in _differences(mine, other, f"{where}[{at}]")]
    # The server resolves "auto" to what it has.
    if ours == theirs or ours == "KIND_AUTO":
        return []
    return [f"{where} is {ours!r} as deployed, and {theirs!r} on the server"]
