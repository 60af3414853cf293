"""The figures of README's tables are those of the committed results."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLAIMS = json.loads((ROOT / "samples" / "02_methods" / "measured" / "claims.json").read_text())
NETWORKS = json.loads((ROOT / "benchmarks" / "results" / "reconstruct.json").read_text())["networks"]


def test_what_the_second_block_made_of_a_published_network():
    found = json.loads((ROOT / "samples/07_bring_your_own_onnx/measured/figures.json").read_text())
    lost = found["top1"]["int8"]["paired"]
    dense, rebuilt = (100 * found["top1"]["int8"][kind]["value"] for kind in ("reference", "candidate"))
    alone = 100 * found["top1"]["magnitude"]["candidate"]["value"]
    told = (
        f"{found['weights']} weights; `samples/07_bring_your_own_onnx`), {found['samples']} pages and "
        f"{found['seconds']:.0f} s of one CPU core made {found['two_four']} weights 2:4 in INT8: {rebuilt:.1f} % of "
        f"{lost['n']} other pages right ({dense:.1f} % before; by magnitude {alone:.1f} %), and an engine of "
        f"{found['engine']['bytes'] / 1e6:.1f} MB for sm80 and sm86."
    )
    assert told in " ".join((ROOT / "README.md").read_text().split())


def test_the_tables_beside_modelopt_are_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from peers_table import headline, table

    networks = json.loads((ROOT / "benchmarks/results/peers.json").read_text())["networks"]
    assert headline(networks) in (ROOT / "README.md").read_text()
    assert table(networks) in (ROOT / "docs/methods/reconstruct.md").read_text()


def test_the_curve_says_what_was_measured():
    networks = json.loads((ROOT / "benchmarks/results/share_curve.json").read_text())["networks"]
    points = networks["orientation"]["points"]
    rebuilt = [point["rebuilt"]["top-1 %"] for point in points]
    least = min(point["magnitude"]["top-1 %"] for point in points if point["share"] == 1)
    told = f"rebuilt from samples it stays at {min(rebuilt):.1f} to {max(rebuilt):.0f} %"
    assert told in (ROOT / "README.md").read_text()
    assert f"by magnitude it is at {least:.1f} % with all of it" in (ROOT / "README.md").read_text()


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def rows():
    """Yield (network, score, dense, magnitude, rebuilt) of the table of the page on reconstruction."""
    network = ""
    for line in (ROOT / "docs/methods/reconstruct.md").read_text().splitlines():
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


def methods_rows():
    """Yield the cells of sample 02's tables of methods, backquotes and "zeros" taken off."""
    page = (ROOT / "samples/02_methods/README.md").read_text().partition("## Do the papers' advantages")[2]
    for line in page.splitlines():
        cells = [cell.strip().replace("`", "").replace(" % zeros", "%") for cell in line.split("|")[1:-1]]
        if line.startswith("| `") and len(cells) in {5, 6}:
            yield cells


def test_accuracies_of_methods_are_those_measured():
    patterns = ("2:4", "4:8", "2:8", "1:16")
    told = {
        (method, pattern if method != "dense" else ""): float(text)
        for method, *texts in (cells for cells in methods_rows() if len(cells) == 5)
        for pattern, text in zip(patterns, texts, strict=True)
        if text
    }
    measured = {(row["method"], row["target"]): row["mean"] for row in CLAIMS["accuracies"]}
    assert len(told) == 1 + 6 * len(patterns)
    assert told == {key: pytest.approx(measured[key], abs=0.0051) for key in told}


def test_differences_of_methods_are_those_measured():
    measured = {(f"{r['better']} - {r['than']}", r["target"]): r for r in CLAIMS["differences"]}
    rows = [cells for cells in methods_rows() if len(cells) == 6]
    assert len(rows) == 8
    for name, target, mean, interval, seeds, advantage in rows:
        row = measured[name, target]
        assert float(mean) == pytest.approx(row["mean"], abs=0.0051)
        told = [float(end) for end in interval.strip("[]").split(",")]
        assert told == pytest.approx(row["over_seeds"], abs=0.0051)
        assert int(seeds) == len(row["by_seed"])
        assert advantage == ("seen" if told[0] > 0 else "behind" if told[1] < 0 else "not seen")


def test_readme_s_differences_of_methods_are_rows_of_the_sample():
    page = (ROOT / "samples/02_methods/README.md").read_text().splitlines()
    told = [line for line in (ROOT / "README.md").read_text().splitlines() if line.endswith("seen |")]
    assert len(told) == 5
    assert set(told) <= set(page)


def test_every_engine_that_readme_builds_may_have_sparse_kernels():
    """`build` without the flag makes a dense engine, whatever the weights hold."""
    lines = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("nm2trt build ")
    ]
    assert lines
    assert all("--sparsity" in line for line in lines)
