"""One weight on the ladder from its pattern to the measured gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args

from nm2trt.engine.ladder.builder_rungs import Answer, Rung
from nm2trt.errors import InputError
from nm2trt.json_types import text, whole
from nm2trt.json_value import JsonValue
from nm2trt.nm.verdict import Eligible

_TEXTS = ("weight", "consumer", "operator", "reason", "sentence", "node", "source", "basis")
RUNGS = ("pattern", "fits", "dtype", "listed", "chosen", "gain")


@dataclass(frozen=True, slots=True)
class LadderRow(JsonValue):
    """How far one weight gets.

    Args:
        weight: Its name.
        consumer: The node that reads it.
        operator: That node's operator.
        shape: Its shape.
        reason: Code of the rule that decided, e.g. "group-conv".
        sentence: What decided, in words.
        pattern: Whether it holds a pattern that sparse tensor cores read.
        fits: Whether shape, groups and operator allow a sparse kernel.
        dtype: Whether its dtype does.
        listed: Whether the builder lists it eligible.
        chosen: Whether a sparse tactic was chosen.
        gain: What it saved.
        macs: Multiply-accumulates of one inference at the optimum profile; None if shapes are not known.
        node: The name that the builder's parser gives the consumer.
        source: Where the deciding rule comes from; "" if the pattern decided.
        basis: How far to trust it.
        doubts: What speaks against a sparse kernel winning though it may run, by the rule's code.
        remedy: What to do about what decided; "" if nothing speaks against a sparse kernel.
    """

    weight: str
    consumer: str
    operator: str
    shape: tuple[int, ...]
    reason: str
    sentence: str
    pattern: Rung
    fits: Rung
    dtype: Rung
    listed: Rung
    chosen: Rung
    gain: Rung
    macs: int | None = None
    node: str = ""
    source: str = ""
    basis: str = ""
    doubts: Mapping[str, str] = field(default_factory=dict)
    remedy: str = ""

    @property
    def answer(self) -> Eligible:
        """The one answer to "can it run sparse?", as `nm2trt.nm.eligibility.can_run_sparse` gives it."""
        answers = {rung.answer for rung in self.rungs[:3]}
        return "no" if "no" in answers else "unknown" if "unknown" in answers else "yes"

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The six rungs, lowest first."""
        return (self.pattern, self.fits, self.dtype, self.listed, self.chosen, self.gain)

    @property
    def stopped(self) -> bool:
        """Whether a rung below the builder's said no."""
        return any(rung.answer == "no" for rung in self.rungs[:3])

    @property
    def eligible(self) -> bool:
        """Whether it holds 2:4 and no rule said no, or a sparse kernel was chosen all the same."""
        return self.chosen.answer == "yes" or (self.pattern.answer == "yes" and not self.stopped)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, where: str) -> LadderRow:
        """Read what `to_json` wrote; a manifest of an earlier release lacks the last fields.

        Args:
            data: The decoded JSON.
            where: The file, for messages.

        Raises:
            InputError: The record is damaged.
        """
        try:
            values = {item.name: data[item.name] for item in fields(cls) if item.name in data}
            for name in RUNGS:
                answer, detail = values[name]["answer"], values[name]["detail"]
                if answer not in get_args(Answer):
                    raise ValueError(answer)
                values[name] = Rung(answer, text(detail))
            values["shape"] = tuple(whole(size) for size in values["shape"])
            values["doubts"] = {code: text(doubt) for code, doubt in dict(values.get("doubts", {})).items()}
            if not all(isinstance(values.get(name, ""), str) for name in _TEXTS):
                raise TypeError("names and sentences are texts")
            macs = values.get("macs")
            values["macs"] = None if macs is None else whole(macs)
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the ladder in {where} is damaged; build the engine again") from error
