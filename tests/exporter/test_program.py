"""Exported PyTorch programs as sessions, and archives that would run code."""

import io
import json
import pickle
import random
import re
import traceback
import zipfile

import numpy as np
import pytest
import torch

from nm2trt.backends.feeds import numpy_dtype
from nm2trt.errors import BackendError, DataError, ModelError, Nm2trtError
from nm2trt.exporter.program import open_program
from tests.hostile.files import strange
from tests.hostile.limits import limited
from tests.hostile.mutants import damaged


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x, bias):
        return {"scores": self.linear(x) + bias, "twice": x * 2}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = Two().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        model, (torch.randn(2, 4), torch.randn(3)), dynamic_shapes=({0: batch}, None)
    )
    path = tmp_path_factory.mktemp("pt2") / "two.pt2"
    torch.export.save(program, path)
    return model, path


def test_runs_what_the_module_computes(saved):
    model, path = saved
    x, bias = np.random.default_rng(0).random((7, 4), np.float32), np.ones(3, np.float32)
    with open_program(path) as session:
        found = session.run({"x": x, "bias": bias})
        assert [(s.name, s.dtype, s.shape[1:]) for s in session.inputs] == [
            ("x", "float32", (4,)), ("bias", "float32", ()),
        ]  # fmt: skip
        assert not isinstance(session.inputs[0].shape[0], int)
        assert [s.name for s in session.outputs] == ["scores", "twice"]
    with torch.no_grad():
        wanted = model(torch.from_numpy(x), torch.from_numpy(bias))
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name].numpy(), rtol=1e-6)


def test_single_output_has_the_name_that_export_gives_it(tmp_path):
    torch.export.save(torch.export.export(torch.nn.Linear(4, 3), (torch.randn(2, 4),)), tmp_path / "l.pt2")
    with open_program(tmp_path / "l.pt2") as session:
        assert [s.name for s in session.outputs] == ["output"]
        assert session.inputs[0].shape == (2, 4)
        with pytest.raises(DataError, match=r"takes shape 2x4, the data has \(3, 4\)"):
            session.run({session.inputs[0].name: np.ones((3, 4), np.float32)})


def test_a_failure_inside_is_one_sentence(tmp_path):
    program = torch.export.export(torch.nn.Embedding(4, 2), (torch.zeros(3, dtype=torch.int64),))
    torch.export.save(program, tmp_path / "e.pt2")
    expected = pytest.raises(BackendError, match=r"PyTorch failed to run .*e\.pt2: index out of range")
    with open_program(tmp_path / "e.pt2") as session, expected:
        session.run({session.inputs[0].name: np.array([0, 1, 9])})


class Planted:
    def __reduce__(self):
        return (print, ("planted code ran",))


