"""The tables of README and of docs/methods/reconstruct.md from `benchmarks/results/peers.json`.

python benchmarks/peers_table.py    # prints both
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["headline", "table"]

RESULTS = Path(__file__).parent / "results" / "peers.json"
TOOLS = {
    "magnitude": "magnitude",
    "sparse_magnitude": "ModelOpt `sparse_magnitude`",
    "sparsegpt": "ModelOpt `sparsegpt`",
    "prune --calib": "`prune --calib`",
}


def table(networks: Mapping[str, Any]) -> str:
    """Return Markdown: a row per score of each network, one of its 2:4 weights, one of time and memory."""
    head = ["network, calibration samples", "", "dense", *TOOLS.values()]
    lines = [head, ["---"] * len(head)]
    for network in networks.values():
        lines += rows(network)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def headline(networks: Mapping[str, Any]) -> str:
    """Return Markdown: a row per network, with its first score and the time of `prune --calib`."""
    kinds = ("magnitude", "sparsegpt", "prune --calib")
    head = ["network, samples", "score", "dense", *(TOOLS[kind] for kind in kinds), "CPU time"]
    lines = [head, ["---"] * len(head)]
    for network in networks.values():
        name, score, dense, magnitude, _, sparsegpt, ours = next(rows(network))
        seconds = network["tools"]["prune --calib"]["seconds"]
        lines.append([name, score, dense, magnitude, sparsegpt, ours, f"{seconds:.0f} s"])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def rows(network: Mapping[str, Any]) -> Iterator[list[str]]:
    tools = [network["tools"][name] for name in TOOLS]
    first = f"{network['network']}, {network['samples']:,}"
    for name, dense in network["dense"].items():
        digits = 3 if abs(dense) <= 1 else 1
        values = [dense, *(tool["scores"][name] for tool in tools)]
        yield [first, name, *(f"{value:.{digits}f}" for value in values)]
        first = ""
    yield ["", f"2:4 weights of {network['weights']}", "", *(str(tool["two_four"]) for tool in tools)]
    yield ["", "CPU time, memory", "", *(f"{t['seconds']:.0f} s, {t['gib']:.1f} GiB" for t in tools)]


if __name__ == "__main__":
    measured = json.loads(RESULTS.read_text())["networks"]
    print(headline(measured), table(measured), sep="\n", end="")
