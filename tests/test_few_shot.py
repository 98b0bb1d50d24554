"""Few-shot classification: scores of whole labels, with the examples read once; CSV files in and out."""

import errno
import os
from pathlib import Path

import pytest

from course_utils import few_shot
from course_utils.messages import CourseError
from course_utils.standins import tasks

LABELS = ["新闻报道", "分析师报告"]


def test_reading_the_examples_once_changes_no_score():
    torch = pytest.importorskip("torch")
    from course_utils.chatglm import load_chatglm, load_tokenizer
    from course_utils.chatglm.prompts import prompt_parts
    from course_utils.models import find_model

    folder = find_model("chatglm3-6b", want="stand-in").folder
    model, tokenizer = load_chatglm(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    examples = [("今天下雨。", "新闻报道"), ("维持买入评级。", "分析师报告")]
    conversations = [
        tasks.few_shot(LABELS, examples, text) for text in ("公司股票停牌。", "公司", "公司", "明天下雪。")
    ]
    conversations.append(tasks.few_shot(LABELS, examples[::-1], "明天下雪。"))
    found = few_shot.label_logprobs(model, tokenizer, conversations, LABELS)
    for conversation, rows in zip(conversations, found, strict=True):
        prompt = tokenizer.encode_prompt(prompt_parts(3, few_shot.messages_of(conversation)))
        for label, tokens in zip(LABELS, rows, strict=True):
            ids = few_shot.label_ids(tokenizer, label)
            with torch.inference_mode():
                logprobs = model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(dim=-1)
            wanted = [logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids)]
            assert tokens == pytest.approx(wanted, abs=1e-4)
            assert ids[-1] in tokenizer.stop_ids and tokenizer.decode(ids[:-1]).strip() == label
    assert few_shot.totals(found)[0, 1].item() == pytest.approx(sum(found[0][1]))
    assert few_shot.label_logprobs(model, tokenizer, (c for c in conversations), LABELS) == found  # one by one

    context = model.config.max_position_embeddings
    long = tasks.few_shot(LABELS, examples, "公司股票停牌。" * context)
    with pytest.raises(CourseError, match=f"Text 2 has .* reads {context}: shorten") as caught:
        few_shot.label_logprobs(model, tokenizer, [conversations[0], long], LABELS)
    assert "第 2 篇" in caught.value.text.zh


def test_a_file_comes_back_as_it_was_written(tmp_path: Path):
    few_shot.write_rows(tmp_path / "a.csv", [{"text": "一，二\n三", "label": "x"}, {"text": '"四"', "label": ""}])
    assert few_shot.read_texts(tmp_path / "a.csv") == ["一，二\n三", '"四"']
    assert few_shot.read_texts(tmp_path / "a.csv", "text") and [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_the_other_columns_stay(tmp_path: Path):
    (tmp_path / "a.csv").write_text("id,text,note\n7,公司,\n8,年度\n", encoding="utf-8-sig")
    rows = few_shot.read_rows(tmp_path / "a.csv")
    assert rows == [{"id": "7", "text": "公司", "note": ""}, {"id": "8", "text": "年度", "note": ""}]
    few_shot.write_rows(tmp_path / "b.csv", [rows[0], {**rows[1], "label": "x"}])
    assert few_shot.read_rows(tmp_path / "b.csv") == [{**rows[0], "label": ""}, {**rows[1], "label": "x"}]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("内容\n公司\n".encode(), "no column 'text' (it has 内容)"),
        (b"", "it has none"),
        ("text\n公司\n".encode("gbk"), "not in UTF-8"),
        (b"text,id\na,1\n ,2\n", "row 2 has no text"),
        (b"text\n", "no row"),
        (b"text,id\na,b,1\n", "row 1 has more cells"),
        (b"text\n" + b"a" * 131_073 + b"\n", "row 1 cannot be read as CSV (field larger"),
        (b'text\nc\n"a\n' + b"b\n" * 70_000, "row 2 cannot be read as CSV (field larger"),
    ],
)
def test_a_bad_file_gets_one_line_that_says_what_to_do(tmp_path: Path, content: bytes, part: str):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(CourseError) as caught:
        few_shot.read_texts(tmp_path / "a.csv")
    assert part in caught.value.text.en and "a.csv" in caught.value.text.zh
    assert "\n" not in caught.value.text.en + caught.value.text.zh


def test_a_missing_or_huge_file_is_said_before_it_is_read(tmp_path: Path):
    with pytest.raises(CourseError, match=r"There is no file a\.csv: check"):
        few_shot.read_texts(tmp_path / "a.csv")
    with pytest.raises(CourseError, match="There is no file"):
        few_shot.read_texts(tmp_path)
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(100_000_000)  # of holes: it takes no place on the disk
    with pytest.raises(CourseError, match=r"a\.csv has 100 MB, and 20 are allowed: split"):
        few_shot.read_texts(tmp_path / "a.csv")


def _refused(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch):
    few_shot.write_rows(tmp_path / "a.csv", [{"text": "旧"}])
    message = r"a\.csv cannot be read \(Permission denied\): close it"
    with monkeypatch.context() as patch, pytest.raises(CourseError, match=message):
        patch.setattr(Path, "open", _refused)
        few_shot.read_texts(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "rows", "replace", "part"),
    [
        ("a.csv", [], os.replace, "There is no row to write into a.csv"),
        ("a.csv", [{"text": "新"}], _refused, "a.csv could not be written (Permission denied): close it"),
        ("missing/a.csv", [{"text": "新"}], os.replace, "a.csv could not be written (No such file or directory)"),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch, name, rows, replace, part):
    few_shot.write_rows(tmp_path / "a.csv", [{"text": "旧"}])
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(CourseError) as caught:
        few_shot.write_rows(tmp_path / name, rows)
    assert part in caught.value.text.en and "a.csv" in caught.value.text.zh
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"] and few_shot.read_texts(tmp_path / "a.csv") == ["旧"]


def test_the_figures_show_the_intervals_and_the_counts():
    from course_utils import plots
    from course_utils.metrics import wilson_interval

    [ax] = plots.shares_in_rows({"a": (3, 40), "b": (40, 40)}, "right", chance=0.25).axes
    bars = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    assert bars[:2] == [wilson_interval(3, 40), wilson_interval(40, 40)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    [ax] = plots.confusion_matrices({"m": [[5, 1, 0], [2, 3, 4]]}, ["x", "y"], ["x", "y", "outside"]).axes
    assert [text.get_text() for text in ax.texts] == ["5", "1", "0", "2", "3", "4"]
    assert ax.get_ylabel() == "true class"
