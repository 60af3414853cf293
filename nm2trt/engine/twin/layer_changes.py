"""Layers that the sparse weights flag adds or drops: sparse kernels may ask for other formats."""

from __future__ import annotations

from collections.abc import Mapping

from nm2trt.figures import counted

_REFORMAT = "Reformatting CopyNode"


def layer_changes(off: Mapping[str, float], on: Mapping[str, float]) -> tuple[str, ...]:
    """Say what the layers cost that only one of two engines has; one sentence, or none if they are the same.

    Args:
        off: Milliseconds by layer without the flag.
        on: The same with it.
    """
    added, dropped = on.keys() - off.keys(), off.keys() - on.keys()
    if not (added or dropped):
        return ()
    cost = sum(on[name] for name in added) - sum(off[name] for name in dropped)
    saved = sum(off[name] - on[name] for name in on.keys() & off.keys())
    moves = sum(name.startswith(_REFORMAT) for name in added)
    sentence = (
        f"the flag changes the engine from {counted(len(off), 'layer')} to {len(on)}: {len(added)} added (of "
        f"them {moves} reformat) and {len(dropped)} dropped cost {cost:+.3f} ms, the others save "
        f"{saved:+.3f} ms"
    )
    eaten = cost > 0 and saved > 0 and cost >= saved / 2
    return (sentence + ("; so the added layers eat most of what is saved" if eaten else ""),)
