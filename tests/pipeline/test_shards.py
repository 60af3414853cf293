"""Shards of calibration and validation: processes that each take a part give what one process gives."""

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from docs.make_json_schemas import save_net
from nm2trt.calibration.parts import Shard
from nm2trt.calibration.stream import open_sample_stream
from nm2trt.cli import main
from nm2trt.cli.dispatch import command_parser
from nm2trt.errors import InputError
from nm2trt.options.command_line import options_from

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    save_net(folder / "a.onnx", "first", 32, fixed=False)
    save_net(folder / "b.onnx", "first", 48, fixed=False)
    return folder


@pytest.fixture
def folder(nets, tmp_path, monkeypatch):
    for path in nets.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


QUANTIZE = "quantize a.onnx --calib a.npz"
VALIDATE = "validate a.onnx --against b.onnx --data a.npz --runs 0 --batch 3 --atol 0.1 --min-agreement 0"


def run(line, status=0):
    assert main(line.split()) == status, line


@pytest.fixture(scope="module")
def two_processes(nets, tmp_path_factory):
    """A folder with the shards of both commands, made side by side: a pair of processes, started once."""
    folder = tmp_path_factory.mktemp("two")
    for path in nets.iterdir():
        shutil.copy(path, folder)
    both = "import sys; from nm2trt.cli import main\nfor line in sys.argv[1:]: assert main(line.split()) == 0"
    words = [[f"{line} --shard {i}/2" for line in (QUANTIZE, VALIDATE)] for i in range(2)]
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL}
    started = [subprocess.Popen([sys.executable, "-c", both, *lines], **quiet) for lines in words]
    assert [process.wait(300) for process in started] == [0, 0]
    return folder


def test_two_processes_quantise_as_one_does(two_processes, monkeypatch):
    folder = two_processes
    monkeypatch.chdir(folder)
    run(f"{QUANTIZE} --merge -o merged.onnx")
    run(f"{QUANTIZE} -o one.onnx")
    assert (folder / "merged.onnx").read_bytes() == (folder / "one.onnx").read_bytes()


def test_two_processes_validate_as_one_does(two_processes, monkeypatch, capsys):
    monkeypatch.chdir(two_processes)
    run(f"{VALIDATE} --merge --json", 5)
    merged = json.loads(capsys.readouterr().out)
    run(f"{VALIDATE} --json", 5)
    one = json.loads(capsys.readouterr().out)
    assert merged["n"] == 32
    assert merged["metrics"] == one["metrics"]  # scores of each sample, and draws from them, are the same
    for own, other in zip(merged.pop("differences"), one.pop("differences"), strict=True):
        for name, value in own.items():
            if name in ("mean_abs", "cosine", "relative_l2", "sqnr_db", "kl"):
                assert math.isclose(value, other[name], rel_tol=1e-12), name
            else:
                assert value == other[name], name
    assert {**merged, "gates": 0} == {**one, "gates": 0}
    assert [gate["passed"] for gate in merged["gates"]] == [gate["passed"] for gate in one["gates"]]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_shards_cover_the_samples_in_whole_batches(count):
    ends = [Shard(i, count).bounds(30, 4) for i in range(count)]
    assert (ends[0][0], ends[-1][1]) == (0, 30)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(ends))
    assert all(start % 4 == 0 and start < stop for start, stop in ends)


def test_a_part_of_a_stream_is_the_same_samples_however_it_is_read(folder):
    stream = open_sample_stream(folder / "a.npz")
    whole = np.concatenate([batch["x"] for batch in stream.read(5)])
    part = stream.part(8, 20)
    assert part.count == 12
    for size in (1, 4, 5):
        assert np.array_equal(np.concatenate([b["x"] for b in part.read(size)]), whole[8:20])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "is not I/N; write 0/4"),
        ("-1/2", "is not I/N"),
        ("2/2", "2/2 is out of range; shards count from 0, so the last of 2 is 1/2"),
        ("0/0", "0/0 is out of range"),
    ],
)
def test_a_shard_that_is_none_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Shard.parse(text)


def refused(line, capsys):
    run(line, 2)
    return capsys.readouterr().err


