"""An ONNX file to an engine: what is asked is checked first, then built, then written with its manifest."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Backend, Engine, Network
from nm2trt.engine.build_result import BuildResult
from nm2trt.engine.early_parse import Parsed, names_the_users_file, parse_early
from nm2trt.engine.evidence.evidence import Evidence
from nm2trt.engine.ladder.forecast import forecast
from nm2trt.engine.ladder.ladder import ladder_rows
from nm2trt.engine.ladder.remarks import remarks
from nm2trt.engine.ladder.requirement import (
    cannot_know,
    check_share,
    read_evidence,
    require_pattern,
)
from nm2trt.engine.pair_writer import digest_of, pair_writer
from nm2trt.engine.profiles import resolve_profiles, resolve_static
from nm2trt.engine.request import check_request
from nm2trt.hashes import sha256_file
from nm2trt.json_value import named
from nm2trt.manifest import Manifest
from nm2trt.nm.eligibility import Place
from nm2trt.nm.outlook import outlook
from nm2trt.nm.plan import Plan
from nm2trt.nm.verdict import WeightVerdict

# The verdicts again, with the multiply-accumulates that their consumers do at these shapes of the inputs.
AtShapes = Callable[[Mapping[str, Sequence[int]]], Sequence[WeightVerdict]]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What `verify` knows of a model as a whole, for the manifest.

    Args:
        mask_sha256: Hash of its masks.
        plan: Its sparsity plan, or None.
        missing: Weights of the plan that no node of the model reads.
        notes: What was done with the model before, one sentence each.
    """

    mask_sha256: str = ""
    plan: Plan | None = None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def build_engine(
    model: Path,
    out: Path | None = None,
    options: BuildOptions | None = None,
    *,
    weights: Sequence[WeightVerdict],
    facts: ModelFacts,
    backend: Backend,
    source: Path | None = None,
    dry_run: bool = False,
    at_shapes: AtShapes | None = None,
    require_sparse: float | None = None,
    hash_model: Callable[[Path], str] = sha256_file,
    parsed: Parsed | None = None,
) -> BuildResult:
    """Build an engine and write it with its manifest, whole or not at all.

    Args:
        model: The ONNX file.
        out: The engine's path; None puts it beside the model.
        options: What to build; None builds dense for the backend's own targets.
        weights: What `verify` found out of every weight.
        facts: What it found out of the model.
        backend: The builder.
        source: The file to parse if that is not `model` itself but a copy with pruned weights.
        dry_run: Stop before the builder starts, and write nothing.
        at_shapes: Returns `weights` with their work at the shapes that the engine is optimised for.
        require_sparse: Least share, 0..1, of the eligible multiply-accumulates that sparse kernels must run.
        hash_model: Hashes the model for the manifest, its external data too.
        parsed: What `parse_early` made of the file with these options; None parses it here.

    Raises:
        NothingSparseError: Sparse kernels are asked for, and no weight holds 2:4 or one breaks its plan.
        TooFewSparseError: Fewer sparse kernels run than `require_sparse` asks for, or nobody can know here.
        InputError: The model, a profile or a target is wrong.
        OutputError: The engine cannot be written.
        BackendError: The library refused the model or failed.
        Interrupted: The user stopped it.
    """
    out, options = check_request(model, out, options or BuildOptions(), backend)
    rungs = functools.partial(
        ladder_rows,
        sparsity=options.sparsity,
        builder=backend.name,
        targets=options.targets,
        version=backend.version,
    )
    if options.sparsity != "disable":
        require_pattern(model, weights, rungs(weights), planned=facts.plan is not None, missing=facts.missing)
    if require_sparse is not None:
        cannot_know(model, options.sparsity, backend, rungs(weights))
    parsed = parse_early(model, options, backend, source) if parsed is None else parsed
    network, options, notes = _shaped(backend, parsed.network(), options)
    backend.check(options, network)
    if at_shapes is not None:
        fixed = {shape.input: shape.shape for shape in options.static_shapes}
        best = {shapes.input: shapes.opt for shapes in next(iter(options.profiles), ())}
        weights = at_shapes({**fixed, **best})
    # The model and the engine that is there are hashed while the builder works.
    with ThreadPoolExecutor(1) as hashing:
        digest = hashing.submit(hash_model, model)
        there = None if dry_run else hashing.submit(digest_of, out)
        with names_the_users_file(source, model):
            built = Engine(memoryview(b""), (), 0.0) if dry_run else backend.build(network, options)
        model_sha256, old = digest.result(), None if there is None else there.result()
    place = Place(backend.name, backend.version, options.targets)
    # A dense build is asked nothing of its kernels.
    sparse = options.sparsity != "disable"
    with contextlib.ExitStack() as unfinished:
        # The engine is written while its kernels are looked at.
        pair = None if dry_run else unfinished.enter_context(pair_writer(out, built.data, old))
        evidence = Evidence()
        if sparse:
            evidence = read_evidence(built.log, built.layers, builder=backend.name, version=backend.version)
        ladder = rungs(weights, evidence=evidence)
        if require_sparse is not None and not dry_run:
            check_share(model, ladder, evidence, require_sparse)
        result = BuildResult(
            engine=out,
            written=not dry_run,
            kind=backend.kind,
            model=model,
            backend=backend.name,
            backend_version=backend.version,
            options=options,
            inputs=network.inputs,
            outputs=network.outputs,
            ladder=ladder,
            forecast=forecast(ladder),
            outlook=outlook(weights, place),
            notes=(
                *facts.notes,
                *notes,
                *remarks(weights, options, ladder, evidence, place=place),
            ),
            engine_sha256="",
            engine_bytes=0,
            parse_ms=parsed.parse_ms,
            build_ms=built.build_ms,
            log=built.log,
            device=backend.device,
        )
        if pair is None:
            return result
        pair.manifest = _manifest(result, facts, model_sha256)
    written = pair.manifest
    return replace(result, engine_sha256=written.engine_sha256, engine_bytes=written.engine_bytes)


