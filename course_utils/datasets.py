"""The course's data formats, read item by item: advertisements, instructions, conversations, labelled texts.

The same functions read the course's own files and the published ones: AdvertiseGen (JSON lines), Alpaca (a JSON
array or JSON lines) and whatever a LLaMA-Factory `dataset_info.json` describes. The first broken item is reported
with file, line and reason, instead of failing much later inside a tokenizer.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from course_utils.messages import CourseError

FINANCE_LABELS = ("新闻报道", "财务报告", "公司公告", "分析师报告")
SPLITS = ("train", "dev", "test")

# LLaMA-Factory's names where an entry gives none. An entry that gives some gets only those.
LLAMA_FACTORY_COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
}
LLAMA_FACTORY_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}

Turns = tuple[tuple[str, str], ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """What goes in, what should come out, and the rounds (question, answer) before it."""

    prompt: str
    response: str
    history: Turns = ()


@dataclass(frozen=True)
class Instruction:
    """An item in Alpaca format."""

    instruction: str
    input: str
    output: str
    history: Turns = ()
    system: str = ""

    @property
    def prompt(self) -> str:
        """What the model is asked: instruction and input, joined as LLaMA-Factory joins them."""
        return "\n".join(part for part in (self.instruction, self.input) if part)


@dataclass(frozen=True)
class Message:
    """One message of a conversation; `role` is user, assistant, observation or function."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Messages by turns, the asking side (user, observation) first, the answering side last."""

    messages: tuple[Message, ...]
    system: str = ""
    tools: str = ""


@dataclass(frozen=True)
class LabelledText:
    """A text, its class, and the part of the data to which it belongs."""

    text: str
    label: str
    split: str


@dataclass(frozen=True)
class DatasetInfo:
    """One entry of a LLaMA-Factory `dataset_info.json`. `file` is None where the data lies on a hub."""

    name: str
    file: Path | None
    formatting: str
    columns: Mapping[str, str]
    tags: Mapping[str, str]
    ranking: bool = False


def attributes(content: str) -> list[tuple[str, str]]:
    """The attributes of an advertisement: `类型#上衣*版型#宽松` → [("类型", "上衣"), ("版型", "宽松")]."""
    return [(name, value) for name, _, value in (part.partition("#") for part in content.split("*"))]


def load_pairs(
    path: str | PathLike,
    prompt_column: str = "content",
    response_column: str = "summary",
    history_column: str | None = None,
    skip_empty: bool = False,
) -> list[Pair]:
    """Read prompts and responses such as AdvertiseGen's; the columns are named as in the P-Tuning recipe.

    With `skip_empty` an item without prompt or response is left out, as that recipe does, instead of reported.
    """

    def pair(record: _Record) -> Pair:
        history = record.turns(history_column) if history_column else ()
        return Pair(record.text(prompt_column), record.text(response_column), history)

    return _load(path, pair, skip_empty)


def load_alpaca(path: str | PathLike, skip_empty: bool = False) -> list[Instruction]:
    """Read Alpaca format: instruction, input (may be empty) and output; history and system where they are there.

    With `skip_empty` an item without question or answer is left out (the published Alpaca has some).
    """
    columns = LLAMA_FACTORY_COLUMNS["alpaca"] | {"history": "history", "system": "system"}
    return _load(path, lambda record: _instruction(record, columns), skip_empty)


def load_labelled(path: str | PathLike, labels: Collection[str] | None = None) -> list[LabelledText]:
    """Read texts with label and split (train, dev or test); `labels`, if given, are the only ones accepted."""

    def labelled(record: _Record) -> LabelledText:
        item = LabelledText(*(record.text(column) for column in ("text", "label", "split")))
        record.one_of("label", item.label, labels)
        record.one_of("split", item.split, SPLITS)
        return item

    return _load(path, labelled)


