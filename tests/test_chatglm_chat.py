"""Prompts, answers, streams and histories, with tiny models whose answers are known."""

import builtins
import io
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from chatglm_scripted import answer_ids, published_folder, tiny_model, tokenizer_of

from course_utils import CourseError
from course_utils.chatglm import load_chatglm, load_tokenizer
from course_utils.chatglm.conversation import (
    chat,
    finish,
    stream_chat,
    terminal_chat,
    tool_call,
)
from course_utils.chatglm.prompts import prompt_parts
from course_utils.datasets import Pair
from course_utils.finetune import generate_answers, prompt_ids

GENERATIONS = [1, 2, 3]
PAIRS = [("你好", "你好！"), ("再见", "再见。")]


def speaker(generation: int, *texts: str, context: int = 256):
    tokenizer = tokenizer_of(generation)
    model = tiny_model(generation, context)
    return model.says(*(answer_ids(tokenizer, text) for text in texts)), tokenizer


# --- prompts


def written(generation: int, messages: list[dict]) -> str:
    return "|".join(prompt_parts(generation, messages))


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def test_prompts_of_the_first_two_generations():
    first, later = [user("你好")], [user("你好"), assistant("你好！"), user("再见")]
    assert written(1, first) == "你好|[gMASK]|<sop>"
    assert written(1, later) == "[Round 0]\n问：你好\n答：你好！\n[Round 1]\n问：再见\n答：|[gMASK]|<sop>"
    assert written(2, first) == "[gMASK]|sop|[Round 1]\n\n问：你好\n\n答："
    assert written(2, later) == "[gMASK]|sop|[Round 1]\n\n问：你好\n\n答：你好！\n\n[Round 2]\n\n问：再见\n\n答："


def test_prompts_with_roles():
    chat = [{"role": "system", "content": "S"}, user("你好")]
    assert written(3, chat) == "[gMASK]|sop|<|system|>|\n|S|<|user|>|\n|你好|<|assistant|>"
    assert written(4, chat) == "[gMASK]|<sop>|<|system|>|\n|S|<|user|>|\n|你好|<|assistant|>"
    call = {"role": "assistant", "metadata": "weather", "content": "x"}
    seen = {"role": "observation", "content": "22"}
    assert written(3, [user("?"), call, seen]).endswith("<|assistant|>|weather\n|x|<|observation|>|\n|22|<|assistant|>")


def test_tools_are_described_as_each_generation_was_taught():
    system = {"role": "system", "content": "S", "tools": [{"name": "weather", "parameters": {}}]}
    third = written(3, [system, user("?")])
    assert 'S\n[\n    {\n        "name": "weather"' in third
    fourth = written(4, [system, user("?")])
    assert "# 可用工具\n\n## weather\n\n{" in fourth and "|<|system|>|\n|S|" in fourth


def test_training_examples_end_with_the_answer():
    example = [user("你好"), assistant("好")]
    assert "|".join(prompt_parts(1, example, ask=False)) == "你好|[gMASK]|<sop>|好|<eop>"
    assert "|".join(prompt_parts(2, example, ask=False)).endswith("答：|好|</s>")
    assert "|".join(prompt_parts(3, example, ask=False)).endswith("<|assistant|>|\n|好")


# --- answers


@pytest.mark.parametrize("generation", GENERATIONS)
def test_chat_answers_and_remembers(generation):
    model, tokenizer = speaker(generation, "你好！", "再见。")
    answer, history = chat(model, tokenizer, "你好")
    assert answer == "你好！"
    if generation == 3:
        assert history == [user("你好"), {**assistant("你好！"), "metadata": ""}]
    else:
        assert history == [("你好", "你好！")]
    answer, history = chat(model, tokenizer, "再见", history=history)
    assert answer == "再见。"
    pairs = [("你好", "你好！")]
    for shape in (pairs, [list(pair) for pair in pairs], [user("你好"), assistant("你好！")]):
        chat(model, tokenizer, "再见", history=shape)
        assert model.prompts[-1] == model.prompts[1]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(
    "text", ["晚上睡不着应该怎么办 👋！", "a\n\n  b\t🚀🦙", "x < y, [[训练时间]] 好", "<n", "中文,english!中"]
)
def test_stream_is_the_answer_in_whole_characters(generation, text):
    model, tokenizer = speaker(generation, text)
    pieces = list(stream_chat(model, tokenizer, "?"))
    answer, _ = chat(model, tokenizer, "?")
    assert "".join(pieces) == answer
    assert "" not in pieces and "\ufffd" not in answer
    if generation > 1:  # the first normalises what it reads
        assert answer == text.strip().replace("[[训练时间]]", "2023年")
        assert len(pieces) > 1 or len(text) < 3


