"""What a ChatGLM reads: how each generation writes a conversation down.

A prompt is a list of parts. A plain string is text, and however it is spelled it stays text; a `Control` is a
token of its own that no text can produce. Keeping the two apart until the last moment is what makes it
impossible to forge a role: a user who types "<|system|>" gets ten characters, not the token.

    1st  ChatGLM-6B        [Round 0]\\n问：…\\n答：…\\n[Round 1]\\n问：…\\n答：  [gMASK] <sop>
    2nd  ChatGLM2-6B       [gMASK] sop  [Round 1]\\n\\n问：…\\n\\n答：…\\n\\n[Round 2]\\n\\n问：…\\n\\n答：
    3rd  ChatGLM3-6B       [gMASK] sop  <|user|> \\n …  <|assistant|> \\n …  <|user|> \\n …  <|assistant|>
    4th  GLM-4-9B-chat     as the 3rd, with tools described in Chinese

Inside, a conversation is always a list of messages, `{"role": …, "content": …}`. The first two generations
know only questions and answers in turn; `(query, answer)` pairs are accepted from everyone.
"""

import json
from collections.abc import Sequence
from typing import Any

from course_utils.messages import CourseError

Message = dict[str, Any]
History = Sequence[Message] | Sequence[tuple[str, str]]

ROLES = ("system", "user", "assistant", "observation")


class Control(str):
    """A control token, named as the published vocabulary names it."""


OPENING = {
    generation: (Control("[gMASK]"), Control(sop)) for generation, sop in {2: "sop", 3: "sop", 4: "<sop>"}.items()
}
"""The two tokens before every text. The first generation has them behind the question instead."""


def as_messages(history: History) -> list[Message]:
    """Read a history of either shape, `(query, answer)` pairs or role messages, and check it."""
    if not isinstance(history, Sequence) or isinstance(history, str):
        raise _bad_history(f"a {type(history).__name__}")
    messages: list[Message] = []
    for item in history:
        if isinstance(item, dict):
            if item.get("role") not in ROLES or not isinstance(item.get("content"), str):
                raise _bad_history(f"{item!r:.80}")
            if not isinstance(item.get("metadata", ""), str) or not _are_tools(item.get("tools")):
                raise CourseError(
                    f"'metadata' must be a text and 'tools' a list of JSON descriptions with a 'name' each; found "
                    f"{item!r:.80}",
                    f"'metadata' 应为文本，'tools' 应为 JSON 描述的列表，每项都有 'name'；实际是 {item!r:.80}",
                )
            messages.append(dict(item))
        elif isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(text, str) for text in item):
            query, answer = item
            messages += [{"role": "user", "content": query}, {"role": "assistant", "content": answer}]
        else:
            raise _bad_history(f"{item!r:.80}")
    for message in messages:
        try:
            message["content"].encode()
            message.get("metadata", "").encode()
            if tools := message.get("tools"):
                _as_json(tools).encode()
        except UnicodeEncodeError:
            raise CourseError(
                "the text holds half a character: decode bytes as UTF-8 before they come here",
                "文本中有半个字符：请先把字节按 UTF-8 解码",
            ) from None
    return messages


def as_pairs(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """The conversation as the first two generations show it: `(query, answer)` pairs."""
    roles = [message["role"] for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise CourseError(
            "this generation knows only questions and answers in turn: write the history as (query, answer) pairs "
            "and put instructions into the question",
            "这一代模型只认识交替的提问与回答：历史请写成 (query, answer) 对，指令请写进问题里",
        )
    texts = [message["content"] for message in messages]
    return list(zip(texts[::2], texts[1::2], strict=True))


def prompt_parts(generation: int, messages: Sequence[Message], ask: bool = True) -> list[str]:
    """Write a conversation as the parts of a prompt.

    With `ask`, the last message is a question and the prompt ends where the answer begins. Without, the last
    message may be an answer, and the parts are what a model is trained on.
    """
    if generation <= 2:
        return _rounds(generation, messages, ask)
    parts: list[str] = list(OPENING[generation])
    for message in messages:
        tools = message.get("tools")
        if tools and generation == 4:
            parts += [Control("<|system|>"), "\n", _tools_in_chinese(tools)]
            if not message["content"]:
                continue
        content = message["content"]
        if tools and generation == 3:
            content += "\n" + _as_json(tools)
        # The line of metadata (the name of a tool, mostly nothing) and the content are encoded apart:
        # joined into one text they would give other ids.
        parts += [Control(f"<|{message['role']}|>"), f"{message.get('metadata', '')}\n", content]
    return [*parts, Control("<|assistant|>")] if ask else parts


def _rounds(generation: int, messages: Sequence[Message], ask: bool) -> list[str]:
    """The first two generations: numbered rounds in one text, then the answer."""
    if not ask and (not messages or messages[-1]["role"] != "assistant"):
        raise CourseError(
            "the conversation ends without an answer: to ask for one, set add_generation_prompt=True (or ask=True)",
            "对话不是以回答结尾：若要请模型回答，请设置 add_generation_prompt=True（或 ask=True）",
        )
    asked = messages if ask else messages[:-1]
    if not asked or asked[-1]["role"] != "user":
        raise CourseError(
            "the answer must follow a question: the message before it has the role 'user'",
            "回答必须紧跟在提问之后：它前面那条消息的角色应为 'user'",
        )
    past, query = as_pairs(asked[:-1]), asked[-1]["content"]
    if generation == 1:
        # A first question stands bare; rounds count from 0.
        text = "".join(f"[Round {i}]\n问：{q}\n答：{a}\n" for i, (q, a) in enumerate(past))
        text += f"[Round {len(past)}]\n问：{query}\n答：" if past else query
        parts: list[str] = [text, Control("[gMASK]"), Control("<sop>")]
        end = Control("<eop>")
    else:
        text = "".join(f"[Round {i}]\n\n问：{q}\n\n答：{a}\n\n" for i, (q, a) in enumerate(past, start=1))
        text += f"[Round {len(past) + 1}]\n\n问：{query}\n\n答："
        parts = [*OPENING[generation], text]
        end = Control("</s>")
    return parts if ask else [*parts, messages[-1]["content"], end]


def _tools_in_chinese(tools: Sequence[dict[str, Any]]) -> str:
    """The system text with which GLM-4-9B-chat was taught about tools."""
    text = (
        "你是一个名为 GLM-4 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
        "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
    )
    for tool in tools:
        function = tool.get("function", tool)
        text += f"\n\n## {function['name']}\n\n{_as_json(function)}"
        text += "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
    return text


def _are_tools(tools: Any) -> bool:
    """Whether these are descriptions that every generation can write down; None is no tools."""
    if tools is None:
        return True
    if not isinstance(tools, (list, tuple)):
        return False
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return False
    try:
        _as_json(tools)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _as_json(tools: Any) -> str:
    return json.dumps(tools, indent=4, ensure_ascii=False, allow_nan=False)


def _bad_history(found: str) -> CourseError:
    return CourseError(
        f"history must be a list of (query, answer) pairs or of {{'role': …, 'content': …}} dictionaries with a role "
        f"out of {', '.join(ROLES)}; found {found}",
        f"history 应为 (query, answer) 对的列表，或 {{'role': …, 'content': …}} 字典的列表，role 取 "
        f"{'、'.join(ROLES)} 之一；实际是 {found}",
    )
