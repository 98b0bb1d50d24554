"""The loaders: what they read, and what they say about each kind of broken line."""

import json

import pytest

from course_utils import CourseError
from course_utils.datasets import (
    Conversation,
    Instruction,
    LabelledText,
    Message,
    Pair,
    attributes,
    load_alpaca,
    load_conversations,
    load_dataset_info,
    load_labelled,
    load_pairs,
)


@pytest.fixture
def file(tmp_path):
    """Writes a file: text or bytes as they are, anything else as JSON."""

    def write(content, name="data.json"):
        path = tmp_path / name
        if not isinstance(content, str | bytes):
            content = json.dumps(content, ensure_ascii=False)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


AD = '{"content": "类型#裙", "summary": "这条裙子很美。"}'
ALPACA = {"instruction": "你好", "input": "", "output": "欢迎"}


def test_advertisements_are_read_from_json_lines(file):
    # A byte order mark, Windows line ends, blank lines and U+2028 within a text do no harm.
    content = ("\ufeff" + AD + "\r\n\r\n" + AD.replace("美", "\u2028美") + "\r\n").encode("utf-8")
    assert load_pairs(file(content)) == [
        Pair("类型#裙", "这条裙子很美。"),
        Pair("类型#裙", "这条裙子很\u2028美。"),
    ]


def test_columns_are_named_as_in_the_recipe(file):
    path = file('{"q": "二", "a": "2", "h": [["一", "1"]]}\n{"q": "三", "a": "3", "h": []}')
    pairs = load_pairs(path, prompt_column="q", response_column="a", history_column="h")
    assert pairs == [Pair("二", "2", (("一", "1"),)), Pair("三", "3")]


def test_attributes_of_an_advertisement():
    assert attributes("类型#上衣*版型#宽松") == [("类型", "上衣"), ("版型", "宽松")]


@pytest.mark.parametrize("as_lines", [True, False])
def test_alpaca_is_read_from_an_array_and_from_lines(file, as_lines):
    items = [
        ALPACA,
        {"instruction": "翻译", "input": "cat", "output": "猫", "history": [["甲", "乙"]], "system": "你是海螺"},
        ALPACA | {"history": None, "system": None},
    ]
    path = file("\n".join(map(json.dumps, items)) if as_lines else json.dumps(items, indent=2))
    first, second, third = load_alpaca(path)
    assert first == third == Instruction("你好", "", "欢迎")
    assert second == Instruction("翻译", "cat", "猫", (("甲", "乙"),), "你是海螺")
    assert (first.prompt, second.prompt) == ("你好", "翻译\ncat")


def test_items_without_text_can_be_skipped(file):
    path = file([ALPACA, ALPACA | {"output": ""}, ALPACA | {"instruction": " "}])
    assert len(load_alpaca(path, skip_empty=True)) == 1
    with pytest.raises(CourseError, match="line 1: 'output' is empty"):
        load_alpaca(path)
    # Other mistakes are still reported.
    with pytest.raises(CourseError, match="must be text"):
        load_alpaca(file([ALPACA, ALPACA | {"output": 3}]), skip_empty=True)


def test_labelled_texts(file):
    path = file('{"text": "涨了", "label": "好", "split": "dev"}')
    assert load_labelled(path) == load_labelled(path, ["好", "坏"]) == [LabelledText("涨了", "好", "dev")]


