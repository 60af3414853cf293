"""A pipe in the place of a file is refused; no command waits for somebody to write into it."""

import os
import shutil

import pytest

from nm2trt.hashes import sha256_file
from tests.hostile import files, fuzz
from tests.hostile.limits import limited

WAITING = 300  # a command that reads the pipe never ends


def places(folder, name):
    """Return the files that a name of `files.READERS` stands for."""
    return sorted(path for path in folder.glob(name.replace("*", "**/*")) if path.is_file())


def ended(folder, words):
    return limited(lambda: fuzz._command(folder, words.split()), seconds=60, megabytes=2000, waiting=WAITING)


def test_the_hash_of_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        sha256_file(tmp_path / "pipe")


@pytest.mark.slow
@pytest.mark.parametrize("name", files.READERS)
def test_every_file(fuzzer, tmp_path, name):
    relatives = [path.relative_to(fuzzer.sound) for path in places(fuzzer.sound, name)]
    assert relatives
    for number, relative in enumerate(relatives):
        for command in files.READERS[name]:
            folder = tmp_path / str(number)
            shutil.copytree(fuzzer.sound, folder)
            (folder / relative).unlink()
            os.mkfifo(folder / relative)
            run = ended(folder, command.format(out="out"))
            err = (folder / "stderr").read_text()
            assert run.over == "", (relative, command)
            assert run.status in fuzz.STATUSES, (relative, command, err)
            assert "internal error" not in err, (relative, command, err)
            shutil.rmtree(folder)