def _shaped(
    backend: Backend, network: Network, options: BuildOptions
) -> tuple[Network, BuildOptions, tuple[str, ...]]:
    """Fix the inputs that are to be static, and complete the profiles of the others."""
    fixed: dict[str, int] = {}
    if options.static_shapes:
        before = {spec.name: spec.shape for spec in network.inputs}
        shapes = resolve_static(network.inputs, options.static_shapes)
        network = backend.fix(network, {shape.input: shape.shape for shape in shapes})
        options = replace(options, static_shapes=shapes)
        pairs = (zip(before[shape.input], shape.shape, strict=True) for shape in shapes)
        fixed = {name: size for pair in pairs for name, size in pair if isinstance(name, str)}
    if not backend.has_profiles:
        return network, options, ()
    profiles, notes = resolve_profiles(network.inputs, options.profiles, fixed)
    return network, replace(options, profiles=profiles), notes


def _manifest(result: BuildResult, facts: ModelFacts, model_sha256: str) -> Manifest:
    # Imported here: the package's own module would be half-initialised if this one were loaded by it.
    from nm2trt import __version__

    return Manifest(
        kind=result.kind,
        engine_sha256=result.engine_sha256,
        engine_bytes=result.engine_bytes,
        model=result.model.name,
        model_sha256=model_sha256,
        mask_sha256=facts.mask_sha256,
        plan=None if facts.plan is None else json.loads(facts.plan.to_json()),
        backend=result.backend,
        versions={"nm2trt": __version__, result.backend: result.backend_version},
        options=result.options.to_json(),
        targets=result.options.targets,
        inputs=tuple(named(spec, "*") for spec in result.inputs),
        outputs=tuple(named(spec, "*") for spec in result.outputs),
        ladder=tuple(row.to_json() for row in result.ladder),
        notes=result.notes,
        device=result.device,
        created=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
    )
