"""From questions and answers to token ids, and from a model back to answers."""

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.chatglm.conversation import _readable, rounds_to_drop
from course_utils.chatglm.prompts import as_messages
from course_utils.chatglm.tokenization import ChatGLMTokenizer
from course_utils.datasets import Instruction, Pair, load_alpaca, load_pairs
from course_utils.finetune.settings import Settings
from course_utils.messages import CourseError

IGNORED = -100
"""The label of a token that is not to be learned, as everywhere in transformers."""

Example = dict[str, list[int]]
"""`input_ids`, and `labels`: the same ids where the answer stands, IGNORED where the prompt does."""


def load_items(path: str | Path, settings: Settings) -> list[Pair] | list[Instruction]:
    """Read a data file as the settings describe it. Items without question or answer are left out."""
    if settings.prompt_column and settings.response_column:
        items = load_pairs(
            path, settings.prompt_column, settings.response_column, settings.history_column, skip_empty=True
        )
    elif settings.prompt_column or settings.response_column or settings.history_column:
        raise CourseError(
            "Name prompt_column and response_column, or neither for a file in Alpaca format.",
            "请同时写出 prompt_column 和 response_column；若文件是 Alpaca 格式，则都不写。",
        )
    else:
        items = load_alpaca(path, skip_empty=True)
    if not items:
        raise no_examples()
    return items[: settings.max_samples]


def hold_out(items: Sequence, val_size: float, seed: int) -> tuple[list, list]:
    """What is left for training, and what is kept for validation: a share below 1, or a number of items."""
    number = round(val_size if val_size >= 1 else val_size * len(items))
    if number >= len(items):
        raise CourseError(
            f"val_size keeps {number} of {len(items)} examples for validation, so none is left: make it smaller.",
            f"val_size 要从 {len(items)} 个样本中留出 {number} 个做验证，已无样本可训练：请调小。",
        )
    order = random.Random(seed).sample(range(len(items)), len(items))
    return [items[i] for i in order[number:]], [items[i] for i in order[:number]]


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Pair | Instruction], settings: Settings
) -> list[Example]:
    """The token ids of each prompt with its answer, and labels that are the answer's ids alone.

    The prompt is written as the model's chat writes it, so what is learned shows there. Too long a question or
    answer is cut at its end, after the oldest rounds of its history went; the token that ends the answer stays.
    """
    examples = []
    for item in items:
        prompt = prompt_ids(tokenizer, item)
        answer, end = _answer_ids(tokenizer, item.output if isinstance(item, Instruction) else item.response)
        source, target = settings.max_source_length or math.inf, settings.max_target_length or math.inf
        if settings.cutoff_len:
            # The prompt may use what the answer leaves, and half where both are long.
            target = min(target, settings.cutoff_len - min(len(prompt), source, settings.cutoff_len // 2))
            source = min(source, settings.cutoff_len - min(len(answer) + 1, target))
        if len(prompt) > source:
            prompt = prompt_ids(tokenizer, item, int(source))
        answer = [*answer[: int(min(len(answer), target - 1))], end]
        examples.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return examples


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, item: Pair | Instruction, max_source_length: int | None = None
) -> list[int]:
    """The ids of an item's prompt, up to where the answer begins, shortened to `max_source_length`."""

    def encoded(messages: list) -> list[int]:
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    system = getattr(item, "system", "")
    opening = [{"role": "system", "content": system}] if system else []
    history, question = as_messages(item.history), {"role": "user", "content": item.prompt}

    def without(dropped: int) -> list[int]:
        return encoded([*opening, *history[2 * dropped :], question])

    if max_source_length is None:
        return without(0)
    ids = without(rounds_to_drop(len(history) // 2, lambda n: len(without(n)) <= max_source_length))
    if len(ids) <= max_source_length:
        return ids

    def first(characters: int) -> list[int]:
        return encoded([*opening, question | {"content": item.prompt[:characters]}])

    kept = bisect_right(range(len(item.prompt)), max_source_length, key=lambda n: len(first(n))) - 1
    if kept < 1:
        raise CourseError(
            f"max_source_length or cutoff_len leaves {max_source_length} tokens for a prompt, and none of them for the "
            "question: give more.",
            f"max_source_length 或 cutoff_len 只给提示留下 {max_source_length} 个 token，放不下问题：请调大。",
        )
    return first(kept)


def _answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> tuple[list[int], int]:
    """The ids of an answer as the model would give it, and the one that ends it."""
    if not isinstance(tokenizer, ChatGLMTokenizer):
        return tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id
    # From the third generation on, an answer begins with a line for the name of a tool, here an empty one.
    parts = ["\n", answer] if tokenizer.generation >= 3 else [answer]
    return tokenizer.encode_prompt(parts), tokenizer.end_id


def collate(examples: Sequence[Example], device: torch.device) -> dict[str, Tensor]:
    """One batch, filled up on the right, where no position in the text is shifted."""
    length = max(len(example["input_ids"]) for example in examples)

    def rows(name: str, filler: int) -> Tensor:
        return torch.tensor(
            [example[name] + [filler] * (length - len(example[name])) for example in examples], device=device
        )

    mask = [[1] * len(example["labels"]) + [0] * (length - len(example["labels"])) for example in examples]
    return {
        "input_ids": rows("input_ids", 0),
        "labels": rows("labels", IGNORED),
        "attention_mask": torch.tensor(mask, device=device),
    }


def answer_tokens(examples: Sequence[Example]) -> int:
    return sum(label != IGNORED for example in examples for label in example["labels"][1:])


def no_examples() -> CourseError:
    return CourseError(
        "There is nothing to train on: the data set holds no item with both a question and an answer.",
        "没有可训练的数据：数据集中没有同时含提问与回答的条目。",
    )


def generate_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Pair | Instruction],
    max_source_length: int | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 16,
) -> list[str]:
    """What the model answers to each item, taking the likeliest token each time; many at once, for measuring."""
    stop = tokenizer.stop_ids if isinstance(tokenizer, ChatGLMTokenizer) else [tokenizer.eos_token_id]
    training = model.training
    model.eval()
    answers = []
    for start in range(0, len(items), batch_size):
        prompts = [prompt_ids(tokenizer, item, max_source_length) for item in items[start : start + batch_size]]
        width = max(map(len, prompts))
        batch = {
            "input_ids": [[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in prompts],
            "attention_mask": [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts],
        }
        batch = {name: torch.tensor(rows, device=model.device) for name, rows in batch.items()}
        with torch.inference_mode():
            output = model.generate(
                **batch,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                max_length=None,  # a folder may set it too, and then the library warns
                eos_token_id=stop,
                pad_token_id=tokenizer.pad_token_id,
            )
        for ids in output[:, width:].tolist():
            ids = ids[: next((i for i, token in enumerate(ids) if token in stop), None)]
            if isinstance(tokenizer, ChatGLMTokenizer):
                answers.append(_readable(tokenizer, ids, final=True))
            else:
                answers.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    model.train(training)
    return answers
