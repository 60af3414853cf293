"""The table of verify on a narrow terminal."""

from dataclasses import replace

import nm2trt
from nm2trt.graph.verify.verdict_table import verdict_table
from nm2trt.tables.result import text
from nm2trt.terminal_text import display_width
from tests.engine.nets import conv_net


def test_the_table_fits_60_columns_with_every_pattern(tmp_path):
    found = nm2trt.verify(conv_net(tmp_path / "net.onnx"), backend="trt-rtx", targets="sm86").weights[0]
    weights = [
        replace(found, weight=f"backbone.stage{i}.conv.weight", shape=(2048, 1024, 3, 3), pattern=pattern)
        for i, pattern in enumerate(("holds", "broken", "dense-by-plan", "not-groupable", "untraceable"))
    ]
    lines = text(verdict_table(weights), 60).splitlines()
    assert max(map(display_width, lines)) <= 60
    assert {"holds", "broken", "groupable", "untraceable"} <= set(" ".join(lines).split())
