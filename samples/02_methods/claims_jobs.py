"""The runs of `claims.py`, in the order of their worth; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FCPTS", "SCRATCH", "Job", "Settings", "jobs"]

PATTERNS = ("1:16", "2:4", "2:8", "4:8")
RATES = ("90%", "80%")
# From scratch: name -> (method, options). "auto" scales SR-STE's decay to the run; 2e-4 is the paper's value,
# which does nothing in a run this short.
SCRATCH: dict[str, tuple[str, dict[str, Any]]] = {
    "ste": ("ste", {}),
    "sr-ste": ("sr-ste", {"lambda_w": "auto"}),
    "sr-ste-2e-4": ("sr-ste", {}),
    "lbc": ("lbc", {}),
    "spre": ("spre", {"lambda_w": "auto", "branch_gamma": 0.0}),
}
# After training: name -> options; without "steps" as many as the settings say.
FCPTS: dict[str, dict[str, Any]] = {
    "fcpts-magnitude": {"allocation": "uniform", "steps": 0},
    "fcpts-erk": {"allocation": "erk", "steps": 0},
    "fcpts-erk-distilled": {"allocation": "erk"},
    "fcpts-learned": {"allocation": "learned"},
}


@dataclass(frozen=True)
class Job:
    """A method, its target ("1:16", "80%" or nothing) and a seed."""

    method: str
    target: str
    seed: int

    @property
    def name(self) -> str:
        target = self.target.replace(":", "-").replace("%", "")
        return "_".join(part for part in (self.method, target, f"seed{self.seed}") if part)

    @property
    def needs_dense(self) -> bool:
        """Whether it starts from the trained dense network of its seed."""
        return self.method == "one-shot" or self.method in FCPTS


@dataclass(frozen=True)
class Settings:
    """What all runs share."""

    steps: int = 800
    distill_steps: int = 400
    batch: int = 64
    lr: float = 0.1
    weight_decay: float = 5e-4


def jobs(seeds: int, more_seeds: int) -> list[Job]:
    """Every run, those that tell most first."""
    first, more = range(seeds), range(seeds, seeds + more_seeds)
    found = [Job("dense", "", seed) for seed in first]
    found += [Job(method, "1:16", seed) for seed in first for method in ("sr-ste", "ste", "lbc")]
    found += [Job(method, rate, seed) for seed in first for rate in RATES for method in reversed(FCPTS)]
    found += [Job(method, "1:16", s) for s in first for method in ("spre", "magnitude", "sr-ste-2e-4")]
    found += [Job("one-shot", pattern, seed) for seed in first for pattern in PATTERNS]
    for pattern in PATTERNS[1:]:
        methods = ("spre", "sr-ste", "ste", "lbc", "magnitude")
        found += [Job(method, pattern, seed) for method in methods for seed in first]
    found += [Job(method, "1:16", seed) for seed in more for method in ("sr-ste", "ste", "lbc")]
    return found
