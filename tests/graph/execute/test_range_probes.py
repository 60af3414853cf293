"""Models that give the extremes of inner values: where the reductions stand, and what waits in memory."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from nm2trt.graph.execute.range_probes import observable
from nm2trt.graph.storage.model import load
from tests import forked


def chain(length):
    """`length` Sigmoids, each of the one before."""
    steps = "\n".join(f"v{i} = Sigmoid({f'v{i - 1}' if i else 'x'})" for i in range(length))
    head = f'<ir_version: 9, opset_import: ["": 18]> g (float[n, 1024] x) => (float[n, 1024] v{length - 1})'
    return onnx.parser.parse_model(f"{head} {{ {steps} }}")


def test_each_reduction_stands_behind_the_node_that_makes_its_value():
    model = load(chain(3))
    nodes, before = list(model.proto.graph.node), model.proto.SerializeToString()
    seen = observable(model, ["x", "v0", "v1"], whole=False)
    made = [node.output[0] for node in onnx.load_from_string(seen.data).graph.node]
    # The least of a sigmoid is not asked for: a range ends at 0.
    assert made == ["x/min", "x/max", "v0", "v0/max", "v1", "v1/max", "v2"]
    assert model.proto.SerializeToString() == before
    assert all(mine is theirs for mine, theirs in zip(nodes, model.proto.graph.node, strict=True))


def test_no_value_waits_in_memory_for_the_end_of_the_run(tmp_path):
    def most_kilobytes():
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    def program():
        session = observable(load(chain(30)), [f"v{i}" for i in range(30)], whole=False).open()
        session.run({"x": np.ones((64, 1024), np.float32)})
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # else the most of the process that this one was forked from
        before = most_kilobytes()
        session.run({"x": np.ones((2048, 1024), np.float32)})
        print(most_kilobytes() - before)

    done = forked.run(program, tmp_path)
    assert 0 < int(done.stdout) < 10 * 8192  # thirty values of 8 MB are made
