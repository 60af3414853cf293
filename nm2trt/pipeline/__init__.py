"""The functions behind the public names; the only module that knows the whole order.

    sparsify -> export -> (fuse, prune) -> verify -> build -> validate -> deploy -> probe

Stages do not import one another: here they are called in turn, and hand over files and values.
"""

from __future__ import annotations

from nm2trt.pipeline.benchmarks import bench
from nm2trt.pipeline.checks import validate
from nm2trt.pipeline.deployments import (
    DeployOptions,
    ProbeOptions,
    ServerOptions,
    deploy,
    probe,
    rollback,
    serve,
)
from nm2trt.pipeline.engines import build, build_options, doctor, engine_suffix
from nm2trt.pipeline.inference import infer
from nm2trt.pipeline.lowering import Lowering
from nm2trt.pipeline.models import data_files, fuse, info, prune, verify
from nm2trt.pipeline.precisions import cast, quantize
from nm2trt.pipeline.proofs import explain, gain
from nm2trt.pipeline.reports import ReportResult, report
from nm2trt.pipeline.sessions import open_session
from nm2trt.pipeline.training import (
    SparsifyResult,
    calibration_samples,
    export,
    export_file,
    sparsify,
    sparsify_file,
)
from nm2trt.pipeline.twins import prove

__all__ = [
    "DeployOptions",
    "Lowering",
    "ProbeOptions",
    "ReportResult",
    "ServerOptions",
    "SparsifyResult",
    "bench",
    "build",
    "build_options",
    "calibration_samples",
    "cast",
    "data_files",
    "deploy",
    "doctor",
    "engine_suffix",
    "explain",
    "export",
    "export_file",
    "fuse",
    "gain",
    "infer",
    "info",
    "open_session",
    "probe",
    "prove",
    "prune",
    "quantize",
    "report",
    "rollback",
    "serve",
    "sparsify",
    "sparsify_file",
    "validate",
    "verify",
]
