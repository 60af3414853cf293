"""The keys of a stage take what they say and nothing that looks like it; one sentence names what is wrong."""

import pytest

from nm2trt.errors import InputError
from nm2trt.recipe.keys import plain_types
from nm2trt.recipe.options import KINDS


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("prune", {"min_channels": "16"}, "min_channels: Input should be a valid integer"),
        ("prune", {"min_channels": True}, "min_channels: Input should be a valid integer"),
        ("prune", {"min_channels": 0}, "min_channels: Input should be greater than or equal to 1"),
        ("prune", {"include": "conv*"}, "include: Input should be a valid list"),
        ("prune", {"include": [1]}, "include.0: Input should be a valid string"),
        ("prune", {"pattern": 24}, "pattern: .* YAML reads 24 here; put it in quotes"),
        ("fuse", {"compare": 1}, "compare: Input should be a valid boolean"),
        ("fuse", {"compare": None}, "compare: Input should be a valid boolean"),
        ("fuse", {"from": 1}, "from: Input should be a valid string"),
        ("cast", {"to": "fp8"}, "to: Input should be 'fp16' or 'bf16'"),
        ("quantize", {}, "calib: Field required"),
        ("verify", {"patern": "2:4"}, "patern: unknown key; did you mean 'pattern'"),
        ("report", {"formats": []}, "formats: List should have at least 1 item"),
        ("export", {"model": "a:b", "weights": "w", "inputs": {"x": ["1"]}}, "inputs.x.0: .* valid integer"),
        ("export", {"model": "ab", "weights": "w", "inputs": {}}, "model: String should match pattern"),
        (
            "export",
            {"model": "a:b", "weights": "w", "inputs": {}, "arguments": {"n": [1]}},
            r"arguments\.n.*: Input should be a valid",
        ),
    ],
)
def test_what_only_looks_right_is_refused(kind, values, message):
    with pytest.raises(InputError, match=message):
        KINDS[kind].keys.read(values, "recipe.yaml")


def test_a_whole_number_is_a_number_too_and_defaults_are_each_its_own():
    assert KINDS["quantize"].keys.read({"calib": "x.npz", "percentile": 99}, "r.yaml")["percentile"] == 99.0
    first, second = (KINDS["report"].keys.read({}, "r.yaml") for _ in range(2))
    first["formats"].append("json")
    assert second["formats"] == ["html"]


def test_the_types_of_a_key_are_those_of_its_items_too():
    assert plain_types(KINDS["export"].keys["arguments"]) == {dict}
    assert plain_types(KINDS["prune"].keys["include"]) == {list, str}
    assert plain_types(KINDS["prune"].keys["max_drop"]) == {str}
    assert plain_types(KINDS["build"].keys["tf32"]) == {bool}


def test_stages_are_equal_by_what_they_say():
    def said(kind, **values):
        return KINDS[kind](KINDS[kind].keys.read(values, "r.yaml"))

    assert said("fuse") == said("fuse")
    assert said("fuse") != said("fuse", compare=False)
    assert said("fuse", **{"from": "model"}).from_ == "model"
    assert "'compare': False" in repr(said("fuse", compare=False))
    with pytest.raises(AttributeError):
        said("fuse").pattern  # noqa: B018 - asked for
