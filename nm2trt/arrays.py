"""Array types that annotations share: `Array`, a numpy array of any dtype, and `Arrays`, several by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
