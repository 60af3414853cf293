"""The address of an inference server, and of a model on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from nm2trt.errors import InputError

_SCHEME = r"(?P<scheme>https?|grpcs?)(?P<memory>\+shm)?://"
_URL = re.compile(
    rf"(?:{_SCHEME})?"
    r"(?P<host>[^\s/@:]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})"
    r"(?:/(?P<model>[^\s/]+)(?:/(?P<version>[0-9]+))?)?/?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and which of its models is meant.

    Args:
        protocol: How it is spoken to.
        host: HOST:PORT.
        secure: Whether over TLS.
        model: A model's name, or "".
        version: A version of it; "" leaves the choice to the server.
        shared_memory: Whether tensors travel in system shared memory, which needs the server on this machine.
    """

    protocol: Literal["http", "grpc"]
    host: str
    secure: bool = False
    model: str = ""
    version: str = ""
    shared_memory: bool = False

    @property
    def scheme(self) -> str:
        """What stands before `://`."""
        return f"{self.protocol}{'s' if self.secure else ''}{'+shm' if self.shared_memory else ''}"

    def __str__(self) -> str:
        parts = "".join(f"/{part}" for part in (self.model, self.version) if part)
        return f"{self.scheme}://{self.host}{parts}"


def is_url(text: str) -> bool:
    """Tell the address of a served model, which begins with a scheme, from a file's path."""
    return re.match(_SCHEME, text, re.IGNORECASE) is not None


def parse_url(text: str) -> Address:
    """Read `http://HOST:PORT/MODEL/VERSION` or `grpc://...`; all but HOST:PORT may be left out.

    `+shm` after the protocol, as in `grpc+shm://`, sends tensors through system shared memory.

    Raises:
        InputError: The text has another form.
    """
    match = _URL.fullmatch(text.strip())
    if match is None or not 0 < int(match["port"]) < 65536:
        raise InputError(
            f"{text!r} is not the address of a server; write http://HOST:PORT or grpc://HOST:PORT, "
            "followed by /MODEL if one is meant"
        )
    scheme = (match["scheme"] or "http").lower()
    return Address(
        protocol="grpc" if scheme.startswith("grpc") else "http",
        host=f"{match['host']}:{match['port']}",
        secure=scheme.endswith("s"),
        model=match["model"] or "",
        version=match["version"] or "",
        shared_memory=match["memory"] is not None,
    )


def parse_server(text: str) -> Address:
    """Read the address of a server, for what names the model by itself.

    Raises:
        InputError: The text has another form, or names a model.
    """
    address = parse_url(text)
    if address.model:
        raise InputError(f"{text!r} is the address of a model; write {address.scheme}://{address.host} only")
    return address
