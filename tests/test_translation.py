"""The Chinese notebooks are in step with the English ones, and `tools.translate` sees where they are not."""

from pathlib import Path

import pytest
from nbformat import NotebookNode
from small_course import code, edit, markdown, write_course

from tools import COST, ROOT, read, write
from tools.translate import accept, check, sync


def test_the_chinese_notebooks_are_in_step():
    problems = check(ROOT)
    assert not problems, "\n".join(problems)


@pytest.fixture
def course(tmp_path: Path) -> tuple[Path, Path]:
    paths = write_course(tmp_path)
    assert check(tmp_path) == []
    return paths


def cell(notebook: NotebookNode, id: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if cell.id == id)


def new_english_cell(en: NotebookNode, zh: NotebookNode):
    en.cells.insert(1, markdown("new", "New."))


def gone_english_cell(en: NotebookNode, zh: NotebookNode):
    en.cells.pop(1)


def other_order(en: NotebookNode, zh: NotebookNode):
    zh.cells.reverse()


def other_code(en: NotebookNode, zh: NotebookNode):
    cell(zh, "number").source = "print(6 * 7)"


def other_output(en: NotebookNode, zh: NotebookNode):
    cell(zh, "number").outputs[0].text = "43\n"


def other_tags(en: NotebookNode, zh: NotebookNode):
    cell(zh, "seen").metadata.tags = ["hint"]


def other_slide(en: NotebookNode, zh: NotebookNode):
    cell(zh, "seen").metadata.slideshow.slide_type = "skip"


def other_caption(en: NotebookNode, zh: NotebookNode):
    cell(zh, "seen").source = "**图**：另一个点。"


def other_metadata(en: NotebookNode, zh: NotebookNode):
    zh.metadata.title = "点"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (new_english_cell, "new: missing"),
        (gone_english_cell, "number: the English notebook has no such cell"),
        (other_order, "another order"),
        (other_code, "number: source differs"),
        (other_output, "number: outputs differs"),
        (other_tags, "seen: metadata differs"),
        (other_slide, "seen: metadata differs"),
        (other_caption, "point: outputs differs"),
        (other_metadata, "the notebook's metadata differs"),
    ],
)
def test_a_difference_is_named_and_sync_removes_it(course, tmp_path, change, expected):
    en, zh = (read(path) for path in course)
    change(en, zh)
    for path, changed in zip(course, (en, zh), strict=True):
        write(path, changed)
    assert any(expected in problem for problem in check(tmp_path)), check(tmp_path)

    sync(tmp_path)
    left = check(tmp_path)
    assert left == [] or (change is new_english_cell and len(left) == 1 and "new: not translated yet" in left[0])


def test_an_edited_english_paragraph_makes_its_translation_stale(course, tmp_path):
    edit(course[0], "seen", "A small point.\n\n**Figure.** A *grey*\n`point`.")
    sync(tmp_path)
    [problem] = check(tmp_path)
    assert "seen: the English text has changed since" in problem
    assert problem.endswith("python -m tools.translate accept 01 seen")
    accept(tmp_path, "01", ["seen"])
    assert check(tmp_path) == []


def test_another_cost_is_carried_and_makes_nothing_stale(course, tmp_path):
    en = read(course[0])
    en.cells[0].source = COST.sub("8 s · 0.4 GiB", en.cells[0].source)
    write(course[0], en)
    sync(tmp_path)
    assert check(tmp_path) == []
    title = read(course[1]).cells[0].source
    assert title.startswith("# 01 · 一个点") and "<!-- cost -->8 s · 0.4 GiB<!-- /cost -->" in title


def test_a_missing_and_a_surplus_chinese_notebook_are_named(course, tmp_path):
    course[1].rename(course[1].with_name("02_other.ipynb"))
    assert [problem.partition(":")[0] for problem in check(tmp_path)] == ["zh/02_other.ipynb", "zh/01_point.ipynb"]
    sync(tmp_path)
    assert course[1].exists()


def test_accept_takes_only_cells_that_are_there(course, tmp_path):
    before = course[1].read_text("utf-8")
    with pytest.raises(SystemExit, match="has no Markdown cell nonsense, number"):
        accept(tmp_path, "01", ["seen", "nonsense", "number"])
    assert course[1].read_text("utf-8") == before


def test_a_new_code_cell_arrives_in_its_place(course, tmp_path):
    en = read(course[0])
    en.cells.insert(2, code("second", "print(2)", 2))
    write(course[0], en)
    sync(tmp_path)
    assert [cell.id for cell in read(course[1]).cells][1:3] == ["number", "second"]


def test_a_course_without_notebooks_is_in_step(tmp_path):
    assert check(tmp_path) == []