@pytest.mark.parametrize("line", [QUANTIZE, VALIDATE])
def test_what_no_merge_can_be_made_of_is_refused(line, folder, capsys):
    suffix, merge = ".int8.parts" if line is QUANTIZE else ".parts", f"{line} --merge"
    parts = (folder / "a.onnx").with_suffix(suffix)
    assert "is not a folder of shards; run the command with --shard" in refused(merge, capsys)
    run(f"{line} --shard 1/3")
    assert "lacks shard 0/3 and 1 more; run it" in refused(merge, capsys)
    run(f"{line} --shard 0/3")
    run(f"{line} --shard 2/3")
    shutil.copy(parts / "1-of-3.npz", parts / "copy.npz")
    assert "are both shard 1/3; remove one" in refused(merge, capsys)
    (parts / "copy.npz").unlink()
    other = line.replace("b.onnx", "a.onnx") if line is VALIDATE else line.replace("a.onnx", "b.onnx")
    told = refused(f"{other} --merge --parts {parts}", capsys)
    assert f"is a shard of another job, with another {'reference' if line is VALIDATE else 'model'}" in told
    arrays = dict(np.load("a.npz"))
    arrays["x"][15] += 1  # of the middle shard
    np.savez("a.npz", **arrays)
    assert "1-of-3.npz was made from other samples; run --shard 1/3 again" in refused(merge, capsys)
    run(f"{line} --shard 1/3")
    run(merge, 0 if line is QUANTIZE else 5)
    capsys.readouterr()
    run(f"{line} --shard 0/2")
    assert "holds shards of 2 and of 3; remove those" in refused(merge, capsys)
    (parts / "0-of-2.npz").write_bytes(b"no archive")
    assert "0-of-2.npz is not a file of --shard, or is damaged" in refused(merge, capsys)


@pytest.mark.parametrize("line", [QUANTIZE, VALIDATE])
def test_arrays_of_another_kind_are_damage(line, folder, capsys):
    run(f"{line} --shard 0/1 --parts parts")
    path = folder / "parts" / "0-of-1.npz"
    kept = dict(np.load(path))
    for name in set(kept) - {"head"}:
        np.savez(path, **{**kept, name: kept[name].reshape(-1)[:0].astype("f2")})
        told = refused(f"{line} --merge --parts parts", capsys)
        assert "run --shard 0/1 again" in told or "too few scores" in told, name


def test_what_cannot_be_shared_is_refused(folder, capsys):
    assert "8 batches, too few for 9 shards" in refused(f"{QUANTIZE} --shard 0/9", capsys)
    assert "take only --method minmax" in refused(f"{QUANTIZE} --shard 0/2 --method entropy", capsys)
    assert "take only --method minmax" in refused(f"{QUANTIZE} --merge --method percentile", capsys)
    assert "--max-loss searches in one process" in refused(f"{QUANTIZE} --shard 0/2 --max-loss 2%", capsys)
    assert "run every shard first" in refused(f"{VALIDATE} --shard 0/2 --merge", capsys)
    assert "no model; leave -o out" in refused(f"{QUANTIZE} --shard 0/2 -o b.int8.onnx", capsys)
    (folder / "o.json").write_text("[]")
    recorded = "validate a.onnx --against o.json --data a.npz --shard 0/2"
    assert "holds recorded outputs" in refused(recorded, capsys)
    address = "validate http://127.0.0.1:9/a --against a.onnx --data a.npz --shard 0/2"
    assert "name one for the shards with --parts" in refused(address, capsys)


def test_a_stopped_shard_is_told_from_a_whole_one_and_goes_on(folder, capsys, monkeypatch):
    from nm2trt.backends.ort import OrtSession

    run_, calls = OrtSession.run, iter(range(99))

    def stops(self, feeds):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return run_(self, feeds)

    monkeypatch.setattr(OrtSession, "run", stops)
    assert main(f"{QUANTIZE} --shard 0/1".split()) == 130
    assert "was stopped; run it again" in refused(f"{QUANTIZE} --merge", capsys)
    run(f"{QUANTIZE} --shard 0/1")
    run(f"{QUANTIZE} --merge -o merged.onnx")
    assert next(calls) > 2
    run(f"{QUANTIZE} -o one.onnx")
    assert (folder / "merged.onnx").read_bytes() == (folder / "one.onnx").read_bytes()


def test_the_job_of_the_docs_fits_the_schema_of_kubernetes():
    yaml = pytest.importorskip("yaml")
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    page = Path(__file__).parents[2] / "docs" / "howto" / "many_processes.md"
    (block,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    job = yaml.safe_load(block)
    kubernetes_validate.validate(job, "1.30", strict=True)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "7") for word in container["command"]]
    parser, module = command_parser(words[1])
    options = options_from(parser.parse_args(words[1:]), module.OPTIONS)
    assert Shard.parse(options.shard) == Shard(7, job["spec"]["completions"])
