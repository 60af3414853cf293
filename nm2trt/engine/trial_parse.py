"""A model given to the builder's parser in a process of its own, to see whether it survives."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from nm2trt.backends.protocol import Backend
from nm2trt.errors import BackendError
from nm2trt.limits.bounds import bounds

# The search path is handed on as words: `-c` would put the current folder first.
_LAUNCH = """
import sys
count = int(sys.argv[1])
sys.path[:] = sys.argv[2 : 2 + count]
backend, model, memory, *plugins = sys.argv[2 + count :]
from pathlib import Path
from nm2trt.limits import bounds
from nm2trt.backends.choice import choose_backend
from nm2trt.errors import Nm2trtError
bounds.use(run_gb=float(memory) or None)
try:
    choose_backend(backend).parse(Path(model), [Path(plugin) for plugin in plugins])
except Nm2trtError:
    pass  # it is said when the model is parsed again
"""


def try_parser(source: Path, plugins: Sequence[Path], backend: Backend, model: Path) -> None:
    """Raise if the parser ends its process by a signal, or does not come to an end.

    TensorRT's parser crashes at many loops and functions that are not sound. What it says of a model is left
    to the parse that follows.

    Args:
        source: The file to parse.
        plugins: Libraries of plugins.
        backend: The builder.
        model: The user's file, for the message.

    Raises:
        BackendError: The parser crashed.
    """
    now = bounds()
    memory = "0" if now.run_bytes is None else str(now.run_bytes / (1 << 30))
    words = [backend.name, str(source.resolve()), memory, *map(str, plugins)]
    command = [sys.executable, "-c", _LAUNCH, str(len(sys.path)), *sys.path, *words]
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=now.run_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(
            f"{backend.name} read {model} for longer than {now.run_seconds:g} s (nm2trt --run-time)"
        ) from error
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
        raise BackendError(
            f"the parser of {backend.name} {backend.version} crashes on {model} ({ended}), as at many "
            "unsound loops, branches and functions; try onnx.checker.check_model(path, full_check=True)"
        )
