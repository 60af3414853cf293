"""Releases of Triton and their TensorRT, and whether a plan fits one.

A TensorRT plan loads only in the version that built it (triton-inference-server/server issues 317, 1786 and
5975), and only on an architecture that it was built for. A server tells its own version, not TensorRT's nor
its GPU's; what follows from it stands in the tables below, each row as its source states it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nm2trt.errors import BackendError, InputError
from nm2trt.json_value import JsonValue
from nm2trt.serving.artefact import Artefact

_MATRIX = "https://github.com/triton-inference-server/server/blob/main/docs/introduction/compatibility.md"
_ISSUES = "https://github.com/triton-inference-server/server/issues"
_NOTES = "https://docs.nvidia.com/deeplearning/triton-inference-server/release-notes"
_SDK_NOTES = "https://docs.nvidia.com/deeplearning/sdk/inference-release-notes"


@dataclass(frozen=True, slots=True)
class Release(JsonValue):
    """One container image of Triton.

    Args:
        release: Its release, e.g. "24.10".
        image: The part of the image's tag after the release: "py3" or "trtllm-python-py3".
        tensorrt: Its TensorRT, in as many numbers as the source gives.
        source: Where that is stated.
    """

    release: str
    image: str
    tensorrt: str
    source: str

    @property
    def tag(self) -> str:
        """The image's tag."""
        return f"{self.release}-{self.image}"


_TRTLLM = {
    "24.04": "9.3.0",
    "24.05": "10.0.1.6",
    "24.06": "10.0.1",
    "24.07": "10.1.0",
    "24.08": "10.3.0",
    "24.09": "10.4.0",
    "24.10": "10.4.0",
    "24.11": "10.6.0",
    "24.12": "10.7.0",
    "25.01": "10.8.0.43",
    "25.02": "10.8.0.43",
    "25.03": "10.9.0.34",
    "25.04": "10.9.0.34",
    "25.05": "10.9.0.34",
    "25.06": "10.10.0.31",
    "25.07": "10.10.0.31",
    "25.08": "10.11.0.33",
    "25.09": "10.11.0.33",
    "25.10": "10.11.0.33",
    "25.11": "10.13.3.9",
    "25.12": "10.13.3.9",
    "26.01": "10.13.3.9",
    "26.02": "10.13.3.9",
    "26.03": "10.14.1.48",
    "26.04": "10.14.1.48",
    "26.05": "10.14.1.48",
    "26.06": "10.14.1.48",
    "26.07": "10.14.1.48",
}

RELEASES: tuple[Release, ...] = (
    Release("20.12", "py3", "7.2.2", f"{_SDK_NOTES}/rel_20-12.html"),
    Release("21.05", "py3", "7.2.3.4", f"{_NOTES}/rel_21-05.html"),
    Release("21.10", "py3", "8.0.3.4", f"{_NOTES}/rel_21-10.html"),
    Release("23.04", "py3", "8.6.1.2", f"{_ISSUES}/5812"),
    Release("23.05", "py3", "8.6.1.2", f"{_ISSUES}/5975"),
    *(Release(release, "trtllm-python-py3", version, _MATRIX) for release, version in _TRTLLM.items()),
)

# Minor version of a server 2.x and its release. The two ends are stated ("2.43.0 ... for the 24.02" in the
# release notes, "2.56.0dev" beside "25.03dev" in the server's build.py); between them there is one per month.
_FIRST_MINOR, _FIRST_RELEASE, _LAST_MINOR = 43, (24, 2), 56
# Lowest compute capability that a release supports, from its release notes ("GPU Requirements").
_LOWEST_TARGETS = (("25.01", 75), ("20.12", 60))


def find_releases(text: str) -> tuple[Release, ...]:
    """Return the images that a release, an image's tag, or its whole name with registry and digest names.

    Raises:
        InputError: Nothing is known of it here.
    """
    tag = _tag(text)
    found = tuple(row for row in RELEASES if tag in (row.tag, row.release))
    if not found:
        known = ", ".join(row.tag for row in RELEASES[:5])
        raise InputError(
            f"which TensorRT Triton {text!r} has is not known here: the table has {known} and the "
            f"trtllm-python-py3 images of 24.04 to 26.07; state the version instead, with --server-tensorrt"
        )
    return found


def _tag(text: str) -> str:
    """Return the tag of REGISTRY:PORT/REPOSITORY:TAG@DIGEST; a colon before the last slash is the port's."""
    return text.partition("@")[0].rpartition("/")[2].rpartition(":")[2]