def says(call, *parts):
    with pytest.raises(CourseError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "en", "zh"),
    [
        (AD + "\n" + AD[:-1], "line 2: this is not valid JSON", "第 2 行：这不是合法的 JSON"),
        (AD + AD, "line 1: this is not valid JSON (column", "a second value on the same line"),
        (AD + "\n" + "[1, 2]", "line 2: here should be a JSON object with named columns, not a list", "第 2 行"),
        (AD + '\n{"content": "c", "a": 1}', "the column 'summary' is missing; there are 'content', 'a'", "缺少列"),
        (AD + "\n{}", "there are none", "现有的列：无"),
        (AD + '\n{"content": "a", "summary": 3}', "line 2: 'summary' must be text, not a number", "应当是"),
        (AD + '\n{"content": "a", "summary": null}', "not null", "第 2 行"),
        (AD + '\n{"content": " ", "summary": "b"}', "line 2: 'content' is empty", "是空的"),
        (AD + '\n{"content": "a", "content": "b"}', "line 2: the key 'content' stands here twice", "重复出现"),
        ("", "line 1: the file is empty", "文件是空的"),
        (" \n", "the file is empty", "文件是空的"),
        (AD.encode() + b"\n" + AD.encode("gb18030"), "line 2: this is not UTF-8", "第 2 行：不是 UTF-8"),
        (AD.encode("utf-16"), "line 1: this is not UTF-8", "不是 UTF-8"),
    ],
)  # fmt: skip
def test_a_broken_line_is_reported(file, content, en, zh):
    path = file(content, "ads.json")
    says(lambda: load_pairs(path), f"{path.parent.name}/ads.json, line", en, zh)


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ('[\n {"instruction": "a",\n  "input": "",\n  "output": "b"},\n {"instruction": ""}]', 5, "'input' is missing"),
        ('[\n {"instruction": "a", "input": "",\n  "output": "b"\n {"x": 1}]', 4, "Expecting ',' delimiter"),
        ('[\n {"instruction": "a", "input": "", "output": "b"}\n\n {}]', 4, "expected , or ]"),
        ('[\n {"instruction": "a", "input": "", "output": "b"}\n', 3, "expected , or ]"),
        ('[\n {"instruction": "a", "input": "", "output": "b"},\n]', 3, "not valid JSON"),
        ('[{"instruction": "a", "input": "", "output": "b"}]\n\n{}', 3, "the file goes on after its end"),
        ("[ ]", 1, "there is nothing in it"),
        ('[{"instruction": "a", "input": "", "output": "b", "history": [["c"]]}]', 1, "[question, answer] pairs"),
        ('[\n\n{"instruction": "a", "input": "", "output": "b", "system": 1}]', 3, "'system' must be text"),
    ],
)  # fmt: skip
def test_the_line_is_right_within_an_array(file, content, line, reason):
    says(lambda: load_alpaca(file(content)), f"line {line}: ", reason)


def test_a_missing_file_is_named(tmp_path):
    says(lambda: load_alpaca(tmp_path / "none.json"), "none.json cannot be read (No such file", "无法读取")
    says(lambda: load_alpaca(tmp_path), "cannot be read")


def test_unknown_labels_and_splits_are_reported(file):
    path = file('{"text": "a", "label": "好", "split": "dev"}\n{"text": "b", "label": "中", "split": "dev"}')
    assert len(load_labelled(path)) == 2
    says(lambda: load_labelled(path, ["好", "坏"]), "line 2: 'label' is '中', which is none of 好, 坏", "不在")
    says(lambda: load_labelled(file('{"text": "a", "label": "好", "split": "val"}')), "'val', which is none of train")


SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "几点了"},
        {"from": "function_call", "value": "{}"},
        {"from": "observation", "value": "8:00"},
        {"from": "gpt", "value": "八点"},
    ],
    "system": "报时",
    "tools": "[]",
}
SHAREGPT_ROLES = ["user", "function", "observation", "assistant"]


