"""The version before the served one, served again."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from nm2trt.errors import Nm2trtError

if TYPE_CHECKING:
    from nm2trt.serving.repository import Rollback


def rollback(
    repository: str | os.PathLike[str],
    name: str,
    *,
    to: int | None = None,
    url: str = "",
    load_timeout_s: float = 120.0,
) -> Rollback:
    """Serve the version before the one that is served, under the configuration that it had.

    Args:
        repository: The repository.
        name: The model.
        to: Another version that is kept there.
        url: A server that reads this repository under explicit model control, told to load it.
        load_timeout_s: Longest wait until it is loaded.

    Raises:
        InputError: The model or the version is missing.
        OutputError: The repository cannot be written; what is served is unchanged.
        BackendError: The server refuses to load it.
        ServerError: The server cannot be reached.
    """
    from nm2trt.serving.repository import roll_back

    with contextlib.ExitStack() as stack:
        server = None
        if url:
            from nm2trt.backends._triton_server import TritonServer

            # Nothing is sent yet, but a wrong address is told before anything changes.
            server = stack.enter_context(TritonServer(url, load_timeout_s=load_timeout_s))
        done = roll_back(repository, name, to=to)
        try:
            if server is not None:
                server.load(name)
        except Nm2trtError as error:
            error.args = (
                f"{error}; the repository is rolled back to version {done.version}, the server is not",
            )
            raise
    return done