def test_emoji_come_whole_out_of_four_byte_tokens():
    model, tokenizer = speaker(3, "a🚀b")
    assert len(tokenizer.encode_text("🚀")) > 4
    assert list(stream_chat(model, tokenizer, "?")) == ["a", "🚀", "b"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_character_cut_by_the_length_limit_is_left_out(generation):
    tokenizer = tokenizer_of(generation)
    ids = answer_ids(tokenizer, "好🚀")
    model = tiny_model(generation).says(ids)
    reply = finish(stream_chat(model, tokenizer, "?", max_new_tokens=len(ids) - 2))
    assert (reply.answer, reply.finish, reply.answer_tokens) == ("好", "length", len(ids) - 2)


def test_stop_tokens_end_the_answer():
    tokenizer = tokenizer_of(3)
    after = tokenizer.encode_text("never said")
    for name in ("</s>", "<|user|>", "<|observation|>"):
        ids = [*answer_ids(tokenizer, "好")[:-1], tokenizer.convert_tokens_to_ids(name), *after]
        model = tiny_model(3).says(ids)
        reply = finish(stream_chat(model, tokenizer, "?"))
        assert (reply.answer, reply.finish) == ("好", "stop")
        assert model.steps == len(ids) - len(after)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_stop_texts_end_the_answer_and_never_show(generation):
    model, tokenizer = speaker(generation, "one two three four")
    pieces = list(stream_chat(model, tokenizer, "?", stop=["three", "zzz"]))
    assert "".join(pieces).strip() == "one two"
    reply = finish(stream_chat(model, tokenizer, "?", stop=["three"]))
    assert reply.finish == "stop" and reply.answer.strip() == "one two"
    assert finish(stream_chat(model, tokenizer, "?", stop="three")) == reply  # one text need not be a list
    # What only begins like a stop text is said.
    for none in (["fourteen"], [], None):
        assert chat(model, tokenizer, "?", stop=none)[0] == "one two three four"


def test_first_generation_punctuation_as_published():
    model, tokenizer = speaker(1, "x")
    for said, answer in [
        ("你好,世界", "你好，世界"),
        ("a,你", "a，你"),
        ("a,b!", "a,b!"),
        ("好!? ok;", "好！? ok;"),
        ("是:a;b", "是：a;b"),
    ]:
        model.says(answer_ids(tokenizer, said))
        pieces = list(stream_chat(model, tokenizer, "?"))
        assert "".join(pieces) == answer


def test_sampling_defaults_seed_and_greedy(monkeypatch):
    tokenizer = tokenizer_of(3)
    model = tiny_model(3).says([])  # no script: the random model speaks

    def answer(**options):
        return chat(model, tokenizer, "你好", max_new_tokens=12, **options)[0]

    assert answer(seed=1) == answer(seed=1) != answer(seed=2)
    assert answer(temperature=0, seed=1) == answer(do_sample=False, seed=2)
    seen = {}
    generate = type(model).generate
    monkeypatch.setattr(type(model), "generate", lambda self, **kw: seen.update(kw) or generate(self, **kw))
    answer()
    assert (seen["do_sample"], seen["top_p"], seen["temperature"]) == (True, 0.8, 0.8)
    assert seen["eos_token_id"] == [2, 1806, 1808]
    answer(top_p=0.5, repetition_penalty=1.1)
    assert (seen["top_p"], seen["repetition_penalty"]) == (0.5, 1.1)


@pytest.mark.parametrize("temperature", [1e-40, 1e-38, 1e-5])
def test_a_tiny_temperature_takes_the_likeliest_token(temperature):
    tokenizer = tokenizer_of(3)
    model = tiny_model(3).says([])  # no script: the random model speaks
    answers = {chat(model, tokenizer, "你好", max_new_tokens=8, temperature=t, seed=1)[0] for t in (0, temperature)}
    assert len(answers) == 1


@pytest.mark.parametrize("temperature", [-1, -1e-40, math.nan, math.inf, "0.8"])
def test_what_is_no_temperature_is_refused(temperature):
    model, tokenizer = speaker(3, "好")
    with pytest.raises(CourseError, match="give a number from 0"):
        stream_chat(model, tokenizer, "?", temperature=temperature)


@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
def test_broken_scores_never_reach_sampling(monkeypatch, broken):
    tokenizer = tokenizer_of(3)
    model = tiny_model(3).says([])
    forward = type(model).forward

    def break_some(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits[..., 5:10] = broken
        return output

    drawn = []
    multinomial = torch.multinomial
    monkeypatch.setattr(type(model), "forward", break_some)
    monkeypatch.setattr(torch, "multinomial", lambda p, *args, **kw: drawn.append(p) or multinomial(p, *args, **kw))
    for temperature in (2e-3, 0.8, 2.0):
        chat(model, tokenizer, "?", max_new_tokens=4, temperature=temperature, seed=1)
    assert len(drawn) >= 12
    for probabilities in drawn:
        assert probabilities.isfinite().all()
        assert (probabilities[..., 5:10].sum() > 0.99) == (broken == math.inf)


@pytest.mark.parametrize("broken", [math.inf, math.nan])
@pytest.mark.parametrize("do_sample", [True, False])
def test_a_model_that_overflows_says_so_instead_of_gibberish(monkeypatch, broken, do_sample):
    tokenizer = tokenizer_of(3)
    model = tiny_model(3).says([])
    forward = type(model).forward

    def overflow(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits[:] = broken
        return output

    monkeypatch.setattr(type(model), "forward", overflow)
    with pytest.raises(CourseError, match="overflows in this number format: load it with dtype='float32'"):
        chat(model, tokenizer, "?", do_sample=do_sample)
    assert model.steps == 1


def test_an_answer_leaves_no_trace_in_the_model():
    model, tokenizer = speaker(3, "好")
    model.train()
    chat(model, tokenizer, "?")
    assert model.training
    assert not [t for t in threading.enumerate() if t.name == "generate"]


def test_leaving_a_stream_ends_the_computation():
    tokenizer = tokenizer_of(3)
    model = tiny_model(3, context=4096).says([*tokenizer.encode_text("\n"), *[tokenizer.encode_text("a")[0]] * 4000])
    pieces = stream_chat(model, tokenizer, "?")
    next(pieces)
    pieces.close()
    assert not [t for t in threading.enumerate() if t.name == "generate"]
    assert model.steps < 1000
    cancel = threading.Event()
    finish(stream_chat(model, tokenizer, "?", max_new_tokens=2, cancel=cancel))
    assert not cancel.is_set()  # it belongs to the caller
    cancel.set()
    finish(stream_chat(model, tokenizer, "?", cancel=cancel))
    assert model.steps < 1000


def test_a_length_in_the_folder_makes_no_warning_and_no_difference(tmp_path, monkeypatch, caplog):
    """GLM-4-9B-chat is published with one, and it does not count the tokens of an answer."""
    folder = published_folder(2, tmp_path / "published")
    (folder / "generation_config.json").write_text('{"do_sample": true, "top_p": 0.8, "max_length": 128000}')
    model, tokenizer = load_chatglm(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    options = {"do_sample": False, "max_new_tokens": 8}
    prompt = tokenizer.apply_chat_template([user("你好")], add_generation_prompt=True, return_tensors="pt")
    written = model.generate(**prompt, **options, eos_token_id=tokenizer.stop_ids)[0, prompt["input_ids"].shape[1] :]
    assert "max_length" in caplog.text  # this is how the library warns
    caplog.clear()
    reply = finish(stream_chat(model, tokenizer, "你好", **options))
    assert (reply.answer, reply.answer_tokens) == (tokenizer.decode(written).strip(), 8)
    chat(model, tokenizer, "你好", max_new_tokens=2)
    chat(model, tokenizer, "你好", max_length=100, temperature=0)
    generate_answers(model, tokenizer, [Pair("你好", "")], max_new_tokens=2)
    assert not caplog.records
    assert model.generation_config.max_length == 128_000


def test_an_error_inside_generate_reaches_the_caller():
    model, tokenizer = speaker(3, "好")
    with pytest.raises(ValueError, match="temprature"):
        chat(model, tokenizer, "?", temprature=1)


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ({"max_new_tokens": "5"}, "max_new_tokens is '5': give a number of tokens"),
        ({"max_length": 2.5}, "max_length is 2.5: give a number of tokens"),
        ({"stop": ""}, "none of them empty"),
        ({"stop": ["a", ""]}, "none of them empty"),
        ({"stop": ["a", 5]}, "stop is .* give a text, or a list of texts"),
        ({"stop": 5}, "stop is 5: give a text, or a list of texts"),
        ({"seed": "x"}, "seed is 'x': give a whole number"),
        ({"seed": 2**70}, "give a whole number"),
        ({"top_p": "x"}, "top_p is 'x': give a number from 0 to 1"),
        ({"top_p": 2}, "give a number from 0 to 1"),
        ({"num_beams": 2}, "num_beams is 2: give 1"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2: give 1"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_runs(option, cure):
    model, tokenizer = speaker(3, "好")
    with pytest.raises(CourseError, match=cure):
        stream_chat(model, tokenizer, "?", **option)
    assert model.prompts == []


# --- tools


def test_third_generation_calls_a_tool():
    tokenizer = tokenizer_of(3)
    call = "```python\ntool_call(city='北京', days=[1, 2])\n```"
    text = [*tokenizer.encode_text("\n"), *tokenizer.encode_text("Let me see")]
    role = tokenizer.convert_tokens_to_ids("<|assistant|>")
    ids = [*text, role, *tokenizer.encode_text("weather\n"), *tokenizer.encode_text(call)]
    ids.append(tokenizer.convert_tokens_to_ids("<|observation|>"))
    model = tiny_model(3).says(ids, answer_ids(tokenizer, "22 °C"))
    tools = [{"role": "system", "content": "S", "tools": [{"name": "weather"}]}]
    assert "".join(stream_chat(model, tokenizer, "天气?", tools)) == "Let me see"
    model.says(ids, answer_ids(tokenizer, "22 °C"))
    answer, history = chat(model, tokenizer, "天气?", tools)
    assert answer == {"name": "weather", "parameters": {"city": "北京", "days": [1, 2]}}
    assert [message["role"] for message in history] == ["system", "user", "assistant", "assistant"]
    assert (history[-1]["metadata"], history[-1]["content"].strip()) == ("weather", call)
    answer, history = chat(model, tokenizer, '{"t": 22}', history, role="observation")
    assert answer == "22 °C"
    assert "<|observation|>" in tokenizer.decode(model.prompts[-1])


def test_tool_calls_are_read_and_never_run(tmp_path):
    assert tool_call("f", '{"a": 1}') == {"name": "f", "parameters": {"a": 1}}
    assert tool_call("f", "```python\ntool_call(a=-1, b={'c': None})\n```")["parameters"] == {
        "a": -1,
        "b": {"c": None},
    }
    victim = tmp_path / "victim"
    for code in (
        f"tool_call(a=open({str(victim)!r}, 'w'))",
        f"open({str(victim)!r}, 'w')",
        "tool_call(**x)",
        "print('x')",
        "a = (",
        "[1]",
    ):
        assert tool_call("f", code)["content"] == code
    assert not victim.exists()


# --- the context


@pytest.mark.parametrize("generation", GENERATIONS)
def test_long_history_is_cut_from_the_oldest_round_with_a_notice(generation, capsys):
    model, tokenizer = speaker(generation, "好", context=128)
    history = [(f"question {i}", f"answer {i}") for i in range(30)]
    notices = []
    _, remembered = chat(model, tokenizer, "last", history, notice=notices.append)
    prompt = tokenizer.decode(model.prompts[-1])
    assert "question 29" in prompt and "question 0" not in prompt
    assert len(model.prompts[-1]) <= 128 * 3 / 4
    assert len(notices) == 1 and "oldest" in notices[0].en and "最早" in notices[0].zh
    assert len(remembered) < 30  # what was forgotten stays forgotten
    chat(model, tokenizer, "last", history)
    assert "oldest" in capsys.readouterr().out  # without a listener it is printed
    chat(model, tokenizer, "last", remembered, max_new_tokens=1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_search_leaves_out_as_many_rounds_as_one_after_the_other(generation):
    model, tokenizer = speaker(generation, "好", context=128)
    for rounds in (0, 1, 2, 3, 7, 8, 30, 101):
        for length in (0, 1, 3, 20):
            history = [(f"q {'x ' * (i % 3 * length)}", f"a{i}") for i in range(rounds)]
            left = history
            while True:
                messages = [message for q, a in left for message in (user(q), assistant(a))] + [user("?")]
                ids = tokenizer.encode_prompt(prompt_parts(generation, messages))
                if len(ids) <= 128 * 3 / 4 or not left:
                    break
                left = left[1:]
            finish(stream_chat(model, tokenizer, "?", history, notice=lambda text: None))
            assert model.prompts[-1] == ids


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_training_prompt_loses_as_few_rounds_as_it_can(generation):
    tokenizer = tokenizer_of(generation)
    history = PAIRS * 4
    prompts = [prompt_ids(tokenizer, Pair("?", "", history[dropped:])) for dropped in range(len(history) + 1)]
    for limit in range(len(prompts[-1]), len(prompts[0]) + 2):
        expected = next(prompt for prompt in prompts if len(prompt) <= limit)
        assert prompt_ids(tokenizer, Pair("?", "", history), limit) == expected


def test_of_a_very_long_history_each_text_that_may_fit_is_encoded_once(monkeypatch):
    model, tokenizer = speaker(3, "好", context=128)
    encoded: Counter[str] = Counter()
    encode = type(tokenizer).encode_prompt
    with monkeypatch.context() as patch:
        patch.setattr(
            type(tokenizer), "encode_prompt", lambda self, parts: encoded.update(parts) or encode(self, parts)
        )
        history = [(f"a{i}", f"b{i}") for i in range(20_000)]
        reply = finish(stream_chat(model, tokenizer, "?", history, notice=lambda text: None))
    assert len(encoded) < 100 and set(encoded.values()) == {1}
    # As many rounds as fit, and not one more.
    kept = reply.history[:-2]
    assert reply.prompt_tokens <= 96
    oldest = 20_000 - len(kept) // 2
    more = [user(f"a{oldest - 1}"), assistant(f"b{oldest - 1}"), *kept, user("?")]
    assert more[2] == user(f"a{oldest}")
    assert len(tokenizer.encode_prompt(prompt_parts(3, more))) > 96


def test_a_text_that_is_the_name_of_a_control_token_stays_a_text():
    model, tokenizer = speaker(3, "好")
    chat(model, tokenizer, "<|assistant|>", [("<|user|>", "[gMASK]")])
    messages = [user("<|user|>"), assistant("[gMASK]"), user("<|assistant|>")]
    assert model.prompts[-1] == tokenizer.encode_prompt(prompt_parts(3, messages))
    controls = [name for name in tokenizer.convert_ids_to_tokens(model.prompts[-1]) if name in tokenizer.control_tokens]
    assert controls == ["[gMASK]", "sop", "<|user|>", "<|assistant|>", "<|user|>", "<|assistant|>"]


def test_instructions_outlive_the_rounds():
    model, tokenizer = speaker(3, "好", context=128)
    history = [{"role": "system", "content": "Be brief."}]
    history += [message for i in range(30) for message in (user(f"question {i}"), assistant("yes"))]
    _, remembered = chat(model, tokenizer, "last", history, notice=lambda text: None)
    assert remembered[0]["content"] == "Be brief."
    assert remembered[1]["content"].startswith("question")


def test_max_length_counts_the_prompt_too():
    tokenizer = tokenizer_of(3)
    model = tiny_model(3).says([tokenizer.encode_text("a")[0]] * 300)
    reply = finish(stream_chat(model, tokenizer, "你好", max_length=30))
    assert reply.prompt_tokens + reply.answer_tokens == 30
    reply = finish(stream_chat(model, tokenizer, "你好"))
    assert reply.prompt_tokens + reply.answer_tokens == 256


# --- mistakes


@pytest.mark.parametrize("generation", GENERATIONS)
def test_mistakes_are_explained_before_anything_runs(generation):
    model, tokenizer = speaker(generation, "好")
    for query in ("", " \n", None, b"x"):
        with pytest.raises(CourseError, match="empty"):
            stream_chat(model, tokenizer, query)
    with pytest.raises(CourseError, match="shorten"):
        stream_chat(model, tokenizer, "long " * 300)
    for history in (
        "text",
        ["text"],
        [("a", "b", "c")],
        [("a", None)],
        [{"role": "boss", "content": "x"}],
        [{"role": "user"}],
        {"a": "b"},
    ):
        with pytest.raises(CourseError, match="history must be"):
            stream_chat(model, tokenizer, "?", history)
    with pytest.raises(CourseError, match="half a character"):
        stream_chat(model, tokenizer, "\ud83d")
    said = {"role": "user", "content": "x"}
    endless: list = []
    endless.append(endless)
    for wrong in (
        {"metadata": 5},
        {"metadata": None},
        {"tools": 5},
        {"tools": "x"},
        {"tools": [{}]},
        {"tools": [5]},
        {"tools": [{"name": 5}]},
        {"tools": [{"function": 5}]},
        {"tools": [{"name": "f", "parameters": {1, 2}}]},
        {"tools": [{"name": "f", "parameters": endless}]},
    ):
        with pytest.raises(CourseError, match="'metadata' must be a text and 'tools' a list"):
            stream_chat(model, tokenizer, "?", [said | wrong])
    for half in ({"metadata": "\ud83d"}, {"tools": [{"name": "\ud83d"}]}):
        with pytest.raises(CourseError, match="half a character"):
            stream_chat(model, tokenizer, "?", [said | half])
    with pytest.raises(CourseError, match="at least 1"):
        stream_chat(model, tokenizer, "?", max_new_tokens=0)
    if generation < 3:
        with pytest.raises(CourseError, match="only questions and answers"):
            stream_chat(model, tokenizer, "?", [{"role": "system", "content": "x"}])
        with pytest.raises(CourseError, match="must follow a question"):
            stream_chat(model, tokenizer, "?", role="observation")
    assert model.prompts == []


# --- the terminal


def test_terminal_chat(monkeypatch, capsys):
    model, tokenizer = speaker(3, "你好！", "再见。", "再见。")
    typed = iter(["你好", "", "再见", "clear", "你好", "stop"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(typed))
    terminal_chat(model, tokenizer)
    out = capsys.readouterr().out
    assert "你好！\n" in out and "再见。\n" in out
    assert "empty" in out  # a mistake is said, and the chat goes on
    assert len(model.prompts[1]) > len(model.prompts[0])
    assert model.prompts[2] == model.prompts[0]  # forgotten

    def end(prompt):
        raise EOFError

    monkeypatch.setattr(builtins, "input", end)
    terminal_chat(model, tokenizer)


def test_a_broken_line_ends_no_chat_and_nor_does_a_screen_without_chinese(monkeypatch):
    model, tokenizer = speaker(3, "你好！", "fine")
    lines = [b"hello", "你好".encode()[:-1], b"again", b"stop"]
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(lines)), encoding="utf-8"))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    terminal_chat(model, tokenizer)
    terminal_chat(model, tokenizer)  # the stream has been read from
    sys.stdout.flush()
    assert b"> ???\n" in written.getvalue() and b"type it again" in written.getvalue()
    messages = [user("hello"), assistant("你好！"), user("again")]
    assert model.prompts[1:] == [tokenizer.encode_prompt(prompt_parts(3, messages))]


def test_ctrl_c_interrupts_an_answer_and_ends_the_chat_at_the_prompt(monkeypatch, capsys):
    """A signal as the terminal sends it, while the answer is written in another thread."""
    tokenizer = tokenizer_of(3)
    endless = [*tokenizer.encode_text("\n"), *[tokenizer.encode_text("a")[0]] * 4000]
    model = tiny_model(3, context=4096).says(endless, answer_ids(tokenizer, "好"))
    forward = type(model).forward

    def interrupted(self, *args, **kwargs):
        if self.steps == 20:
            signal.raise_signal(signal.SIGINT)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", interrupted)
    typed = iter(["first", "second"])

    def ask(prompt: str) -> str:
        for text in typed:
            return text
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal came first")

    monkeypatch.setattr(builtins, "input", ask)
    try:
        terminal_chat(model, tokenizer)
    except KeyboardInterrupt:  # it would end the other tests too
        pytest.fail("Ctrl-C ended the chat with a traceback")
    _, _, *answers = capsys.readouterr().out.splitlines()
    said = answers[0].split()
    assert set(said) == {"a"} and len(said) < 2000  # begun, and not written to its end
    assert answers[1:] == ["好", ""]
    assert not [t for t in threading.enumerate() if t.name == "generate"]
    # As if it had never been asked.
    assert model.prompts[1] == tokenizer.encode_prompt(prompt_parts(3, [user("second")]))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal, which Windows has not")
def test_ctrl_c_in_a_terminal(tmp_path):
    import fcntl
    import pty
    import termios

    folder = published_folder(2, tmp_path / "published")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"seq_length": 100_000}))
    word = tokenizer_of(2).encode_text("a")[0]  # the only one that may be said: the answer does not end by itself
    others = [token for token in range(config["padded_vocab_size"]) if token != word]
    (folder / "generation_config.json").write_text(json.dumps({"suppress_tokens": others}))
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "course_utils.chatglm", "chat", str(folder), "--device", "cpu"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C goes to the processes of its terminal
    )
    os.close(terminal)
    shown = b""

    def read() -> bool:
        nonlocal shown
        try:
            more = os.read(keyboard, 4096)
        except OSError:  # so Linux says that the program has ended
            return False
        shown += more
        return bool(more)

    try:
        while not shown.endswith(b"\n> ") and read():
            pass
        os.write(keyboard, b"hello\n")
        asked = len(shown)
        while len(shown) < asked + 200 and read():
            pass
        os.write(keyboard, b"\x03")
        while not shown.endswith(b"\n> ") and read():
            pass
        time.sleep(0.5)  # Python shows a prompt a moment before it listens
        os.write(keyboard, b"\x03")
        while read():
            pass
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)
    assert shown.count(b"\n> ") == 2 and shown.count(b"^C") == 2 and b"a a a" in shown
    assert b"Traceback" not in shown


