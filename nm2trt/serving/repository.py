"""Triton's model repository: a version placed whole, switched to in one step, kept, and gone back to.

    models/resnet/config.pbtxt       what is served: replaced in one rename
    models/resnet/2/model.plan       a version: built aside, flushed, moved into place
    models/resnet/2/deployment.json  what it is, the configuration it was placed with, the version before it
    models/resnet/warmup/            samples and label files carry their hash in their name and never change

The configuration names the one version that it serves. A new version is therefore seen by nobody until its
configuration is there, and at every instant, after a kill at any point too, the repository loads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nm2trt.arrays import Arrays
from nm2trt.errors import InputError
from nm2trt.file_replacement import os_reason, sync_folder
from nm2trt.files import read_regular, write_atomic
from nm2trt.locks import one_writer
from nm2trt.serving.artefact import Artefact
from nm2trt.serving.config_message import from_text, to_text
from nm2trt.serving.history import CONFIG, RECORD, history, model_names, numbers, read_record
from nm2trt.serving.model_config import choose_backend, serve_only
from nm2trt.serving.options import DeployOptions, check_name
from nm2trt.serving.staging import as_output_error, clear_stale, move_away, staged, write_file
from nm2trt.serving.version_folder import WARMUP, BesideFiles, beside_files, fill_version, write_beside
from nm2trt.tables.result import Result

_HASH = "[0-9a-f]" * 16


@dataclass(frozen=True, slots=True, repr=False)
class Deployment(Result):
    """A version that was placed.

    Args:
        repository: The repository.
        name: The model.
        version: The version.
        previous: The version that was served before, or None.
        backend: Triton's backend.
        artefact: The file that was deployed.
        artefact_sha256: Hash of its bytes.
        config: The configuration, as text.
        notes: What was chosen for the user; one sentence each.
        removed: Older versions that were removed.
    """

    json_names = (
        "repository name version previous folder backend artefact artefact_sha256 config notes removed"
    )

    repository: Path
    name: str
    version: int
    previous: int | None
    backend: str
    artefact: Path
    artefact_sha256: str
    config: str
    notes: tuple[str, ...]
    removed: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """The version's folder."""
        return self.repository / self.name / str(self.version)

    def remarks(self) -> tuple[str, ...]:
        """Return where the version is, and what was chosen or removed."""
        before = "the first" if self.previous is None else f"{self.previous} before"
        gone = f"removed: version {', '.join(map(str, self.removed))}"
        placed = f"{self.folder}  ({self.backend}; version {self.version}, {before})"
        return (placed, *self.notes, *([gone] if self.removed else []))


@dataclass(frozen=True, slots=True, repr=False)
class Rollback(Result):
    """A change back to a version that was served before.

    Args:
        repository: The repository.
        name: The model.
        left: The version that was served.
        version: The one that is served now.
    """

    repository: Path
    name: str
    left: int
    version: int

    def remarks(self) -> tuple[str, ...]:
        """Return which version is served."""
        return (f"{self.name}: version {self.version} is served, {self.left} was before",)


