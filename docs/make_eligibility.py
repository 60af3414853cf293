"""Writes docs/eligibility.md from the rules that the code applies.

    python docs/make_eligibility.py

`tests/nm/test_eligibility.py` fails where the page is not what this script would write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from nm2trt.engine.evidence.evidence import SPARSE_KERNEL_NAMES
from nm2trt.nm.eligibility import EXPECTATIONS, RULES, Rule
from nm2trt.nm.eligibility_tables import CHANNEL_MULTIPLES, DTYPE_ROWS, FIRST_SPARSE, MINIMUM

PAGE = Path(__file__).with_name("eligibility.md")

_HEAD = """# Which weights a sparse kernel may run

Made from `nm2trt/nm/eligibility_rules.py` and `eligibility_tables.py` by
`python docs/make_eligibility.py`; edit those.

`basis` says how far to trust a row: *measured* was seen by us, *cited* stands in a maintainer's answer, in
documentation or in another project's source, *assumed* is neither. No speed in this page was measured by us.
"""

_RULES = """
## Rules

`nm2trt verify`, `nm2trt build` and `nm2trt explain` apply them all: the first that says "no" decides, without
one the first that says "unknown". A weight that passes all of them is eligible: the builder may time sparse
kernels for it. It may still choose a dense one.
"""

_EXPECTATIONS = """
## Expectations

They forbid nothing. They say where a dense kernel is known, or likely, to win the builder's timing:
`nm2trt build` counts that work as "a dense kernel is likely to be faster".
"""

_TYPES = """
## Types, by builder and architecture

The first row that fits decides. `any` includes a builder or an architecture that is not known, as in
`nm2trt verify`.
"""

_MULTIPLES = """
## Channel multiples

Read by the expectation `channel-multiple`. TensorRT's own guide asks for groups of four, and nothing more.
"""

_NAMES = """
## Names of sparse kernels

A tactic or kernel whose name matches one of these, in any case, is taken for proof.
`HasSparseWeights` is not.
"""


def page() -> str:
    """Return the page's text."""
    sizes = (
        f"{MINIMUM.inputs} products per result (input channels times kernel positions) and {MINIMUM.outputs}"
    )
    parts = [
        _HEAD,
        _RULES,
        _table(
            ("code", "rung", "a weight passes when", "else", "what to do", "source", "basis"), _rows(RULES)
        ),
        _EXPECTATIONS,
        _table(
            ("code", "rung", "nothing speaks against it when", "else", "what to do", "source", "basis"),
            _rows(EXPECTATIONS),
        ),
        f"\nThe minimum size is {sizes} output channels.\n",
        _TYPES,
        _table(
            ("types", "builder", "architectures", "answer", "because", "source", "basis"),
            (
                (
                    ", ".join(row.dtypes),
                    row.builder or "any",
                    ", ".join(row.targets) or "any",
                    row.answer,
                    row.sentence,
                    row.source,
                    row.basis,
                )
                for row in DTYPE_ROWS
            ),
        ),
        f"\nWithout sparse tensor cores: everything below sm{FIRST_SPARSE}.\n",
        _MULTIPLES,
        _table(
            ("type", "in", "out", "asked by", "source", "basis"),
            (
                (row.dtype, str(row.inputs), str(row.outputs), row.held_by, row.source, row.basis)
                for row in CHANNEL_MULTIPLES
            ),
        ),
        _NAMES,
        _table(("pattern", "source"), ((f"`{pattern}`", source) for pattern, source in SPARSE_KERNEL_NAMES)),
    ]
    return "".join(parts)


def _rows(rules: Iterable[Rule]) -> Iterable[Sequence[str]]:
    for rule in rules:
        yield (
            f"`{rule.code}`",
            rule.rung,
            rule.summary,
            rule.answer,
            rule.remedy,
            rule.source,
            rule.basis,
        )


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n" + "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines
    )


if __name__ == "__main__":
    PAGE.write_text(page())
