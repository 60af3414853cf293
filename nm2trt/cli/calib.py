"""`nm2trt calib check`: what a calibration recipe gives."""

from __future__ import annotations

import argparse

from nm2trt.cli.output import print_json, print_table

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("action", choices=["check"], help="read the samples and say what they are")
    parser.add_argument("recipe", metavar="RECIPE.yaml", help="calibration recipe")
    parser.add_argument("--sheet", metavar="FILE.png", help="draw the first 64 images there")
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder that the recipe's paths are relative to (default: its own)"
    )
    parser.add_argument("--allow-functions", action="store_true", help="run a source of kind function")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Check, print, and return 0."""
    from nm2trt.pipeline.calib import calibration_samples

    samples = calibration_samples(
        arguments.recipe,
        data_root=arguments.data_root,
        allow_functions=arguments.allow_functions,
        sheet=arguments.sheet,
    )
    if arguments.json:
        print_json(samples.to_json())
        return 0
    print_table(
        ("input", "shape", "dtype", "min", "max", "mean", "std"),
        (
            (
                row["input"],
                "x".join(map(str, row["shape"])),
                row["dtype"],
                *(f"{row[key]:.4g}" for key in ("min", "max", "mean", "std")),
            )
            for row in samples.summary()
        ),
    )
    print(f"\n{len(samples)} samples of {samples.source}, in batches of {samples.batch}")
    print(f"sha256 {samples.sha256}")
    if arguments.sheet is not None:
        print(f"wrote {arguments.sheet}")
    return 0
