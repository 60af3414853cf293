"""Arguments that say which samples choose the ranges of INT8 and FP8, shared by `quantize` and `build`."""

from __future__ import annotations

import argparse

__all__ = ["add_calibration"]


def add_calibration(parser: argparse._ActionsContainer, *, required: bool) -> None:
    """Add the arguments that say which samples choose the ranges, and how."""
    parser.add_argument(
        "--calib",
        required=required,
        metavar="SAMPLES",
        help="samples: INPUTS.npz with an array an input, or a RECIPE.yaml",
    )
    parser.add_argument(
        "--method",
        choices=("minmax", "percentile", "entropy"),
        default="minmax",
        help="how ranges of activations are chosen (default: minmax)",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=99.99,
        metavar="P",
        help="percent of magnitudes inside a range, for --method percentile (default: 99.99)",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="samples of a batch (default: few)")
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder that the recipe's paths are relative to (default: its own)"
    )
    parser.add_argument("--allow-functions", action="store_true", help="run a source of kind function")
