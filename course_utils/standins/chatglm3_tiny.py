"""chatglm3-tiny: a small model in the published layout of ChatGLM3, trained to answer, classify and chat.

Embedding and output matrices share their weights while it is trained and are written as two, as published.
"""

import json
import os
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from course_utils.chatglm.prompts import prompt_parts
from course_utils.chatglm.tokenization import ChatGLM3Tokenizer
from course_utils.standins import tasks
from course_utils.standins.training import IGNORED, Example, Schedule, published_chatglm3, train, train_tokenizer

NAME = "chatglm3-tiny"
HIDDEN_SIZE, LAYERS, HEADS, HEAD_DIM, GROUPS, FEED_FORWARD = 192, 5, 4, 48, 2, 384
CONTEXT = 1024
VOCAB_SIZE = 6000
SCHEDULE = Schedule(steps=4000)


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
    return model


class Encoder:
    """Conversations to examples, as `chat` writes prompts, but a good deal faster."""

    def __init__(self, tokenizer: ChatGLM3Tokenizer):
        self.control = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.control_tokens}
        self.text = tokenizer.sentencepiece.encode
        self.end = tokenizer.eos_token_id

    def __call__(self, conversation: tasks.Conversation) -> Example:
        """Every answer is to be said, with the newline before it and the token that ends it."""
        messages = []
        for question, answer in conversation:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        ids, labels, answering = [], [], False
        for part in prompt_parts(3, messages, ask=False):
            if part in self.control:
                piece = [self.control[part]]
                labels += piece if answering else [IGNORED]
                answering = part == "<|assistant|>"
            else:
                piece = self.text(part)
                labels += piece if answering else [IGNORED] * len(piece)
            ids += piece
        return Example([*ids, self.end], [*labels, self.end])


def draw(rng: random.Random, progress: float) -> tasks.Conversation:
    """One conversation of training. The number of facts and of examples grows."""
    most = 1 + int(min(1.0, progress / 0.35) * 3.999)
    chance = rng.random()
    if chance < (0.35 if progress < 0.08 else 0.02):
        return tasks.repeat(rng, "train")
    if chance < 0.36:
        return tasks.facts(rng, "train", most=min(most, 4), rounds=rng.choice([1, 2, 3]))
    if chance < 0.55:
        return tasks.documents(rng, "train")
    if chance < 0.75:
        return tasks.labels(rng, "train", rounds=rng.choice([1, 2, 3]))
    if chance < 0.84:
        return tasks.chat(rng, "train", rounds=rng.choice([1, 2, 3]))
    if chance < 0.92:
        return tasks.history(rng, "train")
    return tasks.plain_text(rng, "train")


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
        talks = (draw(rng, 1.0) for _ in range(30_000))
        characters = tasks.all_characters()
        train_tokenizer((text for talk in talks for round_ in talk for text in round_), path, VOCAB_SIZE, characters)
    return ChatGLM3Tokenizer(str(path))