def test_dataset_info_of_llama_factory(file):
    # The shapes that its own dataset_info.json has: no columns, alpaca columns, sharegpt with columns and tags, hubs.
    path = file(
        {
            "plain": {"file_name": "alpaca.json"},
            "ads": {"file_name": "ads.json", "columns": {"prompt": "content", "response": "summary"}},
            "talk": {
                "file_name": "talk.json",
                "formatting": "sharegpt",
                "columns": {"messages": "conversations", "system": "system", "tools": "tools"},
            },
            "roles": {
                "file_name": "roles.json",
                "formatting": "sharegpt",
                "columns": {"messages": "messages"},
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                    "system_tag": "system",
                },
            },
            "hub": {"hf_hub_url": "someone/something", "file_name": "not_read.json"},
            "pairs": {"file_name": "pairs.json", "ranking": True, "columns": {"prompt": "p", "chosen": "c"}},
            "kto": {"file_name": "kto.json", "columns": {"prompt": "p", "response": "r", "kto_tag": "label"}},
            "text": {"file_name": "wiki.txt", "columns": {"prompt": "text"}},
            "later": {"file_name": "new.json", "formatting": "openai"},
        },
        "dataset_info.json",
    )
    file([ALPACA | {"system": "not named in the entry"}, ALPACA | {"input": "海螺"}], "alpaca.json")
    file(AD, "ads.json")
    file([SHAREGPT], "talk.json")
    roles = [("system", "短答"), ("user", "在吗"), ("assistant", "在")]
    file([{"messages": [{"role": role, "content": text} for role, text in roles]}], "roles.json")
    info = load_dataset_info(path)
    assert list(info) == ["plain", "ads", "talk", "roles", "hub", "pairs", "kto", "text", "later"]

    plain, with_input = load_conversations(info["plain"])
    assert plain == Conversation((Message("user", "你好"), Message("assistant", "欢迎")))
    assert with_input.messages[0].content == "你好\n海螺"
    (ad,) = load_conversations(info["ads"])
    assert [message.content for message in ad.messages] == ["类型#裙", "这条裙子很美。"]
    (talk,) = load_conversations(info["talk"])
    assert [message.role for message in talk.messages] == SHAREGPT_ROLES
    assert (talk.system, talk.tools, talk.messages[-1].content) == ("报时", "[]", "八点")
    (roles,) = load_conversations(info["roles"])
    assert roles == Conversation((Message("user", "在吗"), Message("assistant", "在")), "短答")

    says(lambda: load_conversations(info["hub"]), "'hub' has no file here", "没有本地文件")
    says(lambda: load_conversations(info["pairs"]), "'pairs' has ranking", "只读取")
    says(lambda: load_conversations(info["kto"]), "'kto' has the column 'kto_tag'")
    says(lambda: load_conversations(info["text"]), "'text' do not name response", "没有写明 response")
    says(lambda: load_conversations(info["later"]), "formatting 'openai'")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{\n "a": {"file_name": "a"},\n "a": {"file_name": "b"}\n}', ["line 3: the key 'a' stands here twice"]),
        ('{\n "a": {"file_name": "a",\n  "file_name": "b"}}', ["line 2: the key 'file_name' stands here twice"]),
        ('{\n "a": {"file_nam": "a.json"}}', ["line 2: 'a' does not say where its data is", "file_name"]),
        ('{\n\n "a": []}', ["line 3: here should be a JSON object"]),
        ('{"a": {"file_name": "a.json", "columns": ["b"]}}', ["'columns' must be an object, not a list"]),
        ('{"a": {"file_name": "a.json", "columns": {"prompt": 1}}}', ["'prompt' must be text"]),
        ('{"a": {"file_name": ""}}', ["'file_name' is empty"]),
        ('{"a": {"file_name": "a.json", "ranking": "yes"}}', ["'ranking' must be true or false"]),
        ('{\n a: {}}', ["line 2: this is not valid JSON (column 2"]),
        ("[]", ["line 1: this must be a JSON object"]),
        ("{}", ["there is nothing in it"]),
    ],
)  # fmt: skip
def test_a_broken_dataset_info_is_reported(file, content, parts):
    says(lambda: load_dataset_info(file(content)), *parts)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": SHAREGPT["conversations"][1:]}, "must take turns"),
        ({"conversations": SHAREGPT["conversations"][:3]}, "here they are user, function, observation"),
        ({"conversations": SHAREGPT["conversations"][1:3]}, "here they are function, observation"),
        ({"conversations": []}, "here they are -"),
        (
            {"conversations": [{"from": "robot", "value": "a"}]},
            "none of human, gpt, observation, function_call, system",
        ),
        ({"conversations": [{"from": "human", "value": ""}]}, "'value' is empty"),
        ({"conversations": ["a"]}, "here should be a JSON object"),
        ({"conversations": "a"}, "'conversations' must be a list"),
        ({"tools": []}, "'tools' must be text"),
    ],
)
def test_a_broken_conversation_is_reported(file, change, reason):
    columns = {"messages": "conversations", "tools": "tools"}
    entry = {"file_name": "talk.json", "formatting": "sharegpt", "columns": columns}
    file(json.dumps(SHAREGPT) + "\n" + json.dumps(SHAREGPT | change), "talk.json")
    info = load_dataset_info(file({"talk": entry}, "dataset_info.json"))
    says(lambda: load_conversations(info["talk"]), "talk.json, line 2: ", reason)


def test_an_entry_must_name_what_is_needed(file):
    entry = {"file_name": "talk.json", "formatting": "sharegpt"}
    info = load_dataset_info(
        file({"a": entry | {"tags": {"role_tag": "role"}}, "b": entry | {"columns": {"tools": "tools"}}})
    )
    says(
        lambda: load_conversations(info["a"]),
        "tags of the data set 'a' do not name assistant_tag, content_tag, user_tag",
    )
    says(lambda: load_conversations(info["b"]), "columns of the data set 'b' do not name messages")
