"""A picture of what the masks did: SAD and sparsity by step, from the reports of a session."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from nm2trt.errors import DataError, InputError
from nm2trt.extras import names_the_extra
from nm2trt.files import atomic_path, check_output


def plot_reports(
    reports: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, layers: bool = False
) -> None:
    """Draw SAD (normalised, step to step and against the start) and sparsity over steps.

    Args:
        reports: What `SparseSession.report` returned, in the order of the steps.
        path: The picture to write; its suffix chooses the format, e.g. ".png".
        layers: Draw a thin line per layer below the model's.

    Raises:
        DataError: The list of reports is empty.
        BackendMissingError: matplotlib is not installed.
        InputError: It does not write this format.
        OutputError: The file cannot be written.
    """
    if not reports:
        raise DataError("no reports were given to plot; collect sparse.report() during training")
    target = check_output(path)
    with names_the_extra("matplotlib"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    steps = [report["step"] for report in reports]
    titles = {"sad_step": "SAD, step to step", "sad_anchored": "SAD, against the start"}
    left, middle, right = figure.subplots(1, 3)
    for axes, (key, title) in zip((left, middle), titles.items(), strict=True):
        for name in reports[0]["layers"] if layers else ():
            each = [report["layers"][name][key]["normalised"] for report in reports]
            axes.plot(steps, each, color="tab:gray", linewidth=0.6, alpha=0.6)
        axes.plot(steps, [report[key]["normalised"] for report in reports], color="tab:green")
        axes.set(title=title, xlabel="step", ylabel="share of the largest possible", ylim=(0, None))
    right.plot(steps, [100 * report["sparsity"] for report in reports], color="tab:blue")
    right.set(title="Sparsity of the sparse layers", xlabel="step", ylabel="%", ylim=(0, 100))
    with atomic_path(target) as temporary:
        try:
            figure.savefig(temporary, format=target.suffix.lstrip(".") or "png", dpi=120)
        except ValueError as error:
            raise InputError(f"{target.name}: {error}; use a suffix such as .png or .svg") from error
