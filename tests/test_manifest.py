"""The pair of engine and manifest: whole at every instant, whatever happens in between."""

import dataclasses
import functools
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from nm2trt.engine import pair_writer as pair_writer_module
from nm2trt.engine.pair_writer import _dumps, _with_previous, digest_of, pair_writer
from nm2trt.errors import InputError, OutputError
from nm2trt.hashes import sha256_bytes
from nm2trt.manifest import Manifest, manifest_path, read_manifest, refuse_foreign
from tests import forked
from tests.pairs import write_pair

OLD, NEW = b"old engine", b"the new engine"


def manifest_of(data, **fields):
    values = {
        "kind": "a plan",
        "engine_sha256": sha256_bytes(data),
        "engine_bytes": len(data),
        "model": "m.onnx",
        "model_sha256": "0" * 64,
        "mask_sha256": "1" * 64,
        "plan": None,
        "backend": "trt-rtx",
        "versions": {"nm2trt": "0.1.0"},
        "options": {"sparsity": "enable"},
        "targets": ("sm80",),
        "inputs": ({"name": "x", "dtype": "float16", "shape": ["n", 3]},),
        "outputs": (),
        "ladder": (),
        "notes": ("a note",),
        "created": "2024-01-01T00:00:00+00:00",
    }
    return Manifest(**{**values, **fields})


@pytest.fixture
def engine(tmp_path):
    return tmp_path / "model.rtx"


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_written_pair_is_read_back(engine):
    write_pair(engine, NEW, manifest_of(NEW))
    fit = read_manifest(engine)
    assert fit.status == "fits"
    assert fit.manifest == manifest_of(NEW)
    assert engine.read_bytes() == NEW
    assert "previous" not in json.loads(manifest_path(engine).read_text())
    assert files(engine.parent) == ["model.rtx", "model.rtx.json"]


def test_a_pair_replaces_a_pair(engine):
    write_pair(engine, OLD, manifest_of(OLD))
    write_pair(engine, NEW, manifest_of(NEW))
    assert read_manifest(engine).manifest == manifest_of(NEW)
    assert files(engine.parent) == ["model.rtx", "model.rtx.json"]


def test_hash_and_size_are_the_written_engine_s(engine):
    assert write_pair(engine, NEW, manifest_of(OLD)) == manifest_of(NEW)
    assert read_manifest(engine).manifest == manifest_of(NEW)


def test_an_engine_without_manifest_says_so(engine):
    engine.write_bytes(OLD)
    assert read_manifest(engine).status == "missing"
    assert "model.rtx.json is not there" in read_manifest(engine).sentence


def test_a_manifest_of_another_engine_says_so(engine):
    write_pair(engine, OLD, manifest_of(OLD))
    engine.write_bytes(NEW)
    fit = read_manifest(engine)
    assert (fit.status, fit.manifest) == ("other", None)
    assert "model.rtx.json describes another engine than model.rtx" in fit.sentence


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "is damaged: it is not JSON", id="cut"),
        pytest.param("[" * 9999, "is damaged", id="nested"),
        pytest.param("[1, 2]", "is damaged or not a manifest", id="list"),
        pytest.param(
            '{HASH, "schema": 2}', "has schema 2, this release reads 1; update nm2trt", id="later-schema"
        ),
        pytest.param('{HASH, "schema": 1}', "is damaged or not a manifest", id="keys-missing"),
        pytest.param("{HASH}", "is damaged or not a manifest", id="no-schema"),
    ],
)
def test_a_damaged_manifest_is_refused(engine, text, message):
    engine.write_bytes(NEW)
    manifest_path(engine).write_text(text.replace("HASH", f'"engine_sha256": "{sha256_bytes(NEW)}"'))
    with pytest.raises(InputError, match=message):
        read_manifest(engine)


@pytest.mark.parametrize("field", ["targets", "kind", "options"])
def test_a_value_of_the_wrong_type_is_refused(engine, field):
    engine.write_bytes(NEW)
    record = {**manifest_of(NEW).to_json(), field: 7}
    manifest_path(engine).write_text(json.dumps(record))
    with pytest.raises(InputError, match="is damaged or not a manifest"):
        read_manifest(engine)


@pytest.mark.parametrize("size", [10**30, 1.5, [1], True], ids=str)
def test_a_shape_that_no_tensor_has_is_refused(engine, size):
    engine.write_bytes(NEW)
    record = manifest_of(NEW, inputs=({"name": "x", "dtype": "float16", "shape": ["n", size]},)).to_json()
    manifest_path(engine).write_text(json.dumps(record))
    with pytest.raises(InputError, match="is damaged or not a manifest"):
        read_manifest(engine)


