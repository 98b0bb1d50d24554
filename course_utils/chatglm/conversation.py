"""Talking with a ChatGLM: one answer at once, or piece by piece as it is written.

    answer, history = chat(model, tokenizer, "你好")
    for piece in stream_chat(model, tokenizer, "晚上睡不着应该怎么办", history=history):
        print(piece, end="")

Both take the same way: `generate` runs in a thread of its own and hands over token after token; the text
so far is decoded, and what can no longer change is passed on. What can still change is kept back: half a
character, white space that may turn out to be the end, a comma that becomes a Chinese one if a Chinese
character follows. So the pieces, joined, are exactly the answer.
"""

import ast
import json
import math
import re
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Collection, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import UnsupportedOperation
from numbers import Integral, Real
from queue import SimpleQueue
from typing import Any, Literal, TextIO

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from course_utils.chatglm.prompts import History, Message, as_messages, as_pairs, prompt_parts
from course_utils.chatglm.tokenization import ChatGLMTokenizer
from course_utils.messages import CourseError, Text

# As published: how each generation samples where the caller does not say.
SAMPLING: dict[int, dict[str, Any]] = {
    1: {"do_sample": True, "top_p": 0.7, "temperature": 0.95},
    2: {"do_sample": True, "top_p": 0.8, "temperature": 0.8},
    3: {"do_sample": True, "top_p": 0.8, "temperature": 0.8},
    4: {"do_sample": True, "top_p": 0.8, "temperature": 0.8},
}
# A history may fill the context but for this part, which is kept for the answer.
ANSWER_SHARE = 1 / 4
# Below this a temperature is taken for 0: the likeliest token wins anyway, and scores divided by less overflow.
LOWEST_TEMPERATURE = 1e-3
# The models were taught to write this where a date belongs.
TRAINING_TIME = "[[训练时间]]"
NOT_A_CHARACTER = "\ufffd"


def _counts(value: Any) -> bool:
    return isinstance(value, Integral) and value >= 1


_TOKENS = (_counts, "a number of tokens, at least 1", "token 数（至少为 1）")
_ONE = (lambda value: value == 1, "1: an answer comes token by token", "1：回答是逐个 token 产生的")
# What these options may be, if they are given: the library would fail late, or in a puzzling way, or not at all.
OPTIONS: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "max_new_tokens": _TOKENS,
    "max_length": _TOKENS,
    "stop": (
        lambda value: isinstance(value, Collection) and all(isinstance(text, str) and text for text in value),
        "a text, or a list of texts, none of them empty",
        "一段文本或文本的列表，且都不为空",
    ),
    "seed": (lambda value: isinstance(value, Integral) and abs(value) < 2**63, "a whole number", "整数"),
    "temperature": (
        lambda value: isinstance(value, Real) and 0 <= value < math.inf,
        "a number from 0 (always the likeliest token) up, mostly below 2",
        "不小于 0 的数（0 表示总取最可能的 token），通常小于 2",
    ),
    "top_p": (lambda value: isinstance(value, Real) and 0 <= value <= 1, "a number from 0 to 1", "0 到 1 之间的数"),
    "num_beams": _ONE,
    "num_return_sequences": _ONE,
}


@dataclass(frozen=True)
class Reply:
    """An answer, and what went into it."""

    answer: str | dict[str, Any]
    """The text; or, where the third generation calls a tool, `{"name": …, "parameters": …}`."""
    history: list[Any]
    prompt_tokens: int
    answer_tokens: int
    finish: Literal["stop", "length"]
    """Whether the answer came to its end or to the limit of its length."""


def chat(
    model: PreTrainedModel, tokenizer: ChatGLMTokenizer, query: str, history: History = (), **options: Any
) -> tuple[str | dict[str, Any], list[Any]]:
    """Answer `query`: the answer, and the history with this round in it. Options as for `stream_chat`."""
    reply = finish(stream_chat(model, tokenizer, query, history, **options))
    return reply.answer, reply.history


