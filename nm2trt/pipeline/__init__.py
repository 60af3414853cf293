"""The functions behind the public names; the only module that knows the whole order.

    sparsify -> export -> (fuse, prune) -> verify -> build -> validate -> deploy -> probe

Stages do not import one another: here they are called in turn, and hand over files and values.
Each is loaded when it is first asked for: a build should not wait for what serving imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Function or class -> the module here that holds it.
_HOME = {
    "DeployOptions": "deployments",
    "Lowering": "lowering",
    "ProbeOptions": "deployments",
    "ReportResult": "reports",
    "ServerOptions": "deployments",
    "SparsifyResult": "training",
    "bench": "benchmarks",
    "build": "engines",
    "build_options": "engines",
    "calibration_samples": "training",
    "cast": "precisions",
    "data_files": "models",
    "deploy": "deployments",
    "doctor": "engines",
    "engine_suffix": "engines",
    "explain": "proofs",
    "export": "training",
    "export_file": "training",
    "fuse": "models",
    "gain": "proofs",
    "infer": "inference",
    "info": "models",
    "open_session": "sessions",
    "probe": "deployments",
    "prove": "twins",
    "prune": "models",
    "quantize": "precisions",
    "report": "reports",
    "rollback": "deployments",
    "serve": "deployments",
    "sparsify": "training",
    "sparsify_file": "training",
    "validate": "checks",
    "verify": "models",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"nm2trt.pipeline.{_HOME[name]}"), name)
    raise AttributeError(f"module 'nm2trt.pipeline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