def test_the_package_hands_out_functions():
    """A submodule of the same name would take a function's place as soon as something imported it."""
    import course_utils.chatglm as package

    assert package.chat is chat and package.stream_chat is stream_chat
    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    assert not modules & set(package.__all__)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_published_folder_is_all_it_takes(generation, tmp_path):
    folder = published_folder(generation, tmp_path / "published")
    model, tokenizer = load_chatglm(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    assert tokenizer.generation == generation
    options = {"do_sample": False, "max_new_tokens": 8}
    answer, history = chat(model, tokenizer, "你好", **options)
    assert "".join(stream_chat(model, tokenizer, "你好", **options)) == answer
    assert len(history) == (2 if generation == 3 else 1)
    # The same as asking the model directly, in a padded batch with a longer prompt.
    questions = ["你好", "晚上睡不着应该怎么办 hello hello"]
    chats = [[{"role": "user", "content": question}] for question in questions]
    batch = tokenizer.apply_chat_template(chats, add_generation_prompt=True, padding=True, return_tensors="pt")
    assert batch["attention_mask"][0, 0] == 0
    written = model.generate(**batch, **options, eos_token_id=tokenizer.stop_ids, pad_token_id=tokenizer.pad_token_id)
    for row, question in zip(written, questions, strict=True):
        direct = finish(stream_chat(model, tokenizer, question, **options))
        assert tokenizer.decode(row[-8:], skip_special_tokens=True).strip() == direct.answer


def test_random_answers_stream_as_they_are():
    """Whatever tokens come, the pieces are the answer."""
    for generation in GENERATIONS:
        tokenizer = tokenizer_of(generation)
        model = tiny_model(generation).says([])
        for seed in range(3):
            options = {"seed": seed, "temperature": 3.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 40}
            pieces = list(stream_chat(model, tokenizer, "你好", **options))
            reply = finish(stream_chat(model, tokenizer, "你好", **options))
            if isinstance(reply.answer, str):
                assert "".join(pieces) == reply.answer
