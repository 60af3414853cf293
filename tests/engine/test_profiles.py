"""resolve_profiles: what a dynamic model is built for, and which profiles are refused."""

import pytest

from nm2trt.backends.options import StaticShape, parse_profiles
from nm2trt.backends.protocol import TensorSpec
from nm2trt.engine.profiles import guessed_profiles, resolve_profiles, resolve_static
from nm2trt.errors import InputError


def inputs(**shapes):
    return tuple(TensorSpec(name, "float16", shape) for name, shape in shapes.items())


def resolve(specs, *texts, fixed=None):
    profiles, notes = resolve_profiles(specs, parse_profiles(texts), fixed)
    return [{shapes.input: str(shapes) for shapes in profile} for profile in profiles], notes


def test_a_static_model_needs_no_profile():
    assert resolve(inputs(x=(1, 3, 8, 8))) == ([], ())


def test_a_dynamic_batch_gets_1_8_32_and_says_so():
    profiles, notes = resolve(inputs(x=("n", 3, 8, 8)))
    assert profiles == [{"x": "1x3x8x8,8x3x8x8,32x3x8x8"}]
    assert len(notes) == 1
    assert "input 'x' has a dynamic batch and no profile: built for batches 1/8/32" in notes[0]


def test_an_empty_state_is_named_with_its_remedy_if_its_other_sizes_are_free():
    specs = inputs(x=("n", 4), past=("n", 0, 4))
    said = "input 'past' of shape nx0x4 holds no values.*export the model with the size 0 free"
    with pytest.raises(InputError, match=said):
        resolve(specs, "x:1,2,4")
    with pytest.raises(InputError, match=said):
        resolve_static(specs, (StaticShape("past", (1,)),))
    assert resolve(inputs(x=(4,), past=(0, 4))) == ([], ())


@pytest.mark.parametrize("other", ["n", "m", None], ids=["shared", "its-own", "unnamed"])
def test_every_input_with_a_dynamic_batch_gets_it(other):
    profiles, _ = resolve(inputs(x=("n", 3), y=(other, 5), z=(7,)))
    assert profiles == [{"x": "1x3,8x3,32x3", "y": "1x5,8x5,32x5"}]


@pytest.mark.parametrize("text", ["x:2,4,6", "x:2x3x8x8,4x3x8x8,6x3x8x8"], ids=["bare-batch", "whole-shapes"])
def test_a_given_batch_is_taken_without_a_note(text):
    assert resolve(inputs(x=("n", 3, 8, 8)), text) == ([{"x": "2x3x8x8,4x3x8x8,6x3x8x8"}], ())


def test_a_bare_number_is_the_shape_of_a_vector():
    assert resolve(inputs(x=("length",)), "x:5,6,7")[0] == [{"x": "5,6,7"}]


def test_an_input_takes_the_batch_of_the_one_it_shares_it_with():
    profiles, notes = resolve(inputs(ids=("n", "s"), mask=("n", 4)), "ids:1x8,4x16,9x32")
    assert profiles == [{"ids": "1x8,4x16,9x32", "mask": "1x4,4x4,9x4"}]
    assert notes == ("input 'mask' takes the batch 1/4/9 of the input that shares its 'n'",)


def test_an_input_takes_the_batch_that_another_was_fixed_to():
    profiles, notes = resolve(inputs(x=(8, 3), y=("n", 4), z=("m", 4)), fixed={"n": 8})
    assert profiles == [{"y": "8x4,8x4,8x4", "z": "1x4,8x4,32x4"}]
    assert notes[0] == "input 'y' takes the batch 8/8/8 of the input that shares its 'n'"


def test_an_input_that_shares_no_batch_is_asked_for():
    with pytest.raises(
        InputError, match=r"input 'y' of shape mx4 is dynamic too; add a profile for it, as in --profile y:"
    ):
        resolve(inputs(x=("n", 3), y=("m", 4)), "x:1,2,3")


def test_two_profiles_are_both_completed():
    profiles, _ = resolve(inputs(x=("n", 3), y=("n", 4)), "x:1,1,1", "x:2,4,8")
    assert profiles == [{"x": "1x3,1x3,1x3", "y": "1x4,1x4,1x4"}, {"x": "2x3,4x3,8x3", "y": "2x4,4x4,8x4"}]


def test_a_profile_that_says_what_a_static_input_says_is_dropped():
    assert resolve(inputs(x=(1, 3)), "x:1x3,1x3,1x3") == ([], ())


