"""Inputs of the projections of `nn.MultiheadAttention`, which calls no layer of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_NAMES = (
    "query",
    "key",
    "value",
    "key_padding_mask",
    "need_weights",
    "attn_mask",
    "average_attn_weights",
    "is_causal",
)


def projection_inputs(
    module: nn.MultiheadAttention, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[tuple[str, slice, Tensor]]:
    """Return each input projection: its weight's name, the rows of that weight, and its input (n, t, d)."""
    call = _call(args, kwargs)
    q, k, v = call["query"], call["key"], call["value"]
    width = module.embed_dim
    if getattr(module, "in_proj_weight", None) is None:
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        every = slice(0, width)
        return [(n, every, _by_sample(module, x)) for n, x in zip(names, (q, k, v), strict=True)]
    if q is k and k is v:
        return [("in_proj_weight", slice(0, 3 * width), _by_sample(module, q))]
    return [
        ("in_proj_weight", slice(i * width, (i + 1) * width), _by_sample(module, x))
        for i, x in enumerate((q, k, v))
    ]


def attention_context(
    module: nn.MultiheadAttention, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor:
    """Return the input of the output projection, (n, t, embed_dim), computed by torch with an identity."""
    call = _call(args, kwargs)
    q, k, v = call["query"], call["key"], call["value"]
    batched = q.ndim == 3
    if module.batch_first and batched:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    separate = getattr(module, "in_proj_weight", None) is None
    found, _ = functional.multi_head_attention_forward(
        q,
        k,
        v,
        module.embed_dim,
        module.num_heads,
        module.in_proj_weight,
        module.in_proj_bias,
        module.bias_k,
        module.bias_v,
        module.add_zero_attn,
        0.0,
        torch.eye(module.embed_dim, dtype=q.dtype, device=q.device),
        None,
        training=False,
        key_padding_mask=call.get("key_padding_mask"),
        need_weights=False,
        attn_mask=call.get("attn_mask"),
        use_separate_proj_weight=separate,
        q_proj_weight=module.q_proj_weight,
        k_proj_weight=module.k_proj_weight,
        v_proj_weight=module.v_proj_weight,
        is_causal=bool(call.get("is_causal", False)) and call.get("attn_mask") is not None,
    )
    context: Tensor = found
    return context.transpose(0, 1) if batched else context


def _call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(_NAMES, args, strict=False)), **kwargs}


def _by_sample(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    return x if module.batch_first or x.ndim == 2 else x.transpose(0, 1)
