"""Where the processor time of a command goes, by module and by function, under Python's profiler.

    python benchmarks/profiles.py [verify prune fuse build recipe] [--nodes 10000]

Writes `benchmarks/results/profiles/COMMAND.txt`. The profiler makes calls of Python functions dearer than
work in numpy or C++, so the shares say where to look, not how long it takes; times are those of `quick.py`.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib.util
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bytecode import compile_package

OUT = Path(__file__).parent / "results" / "profiles"
ROOT = Path(__file__).parents[1]
RECIPE = "version: 1\nmodel: model.onnx\nstages:\n  prune:\n  fuse: {compare: false}\n  verify:\n  report:\n"
FUNCTIONS = 25


def main() -> None:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commands", nargs="*", default=["verify", "prune", "fuse", "build", "recipe"])
    parser.add_argument("--nodes", type=int, default=10_000, help="nodes of the graph that is fused")
    parser.add_argument("--inside", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        profiled(arguments.inside)
        return
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in arguments.commands:
            words = prepared(command, folder, arguments.nodes)
            plain = [
                sys.executable,
                "-m",
                "nm2trt",
                *words,
            ]  # once before, so that no module has to be compiled
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run(plain, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
            again = [sys.executable, __file__, "--inside", str(OUT / f"{command}.txt"), *words]
            subprocess.run(again, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            print((OUT / f"{command}.txt").read_text().split("\n\n")[0], flush=True)


def prepared(command: str, folder: Path, nodes: int) -> list[str]:
    """Write the model of a command, and return its words."""
    import onnx  # here, so that the profiled process imports them inside the profile
    from nets import half, many_nodes, resnet50, sparse

    model = folder / "model.onnx"
    if command == "fuse":
        onnx.save(many_nodes(nodes), model)
        return ["fuse", "--no-compare", "model.onnx", "-o", "out.onnx"]
    if command == "build":
        onnx.save(half(sparse(resnet50())), model)
        return ["build", "model.onnx", "--sparsity", "--target", "sm86", "-o", "out.rtx"]
    if command == "verify":
        onnx.save(sparse(resnet50()), model)
        return ["verify", "model.onnx", "--fail-on", "none"]
    onnx.save(resnet50(), model)
    if command == "prune":
        return ["prune", "model.onnx", "-o", "out.onnx"]
    (folder / "recipe.yaml").write_text(RECIPE)
    return ["run", "recipe.yaml"]


def profiled(words: list[str]) -> None:
    """Run a command under the profiler, its imports included, and write the text."""
    path, *command = words
    sys.path.insert(0, str(ROOT))
    profile, start = cProfile.Profile(time.process_time), time.process_time()
    profile.enable()
    from nm2trt.cli import main as nm2trt

    sys.argv = ["nm2trt", *command]
    nm2trt()  # as in a process of its own
    profile.disable()
    seconds = time.process_time() - start
    Path(path).write_text(report(pstats.Stats(profile).stats, command, seconds))  # type: ignore[attr-defined]


def report(
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]], words: list[str], seconds: float
) -> str:
    own = {place: row[2] for place, row in stats.items()}
    total = sum(own.values())
    modules: Counter[str] = Counter()
    for (file, _, function), spent in own.items():
        modules[owner(file, function)] += spent
    lines = [
        f"nm2trt {' '.join(words)}: {seconds:.2f} s of processor time under the profiler",
        "",
        "Own time by module:",
    ]
    lines += [f"{spent / total:6.1%}  {name}" for name, spent in modules.most_common(20)]
    lines += ["", "Own time by function, with its calls:"]
    best = sorted(stats.items(), key=lambda item: -item[1][2])[:FUNCTIONS]
    lines += [
        f"{row[2] / total:6.1%} {row[1]:9,}  {owner(file, function)}: {function}"
        for (file, _, function), row in best
    ]
    return "\n".join(lines) + "\n"


def owner(file: str, function: str) -> str:
    """Return the module or package that a function belongs to, without a path of this machine."""
    if file == "~":
        imports = (
            "marshal.loads",
            "builtins.exec",
            "builtins.compile",
            "posix.stat",
            "create_dynamic",
            "exec_dynamic",
        )
        return "imports" if any(name in function for name in imports) else "built-in functions"
    path = Path(file)
    parts = path.with_suffix("").parts
    if "nm2trt" in parts:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("nm2trt") :][:3])
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    return "imports" if file.startswith("<frozen importlib") else path.stem


if __name__ == "__main__":
    if importlib.util.find_spec("nm2trt") is None:
        sys.path.insert(0, str(ROOT))
    main()
