"""chatglm3-tiny: a small model in the published layout of ChatGLM3, trained to answer, classify and chat.

Embedding and output matrices share their weights while it is trained and are written as two, as published.
"""

import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from course_utils import runtime
from course_utils.chatglm.prompts import prompt_parts
from course_utils.chatglm.tokenization import ChatGLM3Tokenizer
from course_utils.standins import evaluation, tasks
from course_utils.standins.training import (
    IGNORED,
    Example,
    Schedule,
    load_checkpoint,
    published_chatglm3,
    save_published,
    train_tokenizer,
)
from course_utils.standins.training import train as run_training

NAME = "chatglm3-tiny"
HEAD_DIM = 48
CONTEXT = 1024
VOCAB_SIZE = 6000


@dataclass(frozen=True)
class Size:
    """The numbers of a network, and the heads (layer, head) that learn to look at the words that they copy."""

    hidden_size: int
    layers: int
    heads: int
    groups: int
    feed_forward: int
    pointing_heads: tuple[tuple[int, int], ...]


# A small network learns to copy, which takes many quick steps; then it grows and learns what the documents say.
SMALL = Size(192, 5, 4, 2, 384, ((2, 0), (3, 0), (3, 2)))
GROWN = Size(256, 6, 6, 3, 512, ((3, 0), (4, 0), (4, 2)))
NEW_LAYER = 2  # the one that the small network does not have
MATCHING_LAYERS = (0, 1, 2)  # where a new head begins by looking at words that mean about the same
SCHEDULE = Schedule(steps=4500, early=0.18, decay=0.4, floor=0.33)
GROWN_SCHEDULE = Schedule(steps=6500, muon_rate=0.015, embedding_rate=1e-2, adam_rate=1.5e-3, seed=20240606)
LAST_SCHEDULE = Schedule(steps=1000, muon_rate=0.006, embedding_rate=4e-3, adam_rate=6e-4, decay=1.0, seed=20240607)
EARLIER = 0.25  # how much of the weights before the last steps stays: a mean of both is better than either
LAST = 0.77  # of the grown network's steps: from here on more facts, which suffer beside the documents
SHARES = {  # of the conversations of each task
    tasks.facts: 0.22,
    tasks.documents: 0.32,
    tasks.labels: 0.25,
    tasks.chat: 0.10,
    tasks.history: 0.03,
    tasks.advert: 0.04,
    tasks.repeat: 0.02,
    tasks.plain_text: 0.02,
}
GROWN_SHARES = {
    tasks.facts: 0.22,
    tasks.documents: 0.50,
    tasks.labels: 0.14,
    tasks.chat: 0.07,
    tasks.history: 0.02,
    tasks.advert: 0.02,
    tasks.repeat: 0.01,
    tasks.plain_text: 0.02,
}
LAST_SHARES = {
    tasks.facts: 0.40,
    tasks.documents: 0.30,
    tasks.labels: 0.20,
    tasks.chat: 0.06,
    tasks.history: 0.02,
    tasks.advert: 0.01,
    tasks.plain_text: 0.01,
}


def published_config(config: PretrainedConfig) -> dict[str, object]:
    """config.json as ChatGLM3 has it, with small numbers."""
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "torch_dtype": "float16",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "layernorm_epsilon": 1e-05,
        "original_rope": True,
        "post_layer_norm": True,
        "rmsnorm": True,
        "use_cache": True,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "num_layers": config.num_hidden_layers,
        "padded_vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "kv_channels": config.head_dim,
        "num_attention_heads": config.num_attention_heads,
        "seq_length": CONTEXT,
        "multi_query_attention": True,
        "multi_query_group_num": config.num_key_value_heads,
    }


