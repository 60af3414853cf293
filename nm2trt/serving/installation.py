"""Installation of a tritonserver, and what it needs around it to start."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from nm2trt.errors import BackendMissingError, InputError

ENVIRONMENT_VARIABLE = "NM2TRT_TRITONSERVER"

_FOLDER = ".serve-env"
_WHEEL = "lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver"
_STUB = Path("python", "triton_python_backend_stub")


@dataclass(frozen=True, slots=True)
class Installation:
    """One tritonserver.

    Args:
        binary: The program.
        backends: Folder of its backends, or None if it knows it itself.
        environment: Root of the virtual environment whose Python the Python backend runs, or None.
    """

    binary: Path
    backends: Path | None
    environment: Path | None

    def variables(self) -> dict[str, str]:
        """Return the environment variables that the server is started with.

        The Python backend's stub follows the first `python3` on PATH and ignores PYTHONPATH; it finds
        libpython through the loader's search path.
        """
        variables = {name: value for name, value in os.environ.items() if name not in _PYTHON_VARIABLES}
        if self.environment is None:
            return variables
        variables["PATH"] = os.pathsep.join(
            (str(self.environment / "bin"), os.environ.get("PATH", os.defpath))
        )
        libraries = _base_libraries(self.environment)
        if libraries is not None:
            before = os.environ.get("LD_LIBRARY_PATH", "")
            variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, (str(libraries), before)))
        return variables


_PYTHON_VARIABLES = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONWARNINGS"})


def find_server() -> Installation:
    """Find a tritonserver: what `NM2TRT_TRITONSERVER` names, else `.serve-env`, else the one on PATH.

    `NM2TRT_TRITONSERVER` is the path of the program, or of an environment such as `make serve-env` makes.
    `.serve-env` is looked for in the current folder and beside the package.

    Raises:
        InputError: `NM2TRT_TRITONSERVER` names no server.
        BackendMissingError: No server is installed.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        path = Path(named).absolute()  # the server runs in the folder of its repository
        found = _in_environment(path) if path.is_dir() else _of_binary(path)
        if found is None:
            raise InputError(
                f"{ENVIRONMENT_VARIABLE}={named} names no tritonserver; give the path of the program, or of "
                "the environment that make serve-env made"
            )
        return found
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        found = _in_environment(folder / _FOLDER)
        if found is not None:
            return found
    binary = shutil.which("tritonserver")
    if binary is not None:
        return Installation(Path(binary), None, None)
    raise BackendMissingError(
        "no tritonserver is here: make serve-env installs one that runs Python models on the CPU, or name "
        f"another with {ENVIRONMENT_VARIABLE}"
    )


def _in_environment(root: Path) -> Installation | None:
    binary = next(iter(sorted(root.glob(_WHEEL))), None)
    if binary is None:
        return None
    backends = binary.parents[1] / "backends"
    if not (backends / _STUB).is_file():
        raise BackendMissingError(
            f"{root} is not complete: {_STUB} is missing in {backends}; run make serve-env again"
        )
    return Installation(binary, backends, root.absolute())


def _of_binary(path: Path) -> Installation | None:
    if not (path.is_file() and os.access(path, os.X_OK)):
        return None
    backends = path.absolute().parents[1] / "backends"
    environment = next(
        (parent for parent in path.absolute().parents if (parent / "pyvenv.cfg").is_file()), None
    )
    return Installation(path.absolute(), backends if backends.is_dir() else None, environment)


def _base_libraries(environment: Path) -> Path | None:
    """Return the folder of the libpython that the environment's own Python runs on, if there is one."""
    try:
        lines = (environment / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return None
    homes = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == "home"]
    folders = [Path(home).parent / "lib" for home in homes]
    return next((folder for folder in folders if any(folder.glob("libpython3.*.so.1.0"))), None)
