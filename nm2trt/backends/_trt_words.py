"""Element types and error messages of TensorRT's libraries and the NVIDIA driver, in our words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import BackendError, ModelError

if TYPE_CHECKING:
    import tensorrt

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "E8M0": "float8_e8m0fnu",
    "FP4": "float4_e2m1fn",
    "INT4": "int4",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def dtype_name(dtype: Any) -> str:
    """Return numpy's name of a library's `DataType`."""
    name = str(dtype).rpartition(".")[2]
    return _DTYPES.get(name, name.lower())


def sizes(dims: Any) -> tuple[int, ...]:
    """Return a library's `Dims` as a tuple."""
    return tuple(int(dims[axis]) for axis in range(len(dims)))


def first_error(log: Sequence[str]) -> str:
    """Return the first error in the library's log, else its last warning, without the decoration.

    TensorRT 10 logs each kernel that it tries in vain as an error and goes on, so these come last.
    """
    lines = [line.partition(": ") for line in log]
    errors = [message for severity, _, message in lines if severity in ("error", "internal_error")]
    tried = [message for message in errors if "Skipping tactic" in message]
    fatal = [message for message in errors if message not in tried]
    warnings = [message for severity, _, message in lines if severity == "warning"]
    return clean((fatal[:1] or tried[:1] or warnings[-1:] or [""])[0])


def parser_failure(
    product: str, model: Path, parser: tensorrt.OnnxParser, log: Sequence[str]
) -> BackendError | ModelError:
    """Return the error to raise if a parser failed, with the node that it names."""
    if parser.num_errors == 0:
        return BackendError(f"{product} cannot read {model}: {first_error(log)}")
    error = parser.get_error(0)
    code = str(error.code()).rpartition(".")[2]
    if code == "MODEL_DESERIALIZE_FAILED":
        return ModelError(
            f"{model} is not a readable ONNX file: it is damaged, cut short or of another format"
        )
    reason = in_words(clean(error.desc()))
    # TensorRT 8 says neither the operator nor the node's name.
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    node = error.node_name() if hasattr(error, "node_name") else ""
    if not operator and hasattr(error, "node_operator"):
        # Not of one node, e.g. external data that is missing: the log's first error names the cause.
        return ModelError(f"{product} cannot read {model}: {in_words(first_error(log))}")
    where = f"node {node!r}" if node else f"node number {error.node()}"
    what = f", operator {operator}," if operator else ""
    return BackendError(f"{product} refuses {where}{what} of {model}: {reason}")


# What the libraries say -> our words, with what to do next. Groups of the pattern go into the sentence.
_SENTENCES: Mapping[str, str] = {
    r"^(false|the library gave no reason)$|Plugin not found|lugin creator.* was not found": (
        "it has no implementation of this operator; export the model without it"
    ),
    r"Non-zero zero point is not supported|ASYMMETRIC_QUANTIZATION": (
        "its zero point is not 0, and TensorRT quantises symmetrically; quantise the float model with "
        "nm2trt quantize, or export it with zero points of 0"
    ),
    r"input has type (\w+) but must have type FP8": (
        r"it dequantises \1, and TensorRT takes only int8, int4, fp8 and fp4; leave that tensor, a bias "
        "for example, in float"
    ),
    r"input tensor A must be FP16|failed to load MatMulNBits plugin": (
        "it does not take weights that are packed for onnxruntime; export the model in float and quantise "
        "that with nm2trt quantize"
    ),
    r"unsupported input type of UINT8": (
        "it reads uint8, and TensorRT quantises to int8; export the model with int8 and zero points of 0"
    ),
    r"unsupported datatype \((\d+)\) when importing initializer: (\S+)": (
        r"the stored tensor '\2' has an element type that TensorRT does not read (ONNX type \1)"
    ),
    r"ONNX initializer (\S+) cannot be imported": (
        r"the stored tensor '\1' has an element type that TensorRT does not read, such as uint4; quantise to "
        "int4 or int8 with zero points of 0"
    ),
    r"ERROR: (\S+?):\d+ .*importInput.*date type": (
        r"input '\1' has an element type that TensorRT does not read, text for example; do that step outside "
        "the model"
    ),
    r"(?:node_of_)?(\S+?)(?:_\d+)? has no runners that implement it": (
        r"it has no kernel for the node that makes '\1' on these targets; end the model before that node and "
        "do the rest outside, or choose another builder with --backend"
    ),
    r"MyelinCheckException: \S+ (CHECK\(.*\)) failed": (
        r"a check inside its compiler failed, \1; split a model that branches into one file per branch, or "
        "choose another builder with --backend"
    ),
    r"\((\S+): Input dimensions with this name have different constant values": (
        r"the sizes named '\1' differ in the shapes that were given, and TensorRT takes sizes of one name as "
        "equal; give them one range, or other names in the model"
    ),
}
# The texts of CUDA's runtime, in the library's "Cuda Runtime (...)", and TensorRT's own word for the first.
_OF_THE_MACHINE: Mapping[str, str] = {
    r"out of memory|OutOfMemory": (
        "the GPU's memory is full; end what else runs on it, or take a smaller batch"
    ),
    r"cudaError 3[56]\b|driver version is insufficient|in the installed CUDA driver|unsupported toolchain": (
        "the NVIDIA driver is too old for it; update the driver"
    ),
    r"busy or unavailable": "the GPU is busy or in exclusive mode; end the process that holds it",
    r"no kernel image is available": "it has no kernels for this GPU; install a version that supports it",
    r"(unspecified launch failure|illegal memory access|uncorrectable ECC error)": (
        r"the GPU failed while it ran (\1); restart the process"
    ),
}
# The function that pins memory of the host, of which this machine can run out, not the GPU.
PIN = "cuMemAllocHost_v2"
_OUT_OF_MEMORY = 2
# Driver errors after which the reader can do something, by their number in cuda.h.
_REASONS = {
    46: "the GPU is busy or in exclusive mode; end the process that holds it",
    100: "there is no GPU any more",
    101: "there is no GPU any more",
    201: "the GPU was lost while it ran; restart the process",
    209: "the driver has no kernel for this GPU",
    214: "the GPU reported an uncorrectable memory error; restart the process",
    222: "the driver is too old for these kernels; update it",
    700: "a kernel read or wrote an illegal address; restart the process",
    702: "a kernel ran into the system's time limit",
    719: "a kernel failed, or the GPU was lost while it ran; restart the process",
    802: "the GPU is not ready yet",
    803: "the driver and its kernel module are of different versions; restart the machine",
    804: "the driver is too old for this library; update it",
    999: "the GPU was lost while it ran; restart the process",
}
# The same where the driver does not even start.
_STARTS = {
    **_REASONS,
    34: "this is the CUDA toolkit's stub; put the folder of the driver's own libcuda.so.1 before it",
    100: "it sees no GPU; look at CUDA_VISIBLE_DEVICES, and start a container with --gpus all",
    802: "the GPUs wait for the service nvidia-fabricmanager; start it",
    804: "CUDA's compat library does not work on this GPU; leave its folder out, or update the driver",
    999: "for example /dev/nvidia-uvm is missing or may not be opened; restart the machine or container",
}


