"""chatglm3-tiny: a small model in the published layout of ChatGLM3, trained to answer, classify and chat.

Embedding and output matrices share their weights while it is trained and are written as two, as published.
"""

import json
import math
import os
import random
import shutil
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from course_utils.chatglm.prompts import prompt_parts
from course_utils.chatglm.tokenization import ChatGLM3Tokenizer
from course_utils.standins import evaluation, tasks
from course_utils.standins.training import (
    IGNORED,
    Example,
    Schedule,
    published_chatglm3,
    train_tokenizer,
)
from course_utils.standins.training import train as run_training

NAME = "chatglm3-tiny"
HIDDEN_SIZE, LAYERS, HEADS, HEAD_DIM, GROUPS, FEED_FORWARD = 192, 5, 4, 48, 2, 384
CONTEXT = 1024
VOCAB_SIZE = 6000
POINTING_HEADS = ((2, 0), (3, 0), (3, 2))  # (layer, head) that learn to look at the words that they copy
EARLY = 0.12  # the share of the steps that go to short conversations, in small batches
LATE = 0.65  # from here on more facts, and more questions that they do not answer: refusing is learned last
LAST = 0.849  # and from here on more facts still: choosing among similar ones is what suffers beside the documents
SCHEDULE = Schedule(steps=6600, early=EARLY, again=1200)
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
LATE_SHARES = {
    tasks.facts: 0.34,
    tasks.documents: 0.33,
    tasks.labels: 0.17,
    tasks.chat: 0.11,
    tasks.history: 0.02,
    tasks.advert: 0.01,
    tasks.repeat: 0.01,
    tasks.plain_text: 0.01,
}
LAST_SHARES = {
    tasks.facts: 0.52,
    tasks.documents: 0.22,
    tasks.labels: 0.14,
    tasks.chat: 0.07,
    tasks.history: 0.02,
    tasks.advert: 0.01,
    tasks.repeat: 0.01,
    tasks.plain_text: 0.01,
}


def published_config(vocab_size: int) -> dict[str, object]:
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
        "num_layers": LAYERS,
        "padded_vocab_size": vocab_size,
        "hidden_size": HIDDEN_SIZE,
        "ffn_hidden_size": FEED_FORWARD,
        "kv_channels": HEAD_DIM,
        "num_attention_heads": HEADS,
        "seq_length": CONTEXT,
        "multi_query_attention": True,
        "multi_query_group_num": GROUPS,
    }


def new_model(vocab_size: int) -> nn.Module:
    """The untrained network, with one matrix for embedding and output."""
    from transformers import GlmConfig, GlmForCausalLM

    torch.manual_seed(SCHEDULE.seed)
    config = GlmConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
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
    # As large as what the layers add, so that a token can still be read from its vector in the upper layers and be
    # copied; the last norm makes the scores small again, for embedding and output share their matrix.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    torch.nn.init.constant_(model.model.norm.weight, 0.1)
    for head in range(HEADS):
        look_back(model.model.layers[0].self_attn, head, distance=head + 1)
    for layer, head in POINTING_HEADS:
        copy(model.model.layers[layer].self_attn, head)
    return model


def look_back(attention: nn.Module, head: int, distance: int) -> None:
    """Let a head begin by looking `distance` tokens back, by its biases alone.

    Copying needs a head that sees what stood before (Olsson et al. 2022). Rotary positions turn a constant query
    against a constant key by their distance, so biases can pick one; left to chance, training first searches for this.
    """
    rotated = HEAD_DIM // 2
    angle = distance * 10000.0 ** (-torch.arange(0, rotated, 2) / rotated)
    strength = 5.0  # at this size most of the weight lies on the chosen token
    start, group = head * HEAD_DIM, head // (HEADS // GROUPS) * HEAD_DIM
    with torch.no_grad():
        attention.k_proj.bias[group : group + rotated : 2] = strength
        attention.q_proj.bias[start : start + rotated : 2] = strength * torch.cos(angle)
        attention.q_proj.bias[start + 1 : start + rotated : 2] = -strength * torch.sin(angle)