def test_keys_of_a_later_release_are_ignored(engine):
    engine.write_bytes(NEW)
    manifest_path(engine).write_text(json.dumps({**manifest_of(NEW).to_json(), "later": 1}))
    assert read_manifest(engine).status == "fits"


@pytest.mark.parametrize(
    ("leads_to", "kept"),
    [("store/one.rtx.json", False), ("store/notes.json", True)],
    ids=["a pair of links", "elsewhere"],
)
def test_a_manifest_is_written_through_a_link_only_to_the_pair_that_the_engine_leads_to(
    tmp_path, leads_to, kept
):
    store, now = tmp_path / "store", tmp_path / "now.rtx"
    store.mkdir()
    write_pair(store / "one.rtx", OLD, manifest_of(OLD))
    (store / "notes.json").write_text("somebody's")
    now.symlink_to("store/one.rtx")
    manifest_path(now).symlink_to(leads_to)
    write_pair(now, NEW, manifest_of(NEW))
    assert now.is_symlink()
    assert read_manifest(now).manifest == manifest_of(NEW)
    assert manifest_path(now).is_symlink() is not kept
    assert (read_manifest(store / "one.rtx").status == "fits") is not kept
    assert (store / "notes.json").read_text() == "somebody's"


def killed_writer(engine, left, when):
    """Run `write_pair` in a process of its own that kills itself at a rename; return how that ended."""
    child = os.fork()
    if child == 0:
        rename = Path.replace

        def counted(self, target):
            nonlocal left
            left -= 1
            if left == 0 and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = rename(self, target)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        try:
            Path.replace = counted
            write_pair(engine, NEW, manifest_of(NEW))
        finally:
            os._exit(1)  # whatever went wrong, this copy of the test process ends here
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns where there are threads
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("rename", [1, 2, 3], ids=["manifest-first", "engine", "manifest-last"])
@pytest.mark.parametrize("old", ["pair", "engine-alone", "nothing"])
def test_the_pair_is_valid_wherever_the_writer_is_killed(engine, rename, when, old):
    if old == "pair":
        write_pair(engine, OLD, manifest_of(OLD))
    elif old == "engine-alone":
        engine.write_bytes(OLD)
    assert killed_writer(engine, rename, when) == -signal.SIGKILL
    renamed = rename > 2 or (rename == 2 and when == "after")
    if renamed:
        assert engine.read_bytes() == NEW
        assert read_manifest(engine).manifest == manifest_of(NEW)
    elif old == "pair":
        assert engine.read_bytes() == OLD
        assert read_manifest(engine).manifest == manifest_of(OLD)
    elif old == "engine-alone":
        assert engine.read_bytes() == OLD
        assert read_manifest(engine).status == "missing"
    else:
        assert not engine.exists()
    write_pair(engine, NEW, manifest_of(NEW))
    assert files(engine.parent) == ["model.rtx", "model.rtx.json"], "the next run clears what was left"
    assert read_manifest(engine).manifest == manifest_of(NEW)


