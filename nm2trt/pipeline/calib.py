"""The samples of a calibration recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.extras import names_the_extra

if TYPE_CHECKING:
    from nm2trt.calibration.sample_set import SampleSet


@names_the_extra()
def calibration_samples(
    recipe: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    sheet: str | os.PathLike[str] | None = None,
) -> SampleSet:
    """Read the samples of a calibration recipe, and draw them if they are images.

    Args:
        recipe: The YAML file.
        data_root: Folder that the recipe's paths are relative to and may not leave; its own by default.
        allow_functions: Run a source of kind `function`.
        sheet: PNG to draw the first 64 images to.

    Raises:
        InputError: The recipe or its source is missing or wrong, or a path leaves its folder.
        DataError: The samples are too few, not finite, or have another hash than the recipe says.
        OutputError: The sheet cannot be written.
    """
    from nm2trt.calibration.recipe import load_recipe
    from nm2trt.calibration.sample_set import write_contact_sheet

    samples = load_recipe(recipe, data_root=data_root, allow_functions=allow_functions)
    if sheet is not None:
        write_contact_sheet(samples, Path(sheet))
    return samples
