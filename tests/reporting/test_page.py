"""The page in a real browser: it asks nothing of any network, runs no name as code, and its table works."""

import re
from pathlib import Path

import pytest

import nm2trt
from tests.reporting.runs import large_run, small_run

HOSTILE = "<script>alert('pwned')</script>"
NAMES = (
    HOSTILE,
    '"><img src=http://example.invalid/x.png onerror=alert(1)>',
    "body.0.weight",
    "body.1.weight",
)


@pytest.fixture
def page(tmp_path):
    return nm2trt.report(small_run(tmp_path / "run").path).report


def test_page_is_quiet_and_alone(browser, page, tmp_path):
    browser.open(page)
    assert browser.requests == [page.as_uri()]
    assert browser.messages == []
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_browser_would_tell_of_a_request_and_of_a_script(browser, page, tmp_path):
    # A page without the policy: what the test above relies on must be seen here.
    leaky = re.sub(r"<meta http-equiv=.*?>", "", page.read_text())
    target = tmp_path / "leaky.html"
    target.write_text(
        leaky.replace(
            "</body>", "<img src='http://127.0.0.1:9/x.png'><script>console.log('ran')</script></body>"
        )
    )
    browser.open(target)
    assert "http://127.0.0.1:9/x.png" in browser.requests
    assert any("ran" in message for message in browser.messages)


def test_the_policy_stops_what_escaping_might_miss(browser, page, tmp_path):
    target = tmp_path / "planted.html"
    planted = "<img src='http://127.0.0.1:9/x.png'><script>document.title = 'pwned'</script></body>"
    target.write_text(page.read_text().replace("</body>", planted))
    browser.open(target)
    assert browser.run("document.title") != "pwned"
    assert browser.run("document.querySelector('img').naturalWidth") == 0
    assert any("Content Security Policy" in message for message in browser.messages)


def test_names_are_shown_not_run(browser, tmp_path):
    run = small_run(tmp_path / "run", names=NAMES)
    run.start(HOSTILE, ["verify", "build"])
    run.log(HOSTILE, 1, loss=1.0)
    browser.open(nm2trt.report(run.path).report)
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE
    assert browser.run(
        "[...document.querySelectorAll('#ladder tbody th')].map(cell => cell.textContent)"
    ) == list(NAMES)
    assert len(browser.requests) == 1
    assert browser.messages == []


def test_table_filters_and_sorts(browser, page):
    browser.open(page)
    rows = "[...document.querySelectorAll('#ladder tbody tr')].filter(row => !row.hidden).map(row => row.cells[0].textContent)"

    def type_in(text):
        browser.run(f"filter.value = {text!r}; filter.dispatchEvent(new Event('input'))")

    assert len(browser.run(rows)) == 4
    type_in("BODY")
    assert browser.run(rows) == ["body.0.weight", "body.1.weight"]
    assert browser.run("shown.textContent") == "2 of 4 weights"
    browser.run("answer.value = 'no'; answer.dispatchEvent(new Event('change'))")
    assert browser.run(rows) == ["body.0.weight"]
    browser.run("answer.value = ''; answer.dispatchEvent(new Event('change'))")
    type_in("")

    zeros = "document.querySelectorAll('#ladder thead button')[3]"
    browser.run(f"{zeros}.click()")
    assert browser.run(rows)[0] == "stem.weight"
    assert browser.run(f"{zeros}.parentElement.ariaSort") == "ascending"
    browser.run(f"{zeros}.click()")
    assert browser.run(rows)[-1] == "stem.weight"
    browser.run("document.querySelectorAll('#ladder thead button')[0].click()")
    assert browser.run(rows) == ["body.0.weight", "body.1.weight", "head.weight", "stem.weight"]
    assert browser.messages == []


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def test_light_and_dark(browser, page):
    browser.open(page, scheme="light")
    light = browser.run(BACKGROUND)
    browser.run("theme.click()")
    dark = browser.run(BACKGROUND)
    assert dark != light
    browser.open(page, scheme="dark")
    assert browser.run(BACKGROUND) == dark
    browser.run("theme.click()")
    assert browser.run(BACKGROUND) == light


def test_fits_a_phone_and_prints(browser, page, tmp_path):
    browser.open(page, width=390, height=844)
    assert browser.run("document.documentElement.scrollWidth") == 390
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_every_chart_is_inside_its_card(browser, page):
    browser.open(page)
    outside = """[...document.querySelectorAll('section svg:not(svg svg)')].filter(svg => {
        const card = svg.closest('section').getBoundingClientRect(), box = svg.getBoundingClientRect();
        return box.left < card.left || box.right > card.right || box.width === 0 || box.height === 0;
    }).length"""
    assert browser.run("document.querySelectorAll('section svg').length") > 8
    assert browser.run(outside) == 0


def test_thousand_layers_stay_below_5_mb(tmp_path):
    result = nm2trt.report(large_run(tmp_path / "run").path)
    assert result.weights == 1000
    assert result.size_bytes < 5_000_000


def test_continuous_integration_installs_the_browser_and_does_not_skip():
    script = (Path(__file__).parents[2] / ".ci" / "run").read_text()
    assert "apt-get install" in script
    assert "chromium" in script
    assert "export CI=1" in script
