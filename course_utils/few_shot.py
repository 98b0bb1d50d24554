"""Classification by a chat model: examples as a history, and every class scored as the answer that it would be."""

import copy
import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.chatglm.prompts import prompt_parts
from course_utils.chatglm.tokenization import ChatGLMTokenizer
from course_utils.messages import CourseError
from course_utils.standins.tasks import Conversation


def messages_of(conversation: Conversation) -> list[dict[str, str]]:
    """The rounds of a conversation as role messages; the last question is left without an answer."""
    messages = []
    for question, answer in conversation:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages[:-1]


def label_ids(tokenizer: ChatGLMTokenizer, label: str) -> list[int]:
    """The tokens of an answer that is the label and nothing else, with the token that ends it."""
    asked = [{"role": "user", "content": "?"}]
    prompt = tokenizer.encode_prompt(prompt_parts(tokenizer.generation, asked))
    answered = [*asked, {"role": "assistant", "content": label}]
    whole = tokenizer.encode_prompt(prompt_parts(tokenizer.generation, answered, ask=False))
    ids = whole[len(prompt) :]
    # The later generations end an answer by beginning the next message; the earlier ones have written the end already.
    return ids if ids[-1] in tokenizer.stop_ids else [*ids, tokenizer.end_id]


@torch.inference_mode()
def label_logprobs(
    model: PreTrainedModel, tokenizer: ChatGLMTokenizer, conversations: Sequence[Conversation], labels: Sequence[str]
) -> list[list[list[float]]]:
    """The log-probability of every token of every label as the answer: [conversation][label][token].

    What a conversation has in common with the one before it (the examples) is not read again, and the four labels
    are read together behind the text.
    """
    answers = [label_ids(tokenizer, label) for label in labels]
    width = max(map(len, answers))
    padded = torch.tensor([ids + [0] * (width - len(ids)) for ids in answers], device=model.device)
    read: list[int] = []
    cache, found = None, []
    for conversation in conversations:
        ids = tokenizer.encode_prompt(prompt_parts(tokenizer.generation, messages_of(conversation)))
        shared = next(
            (i for i, (new, old) in enumerate(zip(ids, read, strict=False)) if new != old), min(len(ids), len(read))
        )
        shared = min(shared, len(ids) - 1)  # the last token has to be read, or it predicts nothing
        if cache is not None and shared < len(read):
            cache.crop(shared - len(read))  # a negative number: so many are forgotten
        new = torch.tensor([ids[shared:]], device=model.device)
        out = model(input_ids=new, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, read = out.past_key_values, ids
        branches = copy.deepcopy(cache)
        branches.batch_repeat_interleave(len(labels))
        after = model(input_ids=padded, past_key_values=branches, use_cache=True).logits
        logits = torch.cat([out.logits.expand(len(labels), 1, -1), after[:, :-1]], dim=1)
        logprobs = logits.float().log_softmax(dim=-1).gather(-1, padded[..., None])[..., 0]
        found.append([row[: len(ids)].tolist() for row, ids in zip(logprobs, answers, strict=True)])
    return found


def totals(logprobs: list[list[list[float]]]) -> Tensor:
    """The log-probability of each label as a whole answer, [conversations, labels]."""
    return torch.tensor([[sum(tokens) for tokens in labels] for labels in logprobs], dtype=torch.float64)


def read_texts(path: str | Path, column: str = "text") -> list[str]:
    """The texts of a CSV file, in UTF-8 as spreadsheets write it."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if column not in (rows.fieldnames or []):
                raise CourseError(
                    f"{path.name} has no column {column!r} (it has {', '.join(rows.fieldnames or []) or 'none'}): "
                    "name the column of the texts in its first line.",
                    f"{path.name} 中没有名为 {column!r} 的列（现有：{'、'.join(rows.fieldnames or []) or '无'}）："
                    "请在首行写上文本列的列名。",
                )
            texts = [row[column] or "" for row in rows]
    except UnicodeDecodeError:
        raise CourseError(
            f"{path.name} is not in UTF-8: save it as “CSV UTF-8”.",
            f"{path.name} 不是 UTF-8 编码：请另存为“CSV UTF-8”。",
        ) from None
    if not texts:
        raise CourseError(
            f"{path.name} has no row below its first line: write one text in each row.",
            f"{path.name} 的首行之下没有内容：请每行写一篇文本。",
        )
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise CourseError(
                f"{path.name}, row {number} has no text: fill it in or remove the row.",
                f"{path.name} 第 {number} 行没有文本：请填上，或删去这一行。",
            )
    return texts


def write_rows(path: str | Path, rows: Iterable[dict[str, object]]) -> None:
    """Write rows as CSV, whole or not at all."""
    path, rows = Path(path), list(rows)
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8-sig", newline="") as file:  # the mark lets Excel read Chinese
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)
