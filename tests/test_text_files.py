"""Text of any Unicode encoding with a byte order mark reads as the same text in UTF-8 does."""

import codecs
import json

import numpy as np
import pytest

from nm2trt.calibration.yaml_file import read_yaml
from nm2trt.errors import InputError
from nm2trt.nm.gain_table import parse_gain_table
from nm2trt.pipeline.deploy import _labels
from nm2trt.pipeline.explain import _evidence
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.records import read_json
from nm2trt.text_files import decoded, read_text
from nm2trt.validation.latency.bench_files import read_trtexec
from nm2trt.validation.metrics.scoring import Request
from nm2trt.validation.metrics.text import _alphabet
from nm2trt.validation.samples.polygraphy_json import load_outputs

MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
ROW = {"m": 64, "n": 64, "k": 64, "dtype": "float16", "dense_ms": 2.0, "sparse_ms": 1.5}
LAYERS = {"Layers": [{"Name": "é", "LayerType": "gemm", "TacticName": "sm80_xmma_sparse"}], "Bindings": []}


def telemetry(path):
    folder = RunFolder(path.parent)
    path.rename(folder.telemetry_path)
    return folder.telemetry()


def characters(path):
    return _alphabet(Request("candidate", (), None, {"characters": str(path)}), 0)


def logged(path, **kind):
    return _evidence(
        **{"log": None, "layers": None, "trace": None, **kind}, builder="trt", version="", built_by=""
    )


# File -> its text and what reads it.
FILES = {
    "recipe.yaml": ("name: é\nvalue: [1, 2]\n", lambda path: (read_yaml(path), read_yaml(path).lines)),
    "layers.json": (json.dumps(LAYERS), lambda path: logged(path, layers=path)),
    "trace.json": (
        json.dumps([{"cat": "kernel", "name": "é", "dur": 2}]),
        lambda path: logged(path, trace=path),
    ),
    "trace.csv": ("Total Time (ns),Instances,Name\n2000,1,é\n", lambda path: logged(path, trace=path)),
    "build.log": (
        "[V] [TRT] TensorRT version: 10.3.0\n(Sparsity) Found 1 layer(s) eligible: é\n",
        lambda path: logged(path, log=path),
    ),
    "labels.txt": ("é\nb\n", lambda path: _labels([f"y={path}"], None)),
    "characters.txt": ("é\nb\n", characters),
    "telemetry.jsonl": ('{"step": 1, "run": "é"}\n', telemetry),
    "times.json": ('[{"latencyMs": 1.5}]', lambda path: read_trtexec(path).samples_ms),
    "gain.json": (
        json.dumps({"schema": 1, "device": {"name": "é"}, "rows": [ROW]}, ensure_ascii=False),
        lambda path: parse_gain_table(path.read_bytes(), where="t"),
    ),
    "record.json": ('{"é": 1}', read_json),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("encoding", MARKS)
def test_a_byte_order_mark_says_the_encoding(name, encoding, tmp_path):
    text, read = FILES[name]
    for folder, data in (("plain", text.encode()), ("marked", MARKS[encoding] + text.encode(encoding))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(data)
    expected = read(tmp_path / "plain" / name)
    assert expected
    assert str(read(tmp_path / "marked" / name)).replace("marked", "plain") == str(expected)


def test_polygraphys_outputs_may_have_a_mark(tmp_path):
    pytest.importorskip("polygraphy")
    from polygraphy.comparator import IterationResult, RunResults
    from polygraphy.json import to_json

    results = RunResults([("r", [IterationResult({"y": np.ones((2, 3), np.float32)})])])
    path = tmp_path / "outputs.json"
    path.write_bytes(codecs.BOM_UTF16_LE + to_json(results).encode("utf-16-le"))
    assert np.array_equal(load_outputs(path)["y"], np.ones((2, 3)))


@pytest.mark.parametrize(
    "data", [b"\xe9", b"\xff\xfea", codecs.BOM_UTF8 + b"\xe9"], ids=["latin", "odd", "utf-8"]
)
def test_other_bytes_are_refused_with_the_file(data, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"labels\.txt is not UTF-8 text; save it as UTF-8$"):
        read_text(path, "a text")
    assert decoded(data, errors="replace")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nday: 2020-13-45\n", r"cannot be read at line 2: month must be in 1\.\.12$"),
        ("name: a\nvalue: " + "9" * 5000, "cannot be read at line 2: a number is too long$"),
        ("name: a\nvalue: " + "9:" * 1000 + "9", "cannot be read at line 2: a number is too long$"),
        (
            "name: a\n" + "x:\n- 1\n" + "- 1\n" * 20_000,
            "line 19998: .* 20,000 keys and values, which no recipe has$",
        ),
        ("[" * 100_000, "cannot be read: it is nested too deeply$"),
        ("name: \0", "it holds the character 0x0000, which YAML does not take$"),
        ("a: *b\n", r"at line 1: aliases \(\*name\) are not read$"),
    ],
    ids=["date", "digits", "sexagesimal", "many", "deep", "nul", "alias"],
)
def test_a_recipe_that_is_no_yaml_says_why(tmp_path, text, words):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_yaml(tmp_path / "r.yaml")
