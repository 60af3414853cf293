"""Ranges found by several processes: each takes the extremes of its shard of the samples, a merge joins them.

Only extremes are merged. The histograms of the other methods depend on the first samples that a process sees,
so that merged ones would give other ranges than a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from nm2trt.backends.protocol import Session
from nm2trt.calibration.collectors import Extremes, Observed
from nm2trt.calibration.parts import Shard, ShardReport, check_samples, read_parts, shard_file
from nm2trt.calibration.range_cache import RangeCache
from nm2trt.calibration.ranges import Ranges, calibrate, range_key
from nm2trt.calibration.stream import SampleStream
from nm2trt.errors import OutputError


def calibrate_shard(
    open_session: Callable[[], Session],
    observed: Mapping[str, Observed],
    samples: SampleStream,
    shard: Shard,
    *,
    model_sha256: str,
    folder: Path,
) -> ShardReport:
    """Run the samples of one shard and write their extremes into a folder.

    Args:
        open_session: Opens the model that gives what is observed.
        observed: Its outputs that do, by name, of kind "min" and "max".
        samples: The samples of all shards.
        shard: Which of them to run, whole batches that follow one another.
        model_sha256: Hash of the model.
        folder: Where the files of all shards are; it is made. A shard that was stopped goes on from its file.

    Raises:
        InputError: There are fewer batches than shards.
        DataError: The samples do not fit the model, or are NaN, or make a value so.
        OutputError: The file cannot be written.
        Interrupted: The user stopped it; the file is up to date.
    """
    first, after = shard.bounds(samples.count, samples.batch)
    path = shard_file(folder, shard)
    part = {
        "shard": shard.index,
        "shards": shard.count,
        "total": samples.count,
        "batch": samples.batch,
    }
    calibrate(
        open_session,
        observed,
        samples.part(first, after),
        model_sha256=model_sha256,
        cache=path,
        part=part,
    )
    key = {**range_key(observed, "minmax", 0, model_sha256), **part}
    kept = RangeCache(path, key).load()
    if kept is None or kept[0] != after - first:
        raise OutputError(f"{path} could not be written; free space, or give another folder with --parts")
    return ShardReport(shard.index, shard.count, first, after - first, samples.count, str(path))


def merge_ranges(
    observed: Mapping[str, Observed], samples: SampleStream, *, model_sha256: str, folder: Path
) -> Ranges:
    """Return the extremes over all samples from the files of all shards, as one process would find them.

    The samples are read once, to hold them to the hashes in the files; the model does not run.

    Args:
        observed: As `calibrate_shard` took it.
        samples: The samples of all shards.
        model_sha256: Hash of the model.
        folder: Where the files are.

    Raises:
        InputError: The folder is missing.
        DataError: A file is damaged or of another job, or a shard is missing, not complete or there twice.
    """
    key = range_key(observed, "minmax", 0, model_sha256)
    parts = read_parts(folder, key, samples.count, samples.batch)
    merged = Extremes(observed)
    for part in parts:
        with part.sound():
            merged.merge(part.arrays)
    sha256 = check_samples(parts, samples.read(samples.batch))
    found = merged.ranges()
    low, high = ({name: ends[at] for name, ends in found.items()} for at in (0, 1))
    return Ranges("minmax", samples.count, sha256, low, high, 0)