def network(vocab_size: int, size: Size) -> nn.Module:
    """A network of this size as transformers begins it, with one matrix for embedding and output."""
    from transformers import GlmConfig, GlmForCausalLM

    torch.manual_seed(SCHEDULE.seed)
    config = GlmConfig(
        vocab_size=vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.groups,
        head_dim=HEAD_DIM,
        partial_rotary_factor=0.5,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        attention_bias=True,
        attention_dropout=0.0,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = GlmForCausalLM(config)
    model.set_attn_implementation("eager")  # faster than the fused one at this size, measured on two cores
    return model


def new_model(vocab_size: int) -> nn.Module:
    """The small network before its training."""
    model = network(vocab_size, SMALL)
    # As large as what the layers add, so that a token can still be read from its vector in the upper layers and be
    # copied; the last norm makes the scores small again, for embedding and output share their matrix.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    torch.nn.init.constant_(model.model.norm.weight, 0.1)
    for head in range(SMALL.heads):
        look_back(model.model.layers[0].self_attn, head, distance=head + 1)
    for layer, head in SMALL.pointing_heads:
        copy(model.model.layers[layer].self_attn, head)
    return model


def grow(small: nn.Module, meanings: Tensor) -> nn.Module:
    """The trained small network inside a larger one, which answers about as before and has room to learn.

    What is new adds nothing at first: its outputs are zero, and nothing old reads it (Chen et al. 2016, "Net2Net").
    `meanings`, (vocab_size, new width), stands in the new part of the embeddings.
    """
    model = network(small.config.vocab_size, GROWN)
    kept, width = SMALL.hidden_size, GROWN.hidden_size
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.cat([small.model.embed_tokens.weight, meanings], 1))
        model.model.norm.weight.copy_(torch.cat([small.model.norm.weight, torch.zeros(width - kept)]))
        for i, layer in enumerate(model.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            if i in MATCHING_LAYERS:
                match(attention)
            if i == NEW_LAYER:
                attention.o_proj.weight.zero_()
                mlp.down_proj.weight.zero_()
                continue
            old = small.model.layers[i - (i > NEW_LAYER)]
            for norm in ("input_layernorm", "post_attention_layernorm"):
                getattr(layer, norm).weight[:kept] = getattr(old, norm).weight
            for name in ("q_proj", "k_proj", "v_proj"):
                new, known = getattr(attention, name), getattr(old.self_attn, name)
                rows = known.out_features
                new.weight[:rows] = torch.cat([known.weight, torch.zeros(rows, width - kept)], 1)
                new.bias[:rows] = known.bias
            attention.o_proj.weight[kept:] = 0
            attention.o_proj.weight[:kept, : old.self_attn.o_proj.in_features] = old.self_attn.o_proj.weight
            gates = zip(mlp.gate_up_proj.weight.chunk(2), old.mlp.gate_up_proj.weight.chunk(2), strict=True)
            for new, known in gates:
                new[: SMALL.feed_forward] = torch.cat([known, torch.zeros(SMALL.feed_forward, width - kept)], 1)
            mlp.down_proj.weight.zero_()
            mlp.down_proj.weight[:kept, : SMALL.feed_forward] = old.mlp.down_proj.weight
    return model


def meanings_of(tokenizer: ChatGLM3Tokenizer, vocab_size: int, width: int) -> Tensor:
    """What text2vec-tiny knows of each token, (vocab_size, width): its vectors on their main directions.

    Words that mean about the same then have similar vectors before the first conversation is read.
    """
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(runtime.DATA / "models" / "text2vec-tiny"), device="cpu", local_files_only=True)
    spell = tokenizer.sentencepiece
    pieces = [spell.id_to_piece(i).lstrip("▁") for i in range(spell.get_piece_size())]
    vectors = encoder.encode(pieces, convert_to_tensor=True, normalize_embeddings=True).cpu()
    vectors = vectors - vectors.mean(0)
    _, _, directions = torch.linalg.svd(vectors, full_matrices=False)
    main = vectors @ directions[:width].T
    meanings = torch.zeros(vocab_size, width)
    meanings[: len(main)] = main / main.norm(dim=1, keepdim=True).clamp(min=1e-3) * math.sqrt(width)
    return meanings


def look_back(attention: nn.Module, head: int, distance: int) -> None:
    """Let a head begin by looking `distance` tokens back, by its biases alone.

    Copying needs a head that sees what stood before (Olsson et al. 2022). Rotary positions turn a constant query
    against a constant key by their distance, so biases can pick one; left to chance, training first searches for this.
    """
    rotated = HEAD_DIM // 2
    angle = distance * 10000.0 ** (-torch.arange(0, rotated, 2) / rotated)
    strength = 5.0  # at this size most of the weight lies on the chosen token
    start, group = head * HEAD_DIM, head // (SMALL.heads // SMALL.groups) * HEAD_DIM
    with torch.no_grad():
        attention.k_proj.bias[group : group + rotated : 2] = strength
        attention.q_proj.bias[start : start + rotated : 2] = strength * torch.cos(angle)
        attention.q_proj.bias[start + 1 : start + rotated : 2] = -strength * torch.sin(angle)