def test_other_dynamic_dimensions_ask_for_a_profile_that_then_works():
    specs = inputs(x=("n", 3, "h", None))
    with pytest.raises(
        InputError, match=r"'x' of shape nx3xhx\? has dynamic dimensions 0 \(n\), 2 \(h\), 3"
    ) as caught:
        resolve(specs)
    suggested = str(caught.value).rpartition("--profile ")[2]
    assert resolve(specs, suggested)[0] == [{"x": "1x3x64x64,8x3x128x128,32x3x256x256"}]


def test_a_dynamic_dimension_behind_a_static_batch_is_no_batch():
    with pytest.raises(InputError, match=r"has dynamic dimensions 1 \(length\)"):
        resolve(inputs(x=(1, "length")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("data:1,2,3", "names input 'data'; the model's inputs are 'x', 'y'", id="wrong-name"),
        pytest.param(
            "x:1x3,2x3,3x3", r"has rank 2 \(1x3,2x3,3x3\), the input has rank 3 \(nx3x8\)", id="wrong-rank"
        ),
        pytest.param(
            "x:1x4x8,2x4x8,3x4x8", "changes dimension 1, which the model fixes at 3: nx3x8", id="static"
        ),
        pytest.param("y:1,2,3", "has rank 1 .*, the input has rank 2", id="bare-batch-of-a-free-shape"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        resolve(inputs(x=("n", 3, 8), y=("n", "s")), text)


def test_a_state_takes_its_batch_from_the_input_that_shares_its_name():
    specs = inputs(state=(2, "n", 8), x=("n", 3), step=())
    profiles, notes = resolve(specs)
    assert profiles == [{"x": "1x3,8x3,32x3", "state": "2x1x8,2x8x8,2x32x8"}]
    assert notes[1] == "input 'state' takes its free sizes from the inputs that share their names: n 1/8/32"
    assert resolve(specs, "x:2,2,4")[0] == [{"x": "2x3,2x3,4x3", "state": "2x2x8,2x2x8,2x4x8"}]
    assert resolve(inputs(x=(5, 3), state=(2, "n", 8)), fixed={"n": 5})[0] == [{"state": "2x5x8,2x5x8,2x5x8"}]


@pytest.mark.parametrize(
    ("shapes", "texts", "message"),
    [
        pytest.param(
            {"x": (1, 3, "s", "s")}, ["x:1x3x32x48,1x3x64x64,1x3x128x128"],
            r"dimension 3 of input 'x' is given as 48/64/128, and another size .* 's' as 32/64/128", id="one-input",
        ),
        pytest.param(
            {"x": ("n", 3), "y": ("n", 4)}, ["x:1,2,3", "y:1,2,4"],
            r"dimension 0 of input 'y' is given as 1/2/4, and another size .* 'n' as 1/2/3", id="two-inputs",
        ),
    ],
)  # fmt: skip
def test_sizes_of_one_name_have_one_range(shapes, texts, message):
    """TensorRT takes them as equal: it builds what both ranges allow, and refuses other shapes later."""
    with pytest.raises(InputError, match=message):
        resolve(inputs(**shapes), *texts)


@pytest.mark.parametrize(
    ("shapes", "guess"),
    [
        ({"x": ("n", "length")}, ["x:1x64,8x128,32x256"]),
        ({"x": ("n", "s", 16), "place": ("s",)}, ["x:1x64x16,8x128x16,32x256x16", "place:64,128,256"]),
        ({"x": ("n", 3), "y": (2, "n")}, ["x:64x3,128x3,256x3", "y:2x64,2x128,2x256"]),
        ({"x": ("batch_size", 3), "y": (2, "batch_size")}, ["x:1x3,8x3,32x3", "y:2x1,2x8,2x32"]),
        ({"x": ("n", 3, "n", None)}, ["x:64x3x64x64,128x3x128x128,256x3x256x256"]),
        ({"x": ("n", 3), "y": ("m", 3)}, []),
    ],
    ids=[
        "length",
        "length-first-elsewhere",
        "batch-second-elsewhere",
        "batch-by-name",
        "square",
        "batches-only",
    ],
)
def test_guessed_profiles_are_taken(shapes, guess):
    specs = inputs(**shapes)
    assert guessed_profiles(shapes.items()) == guess
    assert len(resolve(specs, *guess)[0]) == 1


def test_the_example_of_an_error_keeps_to_the_sizes_that_were_given():
    specs = inputs(x=("n", "s"), y=("s", "n", "t"))
    with pytest.raises(InputError, match="--profile y:") as error:
        resolve(specs, "x:1x5,2x6,3x7")
    example = str(error.value).rpartition(" ")[2]
    assert resolve(specs, "x:1x5,2x6,3x7", example)[0][0]["y"] == "5x1x64,6x2x128,7x3x256"
