"""Classification by a chat model: examples as a history, and every class scored as the answer that it would be."""

import copy
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.chatglm.prompts import prompt_parts
from course_utils.chatglm.tokenization import ChatGLMTokenizer
from course_utils.files import written_whole
from course_utils.messages import CourseError
from course_utils.standins.tasks import Conversation

MOST_MEGABYTES = 20  # about a hundred thousand texts of two hundred bytes each: hours of work on a CPU


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
    model: PreTrainedModel, tokenizer: ChatGLMTokenizer, conversations: Iterable[Conversation], labels: Sequence[str]
) -> list[list[list[float]]]:
    """The log-probability of every token of every label as the answer: [conversation][label][token].

    What a conversation has in common with the one before it (the examples) is not read again, and the labels
    are read together behind the text. The conversations may come one by one, as from a progress bar.
    """
    answers = [label_ids(tokenizer, label) for label in labels]
    width = max(map(len, answers))
    padded = torch.tensor([ids + [0] * (width - len(ids)) for ids in answers], device=model.device)
    read: list[int] = []
    context = model.config.max_position_embeddings
    cache, found = None, []
    for number, conversation in enumerate(conversations, start=1):
        ids = tokenizer.encode_prompt(prompt_parts(tokenizer.generation, messages_of(conversation)))
        if len(ids) + width > context:
            raise CourseError(
                f"Text {number} has {len(ids) + width} tokens with its examples and an answer, and the model reads "
                f"{context}: shorten the text or give fewer examples.",
                f"第 {number} 篇文本连同例子和回答共 {len(ids) + width} 个 token，而模型最多读 {context} 个："
                "请缩短文本，或少给几个例子。",
            )
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


def read_rows(path: str | Path, column: str = "text") -> list[dict[str, str]]:
    """The rows of a CSV file with all their columns, in UTF-8 as spreadsheets write it; none without a text."""
    path = Path(path)
    if not path.is_file():
        raise CourseError(
            f"There is no file {path.name}: check its name and its folder.",
            f"找不到文件 {path.name}：请检查文件名和所在的文件夹。",
        )
    megabytes = path.stat().st_size / 1e6
    if megabytes > MOST_MEGABYTES:
        raise CourseError(
            f"{path.name} has {megabytes:.0f} MB, and {MOST_MEGABYTES} are allowed: split it into several files.",
            f"{path.name} 有 {megabytes:.0f} MB，上限是 {MOST_MEGABYTES} MB：请分成几个文件。",
        )
    found = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, restval="")
            columns = list(rows.fieldnames or [])
            for row in rows:
                found.append(row)  # one by one, so that an error can say which row it met
    except UnicodeDecodeError:
        raise CourseError(
            f"{path.name} is not in UTF-8: save it as “CSV UTF-8”.",
            f"{path.name} 不是 UTF-8 编码：请另存为“CSV UTF-8”。",
        ) from None
    except csv.Error as error:
        raise CourseError(
            f"{path.name}, row {len(found) + 1} cannot be read as CSV ({error}): shorten the cell, "
            "or close a quotation mark that stays open.",
            f"{path.name} 第 {len(found) + 1} 行不合 CSV 格式（{error}）：请缩短这个单元格，或补上没有闭合的引号。",
        ) from None
    except OSError as error:
        raise CourseError(
            f"{path.name} cannot be read ({error.strerror}): close it in other programs, and check your rights to it.",
            f"{path.name} 无法读取（{error.strerror}）：请在别的程序里关闭它，并检查读取权限。",
        ) from None
    if column not in columns:
        raise CourseError(
            f"{path.name} has no column {column!r} (it has {', '.join(columns) or 'none'}): "
            "name the column of the texts in its first line.",
            f"{path.name} 中没有名为 {column!r} 的列（现有：{'、'.join(columns) or '无'}）：请在首行写上文本列的列名。",
        )
    if not found:
        raise CourseError(
            f"{path.name} has no row below its first line: write one text in each row.",
            f"{path.name} 的首行之下没有内容：请每行写一篇文本。",
        )
    for number, row in enumerate(found, start=1):
        if None in row:  # where DictReader puts the cells beyond the last column
            raise CourseError(
                f"{path.name}, row {number} has more cells than the first line: put a text that holds a comma "
                "into quotation marks.",
                f"{path.name} 第 {number} 行的单元格比首行多：含有英文逗号的文本请放进英文引号。",
            )
        if not row[column].strip():
            raise CourseError(
                f"{path.name}, row {number} has no text: fill it in or remove the row.",
                f"{path.name} 第 {number} 行没有文本：请填上，或删去这一行。",
            )
    return found


def read_texts(path: str | Path, column: str = "text") -> list[str]:
    """The texts of a CSV file alone."""
    return [row[column] for row in read_rows(path, column)]


def write_rows(path: str | Path, rows: Iterable[dict[str, object]]) -> None:
    """Write rows as CSV, whole or not at all; a column that a row lacks stays empty there."""
    path, rows = Path(path), list(rows)
    if not rows:
        raise CourseError(
            f"There is no row to write into {path.name}: check the list of rows.",
            f"没有可写进 {path.name} 的行：请检查行的列表。",
        )
    columns = list(dict.fromkeys(column for row in rows for column in row))
    # The mark of utf-8-sig lets Excel read Chinese.
    with written_whole(path) as part, part.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)
