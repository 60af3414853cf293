"""How far the pruned network's outputs are from the dense network's, without labels."""

from __future__ import annotations

from collections.abc import Sequence

from nm2trt.graph.execute.output_verdict import OutputVerdict, VerdictSum
from nm2trt.graph.reconstruct.streams import Stream


def judge_outputs(
    names: Sequence[str], dense: Stream, pruned: Stream, chunks: Sequence[tuple[int, int]]
) -> tuple[OutputVerdict, ...]:
    """Compare the outputs of both streams, which stand at the end of the graph.

    Args:
        names: The model's outputs; those that are not floating point are left out.
        dense: The stream of the dense network.
        pruned: The stream of the pruned one.
        chunks: The chunks to compare: the number of the same samples in either stream.
    """
    found = []
    for name in names:
        if name not in dense or dense.specs()[name][0].kind != "f":
            continue
        total = VerdictSum(name)
        for mine, other in chunks:
            total.add(dense.read(mine, name), pruned.read(other, name))
        found.append(total.verdict())
    return tuple(found)
