"""The version before the served one, served again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nm2trt.errors import Nm2trtError

if TYPE_CHECKING:
    from nm2trt.serving.repository import Rollback


def rollback(
    repository: str | os.PathLike[str], name: str, *, to: int | None = None, url: str = ""
) -> Rollback:
    """Serve the version before the one that is served, under the configuration that it had.

    Args:
        repository: The repository.
        name: The model.
        to: Another version that is kept there.
        url: A server that reads this repository under explicit model control, told to load it.

    Raises:
        InputError: The model or the version is missing.
        OutputError: The repository cannot be written; what is served is unchanged.
        BackendError: The server refuses to load it.
        ServerError: The server cannot be reached.
    """
    from nm2trt.serving.repository import roll_back

    done = roll_back(repository, name, to=to)
    if url:
        from nm2trt.backends._triton_server import TritonServer

        try:
            with TritonServer(url) as server:
                server.load(name)
        except Nm2trtError as error:
            error.args = (
                f"{error}; the repository is rolled back to version {done.version}, the server is not",
            )
            raise
    return done
