"""BuildOptions and its texts: what is read, and what is refused with which words."""

import dataclasses
import json
from pathlib import Path

import pytest

from nm2trt.backends.options import (
    BuildOptions,
    ShapeRange,
    StaticShape,
    parse_profiles,
    parse_size,
    parse_static_shapes,
    parse_targets,
)
from nm2trt.errors import InputError


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        pytest.param("sm80", ("sm80",), id="one"),
        pytest.param("sm80,sm86", ("sm80", "sm86"), id="two"),
        pytest.param("8.0, sm_120", ("sm80", "sm120"), id="other-spellings"),
        pytest.param("SM89", ("sm89",), id="upper-case"),
    ],
)
def test_targets_are_read(text, targets):
    assert parse_targets(text) == targets


@pytest.mark.parametrize("text", ["", "ampere", "sm", "sm8", "sm80,,sm86", "sm80;sm86", "8", "1234"])
def test_other_targets_are_refused(text):
    with pytest.raises(InputError, match="is not a target; write compute capabilities, as in sm80,sm86"):
        parse_targets(text)


def test_a_target_named_twice_is_refused():
    with pytest.raises(InputError, match="name one twice"):
        parse_targets("sm80,8.0")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512M", 512 * 1024**2),
        ("2G", 2 * 1024**3),
        ("1GiB", 1024**3),
        ("1.5k", 1536),
        ("500MB", 500 * 1000**2),
        ("64 KiB", 64 * 1024),
        ("4096B", 4096),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "0", "-1G", "1X", "1iB", "1e9", "ten", "1G2", "9999999T", "0.1"])
def test_other_sizes_are_refused(text):
    with pytest.raises(InputError, match="is not a size; write a number of bytes with a unit"):
        parse_size(text)


def test_a_profile_is_read():
    shapes = ShapeRange.parse("x:1x3x224x224,8x3x224x224,32x3x224x224")
    assert shapes == ShapeRange("x", (1, 3, 224, 224), (8, 3, 224, 224), (32, 3, 224, 224))
    assert str(shapes) == "1x3x224x224,8x3x224x224,32x3x224x224"


def test_a_bare_batch_is_a_shape_of_rank_one():
    assert ShapeRange.parse("x:1,8,32") == ShapeRange("x", (1,), (8,), (32,))


def test_a_name_may_hold_a_colon():
    assert ShapeRange.parse("input:0:1,2,3").input == "input:0"


@pytest.mark.parametrize("text", ["x", "x:", "x:1", "x:1,2", "x:1,2,3,4", ":1,2,3", "1,2,3"])
def test_a_text_of_another_form_is_no_profile(text):
    with pytest.raises(InputError, match="is not a profile; write NAME:MIN,OPT,MAX"):
        ShapeRange.parse(text)


@pytest.mark.parametrize("text", ["x:1x,2,3", "x:a,b,c", "x:1,-2,3", "x:1,2.5,3", "x:1x*x3,1,1"])
def test_a_part_that_is_no_shape_is_named(text):
    with pytest.raises(InputError, match="is not a shape; write it as 1x3x224x224"):
        ShapeRange.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("x:8,4,32", "8,4,32 is not in the order MIN <= OPT <= MAX", id="opt-below-min"),
        pytest.param("x:1x4,8x4,32x3", "not in the order", id="one-dimension-falls"),
        pytest.param("x:1,8x3,32", "mixes ranks 1, 2 and 1", id="ranks"),
        pytest.param("x:0,1,2", "0 has a size that is not positive", id="zero"),
        pytest.param("x:1,1,99999999999", "is not", id="too-large"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        ShapeRange.parse(text)


def test_an_input_named_again_begins_the_next_profile():
    profiles = parse_profiles(["x:1,1,1", "y:1,1,1", "x:1,8,32", "y:1,8,32"])
    assert [[shapes.input for shapes in profile] for profile in profiles] == [["x", "y"], ["x", "y"]]
    assert profiles[1][0].max == (32,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param(
            {"sparsity": "on"}, "sparsity 'on' is unknown; choose disable, enable or force", id="sparsity"
        ),
        pytest.param({"targets": ("80",)}, "'80' is not a target", id="target"),
        pytest.param({"workspace_bytes": 0}, "a workspace of 0 bytes is not possible", id="workspace"),
        pytest.param({"effort": 6}, "an effort of 6 is not possible; choose 0 to 5", id="effort"),
        pytest.param(
            {"static_shapes": (StaticShape("x", (1,)),) * 2}, "input 'x' is given twice", id="shape-twice"
        ),
        pytest.param(
            {
                "static_shapes": (StaticShape("x", (1,)),),
                "profiles": ((ShapeRange("x", (1,), (1,), (1,)),),),
            },
            "input 'x' is given twice; give one shape or profiles",
            id="shape-and-profile",
        ),
        pytest.param(
            {"profiles": ((ShapeRange("x", (1,), (1,), (1,)),) * 2,)},
            "names an input twice: x, x",
            id="profile",
        ),
    ],
)
def test_options_are_checked_when_made(fields, message):
    with pytest.raises(InputError, match=message):
        BuildOptions(**fields)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        pytest.param("x:8x3x4x4", StaticShape("x", (8, 3, 4, 4)), id="full-rank"),
        pytest.param("input:0:8", StaticShape("input:0", (8,)), id="batch-alone"),
    ],
)
def test_a_static_shape_is_read(text, shape):
    assert parse_static_shapes([text]) == (shape,)


@pytest.mark.parametrize("text", ["x", "8", ":8", "x:", "x:0", "x:8xx3", "x:-1"])
def test_other_static_shapes_are_refused(text):
    told = "is not positive" if text == "x:0" else f"'{text}' is not a shape"
    with pytest.raises(InputError, match=told):
        parse_static_shapes([text])


def test_only_what_was_asked_is_named():
    assert BuildOptions().asked() == ()
    assert BuildOptions(tf32=False, effort=3).asked() == ("effort", "tf32")


def test_every_option_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "build.md").read_text()
    rows = [
        line.split("|")[2].strip()
        for line in text.replace("\\|", "/").splitlines()
        if line.startswith("| `--")
    ]
    assert {row.strip("`") for row in rows if row} >= {
        field.name for field in dataclasses.fields(BuildOptions)
    }


def test_options_are_json_and_say_no_folder():
    options = BuildOptions(timing_cache=Path("/home/me/t.cache"), plugins=(Path("/home/me/p.so"),))
    values = json.loads(json.dumps(options.to_json()))
    assert (values["timing_cache"], values["plugins"]) == ("t.cache", ["p.so"])
