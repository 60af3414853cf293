"""Files that claim or unpack to more than they hold: none of them fills the memory."""

import json
import os
import shutil

import pytest

from tests.hostile import fuzz
from tests.hostile.limits import limited

# File -> the command that reads it whole.
READERS = {
    "build.log": "explain m.onnx --log build.log",
    "layers.json": "explain m.onnx --layers layers.json --version 8.6",
    "trace.csv": "explain m.onnx --log build.log --trace trace.csv",
    "gain.json": "gain m.onnx --table gain.json --device sm90",
    "labels.txt": "deploy m.onnx --repository models --name n --labels labels.txt",
    "e.rtx.json": "info e.rtx",
    "bench.json": "bench m.onnx --runs 1 --warmup 0 --compare bench.json",
    "times.json": "bench times.json",
    "models/n/2/deployment.json": "rollback --repository models --name n",
    "run/stages/verify.json": "report run -o out.html",
}


def ended(folder, words):
    run = limited(lambda: fuzz._command(folder, words.split()), seconds=60, megabytes=2000)
    return run, (folder / "stderr").read_text()


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_zeros_that_claims_20_gb(fuzzer, tmp_path, name):
    folder = tmp_path / "here"
    shutil.copytree(fuzzer.sound, folder)
    os.truncate(folder / name, 20 << 30)
    run, err = ended(folder, READERS[name])
    assert (run.over, run.status) == ("", 2), err
    assert run.megabytes < 200


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".json")])
def test_json_of_empty_lists(fuzzer, tmp_path, name):
    folder = tmp_path / "here"
    shutil.copytree(fuzzer.sound, folder)
    data = json.dumps({"schema": 1, "Layers": []})[:-1] + ', "more": [' + "[]," * (22 << 20) + "[]]}"
    (folder / name).write_text(data)
    run, err = ended(folder, READERS[name])
    assert run.over == "", err
    assert "internal error" not in err
