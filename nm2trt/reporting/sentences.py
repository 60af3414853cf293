"""The result of a stage in one line, from the JSON that its command prints."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import PurePath

from nm2trt.figures import counted, percent, size
from nm2trt.measure import no_speed
from nm2trt.reporting.fields import Fields
from nm2trt.reporting.rebuilt import verdict_of


def sentence_of(stage: str, result: Fields) -> str:
    """Return what a stage found or made, in one line; "" if its kind has nothing to say.

    Raises:
        InputError: The result is damaged.
    """
    describe = _SENTENCES.get(stage)
    return "" if describe is None else describe(result)


def _sparsify(result: Fields) -> str:
    report = result.object("report")
    share = report.maybe("rate_of_all")
    share = report.maybe("sparsity") if share is None else share
    text = "" if share is None else f"{percent(share)} of the weights are zero"
    before, after = report.maybe("loss_before"), report.maybe("loss_after")
    if before is not None and after is not None:
        text += f", distillation loss {before:.3g} to {after:.3g}"
    return text


def _export(result: Fields) -> str:
    return f"opset {result.count('opset')}, {result.text('dtype', '')}"


def _fuse(result: Fields) -> str:
    return (
        f"{counted(result.count('batchnorms_folded') or 0, 'BatchNorm')} folded, "
        f"{counted(result.count('branches_merged') or 0, 'branch', 'branches')} merged, "
        f"{counted(result.count('nodes_before') or 0, 'node is', 'nodes are')} now "
        f"{result.count('nodes_after')}"
    )


def _cast(result: Fields) -> str:
    kept = len(result.objects("kept"))
    nodes = counted(result.count("cast_nodes") or 0, "node computes", "nodes compute")
    text = f"{nodes} in {result.text('to', '')}"
    return text + (f", {counted(kept, 'stays', 'stay')} in float32" if kept else "")


def _quantize(result: Fields) -> str:
    options = result.object("options")
    layers, method = len(result.objects("layers")), options.text("method", "")
    text = f"{counted(layers, 'layer')}, {options.text('to', '')}, ranges by {method}"
    islands = len(result.objects("islands"))
    return text + (f", {islands} not quantised from end to end" if islands else "")


def _permute(result: Fields) -> str:
    return f"channels moved in {counted(result.count('moved') or 0, 'space')}, the function is unchanged"


def _prune(result: Fields) -> str:
    counts = result.object("counts")
    text = f"{counted(counts.count('pruned') or 0, 'weight')} pruned to {result.text('pattern', '2:4')}"
    budget = result.object("budget")
    if budget.has("chosen"):
        chosen = budget.object("chosen")
        text += f", {percent(chosen.number('share'))} of the work: {chosen.text('sentence', '')}"
    elif result.text("method", "") != "reconstruct":
        text += " by magnitude, nothing repaired"
    else:
        text = "; ".join((text, *itertools.islice(verdict_of(result), 1)))
    return text


def _verify(result: Fields) -> str:
    counts: dict[str, int] = {}
    for row in result.objects("weights"):
        status = row.text("pattern", "").replace("-", " ")
        counts[status] = counts.get(status, 0) + 1
    missing = len(result.texts("missing"))
    text = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "no weights"
    return text + (f", {counted(missing, 'planned one')} missing" if missing else "")


def _build(result: Fields) -> str:
    options = result.object("options")
    targets = ", ".join(options.texts("targets"))
    return (
        size(result.maybe("engine_bytes") or 0.0)
        + (f" for {targets}" if targets else "")
        + f", sparsity {options.text('sparsity', '')}"
    )


def _validate(result: Fields) -> str:
    for metric in result.objects("metrics"):
        paired = metric.object("paired")
        difference, low, high = (paired.maybe(key) for key in ("difference", "low", "high"))
        if difference is None or low is None or high is None:
            continue
        text = f"{100 * difference:+.2f} points, {100 * low:+.2f} to {100 * high:+.2f}".replace("-", "−")
        return f"{metric.text('name', '')} {text}, n = {paired.count('n')}"
    return counted(result.count("n") or 0, "sample")


def _bench(result: Fields) -> str:
    ratios = result.objects("ratios")
    if ratios:
        ratio = ratios[0]
        text = (
            f"{PurePath(ratio.text('name', '')).name} takes {ratio.number('p50'):.2f} of "
            f"{PurePath(ratio.text('base', '')).name}'s time, "
        )
        low, high = ratio.maybe("low"), ratio.maybe("high")
        text += "without an interval" if low is None or high is None else f"{low:.2f} to {high:.2f}"
        warning = no_speed({key: str(value) for key, value in result.object("conditions").data.items()})
        return f"{text} ({warning})" if warning else text
    rows = list(result.object("latencies").entries())
    return "" if not rows else f"p50 {rows[0][1].number('p50_ms'):.3g} ms"


def _prove(result: Fields) -> str:
    if result.data.get("measured") is not True:
        return "not measured: " + result.text("why_not", "")
    for pair in result.objects("comparisons"):
        return (
            f"{pair.text('name', '')} is {pair.number('speedup'):.2f}x {pair.text('against', '')}, "
            f"{pair.number('low'):.2f} to {pair.number('high'):.2f}"
        )
    return ""


def _explain(result: Fields) -> str:
    reasons = result.objects("reasons")
    return (
        f"{len(reasons)} reason{'s'[: len(reasons) != 1]}, the first: {reasons[0].text('sentence')}"
        if reasons
        else ""
    )


def _gain(result: Fields) -> str:
    layers = result.objects("layers")
    pays = sum(layer.text("pays", "") == "yes" for layer in layers)
    return f"{pays} of {len(layers)} weights would pay on {result.text('device', 'that GPU')}"


def _deploy(result: Fields) -> str:
    return (
        f"{result.text('name', '')} version {result.count('version')}, backend {result.text('backend', '')}"
    )


def _probe(result: Fields) -> str:
    problems = result.texts("problems")
    if problems:
        return problems[0]
    requests = sum(load.count("requests") or 0 for load in result.objects("loads"))
    batches = ", ".join(str(check.count("batch")) for check in result.objects("batches"))
    return f"answers as its reference does at batch {batches}" + (
        f" and in {requests:,} requests under load" if requests else ""
    )


_SENTENCES: Mapping[str, Callable[[Fields], str]] = {
    "sparsify": _sparsify,
    "export": _export,
    "fuse": _fuse,
    "permute": _permute,
    "prune": _prune,
    "cast": _cast,
    "quantize": _quantize,
    "verify": _verify,
    "build": _build,
    "prove": _prove,
    "validate": _validate,
    "bench": _bench,
    "explain": _explain,
    "gain": _gain,
    "deploy": _deploy,
    "probe": _probe,
}
