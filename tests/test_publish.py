"""What `make slides`, `make student`, `make site` and the run sheets write: complete, and readable offline."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbclient
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import publish

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TEXT = {
    "en": {
        "title": "# 01 · Descent\n\nWalking *downhill* finds the minimum.",
        "section": "## What is a gradient?\n\nThe slope $\\nabla f < 0$ says where to go:\n\n"
        "$$\\theta \\leftarrow \\theta - \\varepsilon \\, g$$",
        "note": "<details><summary>For the instructor · 6 min</summary>\n\n"
        "- **They stumble here:** the sign of $g$.\n- **Ask:** what if $\\varepsilon$ doubles?\n\n</details>",
        "caption": "**Figure.** The parabola with the *steps* on it.",
        "more": "## Momentum\n\n| name | rate |\n|---|---|\n| SGD | 0.1 |",
        "exercise": "### Exercise 1 · Momentum\n\n★★☆ · 8 minutes\n\nWrite the step.",
        "hint": "<details><summary>Hint 1</summary>\n\nThink of a **ball**.\n\n</details>",
    },
    "zh": {
        "title": "# 01 · 梯度下降\n\n沿着梯度的反方向走，就能找到最小值。",
        "section": "## 什么是梯度？\n\n斜率 $\\nabla f < 0$ 指出方向：\n\n"
        "$$\\theta \\leftarrow \\theta - \\varepsilon \\, g$$",
        "note": "<details><summary>授课提示 · 6 分钟</summary>\n\n"
        "- **易错之处：** 忘了 $g$ 的符号。\n- **提问：** $\\varepsilon$ 加倍会怎样？\n\n</details>",
        "caption": "**图**：抛物线以及每一步。",
        "more": "## 动量\n\n| 名称 | 学习率 |\n|---|---|\n| SGD | 0.1 |",
        "exercise": "### 练习 1 · 动量\n\n★★☆ · 8 分钟\n\n写出这一步。",
        "hint": "<details><summary>提示 1</summary>\n\n想象一个**小球**。\n\n</details>",
    },
}


def sample(language: str, png: str = PIXEL) -> nbformat.NotebookNode:
    """A small notebook with every kind of cell that the course has."""
    text = TEXT[language] | {"note-2": TEXT[language]["note"].replace("6", "15")}

    def markdown(name: str, slide: str, *tags: str) -> nbformat.NotebookNode:
        metadata = {"slideshow": {"slide_type": slide}, "tags": list(tags)}
        return new_markdown_cell(text[name], id=name, metadata=metadata)

    def code(name: str, source: str, *tags: str, outputs: tuple = (), **metadata: object) -> nbformat.NotebookNode:
        metadata = {"slideshow": {"slide_type": "-"}, "tags": list(tags), **metadata}
        return new_code_cell(source, id=name, metadata=metadata, outputs=list(outputs), execution_count=1)

    picture = {"image/png": png, "text/plain": "explorer: lr = 0.1"}
    cells = [
        markdown("title", "slide"),
        code("start", "x = 3.0"),
        markdown("section", "slide"),
        markdown("note", "notes", "notes"),
        code("slope", "2 * x", outputs=[new_output("execute_result", {"text/plain": "6.0"}, execution_count=1)]),
        code("look", "print('look')", "explorer", outputs=[new_output("display_data", picture)]),
        markdown("caption", "-"),
        markdown("more", "slide"),
        markdown("note-2", "notes", "notes"),
        markdown("exercise", "subslide"),
        code("stub", "def step(x):\n    ...\n\n\nprint(step(x))", "exercise",
             outputs=[new_output("stream", text="None\n")]),
        markdown("hint", "-", "hint"),
        code("answer", "def step(x):\n    return 'SECRET'", "solution", jupyter={"source_hidden": True}),
        code("end", "assert x == 3.0"),
    ]  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that can be published, from a sample notebook in both languages."""
    folder = tmp_path_factory.mktemp("publish")
    for language in publish.LANGUAGES:
        (folder / "notebooks" / language).mkdir(parents=True)
        nbformat.write(sample(language), folder / "notebooks" / language / "01_descent.ipynb")
    for what in ("slides", "student", "site", "runsheets"):
        getattr(publish, what)(folder / "notebooks", folder / what)
    return folder


