"""A model of Triton's Python backend that runs what lies beside it; copied into each version's folder.

It stands alone: `model.onnx` runs in ONNX Runtime on the CPU, and `model.rtx` in the TensorRT for RTX
runtime, through the copy of nm2trt's own session in the folder `runtime`. nm2trt need not be installed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# As in `nm2trt.backends.ort`: what ONNX Runtime says of a sound model -> the optimiser that broke it.
BREAKING = {
    "output_dtype": "QDQPropagationTransformer",
    "output of a previous node": "CastElimination",
}
# As there too: a second round of optimisations could end the process at a model in fp16.
ONE_ROUND = ("session.graph_optimizations_loop_level", "0")


class TritonPythonModel:
    """What the server makes one of for every instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model; the server loads nothing whose opening raises."""
        import triton_python_backend_utils as pb_utils

        self._pb = pb_utils
        _refuse_broken_numpy(pb_utils)
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        parameters = config.get("parameters", {})
        threads = int(parameters.get("nm2trt.threads", {}).get("string_value", "0"))
        without = parameters.get("nm2trt.disabled_optimizers", {}).get("string_value", "")
        self._run = _open(folder, threads, without.split(",") if without else [])
        self._batched = int(config.get("max_batch_size", 0)) > 0
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        # One scalar per sample travels as one element; the server unpacks it in inputs, not in outputs.
        self._scalars = {entry["name"] for entry in config["output"] if "reshape" in entry}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests; those of one shape run together, and each gets its own part back."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
        for index, request in enumerate(requests):
            feeds = {
                name: self._pb.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs
            }
            key = tuple(feed.shape[1:] for feed in feeds.values()) if self._batched else index
            groups.setdefault(key, []).append((index, feeds))
        for group in groups.values():
            answers = self._answer([feeds for _, feeds in group])
            for (index, _), answer in zip(group, answers):  # noqa: B905 - as many by contract
                responses[index] = self._response(requests[index], answer)
        return responses

    def _answer(self, group: list[dict[str, Any]]) -> list[Any]:
        """Return each request's outputs, or the exception that it met; one's fault is not the others'."""
        try:
            return self._run_group(group)
        except Exception as error:
            if len(group) == 1:
                return [error]
            return [self._answer([feeds])[0] for feeds in group]

    def _run_group(self, group: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(group) == 1:
            return [self._run(group[0])]
        import numpy as np

        sizes = [len(feeds[self._inputs[0]]) for feeds in group]
        joined = {name: np.concatenate([feeds[name] for feeds in group]) for name in self._inputs}
        outputs = self._run(joined)
        for name, array in outputs.items():
            # Cut by samples, such an output would hand one client's rows to another.
            if len(array) != sum(sizes):
                raise ValueError(f"output {name!r} has {len(array)} rows for {sum(sizes)} samples")
        answers, start = [], 0
        for size in sizes:
            answers.append({name: array[start : start + size] for name, array in outputs.items()})
            start += size
        return answers

    def _response(self, request: Any, outputs: Any) -> Any:
        if isinstance(outputs, Exception):
            # An error object of its own: the server crashes if two responses share one.
            error = self._pb.TritonError(f"{type(outputs).__name__}: {outputs}")
            return self._pb.InferenceResponse(error=error)
        wanted = set(request.requested_output_names())
        tensors = []
        for name in self._outputs:
            if name in wanted:
                array = outputs[name]
                tensors.append(self._pb.Tensor(name, array[..., None] if name in self._scalars else array))
        return self._pb.InferenceResponse(tensors)


def _open(folder: Path, threads: int, without: list[str]) -> Any:
    """Return a function from feeds to outputs, both by name; `without` are optimisers to leave out."""
    model = folder / "model.onnx"
    if model.is_file():
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it warns where it can store no identifier
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Several instances on few cores: a thread that spins takes the core from one that works.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = _session(onnxruntime, str(model), options, without)
        names = [output.name for output in session.get_outputs()]
        return lambda feeds: dict(zip(names, session.run(names, feeds)))  # noqa: B905 - as many by contract
    sys.path.insert(0, str(folder / "runtime"))
    from nm2trt.backends import trt_rtx

    return trt_rtx.load().open(folder / "model.rtx").run


def _session(onnxruntime: Any, model: str, options: Any, without: list[str]) -> Any:
    options.add_session_config_entry(*ONE_ROUND)

    def load(without: list[str]) -> Any:
        how = {"disabled_optimizers": without} if without else {}
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], **how)

    try:
        return load(without)
    except Exception as error:
        breaking = [name for words, name in BREAKING.items() if words in str(error)]
        if not breaking:
            raise
        return load([*without, *breaking])


def _refuse_broken_numpy(pb_utils: Any) -> None:
    """Raise if the server's stub and numpy do not fit: wrong numbers would be served, without an error."""
    import numpy as np

    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = pb_utils.Tensor("check", sent)
    # Through the stub's own view of the array: as_numpy() alone would hand back the array itself.
    back = pb_utils.Tensor.from_dlpack("check", tensor.to_dlpack()).as_numpy()
    if back.shape != sent.shape or not (back == sent).all():
        raise RuntimeError(
            f"numpy {np.__version__} does not work with this server's Python backend, which would give wrong "
            "outputs; install numpy<2 in the server's environment"
        )