def release_of_server(version: str) -> str:
    """Return the release that a server's own version belongs to, e.g. "24.10" for "2.51.0", or ""."""
    parts = version.split(".")
    if len(parts) < 2 or parts[0] != "2" or not parts[1].isdigit():
        return ""
    minor = int(parts[1])
    if not _FIRST_MINOR <= minor <= _LAST_MINOR:
        return ""
    months = _FIRST_RELEASE[0] * 12 + _FIRST_RELEASE[1] - 1 + minor - _FIRST_MINOR
    return f"{months // 12}.{months % 12 + 1:02d}"


def check_fit(
    artefact: Artefact,
    *,
    release: str = "",
    tensorrt: str = "",
    server_version: str = "",
    gpus: Sequence[str] = (),
) -> list[str]:
    """Raise when a plan cannot load in a server, and say what could not be checked.

    Args:
        artefact: What is deployed; only engines are checked.
        release: Release or tag of the server's image, as the user stated it.
        tensorrt: The server's TensorRT, as the user stated it.
        server_version: The server's own version, as it told.
        gpus: Compute capabilities of the server's GPUs, e.g. "sm86", if known.

    Returns:
        One sentence for everything that was not certain.

    Raises:
        BackendError: The plan's TensorRT or its targets do not fit the server.
        InputError: The release is not known here.
    """
    if artefact.kind != "trt":
        return []
    built = artefact.versions.get("trt", "")
    notes: list[str] = []
    told = release or release_of_server(server_version)
    if tensorrt:
        if not re.fullmatch(r"[0-9]+(\.[0-9]+){2,3}", tensorrt):
            raise InputError(f"{tensorrt!r} is not a version of TensorRT; write it whole, as in 10.9.0.34")
        _require_version(artefact, built, tensorrt, f"the server has TensorRT {tensorrt}")
    elif release:
        rows = find_releases(release)
        if not any(_same(built, row.tensorrt) for row in rows):
            row = rows[0]
            _require_version(
                artefact, built, row.tensorrt, f"Triton {row.tag} has {row.tensorrt} ({row.source})"
            )
    elif told:
        notes += _compare_told(artefact, built, told, server_version)
    else:
        where = f" of server {server_version}" if server_version else ""
        notes.append(
            f"the plan needs TensorRT {built}; the version{where} is not known here and was not checked"
        )
    for gpu in gpus:
        if not re.fullmatch(r"sm[0-9]{2,3}[a-z]?", gpu):
            raise InputError(f"{gpu!r} is not a compute capability; write it as in sm86")
    _require_targets(artefact, told, gpus)
    if not gpus:
        notes.append(f"the plan is for {', '.join(artefact.targets)}; the server's GPU was not asked (--gpu)")
    return notes


def _compare_told(artefact: Artefact, built: str, release: str, server_version: str) -> list[str]:
    """Compare with the release that a server's version stands for; which image of it, it does not say."""
    rows = [row for row in RELEASES if row.release == release]
    if not rows:
        return [f"the server is Triton {release} ({server_version}), whose TensorRT is not known here"]
    if {row.tensorrt.partition(".")[0] for row in rows} != {built.partition(".")[0]}:
        row = rows[0]
        _require_version(
            artefact, built, row.tensorrt, f"the server is Triton {row.tag}, {row.tensorrt} ({row.source})"
        )
    if any(_same(built, row.tensorrt) for row in rows):
        return []
    said = " or ".join(f"{row.tensorrt} in {row.tag}" for row in rows)
    sentence = (
        f"the plan needs TensorRT {built}; the server is Triton {release}, which has {said}, and does not "
        "say which image it is: state it with --triton-release or --server-tensorrt"
    )
    return [sentence]


def _require_version(artefact: Artefact, built: str, theirs: str, sentence: str) -> None:
    if not _same(built, theirs):
        raise BackendError(
            f"{artefact.path} was built by TensorRT {built or 'of an unknown version'}, and a plan loads in "
            f"its own only: {sentence}; build it with TensorRT {theirs}, or choose another image"
        )


def _require_targets(artefact: Artefact, release: str, gpus: Sequence[str]) -> None:
    if gpus and not set(gpus) & set(artefact.targets):
        raise BackendError(
            f"{artefact.path} is for {', '.join(artefact.targets)}, the server's GPU is {', '.join(gpus)}; "
            "build it on that GPU"
        )
    release = _tag(release)
    lowest = next((target for first, target in _LOWEST_TARGETS if release and release >= first), 0)
    old = [target for target in artefact.targets if int(target.removeprefix("sm")) < lowest]
    if old and len(old) == len(artefact.targets):
        raise BackendError(
            f"{artefact.path} is for {', '.join(old)}; Triton {release} supports sm{lowest} and later "
            f"({_NOTES})"
        )


def _same(one: str, other: str) -> bool:
    """Tell whether two versions agree in the numbers that both have, three of them at least."""
    a, b = one.split("."), other.split(".")
    shared = min(len(a), len(b))
    return shared >= 3 and a[:shared] == b[:shared]
