"""Publish the notebooks as lecture decks, student versions, a web site and run sheets.

    python -m tools.publish slides|student|site|runsheets

Each command reads `notebooks/{en,zh}` and writes one folder under `build/`. Nothing is fetched, neither
now nor when the pages are read: scripts, styles and fonts are copied from `tools/assets/vendor`.
"""

import argparse
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jinja2
import nbformat
from nbconvert import NotebookExporter, SlidesExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(__file__).resolve().parent / "assets"
LANGUAGES = ("en", "zh")
READMES = {"en": ("README.md",), "zh": ("README.zh-CN.md", "README.md")}
WORDS = {
    "en": {
        "index": {"deck": "Lecture decks", "runsheet": "Run sheets"},
        "deck_help": "→ and the space bar go on, S opens the speaker notes, O the overview, F the full screen.",
        "site": "How language models work",
        "solution": "Solution",
        "sheet": "Run sheet",
        "columns": ("Clock", "Minutes", "Section", "Watch for, and ask"),
        "teaching": "Teaching: {} min. Exercises: {} min more.",
        "exercises": "Exercises",
        "minutes": "min",
    },
    "zh": {
        "index": {"deck": "课堂幻灯片", "runsheet": "授课流程表"},
        "deck_help": "按 → 或空格翻页，S 打开演讲者备注，O 显示总览，F 全屏。",
        "site": "语言模型是怎样工作的",
        "solution": "参考答案",
        "sheet": "授课流程表",
        "columns": ("时钟", "分钟", "小节", "易错之处与提问"),
        "teaching": "讲授 {} 分钟，另加练习 {} 分钟。",
        "exercises": "练习",
        "minutes": "分钟",
    },
}
# A stored explorer shows its picture: no page has a kernel behind it.
PRIORITY = ["image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown", "text/latex", "text/plain"]


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `target` when everything has been written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as box:
        fresh = Path(box) / "fresh"
        fresh.mkdir()
        yield fresh
        if target.exists():
            os.replace(target, Path(box) / "old")
        os.replace(fresh, target)


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def read(path: Path) -> NotebookNode:
    """Read a notebook and give every picture its caption as alternative text (`metadata.alt`)."""
    notebook = nbformat.read(path, as_version=4)
    for cell, below in zip(notebook.cells, notebook.cells[1:], strict=False):
        caption = re.search(r"^\*\*(?:Figure\.|图)\*\*[ ：]*(.+(?:\n.+)*)", below.source, re.MULTILINE)
        if caption and {"figure", "explorer"} & set(tags(cell)):
            cell.metadata.alt = " ".join(re.sub(r"[*`$]", "", caption[1]).split())
    return notebook


def without(notebook: NotebookNode, *unwanted: str) -> NotebookNode:
    """The notebook without the cells that carry one of these tags."""
    notebook.cells = [cell for cell in notebook.cells if not set(unwanted) & set(tags(cell))]
    return notebook


def split_captions(notebook: NotebookNode) -> NotebookNode:
    """Give the text behind a caption a cell of its own, so that a slide can end between the two."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        parts = re.fullmatch(r"(\*\*(?:Figure\.|图)\*\*.+?)\n\n(.+)", cell.source, re.DOTALL)
        if parts and cell.cell_type == "markdown":
            cell.source = parts[1]
            cells.append(nbformat.v4.new_markdown_cell(parts[2], metadata={"slideshow": {"slide_type": "-"}}))
    notebook.cells = cells
    return notebook


def open_note(cell: NotebookNode) -> tuple[int, str]:
    """Take a speaker note out of its fold: its minutes and its text."""
    note = re.fullmatch(r"\s*<details>\s*<summary>\D*(\d+)\D*</summary>(.*)</details>\s*", cell.source, re.DOTALL)
    if not note:
        raise SystemExit(f"cell {cell.id}: speaker notes need <details><summary>… · 6 min</summary> … </details>")
    return int(note[1]), note[2].strip()


def render(template: str, **values: object) -> str:
    """Fill in one of our page templates."""
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(ASSETS), autoescape=True)
    pages.filters["markdown"] = lambda text: jinja2.filters.Markup(markdown2html(text))
    return pages.get_template(template).render(values)


def title(notebook: NotebookNode) -> str:
    """The notebook's title: the first heading."""
    return re.search(r"^# (.+)", notebook.cells[0].source, re.MULTILINE)[1]


def write_pages(source: Path, target: Path, kind: str, page: Callable[[NotebookNode, str], str]) -> None:
    """Write one page per notebook and language, an index of them, and what they load."""
    with replacing(target) as folder:
        shutil.copytree(ASSETS / kind, folder / "assets", ignore=shutil.ignore_patterns("*.j2", "conf.json"))
        shutil.copytree(ASSETS / "vendor", folder / "assets", dirs_exist_ok=True)
        shutil.copy(ASSETS / "math.js", folder / "assets")
        titles = {}
        for language in LANGUAGES:
            (folder / language).mkdir()
            for path in sorted((source / language).glob("*.ipynb")):
                notebook = read(path)
                titles[f"{language}/{path.stem}.html"] = title(notebook)
                html = page(notebook, language)
                (folder / language / f"{path.stem}.html").write_text(html, encoding="utf-8")
        index = render("index.html.j2", kind=kind, titles=titles, words=WORDS)
        (folder / "index.html").write_text(index, encoding="utf-8")


