"""The outlook: one sentence on how much of a model will run sparse, and if nothing will, what would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from nm2trt.figures import percent
from nm2trt.nm.advice import is_prunable, pattern_advice
from nm2trt.nm.eligibility import Place, can_run_sparse
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import Eligibility, WeightVerdict

# Rules that speak of what zeros leave as it is, and not of the builder or the GPU.
_IN_THE_MODEL = frozenset({"dtype", "unread-operator", "unread-by-rtx", "group-conv"})


def outlook(verdicts: Sequence[WeightVerdict], place: Place) -> str:
    """Return the sentence.

    Args:
        verdicts: What `verify` found out of every weight.
        place: Builder, version and targets.
    """
    answers = [(v, can_run_sparse(v.facts, place) if v.facts is not None else None) for v in verdicts]
    able = [v for v, answer in answers if answer is not None and answer.answer == "yes"]
    if able:
        return f"{_share(able, verdicts)} can run sparse{place.suffix}"
    if not verdicts:
        return f"nothing will run sparse{place.suffix}: the model has no weights to judge"
    unknown = any(answer is None or answer.answer == "unknown" for _, answer in answers)
    start = "nothing is known to run sparse" if unknown else "nothing will run sparse"
    verdict, answer = _foremost(answers)
    held = verdict.pattern == "holds" and answer is not None and answer.code != "not-2:4"
    why = answer.sentence if held and answer is not None else f"{verdict.weight}: {verdict.sentence}"
    advice = answer.remedy if held and answer is not None else pattern_advice(verdict)
    if (pruned := forbidden_at_two_of_four(verdict, place)) is not None:
        why, advice = f"{why}; nor would it at 2:4: {pruned.sentence}", pruned.remedy
    return f"{start}{place.suffix}: {why}" + ("" if advice in why else f"; {advice}")


def any_can_run_sparse(verdicts: Iterable[WeightVerdict], place: Place) -> bool:
    """Tell whether the place can run at least one of the weights sparse."""
    return any(v.facts is not None and can_run_sparse(v.facts, place).answer == "yes" for v in verdicts)


def assumed_sparse(verdicts: Sequence[WeightVerdict], *, dtype: str | None = None) -> list[WeightVerdict]:
    """Return the verdicts as they would be once pruned to 2:4 and with float32 lowered to a type.

    Args:
        verdicts: What `verify` found out of every weight.
        dtype: The type; None keeps each weight's own.
    """
    two = NMPattern(2, 4)
    found = []
    for verdict in verdicts:
        facts = verdict.facts
        if facts is None or verdict.pattern not in ("broken", "holds") or facts.inputs % two.m:
            found.append(verdict)
            continue
        lowered = replace(facts, pattern=facts.pattern or two)
        if dtype is not None and facts.dtype == "float32":
            lowered = replace(lowered, dtype=dtype, island="")
        found.append(replace(verdict, facts=lowered, pattern="holds", wanted=str(lowered.pattern)))
    return found


def forbidden_at_two_of_four(verdict: WeightVerdict, place: Place) -> Eligibility | None:
    """Return why a dense weight cannot run sparse even at 2:4, if that is its type or known of its operators.

    What lowers float32 is advised where it is judged, so its answer has another code.
    """
    if verdict.pattern != "broken" or verdict.facts is None:
        return None
    (pruned,) = assumed_sparse([verdict])
    answer = None if pruned.facts is None else can_run_sparse(pruned.facts, place)
    return answer if answer is not None and answer.answer != "yes" and answer.code in _IN_THE_MODEL else None


def _foremost(
    answers: Sequence[tuple[WeightVerdict, Eligibility | None]],
) -> tuple[WeightVerdict, Eligibility | None]:
    """Return the weight that comes nearest: it holds its pattern, for the most frequent reason."""
    codes = Counter(answer.code for v, answer in answers if answer is not None and v.pattern == "holds")

    def rank(item: tuple[WeightVerdict, Eligibility | None]) -> tuple[bool, bool, bool, int, int]:
        verdict, answer = item
        number = codes[answer.code] if answer is not None else 0
        return (
            verdict.pattern == "holds",
            verdict.pattern == "broken",
            is_prunable(verdict),  # `prune` cannot mend what it leaves alone, such as an LSTM
            number,
            verdict.macs or verdict.parameters,
        )

    return max(answers, key=rank)


def _share(able: Sequence[WeightVerdict], verdicts: Sequence[WeightVerdict]) -> str:
    total = sum(verdict.macs or 0 for verdict in verdicts)
    if total and all(verdict.macs is not None for verdict in verdicts):
        return f"{percent(sum(verdict.macs or 0 for verdict in able) / total, 0)} of the work"
    return f"{len(able)} of {len(verdicts)} weights"
