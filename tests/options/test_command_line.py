"""Every option of every command: typed, recorded, and typed again it is the same value."""

import dataclasses
import functools
import importlib
import itertools
import os
import subprocess
from pathlib import Path

import pytest
from pydantic_core import ValidationError

from nm2trt.cli import COMMANDS, main
from nm2trt.cli.dispatch import command_parser
from nm2trt.errors import InputError
from nm2trt.options.command_line import options_from, words
from nm2trt.options.field import LARGEST, check_ranges, keywords, option, options_of
from nm2trt.recipe.options import KINDS
from nm2trt.terminal_text import quoted_words, shell_line, shell_path

MODULES = ("models", "pruning", "precision", "engines", "checks", "serving", "runs")
CLASSES = {
    name.removesuffix("Command").lower(): cls
    for module in MODULES
    for name, cls in vars(importlib.import_module(f"nm2trt.options.{module}")).items()
    if name.endswith("Command") and name != "BuilderCommand" and cls.__module__ == f"nm2trt.options.{module}"
}
FIELDS = [(name, known.name) for name, cls in CLASSES.items() for known in options_of(cls)]


def other_values(known):
    """Yield values that are not the default: each choice, a number inside the range, awkward texts."""
    if known.kind is bool:
        yield known.default is not True
    elif known.choices:
        yield from (
            (choice,) if known.many else choice for choice in known.choices if choice != known.default
        )
    elif known.kind in (int, float):
        inside = [
            v for v in (0, 1, 3, 7, 60, 0.5, 99.5) if known.holds(v) and (known.kind is float or v == int(v))
        ]
        yield from ((known.kind(v), known.kind(v)) if known.many else known.kind(v) for v in inside)
    elif known.many:
        second = "-b c" if known.flag else "b c"
        yield from ((known.kind("a*"), known.kind(second)), (known.kind("x"),))
    else:
        yield from (known.kind(text) for text in ("some/thing", "-dash", "two words", "50%"))


def base(cls):
    """Return options with only what is required."""
    given = {}
    for known in options_of(cls):
        if known.required:
            first = next(v for v in other_values(known) if "-" not in str(v)[:1])
            given[known.name] = first
    return cls(**given)


parser_of = functools.cache(command_parser)


def parsed(name, cls, typed):
    parser, chosen = parser_of(name)
    assert chosen is not None
    return options_from(parser.parse_args(typed), cls)


def test_every_command_has_its_options():
    assert set(CLASSES) == set(COMMANDS)


def test_each_stage_of_a_command_says_its_options():
    for kind, stage in KINDS.items():
        if stage.options_class is not None:
            assert stage.options_class is CLASSES[kind]


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=lambda v: str(v))
def test_what_is_recorded_gives_the_same_options_when_typed(name, field):
    cls = CLASSES[name]
    (known,) = (known for known in options_of(cls) if known.name == field)
    seen = 0
    for value in itertools.islice(other_values(known), 6):
        if not known.flag and str(value if not known.many else value[0]).startswith("-"):
            continue  # a positional path that begins with a dash is written ./-path
        if not known.flag and known.many and any(str(item).startswith("-") for item in value):
            continue
        change = {field: value}
        if name == "build" and known.group.startswith("precision") and field != "precision":
            change["precision"] = "int8"
        options = dataclasses.replace(base(cls), **change)
        assert parsed(name, cls, words(name, options)) == options
        seen += 1
    assert seen or known.choices == ("check",)


def test_defaults_are_not_recorded():
    cls = CLASSES["quantize"]
    assert words("quantize", base(cls)) == ["quantize", "some/thing", "--calib", "some/thing"]


def test_a_dropped_option_is_seen():
    cls = CLASSES["quantize"]
    options = dataclasses.replace(base(cls), percentile=99.0)
    typed = [word for word in words("quantize", options) if word not in ("--percentile", "99.0")]
    assert parsed("quantize", cls, typed) != options


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "quantize",
            {"percentile": 30.0},
            r"--percentile 30 is out of range; give a number over 50 and up to 100",
        ),
        ("prune", {"min_channels": 0}, r"--min-channels 0 is out of range; give 1 or more"),
        ("bench", {"batches": (1, 0)}, r"--batch 0 is out of range; give 1 or more"),
        ("bench", {"runs": LARGEST + 1}, r"--runs has too many digits; give 1 to 1000000"),
        ("permute", {"seed": 10**400}, r"--seed has too many digits; give 0 to 9007199254740991"),
        ("rollback", {"to": -(10**400)}, r"--to has too many digits; give 1 to 9007199254740991"),
        ("validate", {"warmup": 10**12}, r"--warmup 1000000000000 is out of range; give 0 to 1000000"),
        ("cast", {"batch": 10**12}, r"--batch 1000000000000 is out of range; give 2147483647 or less"),
        ("serve", {"http_port": 10**12}, r"--http-port 1000000000000 is out of range; give 0 to 65535"),
        ("build", {"effort": 9}, r"--effort 9 is out of range; give 0 to 5"),
        ("validate", {"rtol": float("inf")}, r"--rtol inf is out of range; give 0 or more"),
        (
            "probe",
            {"timeout_s": float("nan")},
            r"--timeout nan is out of range; give a number over 0 and up to 86400",
        ),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_flag(name, change, message):
    with pytest.raises(InputError, match=message):
        check_ranges(dataclasses.replace(base(CLASSES[name]), **change))


