"""The functions behind the public names; the only module that knows the whole order.

    sparsify -> export -> (fuse, prune) -> verify -> build -> validate

Stages do not import one another: here they are called in turn, and hand over files and values.
"""

from __future__ import annotations

__all__: list[str] = []
