"""Shards of a job over many samples: which samples each takes, the file that it leaves, and their merge.

A shard takes whole batches, so that the model sees the batches that one process would give it. Its file is an
`.npz` of plain arrays with a head that names the job (model, options, number of samples) and holds a hash of
the shard's samples. A merge takes only files of its own job, each shard once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nm2trt.arrays import Arrays
from nm2trt.calibration.array_files import UNSOUND_CONTENT, read_archive
from nm2trt.calibration.stream import SampleHash, length_of
from nm2trt.errors import DataError, InputError
from nm2trt.figures import counted
from nm2trt.file_replacement import make_output_folder
from nm2trt.files import check_output, suffixed, unnamed_output
from nm2trt.tables.result import Result
from nm2trt.tables.table import Table

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")
# Keys of a head, as a message names them.
_WORDS = {
    "format": "format",
    "kind": "command",
    "model": "model",
    "total": "number of samples",
    "batch": "batch size",
    "values": "choice of layers",
}
_OWN = ("shard", "shards", "samples", "sha256")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several processes that share the samples.

    Args:
        index: Which one, from 0.
        count: How many there are.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that "I/N" spells.

        Raises:
            InputError: The text is not of that form, or I is not below N.
        """
        match = _SHARD.fullmatch(text.strip())
        if match is None:
            raise InputError(f"--shard {text!r} is not I/N; write 0/4 for the first of four")
        index, count = int(match[1]), int(match[2])
        if index >= count:
            last = f", so the last of {count} is {count - 1}/{count}" if count else ""
            raise InputError(f"--shard {index}/{count} is out of range; shards count from 0{last}")
        return cls(index, count)

    def bounds(self, samples: int, batch: int) -> tuple[int, int]:
        """Return the positions of the shard's first sample and of the one after its last.

        Raises:
            InputError: There are fewer batches than shards.
        """
        batches = -(-samples // batch)
        if batches < self.count:
            raise InputError(
                f"{counted(samples, 'sample')} in batches of {batch} make "
                f"{counted(batches, 'batch', 'batches')}, too few "
                f"for {self.count} shards; give at most {counted(batches, 'shard')}, or a smaller --batch"
            )
        first, last = (batches * at // self.count for at in (self.index, self.index + 1))
        return first * batch, min(last * batch, samples)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one shard left.

    Args:
        path: Its file.
        shard: The shard.
        samples: How many samples it ran.
        sha256: Hash of them.
        arrays: What it found.
    """

    path: Path
    shard: Shard
    samples: int
    sha256: str
    arrays: Arrays

    @contextlib.contextmanager
    def sound(self) -> Iterator[None]:
        """Turn what arrays of another kind raise into a DataError.

        Raises:
            DataError: They did.
        """
        try:
            yield
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise DataError(f"{self.path} is damaged; run --shard {self.shard} again") from error


@dataclass(frozen=True, slots=True, repr=False)
class ShardReport(Result):
    """What one shard did.

    Args:
        shard: The shard's number, from 0.
        shards: How many shards there are.
        first: Position of its first sample.
        samples: Samples that it took.
        total: Samples of all shards.
        output: The file that it wrote.
    """

    shard: int
    shards: int
    first: int
    samples: int
    total: int
    output: str

    def tables(self) -> tuple[Table, ...]:
        """Return no table."""
        return ()

    def remarks(self) -> tuple[str, ...]:
        """Return which samples were run, and where the file is."""
        last = self.first + self.samples - 1
        return (
            f"shard {self.shard}/{self.shards}: samples {self.first} to {last} of {self.total}",
            f"wrote {self.output}; after the last shard, give the same command with --merge",
        )


def parts_folder(model: Path, given: str | os.PathLike[str] | None, suffix: str) -> Path:
    """Return the folder of the shards' files: the one given, or one beside the model."""
    return unnamed_output(suffixed(model, suffix), "--parts") if given is None else Path(given)


def shard_file(folder: Path, shard: Shard) -> Path:
    """Return the path of a shard's file, in a folder that is made.

    Raises:
        OutputError: It cannot be written.
    """
    make_output_folder(folder, "give another folder with --parts")
    return check_output(folder / f"{shard.index}-of-{shard.count}.npz")


def read_parts(folder: Path, key: Mapping[str, Any], total: int, batch: int) -> tuple[Part, ...]:
    """Read the files of all shards of a job, in order.

    Args:
        folder: Where they are.
        key: What the job is of, without the shard.
        total: Number of samples of the whole job.
        batch: Samples of a batch.

    Raises:
        InputError: The folder is missing.
        DataError: A file is damaged, of another job or not complete, or a shard is missing or there twice.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of shards; run the command with --shard 0/N first")
    files = sorted(path for path in folder.iterdir() if path.suffix == ".npz" and path.is_file())
    if not files:
        raise DataError(f"{folder} holds no shard; run the command with --shard 0/N to N-1/N first")
    job = {**json.loads(json.dumps(dict(key))), "total": total, "batch": batch}
    found = [_read(path, job) for path in files]
    counts = sorted({part.shard.count for part in found})
    if len(counts) > 1:
        raise DataError(
            f"{folder} holds shards of {counts[0]} and of {counts[1]}; remove those that are not of this job"
        )
    by_index: dict[int, Part] = {}
    for part in found:
        if (other := by_index.setdefault(part.shard.index, part)) is not part:
            raise DataError(f"{other.path} and {part.path} are both shard {part.shard}; remove one of them")
    missing = [index for index in range(counts[0]) if index not in by_index]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{folder} lacks shard {missing[0]}/{counts[0]}{more}; run it, then merge again")
    parts = tuple(by_index[index] for index in range(counts[0]))
    for part in parts:
        first, after = part.shard.bounds(total, batch)
        if part.samples != after - first:
            raise DataError(
                f"{part.path} holds {part.samples} of {after - first} samples: shard {part.shard} was "
                "stopped; run it again, it goes on from there"
            )
    return parts


def _read(path: Path, job: Mapping[str, Any]) -> Part:
    try:
        arrays = dict(read_archive(path))
        head = json.loads(str(arrays.pop("head")))
        shard = Shard(int(head["shard"]), int(head["shards"]))
        samples, sha256 = int(head["samples"]), str(head["sha256"])
    except UNSOUND_CONTENT as error:
        raise _unknown(path) from error
    if not 0 <= shard.index < shard.count:
        raise _unknown(path)
    other = [name for name in sorted({*job, *head} - {*_OWN}) if head.get(name) != job.get(name)]
    if other:
        raise DataError(
            f"{path} is a shard of another job, with another {_WORDS.get(other[0], other[0])}; run --shard "
            f"{shard} again with the model, the samples and the options of this merge"
        )
    return Part(path, shard, samples, sha256, arrays)


def _unknown(path: Path) -> DataError:
    return DataError(f"{path} is not a file of --shard, or is damaged; remove it")


def check_samples(parts: Sequence[Part], batches: Iterable[Arrays]) -> str:
    """Hold every shard's hash to the samples, which are read once and not run; return the hash of all.

    Raises:
        DataError: A shard ran other samples.
    """
    whole, own, done, at = SampleHash(), SampleHash(), 0, 0
    for batch in batches:
        whole.update(batch)
        own.update(batch)
        done += length_of(batch)
        if done >= parts[at].samples:
            if own.hexdigest() != parts[at].sha256:
                raise DataError(
                    f"{parts[at].path} was made from other samples; run --shard {parts[at].shard} again"
                )
            own, done, at = SampleHash(), 0, at + 1
    return whole.hexdigest()
