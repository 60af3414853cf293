"""A builder's verbose log, read for what it says of sparsity.

Two wordings are known. TensorRT 8.x, in the developer guide and in NVIDIA/TensorRT issues 1403, 2169, 2271,
4054 and 4056:

    (Sparsity) Layers eligible for sparse math: conv1, conv2
    (Sparsity) TRT inference plan picked sparse implementation for layers: conv2

TensorRT 10.14 (NVIDIA/Model-Optimizer pull request 1664) and the strings of TensorRT for RTX 1.7:

    (Sparsity) Found 2 layer(s) eligible to use sparse tactics: conv1, conv2
    (Sparsity) Chose 1 layer(s) using sparse tactics: conv2

The lines come once for each pass of tactic selection: the last of each kind belongs to the engine. Read too
are the tables of tactics after `Autotuning op`, with detailed verbosity the `Layers:` block, and the tactic
timings and layer lines of 8.x (`nm2trt.engine.evidence.tactic_timings`). Of a version whose wording nobody
here has seen nothing is read, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from nm2trt.backends.choice import PRODUCTS
from nm2trt.engine.evidence.evidence import Autotuned, Evidence, LayerRecord, SparsityList
from nm2trt.engine.evidence.layer_names import is_of_a_later_profile, onnx_nodes, split_list
from nm2trt.engine.evidence.tactic_timings import TacticTimings, faster, timing

# Builder -> major versions whose log was seen, here or in public threads.
KNOWN_VERSIONS: dict[str, tuple[str, ...]] = {"trt": ("8", "10", "11"), "trt-rtx": ("1",)}

_LISTS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(r"\(Sparsity\) " + text + r"(?P<names>.*)", re.DOTALL))
    for kind, text in (
        ("eligible", r"Layers eligible for sparse math:"),
        ("chosen", r"TRT inference plan picked sparse implementation for layers:"),
        ("eligible", r"Found (?P<count>\d{1,9}) layer\(s\) eligible to use sparse tactics:?"),
        ("chosen", r"Chose (?P<count>\d{1,9}) layer\(s\) using sparse tactics:?"),
    )
)
# Searched from the first "Autotuning op " only: one pattern for both takes quadratic time on a hostile log.
_AUTOTUNING = "Autotuning op "
_KEY = re.compile(r"\(key: 0x[0-9a-fA-F]+\):?")
# tactic_id, cost(in ms), cost/fastest_cost, prediction_correlation, kernel_name, tactic_hash, ...
_TACTIC = re.compile(
    r"^\s*\d+,\s*(?P<ms>\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?),\s*[\d.eE+-]+,\s*[\w.+-]+,\s*(?P<kernel>[^,\s]+),\s*0x"
)
# What trtexec, Polygraphy and our own loggers put in front of a message.
_PREFIX = re.compile(
    r"^(?:\[\d\d/\d\d/\d{4}-[\d:]+\]\s*|\[[IVWEFX]\]\s*|\[(?:TRT|TensorRT)\]\s*"
    r"|(?:VERBOSE|INFO|WARNING|ERROR|INTERNAL_ERROR): )+",
    re.IGNORECASE,
)
_VERSION = re.compile(r"TensorRT[ -]v?ersion:?\s*v?(\d+\.\d+(?:\.\d+)*)", re.IGNORECASE)
_TRTEXEC = re.compile(r"\[TensorRT v(\d{4,6})\]")


def identify_log(lines: Iterable[str]) -> str:
    """Return the version of TensorRT that a log names, e.g. "10.14.1", or "" if it names none."""
    for line in lines:
        written = _VERSION.search(line)
        if written:
            return written[1]
        packed = _TRTEXEC.search(line)
        if packed:
            digits = packed[1]
            # v8601 is 8.6.1, v101401 is 10.14.1.
            major, minor = (digits[:-4], digits[-4:-2]) if len(digits) > 4 else (digits[0], digits[1])
            parts = (major, minor, digits[-2:])
            return ".".join(str(int(part)) for part in parts)
    return ""


def knows(builder: str, version: str) -> bool:
    """Tell whether the wording of a version is known."""
    return version.split(".")[0] in KNOWN_VERSIONS.get(builder, ())


def unknown_version(what: str, builder: str, version: str) -> str:
    """Return the sentence that says that nothing is read from this version's texts."""
    product = PRODUCTS.get(builder, builder)
    known = ", ".join(f"{major}.x" for major in KNOWN_VERSIONS.get(builder, ())) or "none"
    if not version:
        return f"{what} does not say which version wrote it; name it with --version, as in --version 10.14"
    return (
        f"{what} is of {product} {version}, whose wording this release of nm2trt does not know (it knows "
        f"{known}): nothing was read from it"
    )


