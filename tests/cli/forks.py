"""Commands run in forks of one process that has imported everything: together, or killed on the way."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

# A line on stdin is {"commands": [[word, ...], ...], "after": seconds or null, "signal": number}. All start at
# once, in "folder"; the answer is a line with their exit statuses, a signal's number negative. With "stdout", what
# the one command says is left in files.
_SOURCE = """
import contextlib, gc, importlib, json, os, signal, sys, time
import onnx, onnxruntime, numpy
with contextlib.suppress(ImportError):
    import tensorrt_rtx
import nm2trt.graph.verify.verify_model, nm2trt.graph.fuse.fuse_model, nm2trt.graph.permute.permute_model
import nm2trt.graph.prune.prune_model, nm2trt.graph.cast.cast_model, nm2trt.graph.quantize.quantize_model
import nm2trt.graph.execute.output_comparison, nm2trt.engine.build, nm2trt.backends.ort, nm2trt.pipeline.validate
from nm2trt.cli import main
# FAULT
gc.disable(), gc.collect(), gc.freeze()  # a collection in a child would copy every page that it looks through
null, said = os.open(os.devnull, os.O_WRONLY), os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    begin, let = os.pipe()
    children = []
    for command in order["commands"]:
        child = os.fork()
        if child == 0:
            os.close(let)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(null, 1)
            os.dup2(said, 2)
            os.chdir(order["folder"])
            if "stdout" in order:
                os.dup2(os.open(order["stdout"], os.O_WRONLY | os.O_CREAT), 1)
                os.dup2(os.open(order["stderr"], os.O_WRONLY | os.O_CREAT), 2)
                signal.alarm(order["limit"])
            os.read(begin, 1)
            status = main([*order["before"], *command])
            sys.stdout.flush(), sys.stderr.flush()
            if order["after"] is None:
                with open(sys.argv[2], "w") as file:
                    file.write("\\n".join(sys.modules))
            os._exit(status)
        children.append(child)
    os.close(begin)
    os.close(let)
    if order["after"] is not None:
        time.sleep(order["after"])
        for child in children:
            os.kill(child, order["signal"])
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(ended), flush=True)
    if os.path.exists(sys.argv[2]):
        # What the command imported is imported once for all that follow.
        with open(sys.argv[2]) as file, contextlib.suppress(ImportError):
            for name in file.read().split():
                if name.startswith(("nm2trt.", "pydantic", "yaml", "zipfile")):
                    importlib.import_module(name)
        os.remove(sys.argv[2])
"""


class Forks:
    """The process that forks.

    Args:
        folder: Where the commands run; their stderr goes to a file beside it.
        fault: Python code that is run once everything is imported, e.g. to plant a fault.
    """

    def __init__(self, folder, fault=""):
        self.folder = folder
        self.said = folder.parent / f"{folder.name}-stderr.txt"
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _SOURCE.replace("# FAULT", fault),
                str(self.said),
                str(folder.parent / f"{folder.name}-imports.txt"),
            ],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self.process.stdout.readline().strip() == "ready"

    def at(self, folder):
        """Return the same process, for commands that run in another folder."""
        elsewhere = copy.copy(self)
        elsewhere.folder = folder
        return elsewhere

    def run(self, *commands, after=None, signal=0):
        """Run commands at once; return their exit statuses."""
        lines = [list(map(str, one)) for one in commands]
        started = {"before": ["-vv"], "after": after, "signal": int(signal), "folder": str(self.folder)}
        return self._order(commands=lines, **started)

    def heard(self, command, folder, limit=100):
        """Run a command in a folder; return it as `subprocess.run` does. After `limit` seconds it is ended."""
        files = {kind: f"{self.said}.{kind}" for kind in ("stdout", "stderr")}
        for file in files.values():
            Path(file).unlink(missing_ok=True)
        rest = {"before": [], "after": None, "signal": 0, "folder": str(folder), "limit": limit}
        (status,) = self._order(commands=[list(map(str, command))], **files, **rest)
        texts = [Path(file).read_text(encoding="utf-8") for file in files.values()]
        return subprocess.CompletedProcess(command, status, *texts)

    def _order(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def last_words(self):
        """Return the end of what the commands wrote to stderr."""
        return self.said.read_text()[-3000:]

    def close(self):
        """End the process."""
        self.process.communicate()
