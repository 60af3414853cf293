"""Triton's model configuration, made from an artefact, field by field.

With several optimisation profiles, Triton sends a request to any idle instance group. A group of its own for
each profile is therefore right only if every profile takes every request; otherwise one group names all
profiles, and the TensorRT backend picks the profile by the request's shape (`GetMostOptimizedProfile` in
`instance_state.cc` of triton-inference-server/tensorrt_backend).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nm2trt.backends.protocol import TensorSpec
from nm2trt.backends.triton import TRITON_DTYPES
from nm2trt.errors import InputError
from nm2trt.onnx_bytes.turned_products import crashing_optimisers
from nm2trt.serving.artefact import Artefact
from nm2trt.serving.config_message import new_message
from nm2trt.serving.config_settings import apply_setting
from nm2trt.serving.options import DeployOptions, ServingBackend

DEFAULT_MAX_BATCH = 32
# Element types by numpy's names. What Triton cannot carry is not here.
_TYPES = {dtype: f"TYPE_{name}" for name, dtype in TRITON_DTYPES.items()}
_FILES = {"tensorrt": "model.plan", "onnxruntime": "model.onnx", "python": "model.py"}


@dataclass(frozen=True, slots=True)
class Extras:
    """Files that stand beside the versions, by the names that they have there.

    Args:
        warmup: By input: file name in the folder `warmup`, and the shape of the one sample in it.
        labels: By output: file name in the model's folder.
    """

    warmup: Mapping[str, tuple[str, tuple[int, ...]]]
    labels: Mapping[str, str]


def choose_backend(artefact: Artefact, asked: ServingBackend | None) -> ServingBackend:
    """Return Triton's backend for an artefact.

    Raises:
        InputError: The backend that was asked for does not run it.
    """
    fitting: dict[str, tuple[ServingBackend, ...]] = {
        "trt": ("tensorrt",),
        "onnx": ("onnxruntime", "python"),
        "trt-rtx": ("python",),
    }
    choices = fitting[artefact.kind]
    if asked is None:
        return choices[0]
    if asked not in choices:
        what = {"trt": "a TensorRT plan", "onnx": "an ONNX model", "trt-rtx": "a TensorRT for RTX plan"}
        why = ", which Triton's tensorrt backend cannot read" if artefact.kind == "trt-rtx" else ""
        raise InputError(
            f"{artefact.path} is {what[artefact.kind]}{why}: the backend {asked!r} does not run it; "
            f"use {' or '.join(choices)}"
        )
    return asked


def build_config(
    artefact: Artefact, name: str, version: int, options: DeployOptions, extras: Extras
) -> tuple[Any, list[str]]:
    """Make the configuration of one version of a model.

    Returns:
        The ModelConfig message, and one sentence for every choice that was made for the user.

    Raises:
        InputError: An option or setting does not fit the model.
        BackendMissingError: tritonclient is not installed.
    """
    for what, tensors in (("inputs", artefact.inputs), ("outputs", artefact.outputs)):
        if not tensors:
            raise InputError(f"{artefact.path} has no {what}, so there is nothing to request of it")
    notes: list[str] = []
    backend = choose_backend(artefact, options.backend)
    config = new_message()
    config.name, config.backend = name, backend
    config.default_model_filename = _FILES[backend]
    config.max_batch_size = _max_batch(artefact, options, notes)
    batched = config.max_batch_size > 0
    for entries, specs in ((config.input, artefact.inputs), (config.output, artefact.outputs)):
        for spec in specs:
            _add_tensor(entries.add(), spec, batched, artefact, backend)
    for output, file in extras.labels.items():
        next(entry for entry in config.output if entry.name == output).label_filename = file
    _set_policy(config, options.version_policy, version)
    _add_groups(config, artefact, options, backend, notes)
    if batched and options.dynamic_batching:
        _add_batching(config, artefact, options)
    elif options.queue_delay_us or options.preferred_batches:
        raise InputError(
            "queue_delay_us and preferred_batches belong to dynamic batching, which is "
            + ("switched off" if batched else "not possible here: " + notes[0] if notes else "switched off")
        )
    _add_warmup(config, extras)
    _add_parameters(config, artefact, options, backend)
    for setting in options.settings:
        apply_setting(config, setting)
    _require_preferred(config)
    return config, notes


def serve_only(config: Any, version: int) -> None:
    """Make a configuration serve one version and no other."""
    _set_policy(config, "deployed", version)


def _max_batch(artefact: Artefact, options: DeployOptions, notes: list[str]) -> int:
    specs = (*artefact.inputs, *artefact.outputs)
    fixed = [spec for spec in specs if not spec.shape or isinstance(spec.shape[0], int)]
    if fixed:
        if options.max_batch:
            raise InputError(
                f"the first dimension of {fixed[0].name!r} is not free, so the server cannot form batches; "
                "leave max_batch out, or export the model with a dynamic batch"
            )
        inside = all(spec.shape and not isinstance(spec.shape[0], int) for spec in artefact.inputs)
        notes.append(
            f"the first dimension of output {fixed[0].name!r} is not a batch, so the server cannot form "
            "batches: every request is one run, of any batch (max_batch_size 0)"
            if inside and artefact.inputs
            else "the batch is fixed in the model: every request is one run of it (max_batch_size 0)"
        )
        return 0
    names = {str(spec.shape[0]) for spec in specs if spec.shape[0] is not None}
    if len(names) > 1 and options.max_batch is None and not artefact.profiles:
        notes.append(
            f"the first dimensions have different names ({', '.join(sorted(names))}), so they may be no "
            "batch: every request is one run (max_batch_size 0); --max-batch says that they are"
        )
        return 0
    if not artefact.profiles:
        if options.max_batch is None:
            notes.append(
                f"the batch is free: the server forms batches of up to {DEFAULT_MAX_BATCH} (--max-batch)"
            )
        return DEFAULT_MAX_BATCH if options.max_batch is None else options.max_batch
    most = _most(artefact, options)
    if options.max_batch is not None and options.max_batch > most:
        raise InputError(
            f"max_batch {options.max_batch} is more than the engine's profiles take, which is {most}"
        )
    least = min(min(shapes.min[0] for shapes in profile) for profile in artefact.profiles)
    if least > 1:
        notes.append(f"the engine takes no batch under {least}: smaller requests fail unless they are joined")
    return most if options.max_batch is None else options.max_batch


def _most(artefact: Artefact, options: DeployOptions) -> int:
    largest = [min(shapes.max[0] for shapes in profile) for profile in artefact.profiles]
    # With a group for each profile, any of them may get the largest batch.
    return min(largest) if _grouping(artefact, options) == "each" else max(largest)


def _grouping(artefact: Artefact, options: DeployOptions) -> str:
    if options.profile_groups != "auto":
        return options.profile_groups
    ranges = {tuple((r.input, r.min, r.max) for r in profile) for profile in artefact.profiles}
    return "each" if len(ranges) == 1 else "together"


def _add_tensor(entry: Any, spec: TensorSpec, batched: bool, artefact: Artefact, backend: str) -> None:
    what = f"{spec.name!r} of {artefact.path}"
    if spec.dtype not in _TYPES:
        raise InputError(f"{what} has type {spec.dtype}, which Triton does not carry; cast it")
    if spec.dtype == "bfloat16" and backend == "python":
        raise InputError(f"{what} has type bfloat16, which the python backend cannot hand to numpy; cast it")
    if 0 in spec.shape:
        raise InputError(f"{what} has shape {spec.shape}; Triton takes no tensor without elements")
    if not spec.shape:
        raise InputError(
            f"{what} is a scalar, which Triton takes only as one per sample of a batch; give it a dimension"
        )
    entry.name = spec.name
    entry.data_type = (
        type(entry).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name[_TYPES[spec.dtype]].number
    )
    dims = [size if isinstance(size, int) else -1 for size in spec.shape[batched:]]
    # Triton knows no tensor without dimensions: one scalar per sample travels as one element.
    entry.dims.extend(dims or [1])
    if not dims:
        entry.reshape.SetInParent()


def _set_policy(config: Any, policy: str, version: int) -> None:
    config.ClearField("version_policy")
    if policy == "all":
        config.version_policy.all.SetInParent()
    elif policy.startswith("latest:"):
        config.version_policy.latest.num_versions = int(policy.partition(":")[2])
    else:
        config.version_policy.specific.versions.append(version)


def _add_groups(
    config: Any, artefact: Artefact, options: DeployOptions, backend: str, notes: list[str]
) -> None:
    kinds = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
    on_gpu = artefact.kind != "onnx"
    if on_gpu and options.device == "cpu":
        raise InputError(f"{artefact.path} is an engine, which runs on a GPU only; leave device out")
    if backend == "python" and not on_gpu and (options.device == "gpu" or options.gpus):
        raise InputError("the python backend runs ONNX models on the CPU; leave device and GPUs out")
    default = "KIND_GPU" if on_gpu or options.gpus else "KIND_CPU" if backend == "python" else "KIND_AUTO"
    together = [[str(number) for number in range(len(artefact.profiles))]]
    profiles: Sequence[list[str]] = [[]]
    if backend == "tensorrt" and artefact.profiles:
        grouping = _grouping(artefact, options)
        profiles = [[number] for number in together[0]] if grouping == "each" else together
        if len(profiles) < len(artefact.profiles):
            notes.append(
                f"the engine's {len(artefact.profiles)} profiles take different shapes, so they share one "
                "instance group: Triton picks the profile by the request"
            )
    for names in profiles:
        group = config.instance_group.add()
        kind = kinds.get(options.device, default)
        group.kind = group.DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_name[kind].number
        group.count = options.instances
        group.gpus.extend(options.gpus)
        group.profile.extend(names)


def _add_batching(config: Any, artefact: Artefact, options: DeployOptions) -> None:
    most = config.max_batch_size
    preferred = options.preferred_batches or tuple(
        sorted({profile[0].opt[0] for profile in artefact.profiles if profile and profile[0].opt[0] <= most})
    )
    config.dynamic_batching.SetInParent()
    config.dynamic_batching.preferred_batch_size.extend(preferred)
    if options.queue_delay_us:
        config.dynamic_batching.max_queue_delay_microseconds = options.queue_delay_us


def _require_preferred(config: Any) -> None:
    most = config.max_batch_size
    too_large = [size for size in config.dynamic_batching.preferred_batch_size if size > most]
    if too_large:
        raise InputError(f"preferred batch {too_large[0]} is more than the largest batch, {most}")


def _add_warmup(config: Any, extras: Extras) -> None:
    if not extras.warmup:
        return
    types = {entry.name: entry.data_type for entry in config.input}
    for batch in sorted({min(1, config.max_batch_size), config.max_batch_size}):
        warmup = config.model_warmup.add(name=f"batch_{batch}" if batch else "sample", batch_size=batch)
        for name, (file, shape) in extras.warmup.items():
            # Triton repeats the one sample until the batch is full.
            value = warmup.inputs[name]
            value.data_type, value.input_data_file = types[name], file
            value.dims.extend(shape or (1,))


def _add_parameters(config: Any, artefact: Artefact, options: DeployOptions, backend: str) -> None:
    own_code = backend == "python" and artefact.kind == "onnx"
    ours = {
        "nm2trt.pattern": artefact.pattern or "dense",
        "nm2trt.mask_sha256": artefact.mask_sha256,
        "nm2trt.artefact_sha256": artefact.sha256,
        "nm2trt.model_sha256": artefact.model_sha256,
        "nm2trt.threads": str(options.threads) if own_code else "",
        "nm2trt.disabled_optimizers": ",".join(crashing_optimisers(str(artefact.path))) if own_code else "",
    }
    for key, value in {**ours, **options.parameters}.items():
        if value:
            config.parameters[key].string_value = value