def finish(pieces: Generator[str, None, Reply]) -> Reply:
    """Let a stream run to its end."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def stream_chat(
    model: PreTrainedModel,
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: History = (),
    *,
    role: str = "user",
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    stop: str | Collection[str] | None = None,
    seed: int | None = None,
    notice: Callable[[Text], object] = print,
    cancel: threading.Event | None = None,
    **sampling: Any,
) -> Generator[str, None, Reply]:
    """Answer `query` piece by piece. Closing the generator ends the computation; so does setting `cancel`.

    `history` is a list of `(query, answer)` pairs or of role messages. What does not fit into the model's
    context is left out from the oldest round on, and `notice` is told. `max_length` counts the prompt too;
    `stop` is a text that ends the answer, or several; `temperature=0` takes the likeliest token each time, and
    so does one below 0.001; whatever else `generate` understands goes there, but for beams and for several
    answers at once. The generator returns a `Reply`.
    """
    if not isinstance(query, str) or not query.strip():
        raise CourseError("the prompt is empty: say something", "提示为空：请输入内容")
    stop = (stop,) if isinstance(stop, str) else () if stop is None else stop
    sampling = SAMPLING[tokenizer.generation] | sampling
    given = {"max_new_tokens": max_new_tokens, "max_length": max_length, "stop": stop, "seed": seed, **sampling}
    for name, (fits, en, zh) in OPTIONS.items():
        if given.get(name) is not None and not fits(given[name]):
            raise CourseError(f"{name} is {given[name]!r:.40}: give {en}", f"{name} 为 {given[name]!r:.40}：请给出{zh}")
    temperature = sampling["temperature"]
    messages = as_messages([*as_messages(history), {"role": role, "content": query}])
    context = model.config.max_position_embeddings
    if max_length is not None:
        context = min(context, max_length)
    answer_room = max(1, min(max_new_tokens or context, int(context * ANSWER_SHARE)))
    messages, ids = _fit(tokenizer, messages, context, answer_room, notice)
    if not sampling["do_sample"] or (temperature is not None and temperature < LOWEST_TEMPERATURE):
        sampling = {k: v for k, v in sampling.items() if k not in ("temperature", "top_p", "top_k")}
        sampling["do_sample"] = False
    options = {
        "max_new_tokens": min(max_new_tokens or context, context - len(ids)),
        "max_length": None,  # a folder may set it too, and then the library warns at every answer
        "eos_token_id": tokenizer.stop_ids,
        "pad_token_id": tokenizer.pad_token_id,
        **sampling,
        # Behind the caller's own, but `generate` still puts the temperature after it.
        "logits_processor": LogitsProcessorList([*(sampling.get("logits_processor") or ()), _FiniteScores()]),
    }
    tokens = _generate(model, ids, seed, cancel or threading.Event(), options)
    return _stream(tokens, tokenizer, messages, len(ids), stop)


def _stream(
    tokens: Generator[int, None, None],
    tokenizer: ChatGLMTokenizer,
    messages: list[Message],
    prompt_tokens: int,
    stop: Collection[str],
) -> Generator[str, None, Reply]:
    """Turn tokens into pieces of text."""
    ids: list[int] = []
    shown, ended = 0, False
    with closing(tokens):
        for token in tokens:
            if ended := token in tokenizer.stop_ids:
                break
            ids.append(token)
            text, ended = _until(stop, _readable(tokenizer, ids, final=False), final=False)
            if len(text) > shown:
                yield text[shown:]
                shown = len(text)
            if ended:
                break
    text, stopped = _until(stop, _readable(tokenizer, ids, final=True), final=True)
    if len(text) > shown:
        yield text[shown:]
    answer, said = _answer(tokenizer, ids, text, stopped)
    history: list[Any] = messages + said
    if tokenizer.generation <= 2:
        history = as_pairs(history)
    return Reply(answer, history, prompt_tokens, len(ids), "stop" if ended or stopped else "length")


# --- the prompt


def rounds_to_drop(rounds: int, fits: Callable[[int], bool]) -> int:
    """How many of the oldest rounds must go until the prompt `fits` without them; all, if it never does.

    A prompt of fewer rounds is shorter, so the border can be searched for. The search begins at the newest
    round: what it tries grows with the context and not with the history, which may be far longer.
    """
    kept = 1
    while kept <= rounds and fits(rounds + 1 - kept):
        kept *= 2
    low, high = max(0, rounds + 1 - kept), min(rounds, rounds + 1 - kept // 2)
    return bisect_left(range(rounds), True, low, high, key=fits)


def _fit(
    tokenizer: ChatGLMTokenizer,
    messages: list[Message],
    context: int,
    answer_room: int,
    notice: Callable[[Text], object],
) -> tuple[list[Message], list[int]]:
    """Leave out the oldest rounds until the prompt fits; instructions at the beginning stay."""
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    last = max(0, len(users) - 1)  # so many rounds may go, the last one never

    def without(dropped: int) -> list[Message]:
        return messages[: users[0]] + messages[users[dropped] :] if dropped else messages

    # The search writes a round down again and again; its tokens are asked for once. Typed, because a control
    # token and a text that spells its name are equal strings.
    @lru_cache(maxsize=None, typed=True)
    def part_ids(part: str) -> list[int]:
        return tokenizer.encode_prompt([part])

    def encoded(dropped: int) -> list[int]:
        return [i for part in prompt_parts(tokenizer.generation, without(dropped)) for i in part_ids(part)]

    dropped = rounds_to_drop(last, lambda n: len(encoded(n)) <= context - answer_room)
    ids = encoded(dropped)
    if len(ids) >= context:
        raise CourseError(
            f"the prompt is {len(ids)} tokens long, the context holds {context} with the answer: shorten it",
            f"提示有 {len(ids)} 个 token，而上下文连同回答只能容纳 {context} 个：请缩短提示",
        )
    if dropped:
        notice(
            Text(
                f"The history is longer than the context of {context} tokens: the oldest {dropped} round(s) were "
                "left out.",
                f"历史超出了 {context} 个 token 的上下文：已略去最早的 {dropped} 轮对话。",
            )
        )
    return without(dropped), ids


# --- the tokens


class _FiniteScores(LogitsProcessor):
    """Keeps inf and NaN from sampling: on a GPU they end in an assertion after which nothing runs any more.

    The library's `remove_invalid_values` leaves the largest number, which overflows at a temperature below 1.
    """

    LARGEST = 1e30
    checked = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Where nothing finite is left, any token would be as good. Weights that overflow do so from the first token
        # on; a look at every token would let a GPU wait each time.
        if not self.checked and not scores.isfinite().any():
            raise CourseError(
                "the model overflows in this number format: load it with dtype='float32' or 'bfloat16'",
                "模型在这种数字格式下溢出：请用 dtype='float32' 或 'bfloat16' 加载",
            )
        self.checked = True
        return scores.nan_to_num(nan=-self.LARGEST).clamp(-self.LARGEST, self.LARGEST)


class _Tokens(BaseStreamer, StoppingCriteria):
    """Carries tokens out of `generate`, and the wish to stop into it."""

    def __init__(self, cancel: threading.Event) -> None:
        self.queue: SimpleQueue[int | None] = SimpleQueue()
        self.cancel = cancel
        self.closed = False
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.queue.put(int(value))
        self.prompt_seen = True

    def end(self) -> None:
        pass  # the end of the thread says it, also after an error

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        unwanted = self.closed or self.cancel.is_set()
        return torch.full((input_ids.shape[0],), unwanted, device=input_ids.device)


def _generate(
    model: PreTrainedModel,
    prompt: list[int],
    seed: int | None,
    cancel: threading.Event,
    options: dict[str, Any],
) -> Generator[int, None, None]:
    """Yield the tokens of `model.generate` while it runs."""
    tokens = _Tokens(cancel)
    failure: list[BaseException] = []
    input_ids = torch.tensor([prompt], device=model.device)

    def run() -> None:
        try:
            if seed is not None:
                torch.manual_seed(seed)
            model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                streamer=tokens,
                stopping_criteria=StoppingCriteriaList([tokens]),
                **options,
            )
        except BaseException as error:
            failure.append(error)
        finally:
            tokens.queue.put(None)

    training = model.training
    model.eval()  # dropout has no place in an answer
    thread = threading.Thread(target=run, name="generate", daemon=True)
    thread.start()
    try:
        while (token := tokens.queue.get()) is not None:
            yield token
    finally:
        tokens.closed = True
        thread.join()
        model.train(training)
    if failure:
        raise failure[0]


# --- the text


def _readable(tokenizer: ChatGLMTokenizer, ids: list[int], final: bool) -> str:
    """The text of an answer so far, as far as it is settled; all of it when `final`."""
    if tokenizer.generation <= 2:
        return _polished(tokenizer.generation, _settled(tokenizer, ids, final), final)
    texts = []
    for number, segment in enumerate(segments := _segments(tokenizer, ids)):
        last = final or number < len(segments) - 1
        raw = _settled(tokenizer, segment, last)
        if "\n" not in raw and not last:
            break  # the first line may yet become the name of a tool
        metadata, content = _first_line(raw)
        if not metadata:
            texts.append(_polished(tokenizer.generation, content, last))
    return "\n".join(texts)


def _settled(tokenizer: ChatGLMTokenizer, ids: list[int], final: bool) -> str:
    """Decoded text without a character that is only half there."""
    text = tokenizer.decode(ids).rstrip(NOT_A_CHARACTER)
    if tokenizer.generation == 1 and not final:
        # "<n>" or "<|blank_4|>" may come in several tokens, and is white space when it is whole.
        text = re.sub(r"<[^<>]{0,10}$", "", text)
    return text


def _polished(generation: int, text: str, final: bool = True) -> str:
    """An answer as the published code hands it out."""
    if not final:
        text = _without_beginning_of(TRAINING_TIME, text)
        if generation == 1:
            text = re.sub(r"[,!:;?]$", "", text)
    text = text.strip().replace(TRAINING_TIME, "2023年")
    if generation == 1:
        # Next to a Chinese character, Chinese punctuation: this vocabulary has none of its own.
        for western, chinese in zip(",!:;?", "，！：；？", strict=True):
            text = re.sub(rf"(?<=[\u4e00-\u9fff])\{western}|\{western}(?=[\u4e00-\u9fff])", chinese, text)
    return text


def _until(stop: Collection[str], text: str, final: bool) -> tuple[str, bool]:
    """Cut the text at the first stop text; keep back what may become one. Says whether one was found."""
    found = [text.index(s) for s in stop if s in text]
    if found:
        return text[: min(found)], True
    if not final:
        for s in stop:
            text = min(text, _without_beginning_of(s, text), key=len)
    return text, False


def _without_beginning_of(marker: str, text: str) -> str:
    """The text without an end that may be the beginning of `marker`."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return text[:-length]
    return text


