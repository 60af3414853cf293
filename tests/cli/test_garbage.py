"""The garbage collector starts late in a command's process, and then works as usual."""

import json
import subprocess
import sys

CODE = """
import gc, json
from nm2trt.cli.garbage import collected_late

usual, told = gc.get_threshold(), {}
count = lambda: sum(generation["collections"] for generation in gc.get_stats())
with collected_late():
    before = count()
    kept = [[] for _ in range(20_000)]
    told["early"] = count() - before
    for _ in range(200_000):
        cycle = []
        cycle.append(cycle)
    told["late"] = count() - before
    told["usual again"] = gc.get_threshold() == usual
    cycles = [held for held in gc.get_objects() if type(held) is list and len(held) == 1 and held[0] is held]
    told["unfreed"] = len(cycles)
told["frozen"] = gc.get_freeze_count() > 20_000
print(json.dumps(told))
"""


def test_garbage_is_collected_late_and_then_as_usual():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["early"] == 0
    assert told["late"] > 10
    assert told["usual again"]
    assert told["unfreed"] < 2_000
    assert told["frozen"]
