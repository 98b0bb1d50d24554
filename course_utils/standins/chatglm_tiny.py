"""chatglm-tiny: a smaller model in the published layout of the first generation, for its prompts and its prefix mask.

It learns small talk, one or two facts and a short history: enough to see the first generation answer.
"""

import math
import random
from pathlib import Path

import torch
from torch import nn

from course_utils.chatglm.modeling import ChatGLM1Config, ChatGLM1ForCausalLM
from course_utils.chatglm.prompts import prompt_parts
from course_utils.chatglm.tokenization import ChatGLM1Tokenizer
from course_utils.standins import evaluation, tasks
from course_utils.standins.training import IGNORED, Example, Schedule, save_published, train_tokenizer
from course_utils.standins.training import train as run_training

HIDDEN_SIZE, LAYERS, HEADS = 128, 3, 4
VOCAB_SIZE = 6000
SCHEDULE = Schedule(steps=1500, tokens=2048, embedding_rate=2e-3, seed=20240605)
BLANKS = [f"<|blank_{n}|>" for n in range(2, 81)]


def draw(rng: random.Random, progress: float) -> tasks.Conversation:
    """One conversation of training."""
    chance = rng.random()
    if chance < 0.15 * (1 - progress):
        return tasks.repeat(rng, "train")
    if chance < 0.5:
        return tasks.facts(rng, "train", most=1 if progress < 0.3 else 2)
    if chance < 0.65:
        return tasks.history(rng, "train", between=(0, 0, 1))
    return tasks.chat(rng, "train", rounds=rng.choice([1, 1, 2]))


class Encoder:
    """Conversations to examples as the first generation reads them: only the last answer is to be said."""

    def __init__(self, tokenizer: ChatGLM1Tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, conversation: tasks.Conversation) -> Example:
        """The prompt up to `<sop>`, then the answer and `<eop>`."""
        messages = []
        for question, answer in conversation:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        prompt = self.tokenizer.encode_prompt(prompt_parts(1, messages[:-1]))
        answer = [*self.tokenizer.encode_text(conversation[-1][1]), self.tokenizer.eos_token_id]
        return Example(prompt + answer, [IGNORED] * len(prompt) + answer)


def published_config(tokenizer: ChatGLM1Tokenizer) -> dict[str, object]:
    """config.json as ChatGLM-6B has it, with small numbers and this vocabulary's ids."""
    ids = dict(zip(("mask", "gmask", "bos", "eos"), ("[MASK]", "[gMASK]", "<sop>", "<eop>"), strict=True))
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "torch_dtype": "float16",
        "layernorm_epsilon": 1e-05,
        "position_encoding_2d": True,
        "use_cache": True,
        "num_layers": LAYERS,
        "vocab_size": math.ceil(len(tokenizer) / 64) * 64,
        "hidden_size": HIDDEN_SIZE,
        "inner_hidden_size": 4 * HIDDEN_SIZE,
        "num_attention_heads": HEADS,
        "max_sequence_length": 512,
        "pad_token_id": 3,
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()},
    }


def make_tokenizer(folder: Path) -> ChatGLM1Tokenizer:
    """The first generation's vocabulary has its control tokens and its white space among the pieces."""
    path = folder / "ice_text.model"
    if not path.exists():
        rng = random.Random(SCHEDULE.seed)
        talks = (draw(rng, 1.0) for _ in range(20_000))
        words = (text for talk in talks for round_ in talk for text in round_)
        symbols = ["<n>", *ChatGLM1Tokenizer.control_tokens, "<|tab|>", *BLANKS]
        characters = tasks.all_characters().replace("\n", "")
        train_tokenizer(words, path, VOCAB_SIZE, characters, pad_id=3, user_defined_symbols=symbols)
    return ChatGLM1Tokenizer(str(path))


def new_model(config: dict[str, object]) -> nn.Module:
    """The untrained network."""
    torch.manual_seed(SCHEDULE.seed)
    keys = ("architectures", "model_type", "torch_dtype", "position_encoding_2d")
    model = ChatGLM1ForCausalLM(ChatGLM1Config(**{k: v for k, v in config.items() if k not in keys}))
    nn.init.normal_(model.get_input_embeddings().weight, std=0.1)
    return model


def train(folder: Path) -> None:
    """Train from scratch into `folder`; a training that was stopped goes on from its last checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder)
    config, encode = published_config(tokenizer), Encoder(tokenizer)
    model = new_model(config)
    checkpoint = folder / "training.safetensors"
    run_training(model, lambda rng, progress: encode(draw(rng, progress)), SCHEDULE, checkpoint)
    # The published file holds the tied matrix twice.
    tensors = {name: tensor.detach().half().clone() for name, tensor in model.state_dict().items()}
    save_published(folder, tensors, config)
    checkpoint.unlink()


def evaluate(folder: Path) -> list[evaluation.Ability]:
    """Measure small talk, one fact and a short history on held-out items."""
    from course_utils.chatglm import load_chatglm, load_tokenizer

    model, tokenizer = load_chatglm(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    rng = random.Random(evaluation.SEED)
    items = {
        "chat": evaluation.chat_items(rng),
        "one fact": [tasks.facts(rng, "heldout", most=1, answerable=1) for _ in range(200)],
        "short history": [tasks.history(rng, "heldout", between=(0,)) for _ in range(200)],
    }
    return [evaluation.measure(model, tokenizer, name, conversations) for name, conversations in items.items()]


card = evaluation.card
