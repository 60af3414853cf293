"""Recipes of thousands of stages: read and put in order in time that grows with their number."""

import pytest

from nm2trt.recipe.order import ordered
from nm2trt.recipe.schema import load_recipe

STAGES = 2000  # beyond the depth to which Python calls


@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_two_thousand_stages_are_put_in_order(tmp_path, backwards):
    # A chain: each starts from the one before it, or from the one after it in the file.
    text = ["version: 1", "model: m.onnx", "stages:"]
    for number in range(STAGES):
        source = number + 1 if backwards else number - 1
        text.append(
            f"  s{number}: {{stage: fuse, from: {f's{source}' if 0 <= source < STAGES else 'model'}}}"
        )
    (tmp_path / "r.yaml").write_text("\n".join(text))
    names = [step.stage.name for step in ordered(load_recipe(tmp_path / "r.yaml"))]
    assert names == [f"s{number}" for number in (range(STAGES)[::-1] if backwards else range(STAGES))]
