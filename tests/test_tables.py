"""Tables that fit: what is grouped, cut, folded and told once, as goldens and as rules on any width."""

import itertools
import random

import pytest

from nm2trt.tables.layout import lay_out
from nm2trt.tables.result import Result, html, text
from nm2trt.tables.table import Column, Row, Table
from nm2trt.terminal_text import display_width, fill, shorten

COLUMNS = (
    Column("weight", "name"),
    Column("node", "name", rank=2),
    Column("shape", rank=1),
    Column("zeros", "number"),
    Column("sparse tactic", "text", fold=True),
)


def row(weight, shape="64x64x3x3", zeros="50.0%", tactic="not measured", **told):
    return Row((weight, f"/net/{weight.replace('.', '/')}/Conv", shape, zeros, tactic), **told)


BROKEN = "{} of 9 groups have more than 2 non-zeros, the first at [{}, 0, 0, 0] of the stored tensor"
TABLE = Table(
    COLUMNS,
    (
        row("backbone.layer1.0.conv1.weight"),
        row("backbone.layer1.0.conv2.weight"),
        row("backbone.layer2.0.conv1.weight", "128x64x3x3", "0.0%", mark="bad", why=BROKEN.format(4, 0)),
        row("backbone.layer2.0.conv2.weight", "128x128x3x3", "0.1%", mark="bad", why=BROKEN.format(7, 3)),
        row("backbone.layer1.1.conv1.weight"),
    ),
)


def test_at_80_columns():
    assert (
        text(TABLE, 80)
        == """\
weight                              shape        zeros  why
backbone.layer1.0.conv1.weight  +2  64x64x3x3    50.0%
backbone.layer2.0.conv1.weight      128x64x3x3    0.0%    1
backbone.layer2.0.conv2.weight      128x128x3x3   0.1%    1
sparse tactic: not measured
+N: N more weights with the same row; --all shows every row
 1  backbone.layer2.0.conv1.weight: 4 of 9 groups have more than 2 non-zeros,
    the first at [0, 0, 0, 0] of the stored tensor (2 weights)"""
    )


def test_at_120_columns():
    weight = "backbone.layer1.0.conv1.weight"
    first, second, *_ = text(TABLE, 120).splitlines()
    assert first == f"weight{' ' * 30}node{' ' * 38}shape        zeros  why"
    assert second == f"{weight}  +2  /net/backbone/layer1/0/conv1/weight/Conv  64x64x3x3    50.0%"


def test_without_a_terminal_nothing_is_cut_and_a_reason_is_one_line():
    lines = text(TABLE).splitlines()
    assert "/net/backbone/layer1/0/conv1/weight/Conv" in lines[1]
    assert lines[-1] == f" 1  backbone.layer2.0.conv1.weight: {BROKEN.format(4, 0)} (2 weights)"


@pytest.mark.parametrize(
    "reasons",
    [
        ("axis 1 has 1 element, no multiple of 4", "axis 1 has 1,002 elements, no multiple of 4"),
        ("2 rows differ, by 0.5", "12,000 rows differ, by 3.25"),
    ],
)
def test_reasons_that_differ_in_their_numbers_are_one(reasons):
    rows = tuple(row(f"layer{at}.weight", why=why) for at, why in enumerate(reasons))
    told = text(Table(COLUMNS, rows), 200).splitlines()
    assert [line for line in told if line.startswith(" ")] == [f" 1  layer0.weight: {reasons[0]} (2 weights)"]


def test_reasons_that_differ_in_a_word_are_two():
    rows = tuple(row(f"layer{at}.weight", why=f"its {what} has 1 element") for at, what in enumerate("ab"))
    assert " 2  its b has 1 element" in text(Table(COLUMNS, rows), 200)


def test_all_shows_every_row_and_every_reason():
    lines = text(TABLE, 100, every_row=True).splitlines()
    for one in TABLE.rows:
        assert any(one.cells[0] in line for line in lines)
    assert sum("of 9 groups" in line for line in lines) == 2
    assert not any(line.startswith("+N") for line in lines)


def test_a_name_keeps_its_end():
    assert shorten("backbone.encoder.layer3.0.conv1", 20) == "...layer3.0.conv1"
    assert shorten("conv1", 20) == "conv1"
    name = "a" * 50
    assert shorten(name, 12) == "..." + "a" * 9


def words_of(table):
    cells = itertools.chain.from_iterable(r.cells for r in table.rows)
    return {word for cell in [*cells, *(r.why for r in table.rows)] for word in cell.split()}


