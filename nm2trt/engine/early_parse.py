"""A model parsed by the builder before it is known whether an engine is wanted of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Backend, Network
from nm2trt.errors import Interrupted, Nm2trtError


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the builder's parser made of a model: a network, or the error to raise once it is asked for.

    Args:
        found: The network, or the error.
        parse_ms: Wall time of reading the model.
    """

    found: Network | Nm2trtError
    parse_ms: float

    def network(self) -> Network:
        """Return the network.

        Raises:
            Nm2trtError: The parser refused the model.
        """
        if isinstance(self.found, Nm2trtError):
            raise self.found
        return self.found


def parse_early(model: Path, options: BuildOptions, backend: Backend, source: Path | None = None) -> Parsed:
    """Parse a model before it is known whether it will be built; errors wait in what is returned.

    Args:
        model: The ONNX file.
        options: What to build.
        backend: The builder.
        source: The file to parse if it is not `model` itself.

    Raises:
        Interrupted: The user stopped it.
    """
    start = time.perf_counter()
    found: Network | Nm2trtError
    try:
        with names_the_users_file(source, model):
            found = backend.parse(source or model, options.plugins)
    except Interrupted:
        raise
    except Nm2trtError as error:
        found = error
    return Parsed(found, (time.perf_counter() - start) * 1e3)


@contextmanager
def names_the_users_file(source: Path | None, model: Path) -> Iterator[None]:
    """Name the user's file if a builder's error names the copy that was made of it."""
    try:
        yield
    except Nm2trtError as error:
        if source is not None and source != model and error.args:
            text = str(error.args[0]).replace(str(source), f"{source.name}, made from {model}")
            error.args = (text, *error.args[1:])
        raise