def copy(attention: nn.Module, head: int) -> None:
    """Let a head begin by passing on the vectors that it looks at, as far as its width allows.

    Embedding and output share their matrix, so a vector that is passed on unchanged says its token again.
    """
    start, group = head * HEAD_DIM, head // (HEADS // GROUPS) * HEAD_DIM
    kept = torch.linalg.qr(torch.randn(HIDDEN_SIZE, HEAD_DIM)).Q  # an orthonormal basis of what fits
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
    """One conversation of training: short ones to copy from at first, then every task, in the end more refusals."""
    if progress < EARLY:
        chance = rng.random()
        if chance < 0.2:
            return tasks.repeat(rng, "train")
        if chance < 0.5:
            return tasks.facts(rng, "train", most=1 if progress < EARLY / 2 else 2, rounds=rng.choice([1, 2, 3]))
        if chance < 0.7:
            return tasks.labels(rng, "train", rounds=rng.choice([2, 3, 4]), own_names=0.6)
        if chance < 0.8:
            return tasks.history(rng, "train", between=(0, 0, 1))
        return tasks.chat(rng, "train")
    late = progress > LATE
    shares = LAST_SHARES if progress > LAST else LATE_SHARES if late else SHARES
    [task] = rng.choices(list(shares), list(shares.values()))
    if task is tasks.facts:
        return tasks.facts(rng, "train", rounds=rng.choice([1, 2, 3, 4]), answerable=0.6 if late else 0.75)
    if task is tasks.labels:
        return tasks.labels(rng, "train", rounds=rng.choice([1, 2, 3, 4, 6]), own_names=0.35)
    if task is tasks.chat:
        return tasks.chat(rng, "train", rounds=rng.choice([1, 2, 3]))
    return task(rng, "train")


def write(model: nn.Module, folder: Path) -> None:
    """The published files beside the tokenizer: config.json and model.safetensors."""
    tensors = published_chatglm3(model)
    part = folder / "model.part"
    save_file(tensors, part, metadata={"format": "pt"})
    os.replace(part, folder / "model.safetensors")
    (folder / "config.json.part").write_text(json.dumps(published_config(model.config.vocab_size), indent=2) + "\n")
    os.replace(folder / "config.json.part", folder / "config.json")


def make_tokenizer(folder: Path) -> ChatGLM3Tokenizer:
    """Train the tokenizer on conversations as the model will see them, once."""
    path = folder / "tokenizer.model"
    if not path.exists():
        rng = random.Random(SCHEDULE.seed)
        talks = (draw(rng, 0.5) for _ in range(30_000))
        characters = tasks.all_characters()
        train_tokenizer((text for talk in talks for round_ in talk for text in round_), path, VOCAB_SIZE, characters)
    return ChatGLM3Tokenizer(str(path))


def train(folder: Path) -> None:
    """Train from scratch into `folder`; a training that was stopped goes on from its last checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder)
    encode = Encoder(tokenizer)
    model = new_model(math.ceil(len(tokenizer) / 64) * 64)
    checkpoint = folder / "training.safetensors"
    if shutil.which("g++") and not torch.cuda.is_available():
        # Fused loops: on two cores a step takes two thirds of the time, for a minute of compiling at the start.
        for layer in model.base_model.layers:
            layer.compile(dynamic=True)
    run_training(
        model, lambda rng, progress: encode(draw(rng, progress)), SCHEDULE, checkpoint, pointing_heads=POINTING_HEADS
    )
    write(model, folder)
    checkpoint.unlink()


def evaluate(folder: Path) -> list[evaluation.Ability]:
    """Measure the abilities of the model in `folder` on the held-out items."""
    from course_utils.chatglm import load_chatglm, load_tokenizer

    model = load_chatglm(folder, dtype="float32", device="cpu")
    return evaluation.abilities(model, load_tokenizer(folder))


card = evaluation.card
