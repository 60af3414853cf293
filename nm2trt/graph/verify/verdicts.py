"""Verdicts on weights: the pattern's answer, the hardware rules' answer, and both in words."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from nm2trt.figures import counted
from nm2trt.graph.analysis.constant_values import Source, direct_initializer
from nm2trt.graph.analysis.kernel_chains import PRODUCTS
from nm2trt.graph.analysis.multiply_accumulates import macs
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.qdq_islands import Island
from nm2trt.graph.analysis.quantised_values import dequantised
from nm2trt.graph.analysis.shapes import Shapes
from nm2trt.graph.analysis.weight_operands import Consumer
from nm2trt.graph.storage.element_types import ElementType
from nm2trt.graph.storage.threads import usable_cores
from nm2trt.graph.verify.group_counts import Finding, ReadWeight, count_groups, read_weight
from nm2trt.graph.verify.pattern_answer import pattern_answer
from nm2trt.graph.verify.stored_readers import Changes
from nm2trt.nm.axes import OnnxWeight, onnx_weight
from nm2trt.nm.eligibility import NOWHERE, Place, can_run_sparse
from nm2trt.nm.lineage import MaskBits, MaskHash
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PlanEntry
from nm2trt.nm.verdict import PatternStatus, WeightFacts, WeightVerdict

DEFAULT_PATTERN = NMPattern(2, 4)
# Elements from which counting a weight is worth a thread, if there are so many in all: two threads that hand
# Python's lock to and fro spend half as much again on each.
_LARGE = 1 << 17
_MANY = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class WeightJudge:
    """Turns consumers into verdicts; holds what is common to one model."""

    asked: NMPattern | None = None
    plan: Mapping[str, PlanEntry] = field(default_factory=dict)
    rounded: ElementType | None = None
    shapes: Shapes = field(default_factory=dict)
    islands: Mapping[str, Island] = field(default_factory=dict)
    unread: str = ""
    unread_by_rtx: str = ""
    opset: int = 0
    changes: Changes | None = None
    masks: MaskHash = field(default_factory=MaskHash)

    def all(self, consumers: Sequence[Consumer]) -> list[WeightVerdict]:
        """Judge operands.

        Raises:
            ModelError: A stored tensor is damaged.
        """
        return [self._verdict(*ahead) for ahead in self._counted_ahead(consumers, self._case)]

    def hash_masks(self, consumers: Sequence[Consumer]) -> str:
        """Return the mask hash that `all` leaves in `masks`, without verdicts.

        Raises:
            ModelError: A stored tensor is damaged.
        """
        for case, _, count in self._counted_ahead(consumers, lambda c: (_Case(c, None, "", (), None), None)):
            if case.consumer.state.kind == "constant":
                with contextlib.suppress(Opaque):
                    self.masks.add(count().bits)
        return self.masks.hexdigest()

    def _counted_ahead(
        self, consumers: Sequence[Consumer], case_of: Callable[[Consumer], tuple[_Case, PlanEntry | None]]
    ) -> Iterator[tuple[_Case, PlanEntry | None, Callable[[], _Counted]]]:
        """Yield each operand, its plan entry, and what counts it.

        Of many weights the large stored ones are counted on several cores, a few ahead of the caller. What is
        computed from stored ones is not: the bounds on the time and memory for it are those of one thread.
        """
        cases = map(case_of, consumers)
        large_sizes = (size for size in map(_stored_size, consumers) if size >= _LARGE)
        if usable_cores() == 1 or sum(large_sizes) < _MANY:
            for case, entry in cases:
                yield case, entry, functools.partial(self._counted, case)
            return
        from concurrent.futures import ThreadPoolExecutor  # only here: it takes time to import

        cores = usable_cores()
        waiting: deque[tuple[_Case, PlanEntry | None, Callable[[], _Counted]]] = deque()
        with ThreadPoolExecutor(cores) as pool:
            for case, entry in cases:
                large = _stored_size(case.consumer) >= _LARGE
                count = pool.submit(self._counted, case).result if large else None
                waiting.append((case, entry, count or functools.partial(self._counted, case)))
                if len(waiting) > 2 * cores:
                    yield waiting.popleft()
            yield from waiting

    def _case(self, consumer: Consumer) -> tuple[_Case, PlanEntry | None]:
        sources = consumer.sources
        names = tuple(source.scope.name + source.name for source in sources) or (consumer.weight_name,)
        entry = self._entry(names)
        source = sources[0] if sources else None
        return _Case(consumer, source, names[0], names[1:], self._wanted(entry)), entry

    def _verdict(self, case: _Case, entry: PlanEntry | None, count: Callable[[], _Counted]) -> WeightVerdict:
        """Judge one operand; what cannot be evaluated is untraceable, with the reason."""
        try:
            if case.consumer.state.kind != "constant":
                raise Opaque(case.consumer.state.why)
            return self._traced(case, entry, count())
        except Opaque as why:
            return _untraceable(case, str(why))

    def _entry(self, names: tuple[str, ...]) -> PlanEntry | None:
        """Return the plan's entry; a part of a Concat that the plan wants sparse binds the whole."""
        found = [self.plan[name] for name in names if name in self.plan]
        return next((entry for entry in found if entry.pattern is not None), found[0] if found else None)

    def _wanted(self, entry: PlanEntry | None) -> NMPattern | None:
        if entry is None:
            return self.asked or DEFAULT_PATTERN
        return None if entry.pattern is None else self.asked or entry.pattern

    def _counted(self, case: _Case) -> _Counted:
        """Read and count one weight; this may run in a thread of its own."""
        consumer, wanted = case.consumer, case.wanted
        weight = read_weight(consumer)
        rank = len(weight.shape)
        how = onnx_weight(consumer.domain, consumer.operator, consumer.input_index, rank, consumer.attributes)
        if how is None:
            raise Opaque(
                f"{consumer.operator} reduces no single axis of a weight of shape {list(weight.shape)}"
            )
        length = weight.shape[how.axis] // how.runs
        divides = wanted is not None and length % wanted.m == 0 and weight.shape[how.axis] % how.runs == 0
        bits = MaskBits(weight.shape, how.axis)
        finding = count_groups(weight, how, wanted if divides else None, rounded=self.rounded, masks=bits)
        return _Counted(weight, how, finding, bits)

    def _traced(self, case: _Case, entry: PlanEntry | None, found: _Counted) -> WeightVerdict:
        consumer, wanted = case.consumer, case.wanted
        weight, how, finding, bits = found
        self.masks.add(bits)
        status: PatternStatus
        if wanted is None:
            status = reason = "dense-by-plan"
            sentence = f"dense by plan: {entry.reason if entry else 'not named'}"
        else:
            status, reason, sentence = pattern_answer(weight, how, wanted, finding, rounded=self.rounded)
        if finding.nonfinite:
            sentence += f"; {counted(finding.nonfinite, 'element is', 'elements are')} NaN or infinite"
        computed = _computed_in(consumer, weight)
        facts = WeightFacts(
            operator=consumer.operator,
            shape=weight.shape,
            axis=how.axis,
            dtype=computed,
            conv_groups=int(consumer.attributes.get("group", 1)) if how.convolution else 1,
            pattern=wanted if status == "holds" else None,
            constant_input_index=consumer.input_index,
            convolution=how.convolution,
            island=_obstacle(self.islands.get(consumer.label), computed),
            unread=self.unread,
            unread_by_rtx=self.unread_by_rtx,
            opset=self.opset,
            **(self.changes.facts(consumer, weight.dtype) if self.changes else {}),
        )
        eligible = can_run_sparse(facts, NOWHERE)
        if status == "holds":
            reason, sentence = eligible.code, f"{sentence}; {eligible.sentence}"
        return WeightVerdict(
            **case.told(),
            shape=weight.shape,
            dtype=case.source.dtype if case.source is not None else weight.dtype,
            axis=how.axis,
            pattern=status,
            groups=finding.groups,
            broken_groups=finding.broken,
            first_broken=finding.stored_at or finding.first_broken,
            zero_share=finding.zeros / finding.size if finding.size else 0.0,
            nonfinite=finding.nonfinite,
            parameters=finding.size,
            macs=macs(consumer, weight.shape, how.axis, self.shapes),
            eligible=eligible.answer,
            reason=reason,
            sentence=sentence,
            source=eligible.source if status == "holds" else "",
            basis=eligible.basis if status == "holds" else "",
            facts=facts,
        )


