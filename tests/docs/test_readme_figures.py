"""The figures of README's table of rebuilt networks are those of the committed results."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NETWORKS = json.loads((ROOT / "benchmarks" / "results" / "reconstruct.json").read_text())["networks"]


def rows():
    """Yield (network, score, dense, magnitude, rebuilt) of README's table."""
    network = ""
    for line in (ROOT / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 6 and cells[2].replace(".", "").isdigit():
            network = cells[0].partition(",")[0] or network
            yield network, *cells[1:5]


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_row_holds_what_was_measured(row):
    name, score, *told = row
    (found,) = (entry for entry in NETWORKS.values() if entry["network"] == name)
    for text, key in zip(told, ("dense", "magnitude", "mean"), strict=True):
        digits = len(text.partition(".")[2])
        assert float(text) == pytest.approx(found[key][score], abs=0.51 * 10**-digits)


def test_every_measured_score_has_its_row():
    measured = {(entry["network"], score) for entry in NETWORKS.values() for score in entry["mean"]}
    assert {row[:2] for row in rows()} == measured