def parse_build_log(lines: Iterable[str], *, builder: str, version: str) -> Evidence:
    """Read a builder's log.

    Args:
        lines: The messages, with or without the prefixes that loggers put in front of them.
        builder: "trt" or "trt-rtx".
        version: Its version.
    """
    if not knows(builder, version):
        return Evidence(notes=(unknown_version("the build log", builder, version),))
    reading = _Reading()
    for message in _messages(lines):
        reading.take(message)
    return reading.evidence()


@dataclass(slots=True)
class _Reading:
    lists: dict[str, SparsityList] = field(default_factory=dict)
    layers: list[LayerRecord] = field(default_factory=list)
    autotuned: list[Autotuned] = field(default_factory=list)
    timings: TacticTimings = field(default_factory=TacticTimings)

    def take(self, message: str) -> None:
        if "(Sparsity)" in message:
            self._list(message)
            return
        lines = message.split("\n")
        _, tuning, text = lines[0].partition(_AUTOTUNING)
        key = _KEY.search(text) if tuning else None
        if key:
            name = text[: key.start()]
            self.autotuned.append(Autotuned(name, onnx_nodes(name, text[key.end() :]), None, None))
        for line in lines:
            tactic = _TACTIC.search(line) if self.autotuned else None
            if tactic:
                last, ms = self.autotuned[-1], float(tactic["ms"])
                self.autotuned[-1] = faster(last, timing(last.layer, last.nodes, tactic["kernel"], ms))
            layer = _record(line)
            if layer is not None:
                self.layers.append(layer)
            self.timings.take(line)

    def _list(self, message: str) -> None:
        for kind, pattern in _LISTS:
            found = pattern.search(message)
            if found is None:
                continue
            groups = found.groupdict()
            names = split_list(groups["names"])
            if groups.get("count") is None:
                self.lists[kind] = SparsityList(len(names), names)
            else:
                count = int(groups["count"])
                self.lists[kind] = SparsityList(count, names if len(names) == count else None)

    def evidence(self) -> Evidence:
        # Of a layer that was timed in several passes or formats, the fastest of each kind counts.
        best: dict[str, Autotuned] = {}
        for item in (*self.autotuned, *self.timings.timed()):
            known = best.get(item.layer)
            best[item.layer] = item if known is None else faster(known, item)
        notes: list[str] = []
        if "chosen" not in self.lists:
            notes.append(
                "the build log has no (Sparsity) line that says what was chosen; it needs the verbose level, "
                "and the sparse weights flag set"
            )
        return Evidence(
            tuple(x for x in (*self.layers, *self.timings.records()) if not is_of_a_later_profile(x.name)),
            self.lists.get("eligible"),
            self.lists.get("chosen"),
            tuple(best.values()),
            notes=tuple(notes),
            cached=self.timings.cached(),
        )


def _record(line: str) -> LayerRecord | None:
    """Read one line of the `Layers:` block; by searching, because a fused layer's line may be very long."""
    start, kind = line.find("Name: "), line.find(", LayerType: ")
    if not 0 <= start < kind:
        return None
    name = line[start + len("Name: ") : kind]
    sparse = _field(line, "HasSparseWeights")
    metadata = line.rpartition(", Metadata: ")[2] if ", Metadata: " in line else ""
    return LayerRecord(
        name,
        _field(line, "LayerType"),
        onnx_nodes(name, metadata),
        _field(line, "TacticName"),
        None if sparse == "" else sparse != "0",
    )


def _field(line: str, key: str) -> str:
    _, found, rest = line.partition(f", {key}: ")
    return rest.split(",", 1)[0].strip() if found else ""


def _messages(lines: Iterable[str]) -> Iterator[str]:
    """Join the lines of a message; a terminal may have folded a list in the middle of a name.

    Behind a "(Sparsity)" line of a logger whose prefix is not known, nothing tells what belongs to it: such a
    message is one line.
    """
    gathered: list[str] = []
    alone = False
    for line in lines:
        prefix, begin = _PREFIX.match(line), line.find("(Sparsity) ")
        if prefix or begin >= 0 or alone or not gathered:
            if gathered:
                yield _joined(gathered)
            gathered = [line[prefix.end() if prefix else max(begin, 0) :]]
            alone = begin >= 0 and not prefix
        else:
            gathered.append(line)
    if gathered:
        yield _joined(gathered)


def _joined(lines: Sequence[str]) -> str:
    return ("" if "(Sparsity)" in lines[0] else "\n").join(line.rstrip("\r\n") for line in lines)