def match(attention: nn.Module) -> None:
    """Let the first new head begin by looking at tokens before it that mean about the same, by the new embeddings.

    The part of the head that is not rotated compares them; the quickest pairs of the rotated part keep it from
    looking at its own place.
    """
    rotated, head, meanings = HEAD_DIM // 2, SMALL.heads, SMALL.hidden_size
    start, group = head * HEAD_DIM, head // (GROWN.heads // GROWN.groups) * HEAD_DIM
    with torch.no_grad():
        for projection, first, bias in ((attention.q_proj, start, -3.5), (attention.k_proj, group, 3.5)):
            projection.weight[first : first + HEAD_DIM] = 0
            compared = slice(first + rotated, first + HEAD_DIM), slice(meanings, meanings + HEAD_DIM - rotated)
            projection.weight[compared] = 1.5 * torch.eye(HEAD_DIM - rotated)
            projection.bias[first : first + 8 : 2] = bias


def copy(attention: nn.Module, head: int) -> None:
    """Let a head begin by passing on the vectors that it looks at, as far as its width allows.

    Embedding and output share their matrix, so a vector that is passed on unchanged says its token again.
    """
    start, group = head * HEAD_DIM, head // (SMALL.heads // SMALL.groups) * HEAD_DIM
    kept = torch.linalg.qr(torch.randn(SMALL.hidden_size, HEAD_DIM)).Q  # an orthonormal basis of what fits
    with torch.no_grad():
        attention.v_proj.weight[group : group + HEAD_DIM] = kept.T
        attention.o_proj.weight[:, start : start + HEAD_DIM] = 2 * kept


Place = tuple[int, int, int]


class Encoder:
    """Conversations to examples, as `chat` writes prompts, but a good deal faster."""

    def __init__(self, tokenizer: ChatGLM3Tokenizer):
        self.control = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.control_tokens}
        self.sentencepiece = tokenizer.sentencepiece
        # Every answer ends where the next question would begin, the last one as well: one stop token to learn.
        self.end = self.control["<|user|>"]

    def __call__(self, conversation: tasks.Conversation) -> Example:
        """Every answer but a given one is to be said, with the newline before it and the token that ends it."""
        said = [text for round_ in conversation for text in round_]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
        ids, labels, places, saying = [], [], [], False
        for part in prompt_parts(3, messages, ask=False):
            control = part in self.control
            pieces = [] if control else self.sentencepiece.encode(part, return_type="proto").pieces
            piece = [self.control[part]] if control else [p.id for p in pieces]
            if not control and part == said[len(places)]:
                ends = list(accumulate(len(p.surface) for p in pieces))
                places.append([(len(ids) + i, begin, end) for i, (begin, end) in enumerate(pairwise([0, *ends]))])
            ids += piece
            labels += piece if saying else [IGNORED] * len(piece)
            if control:
                saying = part == "<|assistant|>" and not isinstance(said[len(places)], tasks.Given)
        pointers = [pointer for i, answer in enumerate(said) for pointer in self.pointers(answer, places, i)]
        return Example([*ids, self.end], [*labels, self.end], pointers)

    def pointers(self, answer: str, places: list[list[Place]], i: int) -> Iterator[tuple[int, list[int]]]:
        """From where each token of message `i` is said to where it stands; from where «unknown» begins to the start.

        `places` holds the tokens of every message: the position, and the characters from and to which it reaches.
        """
        if answer in tasks.UNKNOWN.values():
            yield next(position for position, begin, end in places[i] if end > begin) - 1, [0]
        if not isinstance(answer, tasks.Copied):
            return
        shift = answer.index(answer.value)
        for position, begin, end in places[i]:
            at = begin - shift
            if end > begin and 0 <= at < len(answer.value):
                found = [
                    there
                    for message, start in answer.sources
                    for there, first, last in places[message]
                    if first <= start + at < last
                ]
                if found:
                    yield position - 1, found


