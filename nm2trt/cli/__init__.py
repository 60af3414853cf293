"""The `nm2trt` command. A command is one module here: it parses, calls `nm2trt.pipeline`, and prints.

A command module has `OPTIONS`, the dataclass of its options, and `run(options)`, which returns the exit
status; `EPILOG` holds examples for its help. It is imported only when its command is asked for, and help
comes from a file, so that `--help` answers at once: this module and `help_text` import nothing else that
Python has not loaded.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Command -> what `nm2trt --help` says of it, in the order of the pipeline.
COMMANDS = {
    "sparsify": "prune a trained model and repair it from unlabelled samples, as a recipe says",
    "calib": "check a calibration recipe: shapes, ranges, hash, and a sheet of its images",
    "verify": "check which weights of an ONNX model are N:M on the axis the hardware reads",
    "fuse": "fold BatchNorms and merge parallel convolution branches in an ONNX model",
    "permute": "reorder channels of an ONNX model so that N:M keeps larger weights; outputs stay",
    "prune": "make the weights of an ONNX model N:M, by magnitude or rebuilt from samples",
    "cast": "write an ONNX model in fp16 or bf16, with what needs range kept in fp32",
    "quantize": "write explicit Q/DQ for INT8 or FP8 into an ONNX model, zeros kept",
    "build": "verify an ONNX model and build an engine, with sparse weights if asked",
    "prove": "build a sparse model three times, and time what sparsity brought",
    "explain": "say why an engine is not faster: the reasons in order, their share of the work, what to do",
    "gain": "say which layers of a model would pay for 2:4 on one GPU, by a table measured there",
    "infer": "run one model, engine or served model once and save its outputs",
    "validate": "compare accuracy, outputs and latency of two models on the same samples",
    "bench": "time models side by side: percentiles, throughput by batch, conditions",
    "run": "run a recipe from weights to a probed deployment, skipping what is done",
    "init": "write a commented recipe for a model, which `nm2trt run` runs as it is",
    "report": "write what a run found as one page, as JSON, or as Markdown for a pull request",
    "deploy": "place a model in a Triton model repository, as the version served next",
    "probe": "check what a Triton server answers against ONNX Runtime, also under load",
    "rollback": "serve the version of a model that was served before",
    "serve": "start a tritonserver on a model repository",
    "info": "say what an engine or ONNX file is, and whether its manifest fits",
    "samples": "list the samples that come with nm2trt, or copy one here",
    "doctor": "say which backends, versions and GPUs are here, and what to install",
    "completion": "print the script that completes commands and options in a shell",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, which `nm2trt.errors` lists.

    Without arguments it runs the command line of the process, and ends the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[-1] in ("-h", "--help"):
        from nm2trt.cli.help_text import print_stored

        if print_stored(words[:-1]):
            return 0
    if argv is not None:
        from nm2trt.cli.dispatch import dispatch

        return dispatch(words)
    # Cycles, as a power of two, that a thread of numpy's BLAS spins for before it sleeps. Its own 26 take
    # 30 to 80 ms of a core as numpy loads; 20 is a third of a millisecond.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    try:
        from nm2trt.cli.garbage import collected_late, end

        with collected_late():
            from nm2trt.cli.dispatch import dispatch

            status = dispatch(words)
        end(status)
        return status
    except KeyboardInterrupt as stop:  # before the command takes signals, or after
        from nm2trt.cli.output import print_error
        from nm2trt.errors import Interrupted

        print_error(f"{str(stop) or 'interrupted'}; nothing was left half-written")
        sys.exit(getattr(stop, "exit_status", Interrupted.exit_status))