@pytest.mark.parametrize("failing", [1, 2, 3], ids=["manifest-first", "engine", "manifest-last"])
@pytest.mark.parametrize("old", ["pair", "nothing"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_a_failed_write_leaves_the_old_pair(engine, monkeypatch, failing, old, error):
    if old == "pair":
        write_pair(engine, OLD, manifest_of(OLD))
    before = {path.name: path.read_bytes() for path in engine.parent.iterdir()}
    rename, calls = type(engine).replace, []

    def counted(self, target):
        calls.append(target)
        if len(calls) == failing:
            raise error
        return rename(self, target)

    monkeypatch.setattr(type(engine), "replace", counted)
    if failing == 3 and isinstance(error, OSError):
        write_pair(engine, NEW, manifest_of(NEW))
    else:
        with pytest.raises((OutputError, KeyboardInterrupt)):
            write_pair(engine, NEW, manifest_of(NEW))
    if failing == 3:
        assert read_manifest(engine).manifest == manifest_of(NEW)
    else:
        assert {path.name: path.read_bytes() for path in engine.parent.iterdir()} == before


def test_an_interrupt_just_after_the_engine_is_replaced_leaves_the_new_pair(engine, monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    write_pair(engine, OLD, manifest_of(OLD))
    settled = iter([None, interrupted])  # first the manifest's folder, then the engine's
    monkeypatch.setattr(
        "nm2trt.files.sync_folder", lambda folder: (next(settled) or (lambda _: None))(folder)
    )
    with pytest.raises(KeyboardInterrupt):
        write_pair(engine, NEW, manifest_of(NEW))
    assert engine.read_bytes() == NEW
    assert read_manifest(engine).manifest == manifest_of(NEW)


def test_the_engine_is_whole_however_long_its_copy_takes(engine, monkeypatch):
    copy, data = pair_writer_module._copy, bytes(range(250)) * 11

    def slow(given, file):
        time.sleep(0.05)
        copy(given, file)

    monkeypatch.setattr(pair_writer_module, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(pair_writer_module, "_copy", slow)
    write_pair(engine, memoryview(data), manifest_of(data))
    assert engine.read_bytes() == data
    assert read_manifest(engine).status == "fits"


def test_a_disk_that_is_full_while_the_engine_is_copied_leaves_the_old_pair(engine, monkeypatch):
    def full(data, file):
        file.write_bytes(data[:3])
        raise OSError(28, "No space left on device")

    write_pair(engine, OLD, manifest_of(OLD))
    monkeypatch.setattr(pair_writer_module, "_copy", full)
    with pytest.raises(OutputError, match="the disk is full; nothing was changed"):
        write_pair(engine, NEW, manifest_of(NEW))
    assert read_manifest(engine).manifest == manifest_of(OLD)
    assert files(engine.parent) == ["model.rtx", "model.rtx.json"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux lists open files there")
def test_a_replaced_engine_is_closed(engine):
    write_pair(engine, OLD, manifest_of(OLD))
    before = list(Path("/proc/self/fd").iterdir())
    write_pair(engine, NEW, manifest_of(NEW))
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)


def test_a_full_disk_is_one_sentence(engine, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(engine), "replace", full)
    with pytest.raises(OutputError, match="the disk is full; nothing was changed"):
        write_pair(engine, NEW, manifest_of(NEW))


def test_two_writers_at_once_leave_one_whole_pair(engine):
    """Two processes replace the pair again and again; the reader in between never sees a mismatch."""

    def write(data):
        for _ in range(25):
            write_pair(engine, data, manifest_of(data))

    write_pair(engine, OLD, manifest_of(OLD))
    writers = [
        forked.start(functools.partial(write, data), engine.parent, os.devnull, os.devnull)
        for data in (b"a" * 99, b"b" * 77)
    ]
    ended = {}
    while len(ended) < len(writers):
        fit = read_manifest(engine)
        assert fit.status == "fits"
        ended |= dict(os.waitpid(writer, os.WNOHANG) for writer in writers if writer not in ended)
        ended.pop(0, None)  # of one that still writes
    assert set(ended.values()) == {0}
    assert files(engine.parent) == ["model.rtx", "model.rtx.json"]


def test_a_field_that_came_later_may_be_absent(engine):
    write_pair(engine, NEW, manifest_of(NEW, device="a GPU"))
    record = json.loads(manifest_path(engine).read_text())
    del record["device"]
    manifest_path(engine).write_text(json.dumps(record))
    assert read_manifest(engine).manifest == manifest_of(NEW)


def test_the_schema_is_documented():
    text = (Path(__file__).parents[1] / "docs" / "manifest.md").read_text()
    documented = set(
        re.findall(
            r"`(\w+)`", " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
        )
    )
    assert documented == {"schema", "previous"} | {field.name for field in dataclasses.fields(Manifest)}


def test_to_json_has_every_field():
    record = manifest_of(NEW).to_json()
    assert set(record) == {"schema"} | {field.name for field in dataclasses.fields(Manifest)}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"options": {"profiles": 3}}, id="profiles"),
        pytest.param({"options": {"profiles": [[{"input": "x"}]]}}, id="half-a-profile"),
        pytest.param({"options": {"profiles": [[{"input": "x", "min": [1], "opt": [1], "max": ["1"]}]]}}, id="sizes"),
        pytest.param({"options": {"profiles": [[{"input": "x", "min": [1], "opt": [1], "max": [True]}]]}}, id="true"),
        pytest.param({"ladder": [1]}, id="ladder"),
        pytest.param({"ladder": [{"pattern": "yes"}]}, id="rung"),
        pytest.param({"inputs": ["x"]}, id="inputs"),
        pytest.param({"notes": [1]}, id="notes"),
        pytest.param({"targets": [80]}, id="targets"),
        pytest.param({"versions": {"nm2trt": 1}}, id="versions"),
        pytest.param({"plan": "2:4"}, id="plan"),
    ],
)  # fmt: skip
def test_values_of_another_type_are_damage(engine, fields):
    write_pair(engine, NEW, manifest_of(NEW))
    path = manifest_path(engine)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(InputError, match=r"model\.rtx\.json is damaged or not a manifest of nm2trt"):
        read_manifest(engine)


