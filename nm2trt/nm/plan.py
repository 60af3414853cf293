"""The plan: which weights are sparse, which are dense on purpose, and why; it travels with the model.

The training side writes it, every later stage reads it from the ONNX metadata and holds the file to it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from nm2trt.errors import InputError, ModelError, PatternError
from nm2trt.figures import counted
from nm2trt.json_types import text, truth, whole
from nm2trt.nm.pattern import NMPattern

METADATA_KEY = "nm2trt.plan"
# Where a finalised torch model carries its plan to the exporter.
PLAN_ATTRIBUTE = "_nm2trt_plan"
# Wrappers, each with the name of the model inside.
_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
}


def inside_wrappers(model: Any) -> Any:
    """Take a torch module out of data parallelism, an average (EMA) and torch.compile.

    The plan lies there, since its names are without the prefixes that wrappers add.
    """
    for name in (kind.__name__ for kind in type(model).__mro__):
        if (inside := getattr(model, _WRAPPERS.get(name, ""), None)) is not None:
            return inside_wrappers(inside)
    return model


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """What is intended for one weight.

    Args:
        weight: Its name: the parameter's in torch, the tensor's in ONNX.
        pattern: The pattern that it should hold, or None when it is dense on purpose.
        reason: One clause that says why, e.g. "3 input channels are fewer than 16".
        shape: Its shape; () when not known.
        axis: Its reduction axis; None when not known.
        unstructured: True when zeros are wanted anywhere, not in groups; `pattern` is None then.
    """

    weight: str
    pattern: NMPattern | None
    reason: str
    shape: tuple[int, ...] = ()
    axis: int | None = None
    unstructured: bool = False

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """The shape with the reduction axis last: equal before and after an exporter transposes."""
        if self.axis is None:
            return self.shape
        rest = [size for position, size in enumerate(self.shape) if position != self.axis]
        return (*rest, self.shape[self.axis])


@dataclass(frozen=True, slots=True)
class Plan:
    """One entry per weight, and the method that made it.

    Args:
        entries: In the order of the model's modules.
        method: Registered name of the method, e.g. "sr-ste".
    """

    entries: tuple[PlanEntry, ...]
    method: str = ""

    def __iter__(self) -> Iterator[PlanEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, weight: str) -> PlanEntry | None:
        """Return the entry of a weight, or None."""
        return next((entry for entry in self.entries if entry.weight == weight), None)

    @property
    def sparse(self) -> tuple[PlanEntry, ...]:
        """Entries with a pattern."""
        return tuple(entry for entry in self.entries if entry.pattern is not None)

    def counts(self) -> str:
        """Return how many weights are sparse, have zeros anywhere, and are dense on purpose, in words."""
        sparse, anywhere = len(self.sparse), sum(entry.unstructured for entry in self)
        told = f"{counted(sparse, 'weight')} sparse, "
        told += f"{anywhere:,} with zeros anywhere, " if anywhere else ""
        return f"{told}{len(self) - sparse - anywhere:,} dense on purpose"

    def renamed(self, names: dict[str, str], both: Collection[str] = ()) -> Plan:
        """Return the plan with weights renamed; names that are not in the map stay.

        Args:
            names: Old name to new.
            both: Old names that are still weights, and keep an entry beside the new one's.
        """
        entries: list[PlanEntry] = []
        for entry in self.entries:
            new = names.get(entry.weight, entry.weight)
            if new != entry.weight and entry.weight in both:
                entries.append(entry)
            entries.append(replace(entry, weight=new))
        return replace(self, entries=tuple(entries))

    def to_json(self) -> str:
        """Return the plan as JSON text, for ONNX metadata."""
        return json.dumps(
            {
                "version": 1,
                "method": self.method,
                "weights": [
                    {
                        "weight": e.weight,
                        "pattern": None if e.pattern is None else str(e.pattern),
                        "reason": e.reason,
                        "shape": list(e.shape),
                        "axis": e.axis,
                        **({"unstructured": True} if e.unstructured else {}),
                    }
                    for e in self.entries
                ],
            }
        )

    @classmethod
    def from_json(cls, written: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            ModelError: The text is not a plan of a version that this release reads.
        """
        try:
            data: dict[str, Any] = json.loads(written)
            if data["version"] != 1:
                raise ModelError(
                    f"the plan in the metadata has version {data['version']!r}; this release reads version 1"
                )
            entries = tuple(
                PlanEntry(
                    weight=text(item["weight"]),
                    pattern=None if item["pattern"] is None else NMPattern.parse(text(item["pattern"])),
                    reason=text(item["reason"]),
                    shape=tuple(whole(size) for size in item["shape"]),
                    axis=None if item["axis"] is None else whole(item["axis"]),
                    unstructured=truth(item.get("unstructured", False)),
                )
                for item in data["weights"]
            )
            return cls(entries, text(data["method"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PatternError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"the plan in the ONNX metadata ({METADATA_KEY}) is damaged; remove it or export again"
            ) from error


def matching(globs: Iterable[str], names: Iterable[str]) -> str | None:
    """Return the first glob that matches one of the names, or None."""
    names = tuple(names)
    return next((glob for glob in globs if any(fnmatchcase(name, glob) for name in names)), None)


def check_globs(
    given: Mapping[str, Sequence[str]],
    names: Sequence[str],
    *,
    kind: str = "weight",
    error: type[InputError] = InputError,
) -> None:
    """Raise if a glob matches none of the names.

    Args:
        given: Globs by the argument that they were given as.
        names: The names that a model has.
        kind: What bears them, for the message.
        error: The exception to raise.
    """
    for argument, globs in given.items():
        for glob in globs:
            if glob != "*" and matching([glob], names) is None:
                shown = ", ".join(list(dict.fromkeys(filter(None, names)))[:6]) or f"no {kind}"
                raise error(f"{argument}: {glob!r} matches no {kind}; the model has {shown} ...")


def dense_by_name(
    names: Sequence[str], include: Sequence[str], exclude: Sequence[str], *, kind: str = "weight"
) -> str | None:
    """Say why globs on its names keep a weight dense, or return None if they do not."""
    glob = matching(exclude, names)
    if glob is not None:
        return f"excluded by {glob!r}"
    return f"not among the included {kind}s" if include and matching(include, names) is None else None


def dense_by_size(channels: int, groups: int, pattern: NMPattern, *, least: int) -> str | None:
    """Say why its input channels keep a weight dense, or return None if they do not.

    Args:
        channels: Input channels, of all groups together.
        groups: Groups of a convolution, else 1.
        pattern: The pattern.
        least: Fewest input channels of a pruned weight; 0 for one that was named.
    """
    length = channels // groups
    if groups > 1 and length == 1:
        return "depthwise: one input channel per filter"
    if channels < least:
        return f"{counted(channels, 'input channel is', 'input channels are')} fewer than {least}"
    if length % pattern.m:
        of_group = f" in each of {groups:,} groups" if groups > 1 else ""
        named = counted(length, f"input channel{of_group} is", f"input channels{of_group} are")
        return f"{named} not a multiple of {pattern.m}"
    return None
