"""`nm2trt report`: the folder of a run to a page."""

from __future__ import annotations

import argparse

__all__ = ["configure", "run"]

_EPILOG = """examples:
  nm2trt report runs/resnet50 -o report.html
  nm2trt report runs/resnet50 -o report.md     # for a pull request
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog, parser.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", metavar="RUN_DIR", help="folder of a run, as `nm2trt run` writes it")
    parser.add_argument("-o", "--output", metavar="FILE", help="the report; default: RUN_DIR/report.html")
    parser.add_argument(
        "--format",
        choices=("html", "json", "md"),
        help="html: one self-contained page; json: all figures; md: for a pull request (default: by the "
        "suffix of FILE, else html)",
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Write the report and return 0."""
    from nm2trt.cli.output import print_json
    from nm2trt.pipeline.report import report

    result = report(arguments.run, arguments.output, format=arguments.format)
    if arguments.json:
        print_json(result.to_json())
    else:
        print(
            f"{result.report}  {result.size_bytes / 1e3:.0f} kB, {result.stages} stages, "
            f"{result.weights} weights"
        )
    return 0