def load_dataset_info(path: str | PathLike) -> dict[str, DatasetInfo]:
    """Read LLaMA-Factory's `dataset_info.json`: what its data sets are called and how their files are laid out."""
    path = Path(path)
    text = _read(path)
    if not text.lstrip().startswith("{"):
        raise _broken(path, 1, "this must be a JSON object {name: entry, …}.", "这里应当是 JSON 对象 {名称: 条目, …}。")
    entries: dict[str, DatasetInfo] = {}
    for line, name, value in _members(path, text):
        if name in entries:
            raise _broken(path, line, f"the key {name!r} stands here twice.", f"键 {name!r} 重复出现。")
        entries[name] = _entry(_Record(path, line, value), name)
    return entries


def load_conversations(info: DatasetInfo) -> list[Conversation]:
    """Read the file of a `dataset_info.json` entry, in alpaca or sharegpt formatting, as conversations."""
    if info.file is None:
        raise CourseError(
            f"The data set {info.name!r} has no file here; download it and give its entry a file_name.",
            f"数据集 {info.name!r} 没有本地文件；请先下载，并在条目里写上 file_name。",
        )
    needed = {"alpaca": {"prompt", "response"}, "sharegpt": {"messages"}}.get(info.formatting)
    # Read as plain conversations these would teach rejected answers, or words about pictures that nobody sees.
    unread = [f"the column {name!r}" for name in info.columns if name in ("kto_tag", "images", "videos", "audios")]
    unread += ["ranking (preference pairs)"] if info.ranking else []
    unread += [] if needed else [f"formatting {info.formatting!r}"]
    if unread:
        raise CourseError(
            f"The data set {info.name!r} has {', '.join(unread)}; the course reads text in alpaca and sharegpt format.",
            f"数据集 {info.name!r} 含有 {'、'.join(unread)}；本课程只读取 alpaca 与 sharegpt 格式的文本。",
        )
    kind, missing = "columns", needed - info.columns.keys()
    if info.formatting == "sharegpt" and not missing:
        kind, missing = "tags", {"role_tag", "content_tag", "user_tag", "assistant_tag"} - info.tags.keys()
    if missing:
        raise CourseError(
            f"The {kind} of the data set {info.name!r} do not name {', '.join(sorted(missing))}; add them.",
            f"数据集 {info.name!r} 的 {kind} 没有写明 {'、'.join(sorted(missing))}；请补上。",
        )
    convert = _from_alpaca if info.formatting == "alpaca" else _from_sharegpt
    return _load(info.file, lambda record: convert(record, info))


# ------------------------------------------------------------------------------------------ items


@dataclass(frozen=True)
class _Record:
    """One JSON value of a file, with the place where it begins."""

    path: Path
    line: int
    values: Any

    def __post_init__(self):
        if not isinstance(self.values, dict):
            raise self.broken(
                f"here should be a JSON object with named columns, not {_kind(self.values)}.",
                f"这里应当是带列名的 JSON 对象，而不是 {_kind(self.values)}。",
            )

    def broken(self, en: str, zh: str) -> CourseError:
        return _broken(self.path, self.line, en, zh)

    def value(self, column: str, kind: type) -> Any:
        if column not in self.values:
            there = list(self.values)
            raise self.broken(
                f"the column {column!r} is missing; there are {', '.join(map(repr, there)) or 'none'}.",
                f"缺少列 {column!r}；现有的列：{'、'.join(map(repr, there)) or '无'}。",
            )
        value = self.values[column]
        if not isinstance(value, kind):
            raise self.broken(
                f"{column!r} must be {_KINDS[kind]}, not {_kind(value)}.",
                f"{column!r} 应当是 {_KINDS[kind]}，而不是 {_kind(value)}。",
            )
        return value

    def text(self, column: str) -> str:
        value = self.value(column, str)
        if not value.strip():
            raise self.empty(column)
        return value

    def empty(self, column: str) -> CourseError:
        return _broken(self.path, self.line, f"{column!r} is empty.", f"{column!r} 是空的。", _EmptyText)

    def optional(self, column: str | None, kind: type, default: Any) -> Any:
        """A column that may be missing or null."""
        return default if column is None or self.values.get(column) is None else self.value(column, kind)

    def turns(self, column: str | None) -> Turns:
        turns = self.optional(column, list, [])
        for turn in turns:
            if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
                raise self.broken(
                    f"{column!r} must be a list of [question, answer] pairs of text.",
                    f"{column!r} 应当是由 [问, 答] 文本对组成的列表。",
                )
        return tuple((question, answer) for question, answer in turns)

    def one_of(self, column: str, value: str, allowed: Collection[str] | None) -> None:
        if allowed is not None and value not in allowed:
            raise self.broken(
                f"{column!r} is {value!r}, which is none of {', '.join(allowed)}.",
                f"{column!r} 的值 {value!r} 不在 {'、'.join(allowed)} 之中。",
            )


