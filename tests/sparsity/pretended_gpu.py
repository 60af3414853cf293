"""A GPU made for the tests: tensors that lie on a device of their own and are computed by the CPU's kernels.

As a plugin of pytest (`-p tests.sparsity.pretended_gpu -m gpu`) it lets tests of a GPU run without one: "cuda" becomes
the pretended device, and an operator that is given tensors of it and of the CPU fails as CUDA's do. So a tensor that was made
on the wrong device, or never moved, is found. Not found: what CUDA's own kernels, autocast and streams do.
It takes PyTorch's one place for a foreign device, for as long as the process lives.
"""

import contextlib
from unittest import mock

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map, tree_map_only

NAME = "pretended"


class Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]

    def _lazy_init(self):
        pass


backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())
GPU, CPU = torch.device(NAME, 0), torch.device("cpu")
aten = torch.ops.aten
CROSSING = (aten._to_copy.default, aten.copy_.default)
# A tensor on the GPU takes indices from the CPU, not the other way round.
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class OnGpu(torch.Tensor):
    """A tensor on the pretended device; `held` has its values."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=GPU,
        )

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"OnGpu({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, _, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


OnGpu.__module__ = "torch.pretended"  # so that it is told to be a tensor of PyTorch


def computed(func, args, kwargs):
    """Compute on the CPU what an operator asks of the pretended device."""
    given = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
    there = [value for value in given if isinstance(value, OnGpu)]
    on_cpu = [value for value in given if not isinstance(value, OnGpu) and value.ndim > 0]
    if there and func not in CROSSING and (not isinstance(args[0], OnGpu) if func in INDEXED else on_cpu):
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found {GPU} and cpu!")
    asked = kwargs.get("device")
    target = args[0].device if func is aten.copy_.default else torch.device(asked or (GPU if there else CPU))
    low_args, low_kwargs = tree_map_only(OnGpu, lambda value: value.held, (args, kwargs))
    if asked is not None:
        low_kwargs = {**low_kwargs, "device": CPU}
    out = func(*low_args, **low_kwargs)
    if target == CPU:
        return args[0] if func is aten.copy_.default else out
    out = tree_map_only(torch.Tensor, lambda value: value if isinstance(value, OnGpu) else OnGpu(value), out)
    return return_and_correct_aliasing(func, args, kwargs, out) if there else out


class Devices(TorchDispatchMode):
    """Sees what makes a tensor on the device, which no tensor of it is given to."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if OnGpu in types or torch.device(kwargs.get("device") or CPU) == GPU:
            return computed(func, args, kwargs)
        return func(*args, **kwargs)


class Names(TorchFunctionMode):
    """Calls the device by its name, and does by copies what PyTorch does below the sight of a mode."""

    def __torch_function__(self, func, _, args=(), kwargs=None):
        if func is torch.Tensor.cuda:
            func, args = torch.Tensor.to, (args[0], GPU)
        args, kwargs = tree_map(renamed, (tuple(args), kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == GPU:
            return func(*args, **{**kwargs, "device": CPU}).to(GPU)
        if func is torch.Tensor.new_tensor and args[0].device == GPU:
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(GPU)
        if getattr(func, "__name__", "") in RECURRENT and args[0].device == GPU:
            devices = {value.device for value in tree_iter(args) if isinstance(value, torch.Tensor)}
            assert devices == {GPU}, devices
            here = tree_map_only(torch.Tensor, lambda value: value.to(CPU), (args, kwargs))
            return tree_map_only(torch.Tensor, lambda value: value.to(GPU), func(*here[0], **here[1]))
        return func(*args, **kwargs)


def renamed(value):
    named = isinstance(value, (str, torch.device)) and str(value) in ("cuda", "cuda:0", NAME)
    return GPU if named else value


@contextlib.contextmanager
def pretended():
    """Let "cuda" be the pretended device."""
    apply, setting = torch.nn.Module._apply, torch.__future__

    def swapping(module, *args, **kwargs):
        # The module's parameters become others: `.data` takes no tensor of another class.
        before = setting.get_swap_module_params_on_conversion()
        setting.set_swap_module_params_on_conversion(True)
        try:
            return apply(module, *args, **kwargs)
        finally:
            setting.set_swap_module_params_on_conversion(before)

    with (
        mock.patch.object(torch.nn.Module, "_apply", swapping),
        mock.patch.object(torch.cuda, "is_bf16_supported", return_value=True),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        Devices(),
        Names(),
    ):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with pretended() if item.get_closest_marker("gpu") else contextlib.nullcontext():
        return (yield)
