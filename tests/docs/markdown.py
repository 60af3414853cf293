"""What stands in the Markdown: code blocks with their marks, and links with their targets."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SAMPLES = sorted((ROOT / "samples").glob("*/README.md"))
OTHERS = sorted([ROOT / "CHANGELOG.md", *(ROOT / "calib").glob("*.md")])

# The first word of a line that somebody would type.
_COMMANDS = re.compile(r"(\$ )?(nm2trt|pip|python|make|torchrun|npm|source|export|cd) ")
_PYTHON = re.compile(r"(import |from \w+ import|(\w+ = )?nm2trt\.|sparse\.)")
_MARK = re.compile(r"<!-- not run: (.+?) -->")
_PAGE_MARK = re.compile(r"<!-- this page is not run: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """One code block.

    Args:
        language: "python", "sh", "yaml", or "" for output and drawings.
        text: Its lines.
        line: Line of its first line.
        reason: Why it is not run, or "".
    """

    language: str
    text: str
    line: int
    reason: str


@functools.cache
def blocks(page):
    """Return the code blocks of a page; an indented one is code where it looks like it."""
    lines = page.read_text().splitlines()
    whole = _PAGE_MARK.search(page.read_text())
    found, at = [], 0
    while at < len(lines):
        fence = re.fullmatch(r"\s*```(\w*)", lines[at])
        if fence:
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            body, start, language = lines[at + 1 : end], at + 1, fence[1]
            if not language and body and _COMMANDS.match(body[0]):
                language = "sh"
            after = end + 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            body, start, after = [line[4:] for line in lines[at:end]], at, end
            language = "sh" if _COMMANDS.match(body[0]) else "python" if _PYTHON.match(body[0]) else ""
            if re.match(r"\s*([-*]|\d+\.) ", _before(lines, at)):
                language = ""  # a continued item of a list
        else:
            at += 1
            continue
        mark = _MARK.fullmatch(_before(lines, at).strip())
        reason = mark[1] if mark else whole[1] if whole else ""
        found.append(
            Block(
                {"bash": "sh", "console": "sh"}.get(language, language),
                "\n".join(body) + "\n",
                start + 1,
                reason,
            )
        )
        at = after
    return found


def _before(lines, at):
    return next((line for line in reversed(lines[:at]) if line.strip()), "")


def links(page):
    """Return (target, line) of every link that is not an address on the web."""
    text = re.sub(r"```.*?```", lambda m: "\n" * m[0].count("\n"), page.read_text(), flags=re.S)
    for match in re.finditer(r"\[[^\]\n]+\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", match[1]):
            yield match[1], text[: match.start()].count("\n") + 1


@functools.cache
def anchors(page):
    """Return what headings can be linked by."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"`", "", head).lower()).strip().replace(" ", "-") for head in heads
    }


def named_paths(page):
    """Return the paths of this repository that a page names in code style, e.g. `docs/fuse.md`."""
    text = page.read_text()
    roots = "nm2trt|docs|samples|benchmarks|calib|tests|tools"
    return {m[1] for m in re.finditer(rf"`((?:{roots})/[\w./-]+)`", text)}
