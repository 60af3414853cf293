"""`nm2trt calib check`: what a calibration recipe gives."""

from __future__ import annotations

from nm2trt.cli.output import plain_table, print_json, say
from nm2trt.figures import counted
from nm2trt.options.field import keywords
from nm2trt.options.runs import CalibCommand

OPTIONS = CalibCommand

EPILOG = """examples:
  nm2trt calib check calib/images.yaml --sheet sheet.png
"""


def run(options: CalibCommand) -> int:
    """Check, print, and return 0."""
    from nm2trt.pipeline.calib import calibration_samples

    samples = calibration_samples(**keywords(options))
    if options.json:
        print_json(samples.to_json())
        return 0
    plain_table(
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
    say()
    say(f"{counted(len(samples), 'sample')} of {samples.source}, in batches of {samples.batch}")
    say(f"sha256 {samples.sha256}")
    if options.sheet is not None:
        say(f"wrote {options.sheet}")
    return 0