def _instruction(record: _Record, columns: Mapping[str, str]) -> Instruction:
    item = Instruction(
        record.value(columns["prompt"], str),
        # LLaMA-Factory lets an entry leave out the query column; a named one must be there, though it may be empty.
        record.value(columns["query"], str) if "query" in columns else "",
        record.text(columns["response"]),
        record.turns(columns.get("history")),
        record.optional(columns.get("system"), str, ""),
    )
    if not item.prompt.strip():
        raise record.empty(columns["prompt"])
    return item


def _from_alpaca(record: _Record, info: DatasetInfo) -> Conversation:
    item = _instruction(record, info.columns)
    rounds = [*item.history, (item.prompt, item.output)]
    messages = [Message(role, text) for turn in rounds for role, text in zip(("user", "assistant"), turn, strict=True)]
    return Conversation(tuple(messages), item.system, record.optional(info.columns.get("tools"), str, ""))


def _from_sharegpt(record: _Record, info: DatasetInfo) -> Conversation:
    role_tag, content_tag = info.tags["role_tag"], info.tags["content_tag"]
    roles = {info.tags[f"{role}_tag"]: role for role in _ROLES if f"{role}_tag" in info.tags}
    turns = record.value(info.columns["messages"], list)
    messages = []
    for turn in turns:
        told = _Record(record.path, record.line, turn)
        role = told.text(role_tag)
        told.one_of(role_tag, role, roles)
        messages.append(Message(roles[role], told.text(content_tag)))
    system = record.optional(info.columns.get("system"), str, "")
    if messages and messages[0].role == "system":
        system = messages.pop(0).content
    # _ROLES alternates between the asking and the answering side.
    wrong = any(_ROLES.index(message.role) % 2 != number % 2 for number, message in enumerate(messages))
    if wrong or not messages or len(messages) % 2:
        told = ", ".join(message.role for message in messages) or "-"
        raise record.broken(
            f"the messages must take turns from user to assistant; here they are {told}.",
            f"消息应当由 user 开始、assistant 结束，轮流出现；这里是 {told}。",
        )
    return Conversation(tuple(messages), system, record.optional(info.columns.get("tools"), str, ""))


def _entry(record: _Record, name: str) -> DatasetInfo:
    sources = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name", "script_url")
    if not any(source in record.values for source in sources):
        raise record.broken(
            f"{name!r} does not say where its data is; give it a file_name.",
            f"{name!r} 没有说明数据在哪里；请写上 file_name。",
        )
    # As in LLaMA-Factory, every other source goes before a file.
    local = record.values.keys() & set(sources) == {"file_name"}
    file = record.path.parent / record.text("file_name") if local else None
    formatting = record.optional("formatting", str, "alpaca")
    names = {}
    for part, default in (("columns", LLAMA_FACTORY_COLUMNS.get(formatting, {})), ("tags", LLAMA_FACTORY_TAGS)):
        given = _Record(record.path, record.line, record.optional(part, dict, default))
        names[part] = {key: given.text(key) for key in given.values}
    return DatasetInfo(name, file, formatting, **names, ranking=record.optional("ranking", bool, False))


# ------------------------------------------------------------------------------------------ files