@pytest.mark.parametrize("kind", sorted(kind for kind, stage in KINDS.items() if stage.options_class))
def test_a_recipe_and_the_command_line_refuse_the_same_numbers(kind):
    stage, cls = KINDS[kind], KINDS[kind].options_class
    for known in options_of(cls):
        if not known.stage or known.stage not in stage.keys or known.kind not in (int, float):
            continue
        infinite = (float("inf"), float("nan")) if known.kind is float else ()
        large = (1 << 31, LARGEST, LARGEST + 1, 10**400) if known.kind is int else ()
        for number in (-2, -1, 0, 1, 5, 6, 30, 50, 51, 100, 101, *infinite, *large):
            value = [number] if known.many else number
            try:
                stage.keys.validator.validate_python({known.stage: value})
                told = []
            except ValidationError as error:
                told = [item["loc"][0] for item in error.errors()]
            accepted = known.stage not in told
            assert accepted == known.holds(number), (kind, known.stage, number)


@pytest.mark.parametrize(
    "field",
    "calib method percentile batch data_root allow_functions exclude float_depthwise keep".split(),
)
def test_build_refuses_how_to_reach_a_precision_that_is_not_named(field):
    cls = CLASSES["build"]
    (known,) = (known for known in options_of(cls) if known.name == field)
    value = next(iter(other_values(known)))
    with pytest.raises(InputError, match=f"{known.flag} says how to reach a precision; give --precision too"):
        dataclasses.replace(base(cls), **{field: value})


def test_keywords_leave_out_what_only_the_command_line_knows():
    given = keywords(base(CLASSES["verify"]))
    assert set(given) == {"model", "pattern", "as_dtype", "backend", "targets", "external_data_root"}


def test_an_option_of_an_unknown_type_is_refused():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Odd:
        pair: complex = option(1j, help="never")

    with pytest.raises(TypeError, match="no option can be of type"):
        options_of(Odd)


def test_a_list_of_numbers_that_is_none_is_one_sentence(capsys):
    parser, _ = command_parser("bench")
    with pytest.raises(SystemExit):
        parser.parse_args(["bench", "m.onnx", "--batch", "1,two"])
    assert "'1,two' is not a list of numbers; write them as in 1,8,32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("validate a b --min-agreement 99%", "argument --min-agreement: '99%' is not a number; give 0 to 1"),
        ("bench a --runs 1e3", "argument --runs: '1e3' is not a whole number; give 1 to 1000000"),
        ("prove a --seconds=", "argument --seconds: '' is not a number; give 0 to 3600"),
        ("gain a --at-least x", "argument --at-least: 'x' is not a number; give a number over 0"),
        (
            "--run-time 10m info a",
            "argument --run-time: '10m' is not a number; give a number over 0 and up to",
        ),
        ("--run-memory 1e300 info a", "--run-memory 1e+300 is out of range; give a number over 0 and up to"),
        ("--constant-time nan info a", "--constant-time nan is out of range; give a number over 0 and up to"),
    ],
)
def test_what_is_no_number_of_an_option_is_told_with_its_flag_and_range(typed, sentence, capsys):
    assert main(typed.split()) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_no_whole_number_is_without_end(name):
    for known in options_of(CLASSES[name]):
        assert known.kind is not int or known.at_most <= LARGEST, known.flag
        if known.kind is int and "seed" not in known.name and known.name != "to":
            assert not known.holds(10**12), known.flag


def test_a_path_that_begins_with_a_dash_is_recorded_as_one_that_is_no_flag():
    options = parsed("verify", CLASSES["verify"], ["verify", "--", "-net.onnx"])
    assert words("verify", options) == ["verify", "./-net.onnx"]
    assert shell_path("-a b.onnx") == "'./-a b.onnx'"


def test_a_path_that_cannot_be_shown_is_spelt_out_for_a_shell():
    name = os.fsdecode(b"a'\n\xff \\.onnx")
    word = shell_path(name)
    assert word.isprintable()
    assert subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True).stdout == os.fsencode(
        name
    )


def test_a_line_of_any_words_is_what_a_shell_reads_as_these_words():
    given = ["--profile=x y:1", "", "it's", os.fsdecode(b"\xff\x1b[31m"), "a\n'b\\", "#", "plain"]
    line = shell_line(given)
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in given]
    assert " ".join(quoted_words(line)) == line
    assert len(quoted_words(line)) == len(given)


def test_paths_are_paths():
    options = parsed("build", CLASSES["build"], ["build", "m.onnx", "-o", "x.rtx"])
    assert (options.model, options.output) == (Path("m.onnx"), Path("x.rtx"))
