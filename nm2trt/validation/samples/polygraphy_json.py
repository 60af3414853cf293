"""Polygraphy's own files: `--save-inputs` as samples, `--save-outputs` as recorded outputs.

Polygraphy decodes them; arrays are plain numpy arrays, never pickled. A file holds one dict per iteration:
here these are batches that follow one another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.errors import DataError
from nm2trt.extras import names_the_extra
from nm2trt.files import check_input
from nm2trt.text_files import decoded


def load_inputs(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Return inputs by name, the iterations joined along axis 0.

    Raises:
        InputError: The file is missing.
        BackendMissingError: Polygraphy is not installed.
        DataError: It holds no inputs of Polygraphy, or iterations of different names or shapes.
    """
    decoded = _decoded(path)
    iterations = [decoded] if isinstance(decoded, Mapping) else decoded
    if not isinstance(iterations, Sequence) or not all(isinstance(one, Mapping) for one in iterations):
        raise DataError(f"{path} holds no inputs of Polygraphy; save them with --save-inputs")
    return _joined([{str(k): np.asarray(v) for k, v in one.items()} for one in iterations], path)


def load_outputs(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Return the outputs of the first runner by name, the iterations joined along axis 0.

    Raises:
        InputError: The file is missing.
        BackendMissingError: Polygraphy is not installed.
        DataError: It holds no outputs of Polygraphy, or iterations of different names or shapes.
    """
    decoded = _decoded(path)
    try:
        _, iterations = decoded.lst[0]
        outputs = [{str(name): np.asarray(array) for name, array in one.items()} for one in iterations]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{path} holds no outputs of Polygraphy; save them with --save-outputs") from error
    return _joined(outputs, path)


def _decoded(path: str | os.PathLike[str]) -> Any:
    path = check_input(path, "a Polygraphy JSON")
    with names_the_extra("polygraphy"):
        from polygraphy.comparator import RunResults  # noqa: F401 - importing it registers its decoder
        from polygraphy.json import from_json
        from polygraphy.logger import G_LOGGER
    try:
        text = decoded(path.read_bytes())
        kinds = _kinds(json.loads(text))
        # A torch tensor or a formatted array would be decoded by more than numpy.
        if kinds - {"ndarray", "LazyArray", "IterationResult", "RunResults"}:
            raise DataError(f"{path} holds {sorted(kinds)[0]}, which is not read; save numpy arrays")
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
            return from_json(text)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # its decoder takes what it finds for the type that it wants
        raise DataError(f"{path} is not sound JSON of Polygraphy") from error


def _kinds(value: Any) -> set[str]:
    if isinstance(value, dict):
        found = {str(value["polygraphy_class"])} if "polygraphy_class" in value else set()
        return found.union(*map(_kinds, value.values()))
    return set().union(*map(_kinds, value)) if isinstance(value, list) else set()


def _joined(iterations: Sequence[Arrays], path: str | os.PathLike[str]) -> dict[str, Array]:
    if not iterations or not iterations[0]:
        raise DataError(f"{Path(path)} holds no sample")
    first = iterations[0]
    for one in iterations:
        same = set(one) == set(first) and all(
            one[name].ndim and one[name].shape[1:] == array.shape[1:] for name, array in first.items()
        )
        if not same:
            raise DataError(
                f"{Path(path)}: its iterations have other names or shapes than the first; only equal "
                "samples can follow one another"
            )
    return {name: np.concatenate([one[name] for one in iterations]) for name in first}
