"""The gain table: what 2:4 saves on one GPU, product by product, as `benchmarks/gpu_gain.py` measures it.

A row is one matrix product of m rows (positions of the result), n output channels and k products per result;
a convolution is the product that it comes to. The nearest row of the same type answers for a layer. How far
it is off is said with the answer: beyond a factor of two in m, n or k it is an extrapolation, and no answer.

Schema 1, a JSON object: `schema`, `device` {`name`, `target`, ...}, `versions`, `conditions`, `rows`: a list
of {`m`, `n`, `k`, `dtype`, `dense_ms`, `sparse_ms`, ...}; more keys may stand in any of them. If a row has
`dense_graph_ms` and `sparse_graph_ms`, these are read: the same product, ten calls in one CUDA graph, so
without the launch that hides the difference of small products.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nm2trt.errors import InputError
from nm2trt.json_types import number, text, whole

SCHEMA = 1
# Farther than this factor in m, n or k, the nearest row says nothing.
FARTHEST = 2.0


@dataclass(frozen=True, slots=True)
class GainRow:
    """One measured product.

    Args:
        m: Rows, i.e. positions of the result.
        n: Output channels.
        k: Products a result.
        dtype: Type computed in, e.g. "float16".
        dense_ms: Median time of the dense kernel.
        sparse_ms: Median time of the sparse one.
    """

    m: int
    n: int
    k: int
    dtype: str
    dense_ms: float
    sparse_ms: float

    @property
    def speedup(self) -> float:
        """Dense time over sparse time."""
        return self.dense_ms / self.sparse_ms


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a table says of one product.

    Args:
        row: The nearest row.
        factor: The largest factor by which m, n or k are off; 1 for the very product.
    """

    row: GainRow
    factor: float

    @property
    def extrapolated(self) -> bool:
        """Whether the nearest row is too far off to answer."""
        return self.factor > FARTHEST


@dataclass(frozen=True, slots=True)
class GainTable:
    """A table of one GPU.

    Args:
        where: The file.
        device: Name of the GPU.
        target: Its architecture, e.g. "sm86"; "" if the table does not tell.
        versions: Version by product.
        rows: What was measured.
    """

    where: str
    device: str
    target: str
    versions: Mapping[str, str]
    rows: tuple[GainRow, ...]

    def dtypes(self) -> tuple[str, ...]:
        """Types that were measured."""
        return tuple(dict.fromkeys(row.dtype for row in self.rows))

    def nearest(self, m: int, n: int, k: int, dtype: str) -> Estimate | None:
        """Return the row nearest to a product, by the factors in m, n and k; None if no row has the type.

        Args:
            m: Rows.
            n: Output channels.
            k: Products a result.
            dtype: Type computed in.
        """

        def factors(row: GainRow) -> tuple[float, float]:
            logs = [abs(math.log(a / b)) for a, b in ((m, row.m), (n, row.n), (k, row.k))]
            return math.hypot(*logs), math.exp(max(logs))

        found = [(*factors(row), row) for row in self.rows if row.dtype == dtype]
        if not found or min(m, n, k) < 1:
            return None
        _, factor, row = min(found, key=lambda item: item[0])
        return Estimate(row, factor)


def parse_gain_table(table: bytes | str, *, where: str) -> GainTable:
    """Read a table.

    Args:
        table: The JSON.
        where: Its file, for messages.

    Raises:
        InputError: It is damaged, of a later schema, or empty.
    """
    try:
        data = json.loads(table)
        if data["schema"] != SCHEMA:
            raise InputError(
                f"{where} has schema {data['schema']!r}, this release reads {SCHEMA}; measure it again with "
                "benchmarks/gpu_gain.py"
            )
        rows = tuple(_row(item) for item in data["rows"])
        device, target = text(data["device"]["name"]), text(data["device"].get("target", ""))
        if target and not re.fullmatch("sm[0-9]{2,3}", target):
            raise ValueError("an architecture is named as sm86 is")
        versions = {name: text(version) for name, version in data.get("versions", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{where} is damaged or not a gain table; measure one with benchmarks/gpu_gain.py"
        ) from error
    if not rows:
        raise InputError(f"{where} has no rows; measure it again with benchmarks/gpu_gain.py")
    return GainTable(where, device, target, versions, rows)


def parse_dense_names(report: bytes | str, *, where: str) -> dict[str, str]:
    """Read which weights a report keeps dense, each with its reason.

    Args:
        report: What `nm2trt gain --json` printed.
        where: Its file, for messages.

    Raises:
        InputError: It is damaged or no such report.
    """
    try:
        data = json.loads(report)
        if data["schema"] != 1:
            raise ValueError
        layers = {text(layer["weight"]): text(layer["sentence"]) for layer in data["layers"]}
        return {text(name): layers[name] for name in data["exclude"]}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is damaged or not a report of nm2trt gain; make one with nm2trt gain --table FILE "
            "--json"
        ) from error


def _row(item: Mapping[str, Any]) -> GainRow:
    kind = "_graph_ms" if item.get("dense_graph_ms") and item.get("sparse_graph_ms") else "_ms"
    row = GainRow(
        m=whole(item["m"]),
        n=whole(item["n"]),
        k=whole(item["k"]),
        dtype=text(item["dtype"]),
        dense_ms=number(item[f"dense{kind}"]),
        sparse_ms=number(item[f"sparse{kind}"]),
    )
    if min(row.m, row.n, row.k) < 1:
        raise ValueError("sizes are those of a product")
    if min(row.dense_ms, row.sparse_ms) <= 0:
        raise ValueError("times are positive")
    return row