def answered_at(verdict: WeightVerdict, place: Place, earlier: Place = NOWHERE) -> WeightVerdict:
    """Return a verdict with "eligible" answered for another place; the weight is not read again.

    Args:
        verdict: The verdict.
        place: Builder, version and targets to answer for.
        earlier: The place that the verdict answers for.
    """
    if verdict.facts is None:
        return verdict
    eligible = can_run_sparse(verdict.facts, place)
    if verdict.pattern != "holds":
        same = verdict.eligible == eligible.answer
        return verdict if same else replace(verdict, eligible=eligible.answer)
    held = verdict.sentence.removesuffix(can_run_sparse(verdict.facts, earlier).sentence)
    return replace(
        verdict,
        eligible=eligible.answer,
        reason=eligible.code,
        sentence=held + eligible.sentence,
        source=eligible.source,
        basis=eligible.basis,
    )


class _Counted(NamedTuple):
    weight: ReadWeight
    how: OnnxWeight
    finding: Finding
    bits: MaskBits


def _stored_size(consumer: Consumer) -> int:
    """Return the elements of a weight that is simply stored; 0 for any other."""
    if consumer.state.kind != "constant":
        return 0
    tensor = direct_initializer(consumer.scope, consumer.value)
    return 0 if tensor is None else math.prod(tensor.dims)