def in_words(reason: str) -> str:
    """Return what a library gives as the reason in our words; a text that is not known stays as it is."""
    return _said(reason, {**_SENTENCES, **_OF_THE_MACHINE})


def of_the_machine(reason: str) -> str:
    """Return the same for an engine that does not load or run, where no operator is the reason."""
    return _said(reason, _OF_THE_MACHINE)


def _said(reason: str, sentences: Mapping[str, str]) -> str:
    for pattern, sentence in sentences.items():
        found = re.search(pattern, reason)
        if found:
            return found.expand(sentence)
    return reason


def clean(message: str) -> str:
    """Take source positions and error codes off a message."""
    message = " ".join(message.split())
    # The compiler's own errors come as a chain "[file:line: function] text; [...] text ...": the first
    # names the cause.
    chain = re.search(r"Myelin \(\[[^]]*\] (.*?)(; \[|\)?$)", message)
    if chain:
        message = chain[1]
    for noise in (
        r"Assertion failed: ((\S+|[^:]* (==|!=|<=|>=|&&|\|\|) [^:]*): )?",
        r"(\[?\w+\.(cpp|h)[:\]]\S*\s*)+",
        r"I\w+::\w+: ",
        r"Error Code \d+: ",
    ):
        message = re.sub(f"^{noise}", "", message)
    # What follows a position in the library's own sources is of another layer, or of the machine.
    message = re.sub(r" In \w+ at /[\w./-]+(:\d+)?", "", message)
    message = re.sub(r" \[\w+\.(cpp|h)::.*$", "", message)
    return message.strip().rstrip(".") or "the library gave no reason"


def start_failure(status: int) -> str:
    """Return what is said of a driver whose cuInit returned a status other than 0."""
    return (
        f"the NVIDIA driver is there and does not start (cuInit returned {status}{_because(_STARTS, status)})"
    )


def call_failure(name: str, status: int) -> str:
    """Return what is said of a function of the driver that returned a status other than 0.

    Args:
        name: The function, e.g. "cuMemAlloc_v2".
        status: What it returned, by its number in cuda.h.
    """
    if status != _OUT_OF_MEMORY:
        return f"the NVIDIA driver failed: {name} returned {status}{_because(_REASONS, status)}"
    if name == PIN:
        return "no memory of this machine can be pinned any more; run a smaller batch, or free memory"
    return "the GPU's memory is full; run a smaller batch, or free the GPU"


def _because(reasons: Mapping[int, str], status: int) -> str:
    return f": {reasons[status]}" if status in reasons else ""
