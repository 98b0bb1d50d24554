"""The small GPT that notebooks 05 to 08 build piece by piece, whole.

Each class is a copy of the one that a notebook ends with; `tests/test_gpt.py` proves them equal. The layout is that
of GPT-2 (Radford et al. 2019): learned positions, a LayerNorm before each sub-layer, one matrix for looking tokens
up and for scoring them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class GPTConfig:
    """The numbers that fix the shape of a GPT."""

    vocab_size: int
    context_length: int = 128
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.0


class MultiHeadAttention(nn.Module):
    """Causal self-attention in `num_heads` heads of width hidden_size / num_heads (Vaswani et al. 2017, 3.2)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def heads(self, x: Tensor) -> Tensor:
        """(batch, n, hidden_size) → (batch, num_heads, n, head width)."""
        batch, n, _ = x.shape
        return x.view(batch, n, self.num_heads, -1).transpose(1, 2)

    def forward(
        self, x: Tensor, cache: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Attend from every row of x to itself and the rows before it.

        x: (batch, n, hidden_size); cache: the keys and values of m earlier rows. Returns the new vectors
        (batch, n, hidden_size), the weights (batch, num_heads, n, m + n) and the cache with the new rows.
        """
        query, key, value = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        if cache is not None:
            key, value = torch.cat([cache[0], key], dim=2), torch.cat([cache[1], value], dim=2)
        n, total = query.shape[2], key.shape[2]
        scores = query @ key.transpose(2, 3) / math.sqrt(key.shape[3])
        later = torch.ones(n, total, dtype=torch.bool, device=x.device).triu(total - n + 1)
        weights = scores.masked_fill(later, -math.inf).softmax(dim=3)
        mixed = (self.dropout(weights) @ value).transpose(1, 2).flatten(2)
        return self.output(mixed), weights, (key, value)


class FeedForward(nn.Module):
    """Each row on its own: up to four times the width, GELU, and back."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.down = nn.Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """One layer: attention between the rows, then a feed-forward network in each row, both as additions."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = MultiHeadAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, cache: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """x: (batch, n, hidden_size). Returns the new x, the attention weights and the cache."""
        attended, weights, cache = self.attention(self.attention_norm(x), cache)
        x = x + self.dropout(attended)
        x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x, weights, cache


class GPT(nn.Module):
    """From ids to a score for every token of the vocabulary, at every position."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.context_length, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.head.weight = self.token_embedding.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # The last matrix before each addition starts smaller, so that the sum over the layers does not grow.
                scale = math.sqrt(2 * config.num_layers) if name.endswith(("output.weight", "down.weight")) else 1
                nn.init.normal_(parameter, std=0.02 / scale)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(batch, n) ids → (batch, n, vocab_size) logits."""
        return self.step(input_ids)[0]

    def step(self, input_ids: Tensor, caches: list | None = None) -> tuple[Tensor, list[Tensor], list]:
        """Logits, every layer's attention weights and caches; with caches, `input_ids` are only the new tokens."""
        start = caches[0][0].shape[2] if caches else 0
        n = input_ids.shape[1]
        if start + n > self.config.context_length:
            raise ValueError(f"{start + n} tokens do not fit into a context of {self.config.context_length}")
        positions = torch.arange(start, start + n, device=input_ids.device)
        x = self.dropout(self.token_embedding(input_ids) + self.position_embedding(positions))
        all_weights, new_caches = [], []
        for i, block in enumerate(self.blocks):
            x, weights, cache = block(x, caches[i] if caches else None)
            all_weights.append(weights)
            new_caches.append(cache)
        return self.head(self.final_norm(x)), all_weights, new_caches