@pytest.mark.parametrize("content", ["{}", '{"learning_rate": 0.1}', "half a rec"])
def test_a_file_of_somebody_else_s_in_its_place_is_refused(engine, content):
    path = manifest_path(engine)
    path.write_text(content)
    with pytest.raises(OutputError, match=r"model\.rtx\.json is not a manifest of nm2trt, and would be"):
        refuse_foreign(engine)
    engine.write_bytes(OLD)
    with pytest.raises(InputError, match="damaged"):
        read_manifest(engine)
    refuse_foreign(engine)  # an engine whose manifest is damaged may be built again


def test_a_manifest_whose_engine_is_gone_may_be_replaced(engine):
    write_pair(engine, OLD, manifest_of(OLD))
    engine.unlink()
    refuse_foreign(engine)


def test_a_manifest_that_cannot_be_read_is_not_called_missing(engine):
    engine.write_bytes(NEW)
    manifest_path(engine).mkdir()
    with pytest.raises(InputError, match=r"model\.rtx\.json cannot be read: it is not a regular file"):
        read_manifest(engine)


@pytest.mark.parametrize("previous", [None, {}, {"a": [1, {"b": "x\ny"}], "c": None}], ids=str)
def test_a_record_with_the_previous_one_is_written_as_json_writes_it(previous):
    record = {"schema": 1, "rows": [{"name": "a\n}\n"}, []], "nothing": {}}
    assert _with_previous(_dumps(record), previous) == _dumps({**record, "previous": previous})


def test_a_block_that_fails_leaves_the_old_pair(engine):
    write_pair(engine, OLD, manifest_of(OLD))
    before = {path.name: path.read_bytes() for path in engine.parent.iterdir()}
    with pytest.raises(InputError, match="too few"), pair_writer(engine, NEW):
        raise InputError("too few")
    assert {path.name: path.read_bytes() for path in engine.parent.iterdir()} == before


def test_a_manifest_that_cannot_be_read_is_not_lost_with_a_failed_build(engine):
    write_pair(engine, OLD, manifest_of(OLD))
    os.truncate(manifest_path(engine), 1 << 27)
    with pytest.raises(OutputError, match=r"json cannot be replaced: it is larger than 64 MB"):
        write_pair(engine, NEW, manifest_of(NEW))
    assert engine.read_bytes() == OLD
    assert manifest_path(engine).stat().st_size == 1 << 27


def test_a_hash_taken_early_is_used_only_for_the_same_file(engine, monkeypatch):
    write_pair(engine, OLD, manifest_of(OLD))
    assert digest_of(engine) is None, "it may change again within the same tick of the clock"
    monkeypatch.setattr("nm2trt.engine.pair_writer._CLOCK_NS", 0)
    old = digest_of(engine)
    assert old.sha256 == sha256_bytes(OLD)
    engine.write_bytes(b"of somebody else")
    with pair_writer(engine, NEW, old) as pair:
        pair.manifest = manifest_of(NEW)
    assert read_manifest(engine).manifest == pair.manifest == manifest_of(NEW)


@pytest.mark.parametrize("same", [True, False])
def test_the_previous_record_is_that_of_the_engine_which_is_replaced(engine, monkeypatch, same):
    """Wherever the writer dies, the record under `previous` names the bytes that are there."""
    monkeypatch.setattr("nm2trt.engine.pair_writer._CLOCK_NS", 0)
    write_pair(engine, OLD, manifest_of(OLD))
    old = digest_of(engine)
    if not same:
        engine.write_bytes(b"changed since")
    now, texts = engine.read_bytes(), []
    monkeypatch.setattr("nm2trt.engine.pair_writer.write_atomic", lambda path, text, **_: texts.append(text))
    with pair_writer(engine, NEW, old) as pair:
        pair.manifest = manifest_of(NEW)
    assert json.loads(texts[0])["previous"]["engine_sha256"] == sha256_bytes(now)


def test_no_engine_has_no_digest(tmp_path):
    assert digest_of(tmp_path / "missing.rtx") is None
    assert digest_of(tmp_path) is None