# --- roles and tools of the third generation


def _segments(tokenizer: ChatGLMTokenizer, ids: list[int]) -> list[list[int]]:
    """The third generation may say several things in one answer, a role token between: text, then a call."""
    assistant = tokenizer.convert_tokens_to_ids("<|assistant|>")
    segments: list[list[int]] = [[]]
    for token in ids:
        if token == assistant:
            segments.append([])
        else:
            segments[-1].append(token)
    return segments


def _first_line(raw: str) -> tuple[str, str]:
    """Metadata and content: the first line names a tool, or is empty."""
    metadata, newline, content = raw.partition("\n")
    return (metadata.strip(), content) if newline else ("", raw)


def _answer(
    tokenizer: ChatGLMTokenizer, ids: list[int], text: str, stopped: bool
) -> tuple[str | dict[str, Any], list[Message]]:
    """What `chat` hands out, and the messages that the history keeps."""
    if tokenizer.generation <= 2 or stopped:
        return text, [{"role": "assistant", "content": text}]
    answer: str | dict[str, Any] = text
    said: list[Message] = []
    for segment in _segments(tokenizer, ids):
        metadata, content = _first_line(_settled(tokenizer, segment, final=True))
        if metadata:
            answer = tool_call(metadata, content)
        else:
            content = content.strip()
        said.append({"role": "assistant", "metadata": metadata, "content": content})
    return answer, said