@dataclass(frozen=True, slots=True)
class _Case:
    consumer: Consumer
    source: Source | None
    name: str
    parts: tuple[str, ...]
    wanted: NMPattern | None

    def told(self) -> dict[str, Any]:
        """Return what a verdict says of the operand, whether it can be read or not."""
        node = self.consumer.node
        return {
            "weight": self.name,
            "consumer": self.consumer.label,
            "operator": self.consumer.operator,
            "wanted": "" if self.wanted is None else str(self.wanted),
            "node": node.name or (f"node_of_{node.output[0]}" if node.output else ""),
            "parts": self.parts,
        }


def _untraceable(case: _Case, why: str) -> WeightVerdict:
    shape = case.source.shape if case.source is not None else ()
    return WeightVerdict(
        **case.told(),
        shape=shape,
        dtype=case.source.dtype if case.source is not None else "unknown",
        axis=None,
        pattern="untraceable",
        parameters=math.prod(shape) if shape else 0,
        eligible="unknown",
        reason="untraceable",
        sentence=why,
    )


def _obstacle(island: Island | None, computed: str) -> str:
    """Return why a layer among Q/DQ has no sparse kernel; one that computes in fp16 or bf16 may have one."""
    if island is None or (island.computes_in_float and computed != "float32"):
        return ""
    return island.sentence


def _computed_in(consumer: Consumer, weight: ReadWeight) -> str:
    """Return the type a kernel computes in: the quantised one if both operands come out of a Q/DQ pair."""
    types: list[str] = []
    for name in consumer.node.input[:2] if consumer.operator in PRODUCTS else ():
        found = dequantised(consumer.scope, name) if name else None
        if found is None:
            return weight.dtype
        types.append(found.dtype)
    return types[consumer.input_index] if len(types) == 2 else weight.dtype
