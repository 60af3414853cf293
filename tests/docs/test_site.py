"""The site: it builds without a warning, fetches nothing, and its made pages are those of the code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import make_drawings, make_site_pages, site_hooks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site):
    pages = {str(p.relative_to(ROOT / "docs").with_suffix(".html")) for p in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not (site / page).is_file()} == set()


def test_no_page_fetches_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link|iframe)[^>]+(?:src|href)="?(https?://[^" >]+)', page.read_text()
        )
        assert fetched == [], page


def test_the_search_finds_words_of_guide_concept_and_reference(site):
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    for word, place in (
        ("canary", "serving.html"),
        ("lineage", "architecture.html"),
        ("--max-loss", "reference/commands.html"),
    ):
        assert any(word in entry["text"] and entry["location"].startswith(place) for entry in entries), word


def test_no_link_leads_out_of_the_site(site):
    for page in set(site.rglob("*.html")) - {site / "404.html"}:
        for target in re.findall(r'<a [^>]*href="?([^" >#]+)', page.read_text()):
            if not target.startswith(("http", "mailto:")):
                assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("path", list(make_site_pages.PAGES), ids=lambda path: path.name)
def test_a_made_page_is_not_stale(path):
    assert path.read_text() == make_site_pages.PAGES[path](), (
        "run: PYTHONPATH=. python docs/make_site_pages.py"
    )


@pytest.mark.parametrize("path", list(make_drawings.DRAWINGS), ids=lambda path: path.name)
def test_a_drawing_is_not_stale(path):
    assert path.read_text() == make_drawings.DRAWINGS[path](), (
        "run: PYTHONPATH=. python docs/make_drawings.py"
    )


def test_the_drawing_has_every_unit():
    text = make_drawings.units()
    for unit in (ROOT / "nm2trt").iterdir():
        if (
            unit.name[0] != "_"
            and unit.suffix in ("", ".py")
            and (unit.is_file() or (unit / "__init__.py").exists())
        ):
            assert f">{unit.stem}</text>" in text


def test_what_is_decided_is_only_what_the_intervals_decide():
    rows = [
        {"better": "a", "than": "b", "target": "2:4", "mean": 1.0, "over_seeds": [low, 2.0]}
        for low in (-0.1, 0.1)
    ]
    assert make_site_pages.decided({"differences": rows}).count("`a` - `b`") == 1


def test_a_link_out_of_docs_becomes_a_path():
    class Page:
        class file:
            src_uri = "methods/fcpts.md"

    text = "[calib](../../calib/README.md#x), [limits](../limits.md), ![p](../../p.png)"
    told = site_hooks.on_page_markdown(text, page=Page)
    assert told == "calib (`calib/README.md`), [limits](../limits.md), ![p](../../p.png)"