def tool_call(name: str, content: str) -> dict[str, Any]:
    """Read a tool call without running it: `{"name": …, "parameters": …}`, or the raw content if it is none.

    The third generation writes Python in a code block, `tool_call(city='北京')`; the fourth writes JSON.
    """
    code = re.sub(r"\A\s*```\w*\n|\n?```\s*\Z", "", content).strip()
    try:
        parameters = json.loads(code)
        if isinstance(parameters, dict):
            return {"name": name, "parameters": parameters}
    except ValueError:
        pass
    try:
        call = ast.parse(code, mode="eval").body
        if isinstance(call, ast.Call) and not call.args and all(k.arg for k in call.keywords):
            return {"name": name, "parameters": {k.arg: ast.literal_eval(k.value) for k in call.keywords}}
    except (SyntaxError, ValueError):
        pass
    return {"name": name, "content": content}


# --- the terminal


def terminal_chat(model: PreTrainedModel, tokenizer: ChatGLMTokenizer, **options: Any) -> None:
    """Chat in the terminal until the reader says stop. Ctrl-C interrupts an answer."""
    _tolerate(sys.stdin, "surrogateescape")  # Backspace may leave half a Chinese character
    _tolerate(sys.stdout, "replace")  # a terminal may have no Chinese
    print(
        Text(
            "Ask something. clear forgets the conversation, stop ends it.",
            "请提问。clear 清空对话，stop 结束。",
        )
    )
    history: list[Any] = []
    while True:
        try:
            query = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if query == "stop":
            return
        if query == "clear":
            history = []
            continue
        try:
            query.encode()
        except UnicodeEncodeError:
            print(Text("Half a character came in: type it again.", "收到了半个字符：请重新输入。"))
            continue
        try:
            history = _print_answer(model, tokenizer, query, history, options)
        except CourseError as error:
            print(error)
        except KeyboardInterrupt:
            print()


def _tolerate(stream: TextIO, errors: str) -> None:
    """What cannot be read or written is no reason to stop."""
    with suppress(AttributeError, UnsupportedOperation):  # a stream of another kind, or one already read from
        stream.reconfigure(errors=errors)


def _print_answer(
    model: PreTrainedModel,
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: list[Any],
    options: dict[str, Any],
) -> list[Any]:
    pieces = stream_chat(model, tokenizer, query, history, **options)
    try:
        while True:
            print(next(pieces), end="", flush=True)
    except StopIteration as end:
        reply: Reply = end.value
    finally:
        pieces.close()
    print(json.dumps(reply.answer, ensure_ascii=False) if isinstance(reply.answer, dict) else "")
    return reply.history
