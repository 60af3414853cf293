"""Text in columns of a terminal: how wide it is shown, wrapped between words, cut at the front, escaped."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Iterable

_LONGEST_WORD = 500  # paths and tensors' names of real models are shorter
_LONGEST_TEXT = 10_000
_LONG_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")
_WORD = re.compile(r"\s*\S+")
# A word of a shell or an option with its value, and the blanks before it; quoted blanks do not end a word.
_SHELL_PART = r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+"""
_SHELL_WORD = re.compile(rf"\s*(?:-[\w-]+ (?![-&|#]))?{_SHELL_PART}")


def display_width(words: str) -> int:
    """Return the columns that a text takes: two per wide character, none per combining one."""
    if words.isascii():
        return len(words)
    return sum(map(_columns, words))


def padded(words: str, width: int, *, right: bool = False) -> str:
    """Return a text filled with blanks to `width` columns, on its left if it stands to the right."""
    blanks = " " * (width - display_width(words))
    return blanks + words if right else words + blanks


def printable(text: str, keep: str = "", *, whole: bool = False) -> str:
    """Return text as it may be shown: escapes, bidi marks and zero-width characters spelt out by their code.

    Args:
        text: Words, a name, or a whole page. A word that fills more than a few lines, or a text that fills
            more than a few screens, comes from a file that was made to do so: its middle is left out.
        keep: Characters that stay although they are not printable, e.g. line feeds of a page.
        whole: Leave nothing out, e.g. of a page, or of a command to copy.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
    if whole or len(text) <= _LONGEST_WORD:
        return text
    text = _LONG_WORD.sub(lambda word: _cut(word[0], _LONGEST_WORD), text)
    return _cut(text, _LONGEST_TEXT)


def _cut(text: str, most: int) -> str:
    """Leave out the middle of a text of over `most` characters."""
    if len(text) <= most:
        return text
    start, end = most // 2, most // 4
    return f"{text[:start]} ... {len(text) - start - end:,} characters ... {text[-end:]}"


def shorten(name: str, width: int) -> str:
    """Return a name of at most `width` columns that keeps its end, as in `...layer3.0.conv1`."""
    if display_width(name) <= width:
        return name
    if width <= 3:
        return _end(name, width)
    end = _end(name, width - 3)
    # At a dot or slash if that costs little.
    places = [end.find(sign) + 1 for sign in "./" if 0 <= end.find(sign) < width // 5]
    return "..." + end[min(places, default=0) :]


def wrapped(words: str, width: int, indent: str = "", *, word: re.Pattern[str] = _WORD) -> list[str]:
    """Return a text as lines of at most `width` columns, further ones indented.

    A word that is longer than a line is not broken; several blanks between words stay.

    Args:
        words: The text.
        width: Columns of a line.
        indent: What further lines begin with.
        word: A word with the blanks before it.
    """
    lines: list[str] = []
    line = ""
    for part in word.findall(words):
        if line.strip() and display_width(line + part) > width:
            lines.append(line)
            line = indent + part.lstrip()
        else:
            line += part
    return [*lines, line]


def fill(sentence: str, width: int | None, indent: str = "") -> list[str]:
    """Return a sentence as lines between words, further ones indented; None as width leaves it whole."""
    if width is None or display_width(sentence) <= width:
        return [sentence]
    return wrapped(sentence, width, indent)


def no_flag(path: str | os.PathLike[str]) -> str:
    """Return a path in a form that no command takes for a flag: one that begins with a dash gets `./`."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") else text


def shell_path(path: str | os.PathLike[str]) -> str:
    """Return a path as one word of a shell that no command takes for a flag."""
    return shell_word(no_flag(path))


def shell_line(words: Iterable[str]) -> str:
    """Return a command as one line that a shell reads as these words."""
    return " ".join(map(shell_word, words))


def shell_word(text: str) -> str:
    """Return a text as one word of a shell.

    One with characters that cannot be printed, or bytes that are not UTF-8, is spelt out as `$'...'`.
    """
    if text.isprintable():
        return shlex.quote(text)
    spelt = (c if c.isprintable() and c not in "\\'" else _octal(c) for c in text)
    return f"$'{''.join(spelt)}'"


def quoted_words(command: str) -> list[str]:
    """Return the words of what `shell_line` returned, each as it stands there."""
    return re.findall(_SHELL_PART, command)


def shell_lines(command: str, width: int | None, indent: str) -> list[str]:
    """Return a command as lines that a shell reads as one command: all but the last end with a backslash.

    A comment at its end goes to a line of its own. A word that is longer than a line is not broken.

    Args:
        command: The command, perhaps with a label before it.
        width: Columns of a line; None leaves the command whole.
        indent: What further lines begin with.
    """
    words = _SHELL_WORD.findall(command)
    if width is None or display_width(command) <= width or "".join(words) != command:
        return [command]
    first_comment = next((i for i, word in enumerate(words) if word.lstrip().startswith("#")), len(words))
    lines = wrapped("".join(words[:first_comment]), width - 2, f"{indent}    ", word=_SHELL_WORD)
    comment = "".join(words[first_comment:]).lstrip()
    below = wrapped(f"{indent}{comment}", width, f"{indent}# ") if comment else []
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1], *below]


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def _end(name: str, width: int) -> str:
    """Return the last `width` columns of a name."""
    start = len(name)
    taken = 0
    while start and taken + _columns(name[start - 1]) <= width:
        start -= 1
        taken += _columns(name[start])
    return name[start:]


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