def slides(source: Path, target: Path) -> None:
    """Write a reveal.js deck with speaker notes for every notebook, without the solutions."""
    config = Config()
    config.NbConvertBase.display_data_priority = PRIORITY
    config.CSSHTMLHeaderPreprocessor.style = "xcode"

    def deck(notebook: NotebookNode, language: str) -> str:
        for cell in split_captions(without(notebook, "solution")).cells:
            if "notes" in tags(cell):
                minutes, text = open_note(cell)
                cell.source = f"**{minutes} {WORDS[language]['minutes']}**\n\n{text}"
            if cell.cell_type == "code":
                cell.source = cell.source.replace("\n\n\n", "\n\n")  # A slide has fewer lines than a notebook.
        exporter = SlidesExporter(
            config=config,
            extra_template_basedirs=[str(ASSETS)],
            template_name="deck",
            language_code=language,
            exclude_input_prompt=True,
            exclude_output_prompt=True,
            exclude_anchor_links=True,
        )
        return exporter.from_notebook_node(notebook, {"metadata": {"name": title(notebook)}})[0]

    write_pages(source, target, "deck", deck)


def student(source: Path, target: Path) -> None:
    """Write the notebooks without solutions, speaker notes and outputs."""
    config = Config()
    config.NotebookExporter.preprocessors = [
        "nbconvert.preprocessors.TagRemovePreprocessor",
        "nbconvert.preprocessors.ClearOutputPreprocessor",
    ]
    config.TagRemovePreprocessor.enabled = config.ClearOutputPreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_cell_tags = {"solution", "notes"}
    exporter = NotebookExporter(config=config)
    with replacing(target) as folder:
        for language in LANGUAGES:
            (folder / language).mkdir()
            for path in sorted((source / language).glob("*.ipynb")):
                text, _ = exporter.from_filename(str(path))
                (folder / language / path.name).write_text(text + "\n", encoding="utf-8")


def landing(readme: str, language: str, names: list[str]) -> str:
    """Make the README the first page: links to notebooks and languages stay, other local links become text."""

    def link(found: re.Match) -> str:
        text, place = found[1], found[2]
        name = re.fullmatch(rf"(?:\./)?notebooks/{language}/(\w+)\.ipynb", place)
        if name and name[1] in names:
            return f"[{text}]({name[1]}.ipynb)"
        if place in ("README.md", "README.zh-CN.md"):
            return f'<a href="../{"zh" if language == "en" else "en"}/index.html">{text}</a>'
        return found[0] if re.match(r"https?:|#", place) else text

    text = re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, readme)
    return text + "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"


def site(source: Path, target: Path) -> None:
    """Write a web site of all notebooks with their stored outputs, one half per language."""
    from sphinx.cmd.build import build_main  # Only the site needs the `publish` extra.

    with replacing(target) as folder:
        for language in LANGUAGES:
            with tempfile.TemporaryDirectory() as box:
                pages = Path(box) / "pages"
                pages.mkdir()
                names = []
                for path in sorted((source / language).glob("*.ipynb")):
                    notebook = without(read(path), "notes")
                    for cell in notebook.cells:
                        if "solution" in tags(cell):
                            cell.metadata.tags.append("hide-cell")
                            word = WORDS[language]["solution"]
                            cell.metadata.mystnb = {"code_prompt_show": word, "code_prompt_hide": word}
                        if "alt" in cell.metadata:
                            cell.metadata.mystnb = {"image": {"alt": cell.metadata.alt}}
                    nbformat.write(notebook, pages / path.name)
                    names.append(path.stem)
                readme = next(path for name in READMES[language] if (path := ROOT / name).exists())
                (pages / "index.md").write_text(
                    landing(readme.read_text(encoding="utf-8"), language, names), encoding="utf-8"
                )
                settings = [f"-Dlanguage={language}", f"-Dhtml_title={WORDS[language]['site']}"]
                options = ["-qW", "--keep-going", "-c", str(ASSETS / "site"), "-d", f"{box}/doctrees", *settings]
                if build_main([*options, str(pages), f"{box}/html"]):
                    raise SystemExit(f"the {language} site has warnings: see above")
                # myst-nb leaves files beside the folder it is given; only the folder is the site.
                shutil.move(f"{box}/html", folder / language)
        shutil.copy(ASSETS / "site" / "index.html", folder)


def runsheets(source: Path, target: Path) -> None:
    """Write a page for the instructor per notebook: the sections on a clock, where to stop, what to ask."""

    def sheet(notebook: NotebookNode, language: str) -> str:
        sections, exercises, clock = [], [], 0
        for cell, below in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
            heading = re.match(r"#{1,2} (.+)", cell.source) if cell.cell_type == "markdown" else None
            if heading:
                sections.append({"title": heading[1], "start": clock, "minutes": 0, "notes": []})
            if "notes" in tags(cell):
                minutes, text = open_note(cell)
                clock += minutes
                sections[-1]["minutes"] += minutes
                sections[-1]["notes"].append(text)
            if below and "exercise" in tags(below):
                task = re.search(r"^#+ (.+)\s+(.*?(\d+) ?(?:min(?:utes)?|分钟))", cell.source, re.MULTILINE)
                if not task:
                    raise SystemExit(f"cell {cell.id}: an exercise names its difficulty and minutes below its heading")
                exercises.append({"name": task[1], "difficulty": task[2], "minutes": int(task[3])})
        if not sections[0]["notes"]:  # The title has no time of its own.
            del sections[0]
        return render("runsheet/page.html.j2", title=title(notebook), language=language, words=WORDS[language],
                      sections=sections, total=clock, exercises=exercises)  # fmt: skip

    write_pages(source, target, "runsheet", sheet)


def main() -> None:
    """Command line: what to publish."""
    commands = {"slides": slides, "student": student, "site": site, "runsheets": runsheets}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=commands)
    what = parser.parse_args().what
    commands[what](ROOT / "notebooks", ROOT / "build" / what)
    print(f"build/{what}")


if __name__ == "__main__":
    main()
