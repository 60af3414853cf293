"""`nm2trt samples`: listed, copied with what they use, never over a folder."""

import json
import re
import resource
from pathlib import Path

import pytest

from nm2trt.cli import main
from nm2trt.extras import install_line

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.mark.parametrize("words", [["list"], []])
def test_every_sample_is_listed_with_its_title(capsys, words):
    assert main(["samples", *words, "--json"]) == 0
    titles = json.loads(capsys.readouterr().out)["samples"]
    assert list(titles) == sorted(path.parent.name for path in SAMPLES.glob("*/README.md"))
    assert titles["05_triton"] == "served by Triton, and checked"


def test_a_sample_is_copied_with_the_one_whose_modules_it_uses(tmp_path, capsys):
    assert main(["samples", "copy", "02", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"read {tmp_path}/samples/02_methods/README.md" in out
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["01_digits", "02_methods"]
    readme = (tmp_path / "samples" / "02_methods" / "README.md").read_text()
    assert f"    {install_line('torch')} scikit-learn matplotlib\n" in readme
    assert "'.[" not in readme
    for name in ("01_digits/data.py", "02_methods/compare.py", "02_methods/measured/claims.json"):
        assert (tmp_path / "samples" / name).read_bytes() == (SAMPLES / name).read_bytes()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in SAMPLES.glob("*/README.md")))
def test_links_of_a_copied_readme_lead_somewhere(tmp_path, capsys, name):
    assert main(["samples", "copy", name, "-o", str(tmp_path)]) == 0
    readme = tmp_path / "samples" / name / "README.md"
    text = readme.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (readme.parent / link).exists()] == []
    if name.startswith("07"):
        assert "(how: `docs/methods/reconstruct.md` in the source archive)" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["copy"], "name the sample to copy"),
        (["copy", "1"], "no sample is named '1'; the samples are 01_digits, "),
        (["copy", "../tests"], "no sample is named"),
        (["copy", "01_digits"], "01_digits is there already; give another folder with -o"),
        (["list", "01"], "list takes nothing more"),
    ],
)
def test_what_cannot_be_copied_is_refused_and_nothing_written(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples" / "01_digits").mkdir(parents=True)
    assert main(["samples", *words]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.rglob("*.py")) == []


def test_a_file_that_cannot_be_written_is_told_in_one_sentence(tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # as on a full disk, of every file
    try:
        status = main(["samples", "copy", "05", "-o", str(tmp_path / "a" / "b")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = f"{tmp_path}/a/b/samples cannot be written: File too large; give another folder with -o"
    assert (status, capsys.readouterr().err) == (2, f"nm2trt: {told}\n")
    assert list(tmp_path.iterdir()) == []
