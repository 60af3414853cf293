"""Options of the commands around recipes and runs, of doctor, samples and completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nm2trt.options.field import option
from nm2trt.options.shared import ALLOW_FUNCTIONS, DATA_ROOT, Reported, Tabled, target_list


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsifyCommand(Tabled):
    """Options of `nm2trt sparsify`."""

    recipe: str = option(
        flag="", metavar="RECIPE.yaml", stage="recipe", help="names model, weights, calibration and method"
    )
    output: str | None = option(
        None,
        short="-o",
        metavar="STEM",
        stage=False,
        help="path of the results without suffix (default: the recipe's output, or WEIGHTS.sparse)",
    )
    data_root: str | None = option(
        None,
        metavar="DIR",
        stage=False,
        help="folder that the calibration recipe's paths are relative to (default: its own)",
    )
    allow_functions: bool = option(
        False, stage=False, help="run the Python code that the recipe names; without it, a recipe is refused"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibCommand(Reported):
    """Options of `nm2trt calib`."""

    action: Literal["check"] = option(flag="", keyword=False, help="read the samples and say what they are")
    recipe: str = option(flag="", metavar="RECIPE.yaml", help="calibration recipe")
    sheet: str | None = option(None, metavar="FILE.png", help="draw the first 64 images there")
    data_root: str | None = option(None, metavar="DIR", help=DATA_ROOT)
    allow_functions: bool = option(False, help=ALLOW_FUNCTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand(Reported):
    """Options of `nm2trt run`."""

    recipe: str = option(flag="", metavar="RECIPE.yaml", help="the recipe; `nm2trt init MODEL` writes one")
    overrides: tuple[str, ...] = option(
        (),
        flag="",
        metavar="STAGE.KEY=VALUE",
        help="a value to use in place of the recipe's, as in prune.pattern=1:4; may be repeated",
    )
    output: str | None = option(
        None, short="-o", metavar="DIR", help="folder of the run (default: the recipe's, or runs/NAME)"
    )
    first: str | None = option(
        None,
        flag="--from",
        metavar="STAGE",
        help="run it and all stages after it, even if they are done",
    )
    until: str | None = option(None, metavar="STAGE", help="stop after it")
    dry_run: bool = option(False, help="say what would run, and why; write nothing")
    root: str | None = option(
        None,
        metavar="DIR",
        help="folder that the recipe's paths are relative to and may not leave (default: its own)",
    )
    allow_functions: bool = option(False, help="run Python code that the recipe names")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCommand:
    """Options of `nm2trt completion`."""

    shell: Literal["bash", "zsh", "fish"] = option(flag="", keyword=False, help="the shell")


@dataclass(frozen=True, slots=True, kw_only=True)
class InitCommand(Reported):
    """Options of `nm2trt init`."""

    model: str = option(flag="", metavar="MODEL", help="the ONNX model")
    output: str | None = option(
        None,
        short="-o",
        metavar="RECIPE.yaml",
        help="the recipe (default: NAME.yaml beside the model)",
    )
    force: bool = option(False, help="replace a recipe that is there")
    calib: str | None = option(
        None, metavar="FILE", help="samples (.npz or a calibration recipe): quantise to int8 with them"
    )
    backend: Literal["trt", "trt-rtx"] | None = option(
        None, help="builder that the recipe is for (default: as nm2trt build)"
    )
    targets: str | None = target_list(help="and architectures, as in sm80,sm86")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportCommand(Reported):
    """Options of `nm2trt report`."""

    run: str = option(flag="", metavar="RUN_DIR", help="folder of a run, as `nm2trt run` writes it")
    beside: str | None = option(
        None, flag="", metavar="OTHER_DIR", help="folder of a second run: the report shows both side by side"
    )
    output: str | None = option(
        None,
        short="-o",
        metavar="FILE",
        stage=False,
        help="the report; default: RUN_DIR/report.html, of two runs RUN_DIR/beside.html",
    )
    format: Literal["html", "json", "md"] | None = option(
        None,
        stage=False,
        help="html: one self-contained page; json: all figures; md: for a pull request (default: by the "
        "suffix of FILE, else html)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesCommand(Reported):
    """Options of `nm2trt samples`."""

    action: Literal["list", "copy"] = option("list", flag="", help="list the samples (default), or copy one")
    name: str | None = option(None, flag="", metavar="SAMPLE", help="its number or name, as in 01")
    output: str | None = option(
        None, short="-o", metavar="DIR", help="copy to DIR/samples (default: the current folder)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorCommand(Reported):
    """Options of `nm2trt doctor`."""
