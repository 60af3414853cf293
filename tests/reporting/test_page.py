"""The page in a real browser: it asks nothing of any network, runs no name as code, and its table works."""

import itertools
import math
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
    assert browser.run("document.querySelector('h1').firstChild.textContent.trim()") == HOSTILE
    assert browser.run(
        "[...document.querySelectorAll('#ladder tbody th')].flatMap(cell => "
        "[...(cell.querySelectorAll('summary, details div').length ? cell.querySelectorAll('summary, details div')"
        " : [cell])].map(part => part.textContent.replace(/ [+][0-9]+$/, '')))"
    ) == list(NAMES)
    assert len(browser.requests) == 1
    assert browser.messages == []


def test_table_filters_and_sorts(browser, page):
    browser.open(page)
    rows = "[...document.querySelectorAll('#ladder tbody tr')].filter(row => !row.hidden).map(row => row.cells[0].textContent)"
    both = "body.1.weight +1head.weight"

    def type_in(text):
        browser.run(f"filter.value = {text!r}; filter.dispatchEvent(new Event('input'))")

    assert browser.run(rows) == ["stem.weight", "body.0.weight", both]
    assert browser.run("shown.textContent") == "4 of 4 weights"
    type_in("BODY")
    assert browser.run(rows) == ["body.0.weight", both]
    assert browser.run("shown.textContent") == "3 of 4 weights"
    browser.run("answer.value = 'no'; answer.dispatchEvent(new Event('change'))")
    assert browser.run(rows) == ["body.0.weight"]
    browser.run("answer.value = ''; answer.dispatchEvent(new Event('change'))")
    type_in("")

    zeros = "[...document.querySelectorAll('#ladder thead button')].find(button => button.textContent === 'zeros')"
    browser.run(f"{zeros}.click()")
    assert browser.run(rows)[0] == "stem.weight"
    assert browser.run(f"{zeros}.parentElement.ariaSort") == "ascending"
    browser.run(f"{zeros}.click()")
    assert browser.run(rows)[-1] == "stem.weight"
    browser.run("document.querySelectorAll('#ladder thead button')[0].click()")
    assert browser.run(rows) == ["body.0.weight", both, "stem.weight"]
    assert browser.messages == []


HEADS = """(() => { const box = document.querySelector('.scroll'); box.scrollTop = 400; box.scrollLeft = 60;
    const cells = row => [...row.cells].map(cell => Math.round(cell.getBoundingClientRect().left));
    const head = document.querySelector('#ladder thead tr'), row = document.querySelector('#ladder tbody tr');
    return [cells(head), cells(row), Math.round(head.cells[0].getBoundingClientRect().top - box.getBoundingClientRect().top)];
})()"""


@pytest.mark.parametrize("width", [1280, 800, 390])
def test_ladder_fits_and_its_header_stays_aligned(browser, tmp_path, width):
    browser.open(nm2trt.report(large_run(tmp_path / "run", layers=200).path).report, width=width)
    if width >= 800:
        fits = "(() => { const box = document.querySelector('.scroll'); return box.scrollWidth <= box.clientWidth; })()"
        assert browser.run(fits)
    heads, cells, top = browser.run(HEADS)
    assert heads == cells
    assert 0 <= top <= 1


def test_first_screen_answers_whether_it_may_be_shipped(browser, page):
    browser.open(page)
    text, bottom = browser.run(
        "[document.querySelector('.intro').innerText, document.querySelector('.facts').getBoundingClientRect().bottom]"
    )
    assert bottom < 800
    for part in (
        "May I ship it?",
        "No: 1 of 4 weights",
        "Not measured:",
        "Next:",
        "points",
        "zero",
        "on disk",
        "speed",
    ):
        assert part in text


def test_curves_show_values_and_hide_methods(browser, tmp_path):
    run = small_run(tmp_path / "run")
    for epoch in range(1, 5):
        run.log("dense, seed 0", 200 * epoch, loss=1.0 / epoch)
    browser.open(nm2trt.report(run.path).report)
    assert browser.run(
        "[...document.querySelectorAll('figure')[0].querySelectorAll('.series li')].map(x => x.innerText)"
    ) == [
        "sparse 2 runs",
        "dense",
    ]
    hover = """(() => { const chart = document.querySelector('svg.curve'), box = chart.getBoundingClientRect();
        chart.dispatchEvent(new PointerEvent('pointermove', {clientX: box.right - 1, clientY: box.top + 20}));
        return chart.parentElement.querySelector('.tip').innerText; })()"""
    shown = browser.run(hover).splitlines()
    assert shown[0] == "step 800"
    assert "dense, seed 0: 0.25" in shown
    browser.run("document.querySelector('.series li[data-method=\"1\"] button').click()")
    assert not any("dense" in line for line in browser.run(hover).splitlines())
    assert browser.run("[...document.querySelectorAll('.curve .m1')].every(x => x.classList.contains('off'))")
    assert browser.messages == []


def test_without_scripts_everything_is_drawn(page):
    body = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)
    for part in ("<polyline", "head.<wbr>weight", "sparse", "May I ship it?"):
        assert part in body


def colours(block):
    return [re.search(rf"--c{i}: (#[0-9a-f]{{6}})", block)[1] for i in range(8)]


def lab(colour):
    """Return CIE L*a*b* of an sRGB colour."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    x, y, z = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("block", [0, 1, 2, 3], ids=["light", "dark", "dark-by-system", "print"])
def test_eight_methods_have_eight_distinct_colours(block):
    style = (Path(nm2trt.__file__).parent / "reporting/templates/report.css").read_text()
    found = colours(style.split("--c0:")[block + 1].join(("--c0:", "")))
    pairs = itertools.combinations(map(lab, found), 2)
    assert min(math.dist(a, b) for a, b in pairs) > 35


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
    assert browser.run("document.querySelectorAll('section svg').length") > 6
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
