"""The ranges of one shard of calibration samples, for `quantize(merge=True)`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from nm2trt.options.shares import parse_share
from nm2trt.pipeline.calibration_input import open_calibration
from nm2trt.pipeline.in_memory import as_path, takes_values

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

    from nm2trt.calibration.collectors import Method
    from nm2trt.calibration.parts import ShardReport


@takes_values(samples=("calib",), output="parts")
def quantize_shard(
    model: str | os.PathLike[str] | onnx.ModelProto,
    shard: str,
    *,
    calib: str | os.PathLike[str] | Mapping[str, Any] | npt.ArrayLike,
    parts: str | os.PathLike[str] | None = None,
    to: Literal["int8", "fp8"] = "int8",
    method: Method = "minmax",
    percentile: float = 99.99,
    exclude: Sequence[str] = (),
    float_weights: bool = False,
    float_depthwise: bool = False,
    max_loss: str | float | None = None,
    batch: int | None = None,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> ShardReport:
    """Run one shard of the calibration samples and write the ranges that it finds; no model is written.

    `quantize` with the same arguments and `merge=True` then quantises by the ranges of all shards, which are
    those that one process would find.

    Args:
        model: The float32 ONNX file, or an `onnx.ModelProto`.
        shard: "I/N": this is shard I, counted from 0, of N. It takes whole batches.
        calib: The samples of all shards, as `quantize` takes them.
        parts: Folder of the shards' files; None is `.int8.parts` (or `.fp8.parts`) beside the model.
        to: As `quantize` takes it.
        method: "minmax"; the ranges of other methods cannot be merged, and are refused.
        percentile: Only "percentile" reads it.
        exclude: As `quantize` takes it.
        float_weights: As `quantize` takes it.
        float_depthwise: As `quantize` takes it.
        max_loss: Must be None: a search runs in one process.
        batch: As `quantize` takes it.
        data_root: As `quantize` takes it.
        allow_functions: As `quantize` takes it.

    Raises:
        InputError: A path or an option is wrong, there are fewer batches than shards, or as `quantize`.
        DataError: The samples do not fit the model.
        OutputError: The file cannot be written.
        Interrupted: The user stopped it; run again, it goes on from its file.
    """
    from nm2trt.calibration.parts import Shard, parts_folder
    from nm2trt.graph.quantize.calibrate_model import find_part
    from nm2trt.graph.quantize.report import QuantizeOptions
    from nm2trt.graph.storage.model import load

    which = Shard.parse(shard)
    limit = None if max_loss is None else parse_share(max_loss, "the samples", "2%")
    options = QuantizeOptions(to, method, percentile, tuple(exclude), float_weights, float_depthwise, limit)
    source = as_path(model)
    opened = load(source, leave_weights=True)
    samples = open_calibration(
        cast("str", calib), batch, data_root, allow_functions=allow_functions, model=opened
    )
    folder = parts_folder(source, parts, f".{to}.parts")
    return find_part(opened, samples, options, which, folder)
