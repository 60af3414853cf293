"""What `model.py` of a served model adds to a request, beside ONNX Runtime's own run of it; no server needed.

    python benchmarks/model_py.py [--requests 2000] [--json FILE]

`execute` gets one request at a time through stand-ins for the server's tensors and responses, so the
difference is the Python of `model.py` and nothing of the server. Both take turns; medians of processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from nm2trt.serving.python_model import TritonPythonModel

MOST_MS = 0.1


class Tensor:
    """An array under a name."""

    def __init__(self, name: str, array: npt.NDArray[Any]) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> npt.NDArray[Any]:
        return self.array

    def to_dlpack(self) -> npt.NDArray[Any]:
        return self.array

    @staticmethod
    def from_dlpack(name: str, array: npt.NDArray[Any]) -> Tensor:
        return Tensor(name, array)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        served = opened(Path(name))
        for batch in (1, 8, 32):
            image = np.random.default_rng(0).standard_normal((batch, 1, 8, 8)).astype(np.float32)
            calls = {
                "execute": lambda image=image: served.execute([request(image)]),
                "run": lambda image=image: served._run({"image": image}),
            }
            taken = in_turn(calls, arguments.requests)
            added = taken["execute_ms"] - taken["run_ms"]
            rows[str(batch)] = {**taken, "added_ms": added}
            print(f"batch {batch}: run {taken['run_ms']:.3f} ms, model.py adds {added:.3f} ms")
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({"command": " ".join(sys.argv), "batches": rows}, indent=2) + "\n"
        )
    if any(row["added_ms"] > MOST_MS for row in rows.values()):
        raise SystemExit(f"model.py adds more than {MOST_MS} ms to a request")


def request(image: npt.NDArray[Any]) -> SimpleNamespace:
    return SimpleNamespace(
        tensors={"image": Tensor("image", image)}, requested_output_names=lambda: ["output"]
    )


def opened(folder: Path) -> TritonPythonModel:
    """Return `model.py`'s class over a linear model of the digits' shapes."""
    weights = [
        numpy_helper.from_array(np.ones((64, 10), np.float32), "w"),
        numpy_helper.from_array(np.array([-1, 64]), "flat"),
    ]
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "w"], ["output"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "net", [image], [output], weights)
    (folder / "1").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "1" / "model.onnx")
    utilities = ModuleType("triton_python_backend_utils")
    vars(utilities).update(
        Tensor=Tensor,
        InferenceResponse=lambda tensors=(), error=None: SimpleNamespace(tensors=tensors, error=error),
        get_input_tensor_by_name=lambda asked, name: asked.tensors[name],
    )
    sys.modules["triton_python_backend_utils"] = utilities
    config = {
        "max_batch_size": 32,
        "input": [{"name": "image"}],
        "output": [{"name": "output"}],
        "parameters": {"nm2trt.threads": {"string_value": "1"}},
    }
    served = TritonPythonModel()
    arguments = {"model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1"}
    served.initialize(arguments)
    return served


def in_turn(calls: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Return the median processor milliseconds of each call, over rounds of fifty."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(max(3, count // 50)):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(50):
                call()
            times[name].append((time.process_time() - start) / 50 * 1e3)
    return {f"{name}_ms": statistics.median(found) for name, found in times.items()}


if __name__ == "__main__":
    main()
