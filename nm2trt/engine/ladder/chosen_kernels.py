"""Speed-up of the chosen sparse kernels, by the builder's own timings.

A builder takes a sparse kernel that is faster by any margin: TensorRT 8.6.0 on an H200 chose 17 for ResNet-50
in FP16, of which none that its log times was more than 1.04x as fast as the best dense one, and the engine
gained nothing. So the number of chosen kernels does not measure a gain.
"""

from __future__ import annotations

from collections.abc import Sequence

from nm2trt.engine.evidence.evidence import Evidence
from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.figures import counted


def chosen_speed_ups(ladder: Sequence[LadderRow], evidence: Evidence) -> tuple[str, ...]:
    """Say how much faster than dense kernels the chosen sparse ones were timed; one sentence, or none."""
    chosen = [row for row in ladder if row.chosen.answer == "yes"]
    timed = [
        max(speeds)
        for row in chosen
        if (
            speeds := [x.speedup for x in evidence.autotuned if row.node in x.nodes and x.speedup is not None]
        )
    ]
    if not timed:
        return ()
    sentence = (
        f"sparse kernels were chosen for {counted(len(chosen), 'weight')}; for the {len(timed)} that the "
        f"build log has timings of, they are {min(timed):.2f}x to {max(timed):.2f}x as fast as the fastest "
        "dense ones"
    )
    return (sentence,)