_ROLES = ("user", "assistant", "observation", "function", "system")
_KINDS = {str: "text", list: "a list", dict: "an object", bool: "true or false"}


class _EmptyText(CourseError):
    """Told apart from other mistakes because published files hold such items."""


class _DuplicateKey(ValueError):
    pass


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), "a number")


def _broken(path: Path, line: int, en: str, zh: str, error: type[CourseError] = CourseError) -> CourseError:
    # Folder and name: short, and the same in a notebook's stored output on every machine.
    file = "/".join(path.parts[-2:])
    return error(f"{file}, line {line}: {en}", f"{file} 第 {line} 行：{zh}")


def _bad_json(path: Path, line: int, column: int, reason: str) -> CourseError:
    return _broken(
        path,
        line,
        f"this is not valid JSON (column {column}: {reason}).",
        f"这不是合法的 JSON（第 {column} 列：{reason}）。",
    )


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CourseError(
            f"The file {path.name} cannot be read ({error.strerror}); check the path {path}.",
            f"无法读取文件 {path.name}（{error.strerror}）；请检查路径 {path}。",
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _broken(path, line, "this is not UTF-8; save the file as UTF-8.", "不是 UTF-8；请存为 UTF-8。") from error
    if not text.strip():
        raise _broken(path, 1, "the file is empty.", "文件是空的。")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # json keeps the last of two equal keys without a word.
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKey(next(name for name in names if names.count(name) > 1))
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
_SPACE = re.compile(r"[ \t\n\r]*")


def _decode(path: Path, text: str, start: int, line: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends; `line` is the line of `start`."""
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        after = text.count("\n", start, error.pos)
        raise _bad_json(path, line + after, error.colno, error.msg) from error
    except _DuplicateKey as error:
        key = str(error)
        raise _broken(path, line, f"the key {key!r} stands here twice.", f"键 {key!r} 重复出现。") from error


def _members(path: Path, text: str) -> Iterator[tuple[int, str | None, Any]]:
    """The members of the array or object that fills `text`: the line of each, its key (in an object), its value."""
    at, line = 0, 1

    def skip(to: int) -> None:
        nonlocal at, line
        to = _SPACE.match(text, to).end()
        line += text.count("\n", at, to)
        at = to

    def expect(marks: str) -> str:
        mark = text[at : at + 1]
        if not mark or mark not in marks:
            column = at - text.rfind("\n", 0, at)
            raise _bad_json(path, line, column, f"expected {' or '.join(marks)}")
        skip(at + 1)
        return mark

    skip(0)
    is_object = expect("[{") == "{"
    end = "}" if is_object else "]"
    if text[at : at + 1] == end:
        raise _broken(path, line, "there is nothing in it.", "里面没有内容。")
    mark = ","
    while mark == ",":
        first, key = line, None
        if is_object:
            if text[at : at + 1] != '"':
                expect('"')
            key, to = _decode(path, text, at, line)
            skip(to)
            expect(":")
        value, to = _decode(path, text, at, line)
        skip(to)
        yield first, key, value
        mark = expect("," + end)
    if at < len(text):
        column = at - text.rfind("\n", 0, at)
        raise _bad_json(path, line, column, "the file goes on after its end")


def _records(path: Path) -> Iterator[_Record]:
    text = _read(path)
    if text.lstrip().startswith("["):
        for line, _, value in _members(path, text):
            yield _Record(path, line, value)
        return
    # Not splitlines(): it would also cut at U+2028, which may stand inside a JSON string.
    for number, content in enumerate(text.split("\n"), 1):
        if content.strip():
            value, end = _decode(path, content := content.strip(), 0, number)
            if end < len(content):
                raise _bad_json(path, number, end + 1, "a second value on the same line")
            yield _Record(path, number, value)


def _load(path: str | PathLike, make: Callable[[_Record], T], skip_empty: bool = False) -> list[T]:
    items = []
    for record in _records(Path(path)):
        try:
            items.append(make(record))
        except _EmptyText:
            if not skip_empty:
                raise
    return items