def page(built: Path, what: str, language: str) -> str:
    """The text of a published page of the sample notebook."""
    return (built / what / language / "01_descent.html").read_text(encoding="utf-8")


class Loads(HTMLParser):
    """Collects what a browser fetches by itself when it opens a page."""

    def __init__(self, html: str):
        super().__init__()
        self.places = css_places(html)
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in {"script", "img", "iframe", "source", "video", "audio", "embed"}:
            self.places.append(attributes.get("src"))
        if tag == "link" and attributes.get("rel") not in {"next", "prev", "search", "author", "index"}:
            self.places.append(attributes.get("href"))


def css_places(text: str) -> list[str]:
    """What a style sheet fetches."""
    return re.findall(r"""(?:url\(|@import)\s*["']?([^"')]+)""", text)


def remote(folder: Path) -> list[str]:
    """Every remote address that a browser would fetch for the pages in a folder."""
    pages = [place for path in folder.rglob("*.html") for place in Loads(path.read_text(encoding="utf-8")).places]
    sheets = [place for path in folder.rglob("*.css") for place in css_places(path.read_text(encoding="utf-8"))]
    return [place for place in pages + sheets if place and re.match(r"\s*(?:https?:)?//", place)]


@pytest.mark.parametrize("what", ["slides", "site", "runsheets"])
def test_pages_load_nothing_from_elsewhere(built: Path, what: str) -> None:
    assert remote(built / what) == []


