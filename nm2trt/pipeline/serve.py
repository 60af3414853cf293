"""A tritonserver started on a repository."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nm2trt.serving.options import ServerOptions

if TYPE_CHECKING:
    from nm2trt.serving.server.running import RunningServer


def serve(repository: str | os.PathLike[str], options: ServerOptions | None = None) -> RunningServer:
    """Start a tritonserver on a repository and wait until it is ready; stop it, or use it in a `with`.

    Args:
        repository: The repository.
        options: Ports, model control, log; None takes free ports and loads every model.

    Raises:
        InputError: The repository is not a folder, or a port is wrong.
        BackendMissingError: No tritonserver is installed.
        BackendError: The server does not start.
    """
    from nm2trt.serving.server.start import start_server

    return start_server(repository, options)
