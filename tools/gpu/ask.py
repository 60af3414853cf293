"""Say in one sentence that there is no GPU, with exit status 4, before `make gpu-evidence` fetches PyTorch for nothing.

Needs nothing but Python.
"""

from __future__ import annotations

import sys
from pathlib import Path

NO_GPU = 4


def main() -> int:
    """Return 4 if there is no GPU."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from nm2trt.backends.cuda import require_gpu
    from nm2trt.errors import BackendMissingError

    try:
        require_gpu("gathering evidence")
    except BackendMissingError as error:
        print(f"gpu-evidence: {error}", file=sys.stderr)
        return NO_GPU
    return 0


if __name__ == "__main__":
    sys.exit(main())
