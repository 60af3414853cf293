"""A validation shared by several processes: each scores its shard of the samples, a merge adds them up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.backends.protocol import Session
from nm2trt.calibration.parts import Shard, ShardReport, check_samples, read_parts, shard_file
from nm2trt.calibration.range_cache import RangeCache
from nm2trt.calibration.stream import SampleHash
from nm2trt.errors import DataError
from nm2trt.progress import bar
from nm2trt.validation.comparison import Comparison, ComparisonJob
from nm2trt.validation.samples.samples import SampleBatch, Samples


def score_shard(
    job: ComparisonJob, samples: Samples, shard: Shard, *, key: Mapping[str, Any], folder: Path
) -> ShardReport:
    """Run one shard of the samples through both models, and write what was added up into a folder.

    Args:
        job: Both models.
        samples: The samples of all shards.
        shard: Which of them to run.
        key: What tells this job from others: models, metrics and limits.
        folder: Where the files of all shards are; it is made.

    Raises:
        InputError: There are fewer batches than shards, or as `compare_sessions`.
        OutputError: The file cannot be written.
        Nm2trtError: As `compare_sessions`.
    """
    total = len(samples)
    first, after = shard.bounds(total, job.batch)
    path = shard_file(folder, shard)
    digest, tally = SampleHash(), job.tally
    with bar("comparing", after - first) as shown:
        for one in samples.batches(job.batch, first, after):
            digest.update(_plain(one))
            job.add(one)
            shown.update(tally.n)
    part = {"shard": shard.index, "shards": shard.count, "total": total, "batch": job.batch}
    RangeCache(path, {**key, **part}).save(tally.n, digest.hexdigest(), tally.state())
    return ShardReport(shard.index, shard.count, first, tally.n, total, str(path))


def merged_sessions(
    candidate: Session,
    reference: Session,
    samples: Samples,
    *,
    key: Mapping[str, Any],
    folder: Path,
    **settings: Any,
) -> Comparison:
    """Return the comparison over all samples from the files of all shards; no model runs.

    Counts, extremes and the scores of each sample are those of one process; sums may differ in the last
    digits. The samples are read once, to hold them to the hashes in the files.

    Args:
        candidate: As `compare_sessions` takes it.
        reference: As `compare_sessions` takes it.
        samples: The samples of all shards.
        key: As `score_shard` took it.
        folder: Where the files are.
        **settings: The other arguments of `ComparisonJob.of`.

    Raises:
        InputError: The folder is missing.
        DataError: A file is damaged or of another job, or a shard is missing or there twice.
    """
    job = ComparisonJob.of(candidate, reference, samples, **settings)
    parts = read_parts(folder, key, len(samples), job.batch)
    for part in parts:
        with part.sound():
            job.tally.extend(part.arrays, part.samples)
    for name, *scores in job.tally.scores():
        if any(len(one) != len(samples) for one in scores):
            raise DataError(f"the shards in {folder} hold too few scores of {name}; run all shards again")
    check_samples(parts, (_plain(one) for one in samples.batches(job.batch)))
    return job.found()


def _plain(batch: SampleBatch) -> dict[str, Array]:
    """Return inputs and truth; texts as numbers, since they have no buffer to hash."""
    return dict(_plain_arrays(batch))


def _plain_arrays(batch: SampleBatch) -> Iterator[tuple[str, Array]]:
    yield from batch.inputs.items()
    for name, array in batch.truth.items():
        if array.dtype.kind == "U":
            yield name, np.ascontiguousarray(array).view(np.uint32).reshape(len(array), -1)
        else:
            yield name, array