def rewritten(path, target, change):
    """Copy the archive with `change(inner name, bytes) -> bytes | None` applied to every member."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = change(info.filename.partition("/")[2], old.read(info))
            if data is not None:
                new.writestr(info, data)
    return target


def in_member(pattern, old, new):
    def change(name, data):
        if not re.search(pattern, name):
            return data
        assert old.encode() in data
        return data.replace(old.encode(), new.encode())

    return change


def planted_sample(name, data):
    if "sample_inputs" not in name:
        return data
    buffer = io.BytesIO()
    torch.save(Planted(), buffer)
    return buffer.getvalue()


def planted_weight(name, data):
    if name.endswith("weights_config.json"):
        config = json.loads(data)
        for payload in config["config"].values():
            payload["use_pickle"] = True
        return json.dumps(config).encode()
    return pickle.dumps(Planted()) if "weights/weight_" in name else data


def planted_import(name, data):
    if "models/" not in name:
        return data
    program = json.loads(data)
    # The escapes are those of the JSON within the JSON.
    arrangement = {
        "type": "collections.def@ultdict",
        "context": {"def@ult_factory_module": "antigravity", "def@ult_factory_name": "x", "dict_context": []},
        "children_spec": [],
    }
    calls = program["graph_module"]["module_call_graph"]
    calls[0]["signature"]["out_spec"] = json.dumps([1, arrangement]).replace("@", "\\u0061")
    return json.dumps(program).encode()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        pytest.param(planted_sample, "sample inputs are Python objects", id="pickled-sample"),
        pytest.param(planted_weight, "'linear.weight' is pickled", id="pickled-weight"),
        pytest.param(
            in_member("models/", '"torch.ops.aten.linear.default"', '"torch.os.system"'),
            r"calls 'torch\.os\.system'", id="function-below-torch",
        ),
        pytest.param(
            in_member("models/", '"torch.ops.aten.linear.default"', '"torch.ops.aten.from_file.default"'),
            "not an ATen operator", id="operator-that-opens-files",
        ),
        pytest.param(
            in_member("models/", '"torch.ops.aten.linear.default"', '"torch.ops.aten.save.default"'),
            "not an ATen operator", id="operator-that-writes-files",
        ),
        pytest.param(planted_import, "Python classes", id="module-to-import-in-escapes"),
        pytest.param(
            lambda name, data: b"[]" if "weights_config" in name else data, "not a sound .pt2 archive",
            id="config-of-another-shape",
        ),
        pytest.param(
            in_member("models/", '"expr_str": "Symbol(', '"expr_str": "__import__(\'os\').system(\'true\')+Symbol('),
            "not plain arithmetic", id="shape-expression",
        ),
        pytest.param(
            lambda name, data: data[:50] if "models/" in name else data, "not a sound .pt2 archive", id="cut-json"
        ),
        pytest.param(
            in_member("constants_config", '{"config": {}}', '{"config": {"c": {"path_name": "opaque_obj_0", "use_pickle": false}}}'),
            "'c' is a Python object", id="opaque-object",
        ),
    ],
)  # fmt: skip
def test_archives_that_could_run_code_are_not_opened(change, match, saved, tmp_path, capfd):
    path = rewritten(saved[1], tmp_path / "bad.pt2", change)
    with pytest.raises(ModelError, match=match):
        open_program(path)
    assert "planted code ran" not in capfd.readouterr().out


def test_a_member_of_another_kind_is_refused(saved, tmp_path):
    path = rewritten(saved[1], tmp_path / "bad.pt2", lambda name, data: data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("two/data/weights/two.pt", pickle.dumps(Planted()))
    with pytest.raises(ModelError, match=r"member 'two/data/weights/two\.pt'"):
        open_program(path)


@pytest.mark.parametrize("content", [b"no archive at all", b"PK\x03\x04cut"], ids=["garbage", "cut"])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"not a sound \.pt2 archive"):
        open_program(tmp_path / "x.pt2")


def test_the_plain_copy_is_accepted(saved, tmp_path):
    # Otherwise the refusals above could come from the copying.
    open_program(rewritten(saved[1], tmp_path / "same.pt2", lambda name, data: data)).close()


def test_a_member_that_is_there_twice_is_refused(saved, tmp_path):
    # Readers of ZIP differ in which of two they take.
    path = rewritten(saved[1], tmp_path / "bad.pt2", lambda name, data: data)
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if "sample_inputs" in name)
        data = archive.read(name)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(name, data)
    with pytest.raises(ModelError, match="it has two members"):
        open_program(path)


def test_what_lies_in_front_of_the_archive_is_not_opened(saved, tmp_path):
    # A second archive in front: what one reader takes for the file, another takes for padding.
    (tmp_path / "two.pt2").write_bytes(
        rewritten(saved[1], tmp_path / "bad.pt2", planted_sample).read_bytes() + saved[1].read_bytes()
    )
    with open_program(tmp_path / "two.pt2") as session:
        assert [spec.name for spec in session.inputs] == ["x", "bias"]


def test_shape_expressions_with_arithmetic_are_accepted(tmp_path):
    class Flat(torch.nn.Module):
        def forward(self, x):
            return x.reshape(x.shape[0] * x.shape[1] // 2, 2)

    sizes = {0: torch.export.Dim("a", max=8), 1: 2 * torch.export.Dim("h", max=8)}
    program = torch.export.export(Flat(), (torch.randn(3, 4),), dynamic_shapes=(sizes,))
    torch.export.save(program, tmp_path / "f.pt2")
    with open_program(tmp_path / "f.pt2") as session:
        assert session.run({"x": np.ones((5, 6), np.float32)})["output"].shape == (15, 2)


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(saved, tmp_path):
    def bomb(name, data):
        return bytes(1 << 20) if "weights/weight_0" in name else data

    rewritten(saved[1], tmp_path / "flat.pt2", bomb)
    with (
        zipfile.ZipFile(tmp_path / "flat.pt2") as flat,
        zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in flat.namelist():
            packed.writestr(name, flat.read(name))
    with pytest.raises(ModelError, match="unpack to more than the file holds"):
        open_program(tmp_path / "bomb.pt2")


def test_bfloat16_goes_in_and_comes_out(tmp_path):
    class Half(torch.nn.Module):
        def forward(self, x):
            return x * 3

    torch.export.save(torch.export.export(Half(), (torch.ones(2, 3).bfloat16(),)), tmp_path / "h.pt2")
    x = np.arange(6).reshape(2, 3).astype(numpy_dtype("bfloat16"))
    with open_program(tmp_path / "h.pt2") as session:
        (found,) = session.run({"x": x}).values()
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found.astype(float), 3 * x.astype(float))


def test_a_parameter_may_be_returned(tmp_path):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((2,), 7.0))

        def forward(self, x):
            return x + 1, self.weight

    torch.export.save(torch.export.export(Own(), (torch.ones(2),)), tmp_path / "p.pt2")
    with open_program(tmp_path / "p.pt2") as session:
        found = session.run({"x": np.ones(2, np.float32)})
    assert found["output_1"].tolist() == [7, 7]


def damage(path, target, draw):
    """Copy the archive with one member damaged: its JSON made strange, its bytes changed, or the member gone."""
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    program = next(name for name in names if name.startswith("models/"))
    chosen = program if draw.random() < 0.5 else draw.choice(names)

    def change(name, data):
        if name != chosen:
            return data
        if draw.random() < 0.05:
            return None
        if not name.endswith(".json") or draw.random() < 0.15:
            return damaged(data, draw)
        value = json.loads(data)
        for _ in range(draw.randrange(1, 4)):
            value = strange(value, draw) if isinstance(value, (dict, list)) else value
        return json.dumps(value).encode()

    rewritten(path, target, change)
    if draw.random() < 0.1:
        target.write_bytes(damaged(target.read_bytes(), draw))


def tried(path, said):
    """Open and run a program; return 0, or 2 if it is refused with a sentence."""
    try:
        with open_program(path) as session:
            sizes = {s.name: [n if isinstance(n, int) else 2 for n in s.shape] for s in session.inputs}
            session.run({s.name: np.ones(sizes[s.name], s.dtype) for s in session.inputs})
    except Nm2trtError:
        return 2
    except BaseException:
        said.write_text(traceback.format_exc())
        return 70
    return 0


@pytest.mark.parametrize(
    "numbers", [range(10), pytest.param(range(10, 300), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_damaged_programs_run_or_are_refused(saved, tmp_path, numbers):
    """In a fork each, since one may crash or take all memory."""
    said = tmp_path / "said"
    for number in numbers:
        damage(saved[1], tmp_path / "bad.pt2", random.Random(number))
        ended = limited(lambda: tried(tmp_path / "bad.pt2", said), seconds=60, megabytes=2000)
        assert (ended.status, ended.over) in ((0, ""), (2, "")), (
            number,
            said.read_text() if said.exists() else ended,
        )