def test_the_search_for_remote_addresses_finds_them(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<script src="https://a.example/x.js"></script><style>b{src:url(//b.example)}</style>'
    )
    (tmp_path / "a.css").write_text('@import "http://c.example/x.css";')
    assert len(remote(tmp_path)) == 3


@pytest.mark.parametrize("what", ["slides", "runsheets"])
@pytest.mark.parametrize("language", publish.LANGUAGES)
def test_pages_find_their_scripts_and_styles(built: Path, what: str, language: str) -> None:
    folder = built / what / language
    places = [place for place in Loads(page(built, what, language)).places if place and not place.startswith("data:")]
    assert len(places) >= 5
    assert [place for place in places if not (folder / place).exists()] == []


@pytest.mark.parametrize("language", publish.LANGUAGES)
def test_deck_has_speaker_notes_out_of_their_fold_and_no_solution(built: Path, language: str) -> None:
    deck = page(built, "slides", language)
    notes = re.findall(r'<aside class="notes">(.*?)</aside>', deck, re.DOTALL)
    ask, unit = {"en": ("Ask:", "6 min"), "zh": ("提问：", "6 分钟")}[language]
    assert [ask in note and "<details>" not in note for note in notes] == [True, True]
    assert unit in notes[0]
    assert "SECRET" not in deck
    assert f'<html lang="{language}">' in deck


@pytest.mark.parametrize("language", publish.LANGUAGES)
@pytest.mark.parametrize("what", ["slides", "site"])
def test_explorer_is_a_picture_with_its_caption_as_alternative_text(built: Path, what: str, language: str) -> None:
    html = page(built, what, language)
    caption = {"en": "The parabola with the steps on it.", "zh": "抛物线以及每一步。"}[language]
    assert re.findall(r'<img alt="([^"]*)"', html) == [caption]
    assert "explorer: lr" not in html


def test_index_links_the_decks_of_both_languages(built: Path) -> None:
    index = (built / "slides" / "index.html").read_text(encoding="utf-8")
    assert '<a href="en/01_descent.html">01 · Descent</a>' in index
    assert '<a href="zh/01_descent.html">01 · 梯度下降</a>' in index


@pytest.mark.parametrize("language", publish.LANGUAGES)
def test_student_version_keeps_the_tasks(built: Path, language: str) -> None:
    notebook = nbformat.read(built / "student" / language / "01_descent.ipynb", as_version=4)
    gone = {"note", "note-2", "answer"}
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in sample(language).cells if cell.id not in gone]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    assert TEXT[language]["hint"] in [cell.source for cell in notebook.cells]


def test_student_version_runs_from_top_to_bottom(built: Path) -> None:
    nbclient.execute(nbformat.read(built / "student" / "en" / "01_descent.ipynb", as_version=4))


@pytest.mark.parametrize("language", publish.LANGUAGES)
def test_site_folds_the_solution_and_leaves_the_notes_out(built: Path, language: str) -> None:
    html = page(built, "site", language)
    solution = re.search(r'<details class="[^"]*hide.*?</details>', html, re.DOTALL)
    assert "SECRET" in solution[0]
    assert {"en": "For the instructor", "zh": "授课提示"}[language] not in html
    other = {"en": "zh", "zh": "en"}[language]
    assert f'href="../{other}/01_descent.html"' in html


def test_site_shows_formulas_and_licences(built: Path) -> None:
    html = page(built, "site", "zh")
    assert r'<span class="formula">\(\nabla f &lt; 0\)</span>' in html
    assert "CC BY" in html


def test_chinese_words_are_found_without_a_word_list(built: Path) -> None:
    script = (built / "site" / "zh" / "searchindex.js").read_text(encoding="utf-8")
    terms = json.loads(script.removeprefix("Search.setIndex(").removesuffix(")"))["terms"]
    assert {"斜率", "最小", "就能找到最小值"} <= set(terms)
    data = (built / "site" / "zh" / "_static" / "language_data.js").read_text(encoding="utf-8")
    assert "window.Stemmer = EnglishStemmer" in data


@pytest.mark.parametrize("language", publish.LANGUAGES)
def test_run_sheet_adds_up_the_minutes(built: Path, language: str) -> None:
    sheet = page(built, "runsheets", language)
    clock = re.findall(r'<td class="clock">([\d:]*)</td>', sheet)
    assert clock == ["0:00", "6", "0:06", "15", "0:21", "21"]
    assert {"en": "Teaching: 21 min. Exercises: 8 min more.", "zh": "讲授 21 分钟，另加练习 8 分钟。"}[
        language
    ] in sheet
    assert TEXT[language]["exercise"].split("\n")[0].lstrip("# ") in sheet
    assert {"en": "They stumble here:", "zh": "易错之处："}[language] in sheet


def test_a_slide_may_end_behind_a_caption() -> None:
    cells = [new_markdown_cell(f"{word} A line.\n\nMore.\n\nAnd more.") for word in ("**Figure.**", "**图**", "Text.")]
    split = publish.split_captions(new_notebook(cells=cells)).cells
    more = "More.\n\nAnd more."
    assert [c.source for c in split] == [
        "**Figure.** A line.",
        more,
        "**图** A line.",
        more,
        f"Text. A line.\n\n{more}",
    ]


def test_notes_without_minutes_are_named() -> None:
    with pytest.raises(SystemExit, match="cell late: speaker notes need"):
        publish.open_note(new_markdown_cell("<details><summary>For the instructor</summary>\n</details>", id="late"))


def test_landing_page_keeps_the_links_that_lead_somewhere() -> None:
    assert publish.landing("[中文](README.zh-CN.md)", "en", []).startswith('<a href="../zh/index.html">中文</a>')
    readme = (
        "[a](notebooks/en/00_a.ipynb) [rules](CONTRIBUTING.md) [web](https://a.example) [b](notebooks/en/01_b.ipynb)"
    )
    text = publish.landing(readme, "en", ["00_a"])
    assert text.startswith("[a](00_a.ipynb) rules [web](https://a.example) b\n")


def test_a_failure_leaves_the_old_pages(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "old.html").touch()
    with pytest.raises(ZeroDivisionError), publish.replacing(tmp_path / "slides"):
        _ = 1 / 0
    assert [path.name for path in tmp_path.rglob("*")] == ["slides", "old.html"]
