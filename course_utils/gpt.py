"""The small GPT that notebooks 05 to 08 build piece by piece, whole: model, tokens, training, drawing, files.

The network, its training and its validation are copies of what the notebooks end with; `tests/test_gpt.py` proves them
equal. No cell teaches `Tokenizer` and the files: on Chinese text the tokenizer cuts as notebook 05's first `encode`
does, with other ids (the same tests prove this too), and it adds English words, [EOS] and [UNK]. The layout is that of
GPT-2 (Radford et al. 2019): learned positions, a LayerNorm before each sub-layer, one matrix for looking tokens up and
for scoring them.
"""

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.files import written_whole
from course_utils.messages import CourseError


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


class Tokenizer:
    """One token for a Chinese character, for an English word with the space before it, or for a mark.

    Id 0 ends a text, id 1 stands for whatever the vocabulary does not hold.
    """

    END, UNKNOWN = "[EOS]", "[UNK]"
    PIECE = re.compile(r" ?[A-Za-z]+|.", re.DOTALL)

    def __init__(self, vocabulary: list[str]):
        self.vocabulary = vocabulary
        self.ids = {token: i for i, token in enumerate(vocabulary)}

    @classmethod
    def of(cls, texts: Iterable[str], at_least: int = 2) -> "Tokenizer":
        """The vocabulary of `texts`: every token that occurs `at_least` so often, the most frequent first."""
        counts = Counter(token for text in texts for token in cls.PIECE.findall(text))
        # Among equals the order of the alphabet decides, so that the same texts always give the same ids.
        frequent = sorted((-count, token) for token, count in counts.items() if count >= at_least)
        return cls([cls.END, cls.UNKNOWN, *(token for _, token in frequent)])

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""
        return [self.ids.get(token, self.ids[self.UNKNOWN]) for token in self.PIECE.findall(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; the end shows as [EOS]."""
        return "".join(self.vocabulary[i] for i in ids)


@torch.no_grad()
def start_small(model: GPT) -> None:
    """Give a narrow GPT a start from which it learns faster.

    GPT-2's standard deviation of 0.02 suits a width of 768 and is too small for less: weights become 1/√width, as
    notebook 04 derives it. Positions begin as the waves of notebook 05, with which "one place back" is easy to learn.
    """
    width = model.config.hidden_size
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter /= 0.02 * width**0.5
    angles = torch.arange(model.config.context_length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    waves = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    model.position_embedding.weight.copy_(waves * (2 / width) ** 0.5)


def random_windows(ids: Tensor, length: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels, (batch_size, length) each, from random places of a long text."""
    starts = torch.randint(len(ids) - length, (batch_size, 1))
    windows = ids[starts + torch.arange(length + 1)]
    return windows[:, :-1], windows[:, 1:]


def train(
    model: nn.Module, ids: Tensor, steps: int, learning_rate: float = 4e-3, length: int = 64, batch_size: int = 8
) -> Iterator[float]:
    """Train `model` (ids → logits) on one long text and yield the loss before each step.

    The learning rate rises during the first twentieth of the steps and then falls along a straight line to zero.
    """
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.05, anneal_strategy="linear", cycle_momentum=False
    )
    for _ in range(steps):
        inputs, labels = random_windows(ids, length, batch_size)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item()


@torch.no_grad()
def surprise(model: nn.Module, ids: Tensor, length: int = 64) -> Tensor:
    """−log p of the tokens ids[1:], each predicted from at least `length` / 2 tokens before it where there are so many.

    What does not fill the last half window is left out.
    """
    windows = ids.unfold(0, length + 1, length // 2)
    losses = torch.cat(
        [
            F.cross_entropy(model(some[:, :-1]).transpose(1, 2), some[:, 1:], reduction="none")
            for some in windows.split(64)
        ]
    )
    return torch.cat([losses[0, : length // 2], losses[:, length // 2 :].flatten()])


FILES = ("model.safetensors", "vocab.json", "config.json")


def save_gpt(folder: str | Path, model: GPT, tokenizer: Tokenizer) -> None:
    """Write model.safetensors (fp16), vocab.json and config.json into `folder`, each whole or not at all."""
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The head shares its matrix with the token embedding: it is stored once.
    weights = {name: value.half() for name, value in model.state_dict().items() if name != "head.weight"}
    contents = [
        save(weights),
        (json.dumps(tokenizer.vocabulary, ensure_ascii=False) + "\n").encode(),
        (json.dumps(dataclasses.asdict(model.config), indent=2) + "\n").encode(),
    ]
    for name, content in zip(FILES, contents, strict=True):
        with written_whole(folder / name) as part:
            part.write_bytes(content)


def load_gpt(folder: str | Path) -> tuple[GPT, Tokenizer]:
    """The model (float32, in evaluation mode) and the tokenizer that `save_gpt` wrote into `folder`."""
    from safetensors.torch import load_file

    folder = Path(folder)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise CourseError(
            f"{folder.name} has no {missing[0]}; restore it with "
            "`git checkout -- data/models`, or train it again: `python -m course_utils.standins.gpt_tiny`.",
            f"{folder.name} 里没有 {missing[0]}；请用 `git checkout -- data/models` 恢复，"
            "或重新训练：`python -m course_utils.standins.gpt_tiny`。",
        )
    config = GPTConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    tokenizer = Tokenizer(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    weights = load_file(folder / "model.safetensors")
    model = GPT(config)
    model.load_state_dict(weights | {"head.weight": weights["token_embedding.weight"]})
    return model.eval(), tokenizer