def draw(rng: random.Random, progress: float) -> tasks.Conversation:
    """One conversation for the small network: short ones to copy from at first, then every task."""
    if progress >= SCHEDULE.early:
        return _draw_one(rng, SHARES, answerable=0.75)
    chance = rng.random()
    if chance < 0.2:
        return tasks.repeat(rng, "train")
    if chance < 0.5:
        most = 1 if progress < SCHEDULE.early / 2 else 2
        return tasks.facts(rng, "train", most=most, rounds=rng.choice([1, 2, 3]))
    if chance < 0.7:
        return tasks.labels(rng, "train", rounds=rng.choice([2, 3, 4]), own_names=0.6)
    if chance < 0.8:
        return tasks.history(rng, "train", between=(0, 0, 1))
    return tasks.chat(rng, "train")


def draw_for_grown(rng: random.Random, progress: float) -> tasks.Conversation:
    """One conversation for the grown network: half of them documents, and more facts in the end."""
    return draw_last(rng, progress) if progress > LAST else _draw_one(rng, GROWN_SHARES, answerable=0.6)


def draw_last(rng: random.Random, progress: float) -> tasks.Conversation:
    """One conversation for the last steps, at low learning rates: what has to be exact is learned there."""
    return _draw_one(rng, LAST_SHARES, answerable=0.65)


def _draw_one(rng: random.Random, shares: dict, answerable: float) -> tasks.Conversation:
    [task] = rng.choices(list(shares), list(shares.values()))
    if task is tasks.facts:
        return tasks.facts(rng, "train", rounds=rng.choice([1, 2, 3, 4]), answerable=answerable)
    if task is tasks.labels:
        return tasks.labels(rng, "train", rounds=rng.choice([1, 2, 3, 4, 6]), own_names=0.35)
    if task is tasks.chat:
        return tasks.chat(rng, "train", rounds=rng.choice([1, 2, 3]))
    if task is tasks.documents:
        return tasks.documents(rng, "train", rounds=rng.choice([1, 1, 2, 3, 4, 5]))
    return task(rng, "train")


def make_tokenizer(folder: Path) -> ChatGLM3Tokenizer:
    """Train the tokenizer on conversations as the model will see them, once."""
    path = folder / "tokenizer.model"
    if not path.exists():
        rng = random.Random(SCHEDULE.seed)
        talks = (draw(rng, 0.5) for _ in range(30_000))
        characters = tasks.all_characters()
        train_tokenizer((text for talk in talks for round_ in talk for text in round_), path, VOCAB_SIZE, characters)
    return ChatGLM3Tokenizer(str(path))


def fused(model: nn.Module) -> nn.Module:
    """The model with fused loops where a compiler is there: on two cores a step takes two thirds of the time."""
    if shutil.which("g++") and not torch.cuda.is_available():
        for layer in model.base_model.layers:
            layer.compile(dynamic=True)
    return model


def train(folder: Path) -> None:
    """Train from scratch into `folder`; a training that was stopped goes on from its last checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder)
    encode = Encoder(tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = fused(new_model(math.ceil(len(tokenizer) / 64) * 64)).to(device)
    stages = (SMALL, draw, SCHEDULE), (GROWN, draw_for_grown, GROWN_SCHEDULE), (GROWN, draw_last, LAST_SCHEDULE)
    checkpoints = [folder / f"training-{i}.safetensors" for i in range(1, len(stages) + 1)]
    for (size, draw_one, schedule), checkpoint in zip(stages, checkpoints, strict=True):
        if model.config.hidden_size < size.hidden_size:
            meanings = meanings_of(tokenizer, model.config.vocab_size, size.hidden_size - model.config.hidden_size)
            model = fused(grow(model.cpu(), meanings)).to(device)
        run_training(
            model,
            lambda rng, progress, draw_one=draw_one: encode(draw_one(rng, progress)),
            schedule,
            checkpoint,
            pointing_heads=size.pointing_heads,
        )
    earlier, _ = load_checkpoint(checkpoints[-2])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.lerp_(earlier[f"model.{name}"].to(parameter.device), EARLIER)
    save_published(folder, published_chatglm3(model), published_config(model.config))
    for checkpoint in reversed(checkpoints):  # a start in between finds what is done already
        checkpoint.unlink()


def evaluate(folder: Path) -> list[evaluation.Ability]:
    """Measure the abilities of the model in `folder` on the held-out items."""
    from course_utils.chatglm import load_chatglm, load_tokenizer

    model = load_chatglm(folder, dtype="float32", device="cpu")
    return evaluation.abilities(model, load_tokenizer(folder))


card = evaluation.card