@pytest.mark.parametrize("seed", range(20))
def test_any_table_fits_and_breaks_no_word(seed):
    draw = random.Random(seed)
    names = [
        f"net.block{draw.randint(0, 9)}.{'x' * draw.randint(1, 60)}.{i}" for i in range(draw.randint(1, 60))
    ]
    table = Table(
        COLUMNS,
        tuple(
            row(
                name,
                draw.choice(["8x8", "512x512x3x3"]),
                draw.choice(["0.0%", "50.0%"]),
                draw.choice(["not measured", "dense", "sparse kernel, among others"]),
                why=draw.choice(["", "a sentence that says why it cannot be so, with 3 of 4", "other"]),
            )
            for name in names
        ),
    )
    width = draw.choice([60, 80, 100, 120])
    laid = lay_out(table, width)
    lines = [line for line, _ in laid.lines()]
    assert max(map(len, lines)) <= width
    known = words_of(table) | {word for column in COLUMNS for word in column.header.split()}
    for line in lines[len(laid.headers[0]) :]:
        if line.startswith(("+N", "and ", "sparse tactic", " ")):
            continue
        for word in line.split():
            assert word in known or word.startswith(("...", "+")) or word.isdecimal(), word
    shown = sum(1 for line, kind in laid.lines() if kind == "")
    assert shown >= min(len({r.cells[2:] for r in table.rows}), 1)


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        pytest.param("conv1", 5, id="ascii"),
        pytest.param("編碼器.weight", 13, id="wide"),
        pytest.param("e\u0301te\u0301", 3, id="combining"),
    ],
)
def test_width_is_that_on_the_terminal(words, columns):
    assert display_width(words) == columns


def test_wide_names_are_aligned_and_cut_as_terminals_show_them():
    names = [f"模型層編碼器注意力權重矩陣模型層編碼器注意力權重矩陣{i}.weight" for i in (1, 22)]
    table = Table(COLUMNS, tuple(row(name, zeros=f"{i}%") for i, name in enumerate(names)))
    lines = text(table, 60).splitlines()
    assert max(map(display_width, lines)) <= 60
    assert {display_width(line.split("%")[0]) for line in lines[1:3]} == {display_width(lines[0]) - 1}
    assert shorten("編碼器.weight", 11) == "...weight"
    assert fill("編碼器 編碼器 編碼器", 14, "  ") == ["編碼器 編碼器", "  編碼器"]


def test_of_very_many_rows_the_broken_ones_stay():
    rows = [row(f"layer{i}.weight", zeros=f"{i}%") for i in range(200)]
    rows[150] = row("layer150.weight", zeros="150%", mark="bad", why="it is broken")
    lines = text(Table(COLUMNS, tuple(rows)), 80).splitlines()
    assert any(line.startswith("layer150.weight") for line in lines)
    assert "and 160 more weights; --all shows every row" in lines
    assert len(lines) < 50
    assert len(text(Table(COLUMNS, tuple(rows)), 80, every_row=True).splitlines()) > 200


def test_names_cannot_repaint_the_terminal_or_a_notebook():
    table = Table(COLUMNS, (row("evil\x1b[31m\n<script>"),))
    assert "\x1b" not in text(table, 80)
    assert text(table, 80).count("\n") == 1, "a header, and one row"
    assert "<script>" not in html(table)
    assert "&lt;script&gt;" in html(table)


class Many(Result):
    def tables(self):
        return [Table(COLUMNS, tuple(row(f"layer{i}.weight", zeros=f"{i}%") for i in range(300)))]

    def remarks(self):
        return ["the verdict"]

    def to_json(self):
        return {"rows": 300}


def test_a_result_prints_and_its_repr_stays_short():
    result = Many()
    assert str(result).endswith("\nthe verdict")
    assert repr(result).startswith("<Many>\nweight")
    assert len(repr(result)) < 2000
    assert result._repr_html_().startswith("<table>")
    assert result.to_dict() == {"rows": 300}


def test_a_header_takes_one_line_if_there_is_room():
    heads = (Column("output", "name"), Column("NaN or infinite", "number"), Column("mean", "number"))
    table = Table(heads, (Row(("logits", "-", "0.25")),))
    assert text(table, 40).splitlines()[0] == "output  NaN or infinite  mean"
    assert [line.strip() for line in text(table, 24).splitlines()[:2]] == [
        "output    NaN or  mean",
        "infinite",
    ]


def test_a_table_may_show_fewer_rows_the_worst_first():
    rows = [Row((f"t{i}", "1"), mark="doubt" if i == 4 else "") for i in range(6)]
    table = Table((Column("tensor", "name"), Column("n")), tuple(rows), noun="tensors", most=2, apart=True)
    assert text(table, 80).splitlines() == [
        "tensor  n",
        "t0      1",
        "t4      1",
        "and 4 more tensors; --all shows every row",
    ]
    assert len(list(lay_out(table, 80, every_row=True).rows)) == 6
    alike = Table(
        (Column("weight", "name"), Column("n")), (*rows[:4], Row(("u", "2")), Row(("v", "3"))), most=2
    )
    assert text(alike, 80).splitlines()[-1] == (
        "+N: N more weights with the same row; and 1 more weights; --all shows every row"
    )
