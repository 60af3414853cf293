"""A trial before a cast: which values leave the type's range on random inputs, or on ones 100 times larger.

On the larger inputs only a value that grows faster than the inputs counts, such as a square or an
exponential: one that grows with them only says that random inputs were scaled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nm2trt.arrays import Arrays
from nm2trt.errors import BackendError, DataError, ModelError
from nm2trt.graph.execute.range_probes import observable
from nm2trt.graph.storage.model import Model

TRIAL = "a trial on random inputs, up to 100 times larger"
_SCALE = 100.0
# A value that grows by more than this grows faster than its inputs; a square grows by 10,000.
_FASTER = 10 * _SCALE


def trial_overflows(model: Model, values: Sequence[str], feeds: Arrays, largest: float) -> dict[str, float]:
    """Return the values that exceed a type's range on these inputs, or on 100 times as large ones.

    Integer inputs stay as they are. A model that ONNX Runtime cannot run so gives nothing.

    Args:
        model: The float32 model.
        values: Values of its main graph.
        feeds: Inputs that it takes.
        largest: The type's largest number.
    """
    seen = observable(model, values, whole=False)
    reached: list[dict[str, float]] = []
    try:
        with seen.open() as session:
            for factor in (1.0, _SCALE):
                scaled = {
                    name: (array * factor).astype(array.dtype) if array.dtype.kind == "f" else array
                    for name, array in feeds.items()
                }
                outputs, tops = session.run(scaled), dict.fromkeys(values, 0.0)
                for name, item in seen.observed.items():
                    # The comparison skips NaN, which says nothing about the range.
                    tops[item.value] = max(
                        tops[item.value], abs(float(np.asarray(outputs[name], np.float64)))
                    )
                reached.append(tops)
    except (BackendError, DataError, ModelError):
        pass
    found = {value: top for value, top in reached[0].items() if top > largest} if reached else {}
    if len(reached) > 1:
        for value, top in reached[1].items():
            if top > largest and top > _FASTER * reached[0][value] > 0:
                found.setdefault(value, top)
    return found
