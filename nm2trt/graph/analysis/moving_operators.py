"""Moving operators: those that rearrange, select, copy or pad numbers and compute nothing."""

from __future__ import annotations

# Every element of the input is in the output once.
REARRANGING = frozenset("Identity Transpose Reshape Flatten Squeeze Unsqueeze".split())
# Every element of the output is an element of the first input, each used at most once.
SELECTING = REARRANGING | {"Slice", "Split"}
# Every element of the output is one of an input, or the value that pads it. A Dropout moves unless it trains.
MOVING = SELECTING | {"Concat", "Gather", "Expand", "Tile", "Pad", "Dropout"}