def place(
    artefact: Artefact,
    repository: str | os.PathLike[str],
    name: str,
    options: DeployOptions | None = None,
    *,
    sample: Arrays | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Deployment:
    """Place a model's next version in a repository and make it the one that is served.

    Args:
        artefact: What to deploy.
        repository: The repository; made if its parent folder exists.
        name: The model's name.
        options: How it is to be served.
        sample: A real sample by input name, the samples along axis 0; the first one warms the model up.
        labels: Names of the classes by output.

    Raises:
        InputError: The name, an option, the sample or the labels are wrong; the name belongs to a model that
            something else placed, or to a link; or the artefact changed meanwhile.
        OutputError: The repository cannot be written; what is served is unchanged.
    """
    options = options or DeployOptions()
    check_name(name)
    files = beside_files(artefact, sample, labels or {})
    with _to_fill(repository) as root, one_writer(root), as_output_error(root / name):
        model = root / name
        clear_stale(root, model)
        before = history(model)
        version = max([0, *numbers(model)]) + 1
        previous = before[0] if before else None
        with staged(root, model) as stage:
            target = stage / name / str(version) if previous is None else stage / "version"
            target.mkdir(parents=previous is None)
            digest, text, notes = fill_version(target, artefact, name, version, options, files, previous)
            if previous is None:
                write_beside(target.parent, files)
                write_file(target.parent / CONFIG, text.encode())
                sync_folder(target.parent)
                target.parent.rename(model)
                sync_folder(root)
            else:
                _switch(model, target, version, text, files)
        removed = _prune(root, model, options.keep)
    return Deployment(
        root,
        name,
        version,
        previous,
        choose_backend(artefact, options.backend),
        artefact.path,
        digest,
        text,
        tuple(notes),
        removed,
    )


def roll_back(repository: str | os.PathLike[str], name: str, *, to: int | None = None) -> Rollback:
    """Serve a version that was served before, under the configuration that it had.

    Args:
        repository: The repository.
        name: The model.
        to: The version; None takes the one before the one that is served.

    Raises:
        InputError: The model is missing, or it has no version to go back to.
        OutputError: The repository cannot be written; what is served is unchanged.
    """
    check_name(name)
    root = _repository(repository)
    model = root / name
    with one_writer(root), as_output_error(model):
        before = history(model)
        if not before:
            raise InputError(f"{root} holds no model {name!r}; it holds {model_names(root)}")
        placed = [number for number in numbers(model) if read_record(model / str(number))]
        kept = ", ".join(map(str, placed))
        if to is None and len(before) < 2:
            others = [number for number in placed if number != before[0]]
            instead = f"; choose another with --to, e.g. --to {max(others)}" if others else ""
            raise InputError(
                f"{model}: no version was served before version {before[0]}; it holds {kept}{instead}"
            )
        version = before[1] if to is None else to
        record = read_record(model / str(version))
        if record is None:
            raise InputError(f"{model} holds no version {version} that nm2trt placed; it holds {kept}")
        _serve(model, version, record)
    return Rollback(root, name, before[0], version)


def undo(placed: Deployment) -> bool:
    """Go back to the version before a placement, or remove the model that it was the first of.

    Returns:
        False if another placement or rollback came after it: then nothing is changed.

    Raises:
        InputError: The version before has gone.
        OutputError: The repository cannot be written.
    """
    root, model = placed.repository, placed.repository / placed.name
    with one_writer(root), as_output_error(model):
        if history(model)[:1] != [placed.version]:
            return False
        if placed.previous is None:
            move_away(root, model)
            return True
        record = read_record(model / str(placed.previous))
        if record is None:
            raise InputError(f"{model} no longer holds version {placed.previous}")
        _serve(model, placed.previous, record)
    return True


def prune(placed: Deployment, keep: int) -> tuple[int, ...]:
    """Remove versions older than the newest `keep`, if the one that was placed is still served."""
    root, model = placed.repository, placed.repository / placed.name
    with one_writer(root), as_output_error(model):
        return _prune(root, model, keep) if history(model)[:1] == [placed.version] else ()


def served_config(repository: str | os.PathLike[str], name: str) -> Any:
    """Return the configuration that a repository holds for a model, a ModelConfig message.

    Raises:
        InputError: The model is missing, or its configuration is invalid.
    """
    path = _repository(repository) / check_name(name) / CONFIG
    try:
        return from_text(read_regular(path).decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {os_reason(error)}") from error


@contextlib.contextmanager
def _to_fill(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a repository, made if it is missing; one that was made and stays empty is removed again."""
    root, missing = Path(path), not os.path.lexists(path)
    with as_output_error(root), contextlib.suppress(FileExistsError):
        root.mkdir(exist_ok=True)  # another deployment may make it at this moment
    try:
        yield _repository(root)
    finally:
        if missing:
            with contextlib.suppress(OSError):  # another process has put something into it
                root.rmdir()


def _repository(path: str | os.PathLike[str]) -> Path:
    root = Path(path)
    if not root.is_dir():
        what = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise InputError(f"{root} {what}; give the folder of a model repository")
    return root.resolve()


def _serve(model: Path, version: int, record: Mapping[str, Any]) -> None:
    config = from_text(record["config"], str(model / str(version) / RECORD))
    serve_only(config, version)
    write_atomic(model / CONFIG, to_text(config))


def _switch(model: Path, built: Path, version: int, text: str, files: BesideFiles) -> None:
    """Move a version into place, then the configuration that serves it."""
    place_ = model / str(version)
    write_beside(model, files)
    built.rename(place_)
    sync_folder(model)
    try:
        write_atomic(model / CONFIG, text)
    except BaseException:
        if read_regular(model / CONFIG).decode(errors="replace") != text:
            move_away(model.parent, place_)
        raise


def _prune(root: Path, model: Path, keep: int) -> tuple[int, ...]:
    """Remove versions that nm2trt placed beyond the newest `keep` that were served, and files of theirs."""
    removed: list[int] = []
    # The new version is served by now: what cannot be removed stays until the next deployment.
    with contextlib.suppress(OSError):
        kept = set(history(model)[:keep])
        for number in numbers(model):
            folder = model / str(number)
            if number not in kept and read_record(folder) is not None:
                move_away(root, folder)
                removed.append(number)
        records = [record for number in kept if (record := read_record(model / str(number)))]
        used = {file for record in records for file in record["files"]}
        for path in (*model.glob(f"labels-{_HASH}.txt"), *model.glob(f"{WARMUP}/{_HASH}.bin")):
            if path.relative_to(model).as_posix() not in used and not path.parent.is_symlink():
                path.unlink()
    return tuple(removed)
