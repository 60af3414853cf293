"""nm2trt: a PyTorch model to a 2:4-sparse TensorRT engine, every step proved.

The public functions, in the order of the pipeline:

    sparsify -> export -> verify -> build -> prove -> validate -> deploy -> probe

They are loaded on first use: importing nm2trt imports no torch, onnx or TensorRT. An argument of a type that
the signature does not name raises `InputError`.
"""

from __future__ import annotations

from nm2trt import errors
from nm2trt.errors import *  # noqa: F403 - what its `__all__` lists

TYPE_CHECKING = False  # `typing` takes longer to import than all that `--help` needs
if TYPE_CHECKING:
    from typing import Any

    from nm2trt.pipeline.bench import bench
    from nm2trt.pipeline.build import build
    from nm2trt.pipeline.cast import cast
    from nm2trt.pipeline.deploy import deploy
    from nm2trt.pipeline.doctor import doctor
    from nm2trt.pipeline.explain import explain
    from nm2trt.pipeline.export import export
    from nm2trt.pipeline.fuse import fuse
    from nm2trt.pipeline.gain import gain
    from nm2trt.pipeline.infer import infer
    from nm2trt.pipeline.info import info
    from nm2trt.pipeline.keep_zeros import keep_zeros
    from nm2trt.pipeline.load_sparse import load_sparse
    from nm2trt.pipeline.permute import permute
    from nm2trt.pipeline.probe import probe
    from nm2trt.pipeline.prove import prove
    from nm2trt.pipeline.prune import prune
    from nm2trt.pipeline.quantize import quantize
    from nm2trt.pipeline.quantize_shard import quantize_shard
    from nm2trt.pipeline.report import report
    from nm2trt.pipeline.rollback import rollback
    from nm2trt.pipeline.serve import serve
    from nm2trt.pipeline.sparsify import sparsify
    from nm2trt.pipeline.to_semi_structured import to_semi_structured
    from nm2trt.pipeline.validate import validate
    from nm2trt.pipeline.validate_shard import validate_shard
    from nm2trt.pipeline.verify import verify
    from nm2trt.recipe.runner import run

__all__ = [
    "__version__",
    "bench",
    "build",
    "cast",
    "deploy",
    "doctor",
    "explain",
    "export",
    "fuse",
    "gain",
    "infer",
    "info",
    "keep_zeros",
    "load_sparse",
    "permute",
    "probe",
    "prove",
    "prune",
    "quantize",
    "quantize_shard",
    "report",
    "rollback",
    "run",
    "serve",
    "sparsify",
    "to_semi_structured",
    "validate",
    "validate_shard",
    "verify",
]
__all__ += errors.__all__

__version__ = "0.2.0"  # the only place; setup.cfg reads it

# Each public function bears the name of the module of `nm2trt.pipeline` that holds it, but for recipes.
_FUNCTIONS = frozenset(name for name in __all__ if name.islower() and name != "__version__")
_ELSEWHERE = {"run": "nm2trt.recipe.runner"}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        import importlib

        from nm2trt.pipeline.argument_types import checked

        module = _ELSEWHERE.get(name, f"nm2trt.pipeline.{name}")
        return checked(getattr(importlib.import_module(module), name))
    raise AttributeError(f"module 'nm2trt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
