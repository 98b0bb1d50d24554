"""Every notebook keeps the contract of CONTRIBUTING.md; each rule is shown to see a notebook that does not."""

import ast
import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from nbformat.validator import iter_validate
from small_course import code, english, markdown, notebook, printed

from tools import CAPTION, COST, LANGUAGES, ROOT, caption, find_notebooks, read, write

GPU_CELLS = 1  # in all English notebooks: raise it only with a reason that a reviewer accepts
MAX_BYTES = 1_500_000
TAGS = {"figure", "explorer", "exercise", "hint", "solution", "notes", "gpu", "nbval-ignore-output", "raises-exception"}
SLIDE_TYPES = {"slide", "subslide", "fragment", "-", "skip", "notes"}
CELL_METADATA = {"tags", "slideshow", "jupyter", "reason"}
EXERCISE = {"en": ("### Exercise", "Difficulty"), "zh": ("### 练习", "难度")}
FOLDED = r"<details><summary>{} · \d+ {}</summary>\n\n(?=.*^- \*\*{}\*\*)(?=.*^- \*\*{}\*\*).*\n\n</details>\s*"
NOTES = {
    "en": re.compile(
        FOLDED.format("For the instructor", "min", "They stumble here:", "Ask:"), re.DOTALL | re.MULTILINE
    ),
    "zh": re.compile(FOLDED.format("授课提示", "分钟", "易错之处：", "提问："), re.DOTALL | re.MULTILINE),
}
REMOTE_IMAGE = re.compile(r"!\[[^\]]*\]\(\s*<?(?:https?:)?//|<(?:img|source)\b[^>]*\bsrc(?:set)?=[\"']?(?:https?:)?//")
ABSOLUTE_PATH = re.compile(r"(?<![\w.~:/-])/(?:home|root|Users|tmp|usr|opt|var|mnt|content|private|work)/|\b[A-Z]:\\\w")
MOMENT = re.compile(r"\b20\d\d-\d\d-\d\d\b|\b\d{1,2}:\d\d:\d\d\b|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} +\d")

Problems = Iterator[str]  # the cell's id, what is wrong, and what to do


class Book:
    """A notebook as the rules see it."""

    def __init__(self, path: Path):
        self.path, self.language = path, path.parent.name
        self.raw = json.loads(path.read_text("utf-8"))
        self.notebook = read(path)
        self.cells = self.notebook.cells


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def words(cell: NotebookNode) -> str:
    """All text that the cell has put out."""
    outputs = cell.get("outputs", [])
    shown = [
        output.data.get(kind, "") for output in outputs if "data" in output for kind in ("text/plain", "text/html")
    ]
    return "\n".join([output.text for output in outputs if "text" in output] + shown)


def tree(cell: NotebookNode) -> ast.Module:
    return ast.parse(TransformerManager().transform_cell(cell.source))


def has_picture(cell: NotebookNode) -> bool:
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def valid_format(book: Book) -> Problems:
    for error in iter_validate(book.raw):
        yield f"not valid: {error.message[:200]}; open it in JupyterLab and save it"
    if (book.raw["nbformat"], book.raw["nbformat_minor"]) != (4, 5):
        yield "has not format 4.5; save it with today's JupyterLab, so that cells have ids"


def ids(book: Book) -> Problems:
    found = [cell.get("id", "") for cell in book.raw["cells"]]
    for index, id in enumerate(found):
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id):
            yield f"cell {index} {id}: its id has to be lower-case words joined by hyphens; give it one"
        elif found.index(id) != index:
            yield f"{id}: another cell has the same id; rename one"


def metadata(book: Book) -> Problems:
    have = book.notebook.metadata
    if set(have) != {"kernelspec", "language_info"} or have.language_info != {"name": "python"}:
        yield "its metadata has to be kernelspec and language_info: {name: python}; run make notebooks, remove the rest"
    elif have.kernelspec.get("name") != "python3":
        yield "its kernel has to be python3; choose that kernel"
    for cell in book.cells:
        allowed = CELL_METADATA | ({"translation"} if book.language == "zh" else set())
        if extra := set(cell.metadata) - allowed:
            yield f"{cell.id}: metadata that is not ours: {', '.join(sorted(extra))}; remove it"


def known_tags(book: Book) -> Problems:
    for cell in book.cells:
        if unknown := set(tags(cell)) - TAGS:
            yield f"{cell.id}: unknown tag {', '.join(sorted(unknown))}; CONTRIBUTING.md lists the known ones"
        if {"gpu", "nbval-ignore-output"} & set(tags(cell)) and not str(cell.metadata.get("reason", "")).strip():
            yield f'{cell.id}: this tag needs the cell metadata "reason"; say why'
        if "solution" in tags(cell) and not cell.metadata.get("jupyter", {}).get("source_hidden"):
            yield f'{cell.id}: a solution is folded; set the cell metadata "jupyter": {{"source_hidden": true}}'


def exercises(book: Book) -> Problems:
    heading, difficulty = EXERCISE[book.language]
    nothing = NotebookNode(source="", metadata={})
    cells = [nothing, *book.cells, nothing, nothing]
    for task, cell, hint, solution in zip(cells, cells[1:], cells[2:], cells[3:], strict=False):
        if "exercise" not in tags(cell):
            continue
        if not task.source.startswith(heading) or difficulty not in task.source:
            yield f"{cell.id}: the cell before has to begin with '{heading}' and name the '{difficulty}'"
        if "check." not in cell.source:
            yield f"{cell.id}: the stub has to call its check"
        if "hint" not in tags(hint) or hint.source.count("<details>") != 2:
            yield f"{cell.id}: the next cell has to be tagged hint and fold two hints in <details>"
        if "solution" not in tags(solution) or solution.cell_type != "code":
            yield f"{cell.id}: a code cell tagged solution has to follow the hint"


def slides(book: Book) -> Problems:
    for index, cell in enumerate(book.cells):
        kind = cell.metadata.get("slideshow", {}).get("slide_type")
        if kind not in SLIDE_TYPES:
            yield f"{cell.id}: its slide type is {kind}; choose one of {', '.join(sorted(SLIDE_TYPES))}"
        if index and (kind == "slide") != cell.source.startswith("## "):
            yield f"{cell.id}: slide type 'slide' and a text that begins with '## ' go together: a section begins"


def notes(book: Book) -> Problems:
    section = None  # the section that still waits for its notes
    for cell in [*book.cells, NotebookNode(source="## ", metadata={})]:
        if cell.source.startswith("## "):
            if section:
                yield f"{section}: this section has no speaker notes; add a cell tagged notes"
            section = cell.get("id")
        is_notes = "notes" in tags(cell)
        if is_notes != (cell.metadata.get("slideshow", {}).get("slide_type") == "notes"):
            yield f"{cell.id}: the tag notes and the slide type notes go together"
        if is_notes:
            section = None
            if not NOTES[book.language].fullmatch(cell.source):
                yield f"{cell.id}: speaker notes need minutes and both kinds of lines, as CONTRIBUTING.md shows"


def stored_outputs(book: Book) -> Problems:
    run = [cell for cell in book.cells if cell.cell_type == "code" and "gpu" not in tags(cell)]
    for count, cell in enumerate(run, 1):
        if cell.execution_count != count:
            yield f"{cell.id}: its execution count is {cell.execution_count}, not {count}; run make notebooks"
        calls = [getattr(node, "value", None) for node in tree(cell).body]
        if not cell.outputs and any(
            isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("print", "display") for call in calls
        ):
            yield f"{cell.id}: it prints and has no stored output; run make notebooks"
        if cell.source.rstrip().endswith(";"):
            yield f"{cell.id}: nbval sees the value that a last ';' hides; give the value a name instead"
        if any(output.output_type == "error" for output in cell.outputs) and "raises-exception" not in tags(cell):
            yield f"{cell.id}: it has stored an error; mend it, or tag it raises-exception"
        if any(output.get("name") == "stderr" for output in cell.outputs) or "Warning" in words(cell):
            yield f"{cell.id}: it has stored a warning; remove the cause and run make notebooks"
        if found := MOMENT.search(words(cell)):
            yield f"{cell.id}: its output holds a date or time of day ({found.group()}); do not print it"


def size(book: Book) -> Problems:
    if (bytes := book.path.stat().st_size) >= MAX_BYTES:
        yield f"is {bytes / 1e6:.1f} MB large, {MAX_BYTES / 1e6} MB is the limit; make pictures smaller or fewer"


def pictures(book: Book) -> Problems:
    for index, cell in enumerate(book.cells):
        if "gpu" not in tags(cell) and bool({"figure", "explorer"} & set(tags(cell))) != has_picture(cell):
            yield f"{cell.id}: a stored picture and the tag figure or explorer go together; tag it or make notebooks"
        if not has_picture(cell):
            continue
        text = caption(book.cells, index, book.language)
        if not text:
            yield f"{cell.id}: the next Markdown cell needs a paragraph beginning with {CAPTION[book.language]}"
        for output in cell.outputs:
            if "image/png" in output.get("data", {}) and output.metadata.get("image/png", {}).get("alt") != text:
                yield f"{cell.id}: the alternative text is not the caption; run make notebooks"


def nothing_from_elsewhere(book: Book) -> Problems:
    for cell in book.cells:
        text = f"{cell.source}\n{words(cell)}"
        if REMOTE_IMAGE.search(text):
            yield f"{cell.id}: it shows a picture from the network; draw it by code"
        if cell.cell_type == "code" and (found := ABSOLUTE_PATH.search(text)):
            yield f"{cell.id}: it holds an absolute path ({found.group()}); use one relative to the notebook"


def find(module: str, name: str) -> object | None:
    """What `from module import name` would bring, or None."""
    try:
        return getattr(importlib.import_module(module), name, None) or importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return None


def helper_names(book: Book) -> Problems:
    known: dict[str, object] = {}
    for cell in book.cells:
        for node in ast.walk(tree(cell)) if cell.cell_type == "code" else ():
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("course_utils."):
                for name in node.names:
                    known[name.asname or name.name] = thing = find(node.module, name.name)
                    if thing is None:
                        yield f"{cell.id}: {node.module} has no {name.name}; mend the import"
            elif isinstance(node, ast.Import) and any(name.name.startswith("course_utils") for name in node.names):
                yield f"{cell.id}: write 'from course_utils import …', as all notebooks do"
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                thing = known.get(node.value.id)
                if isinstance(thing, ModuleType) and not hasattr(thing, node.attr):
                    yield f"{cell.id}: {thing.__name__} has no {node.attr}; mend the name"


def beginning(book: Book) -> Problems:
    sources = [cell.source for cell in book.cells[:2]] + ["", ""]
    title = f"# {book.path.name[:2]} · "
    if not sources[0].startswith(title) or not COST.search(sources[0]):
        yield f"the first cell has to begin with '{title}' and hold <!-- cost --><!-- /cost -->"
    if not re.search(r"^from course_utils import .*\bdoctor\b(?s:.*)\bdoctor\.start\(seed=\d+[,)]", sources[1], re.M):
        yield "the second cell has to import doctor from course_utils and call doctor.start(seed=…)"


def terms() -> Iterator[tuple[str, list[str], list[str]]]:
    """English term, its Chinese forms, Chinese forms to avoid."""
    for line in (ROOT / "notebooks" / "GLOSSARY.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "English":
            yield cells[0], cells[1].split("、"), [form for form in cells[2].split("、") if form]


def prose(book: Book) -> str:
    return "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


def glossary(book: Book) -> Problems:
    partner = book.path.parents[1] / "en" / book.path.name
    if book.language == "en" or not partner.exists():
        return
    en, zh = prose(Book(partner)), prose(book)
    for term, forms, avoid in terms():
        used = re.search(rf"\b{re.escape(term)}(?:e?s)?\b", en, re.IGNORECASE)
        if used and not any(form.lower() in zh.lower() for form in forms):
            yield f"the English says '{term}', the Chinese nowhere {'、'.join(forms)}; see notebooks/GLOSSARY.md"
        for cell in book.cells:
            for form in avoid if cell.cell_type == "markdown" else ():
                if form in cell.source:
                    yield f"{cell.id}: says {form}; the course says {forms[0]} (notebooks/GLOSSARY.md, '{term}')"


RULES: list[Callable[[Book], Problems]] = [
    *(metadata, known_tags, exercises, slides, notes, stored_outputs, size, pictures),
    *(nothing_from_elsewhere, helper_names, beginning, glossary),
]


def lint(path: Path) -> list[str]:
    """Every breach of a rule; format and ids come first, as the other rules rely on them."""
    book = Book(path)
    problems = [*valid_format(book), *ids(book)] or [problem for rule in RULES for problem in rule(book)]
    return [f"{path.parent.name}/{path.name} · {problem}" for problem in problems]


BOOKS = [path for language in LANGUAGES for path in find_notebooks(ROOT, language)]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_notebook(path: Path):
    problems = lint(path)
    assert not problems, "\n".join(problems)


def test_number_of_cells_that_need_a_gpu():
    found = [cell.id for path in find_notebooks(ROOT, "en") for cell in read(path).cells if "gpu" in tags(cell)]
    assert len(found) == GPU_CELLS, f"cells tagged gpu: {found}"


@pytest.mark.parametrize(
    ("numbers", "most_seconds", "most_memory"),
    [("05 06 07 08", 240, 2.0), ("09 10 11", 360, 2.0), ("12 13", 240, 2.0)],
)
def test_measured_costs_keep_to_their_limits(numbers: str, most_seconds: int, most_memory: float):
    """Seconds of the notebooks together, GiB of each one."""
    titles = {path.name[:2]: read(path).cells[0].source for path in find_notebooks(ROOT, "en", numbers.split())}
    costs = {number: COST.search(title).group() for number, title in titles.items()}
    figures = {number: re.fullmatch(r"(\d+) s · (\d+\.\d) GiB", cost) for number, cost in costs.items()}
    assert all(figures.values()), f"not as 'make notebooks' writes them: {costs}"
    assert sum(int(figure[1]) for figure in figures.values()) <= most_seconds, costs
    assert max(float(figure[2]) for figure in figures.values()) <= most_memory, costs


@pytest.mark.parametrize(
    ("number", "cells"),
    [("10", ["scores-run"]), ("11", ["conch-before", "after-floor"])],
)
def test_what_the_course_promises_of_its_models_is_stored_as_true(number: str, cells: list[str]):
    """CI compares these outputs; a stored False would pass there."""
    [path] = find_notebooks(ROOT, "en", [number])
    said = {
        cell.id: "".join(output.get("text", "") for output in cell.outputs)
        for cell in read(path).cells[1:]
        if cell.id in cells
    }
    assert set(said) == set(cells)
    assert all("True" in text and "False" not in text for text in said.values()), said


def sound() -> NotebookNode:
    """A notebook that keeps every rule."""
    small = english()
    note = "<details><summary>For the instructor · 6 min</summary>\n\n{}\n\n</details>"
    start = "from course_utils import doctor\nfrom course_utils.checks import gradient_descent as check\n\n"
    small.cells[1:1] = [
        code("start", f"{start}doctor.start(seed=1)", 1),
        markdown("section", "## A question", "slide"),
        markdown("task", "### Exercise 1\n\nDifficulty ●○○ · 5 minutes."),
        code("stub", "momentum = check.momentum", 2, tags=["exercise"]),
        markdown("hint", "<details>1</details>\n<details>2</details>", tags=["hint"]),
        code("solution", "momentum = None", 3, tags=["solution"], jupyter={"source_hidden": True}),
        markdown("notes", note.format("- **They stumble here:** a\n- **Ask:** b"), "notes", tags=["notes"]),
    ]
    for count, cell in enumerate([cell for cell in small.cells if cell.cell_type == "code"], 1):
        cell.execution_count = count
    return small


def stored(tmp_path: Path, notebook: NotebookNode, language: str = "en") -> Path:
    path = tmp_path / language / "01_point.ipynb"
    path.parent.mkdir()
    write(path, notebook)
    return path


def test_a_sound_notebook_keeps_every_rule(tmp_path: Path):
    assert lint(stored(tmp_path, sound())) == []


def put(**values):
    """A change that gives a cell these values."""
    return lambda cell: cell.update(values)


def mark(**values):
    """A change that gives a cell this metadata."""
    return lambda cell: cell.metadata.update(values)


def show(text: str, **values):
    """A change that gives a cell this one output."""
    return lambda cell: cell.update(outputs=[NotebookNode(printed(text), **values)])


ERROR = {"output_type": "error", "ename": "E", "evalue": "e", "traceback": []}
BAD = [
    ("number", lambda cell: cell.pop("id"), "'id' is a required property"),
    ("number", put(id="Number_1"), "its id has to be lower-case words"),
    ("number", put(id="point"), "point: another cell has the same id"),
    ("number", mark(editable=True), "number: metadata that is not ours: editable"),
    ("seen", mark(translation={"source_hash": "0"}), "seen: metadata that is not ours: translation"),
    ("number", mark(tags=["figur"]), "number: unknown tag figur"),
    ("number", mark(tags=["nbval-ignore-output"]), "number: this tag needs the cell metadata"),
    ("number", mark(tags=["gpu"], reason=" "), "number: this tag needs the cell metadata"),
    ("solution", mark(jupyter={}), "solution: a solution is folded"),
    ("task", put(source="### Try it\n\nDifficulty ●○○"), "stub: the cell before has to begin"),
    ("stub", put(source="momentum = None"), "stub: the stub has to call its check"),
    ("hint", put(source="<details>1</details>"), "stub: the next cell has to be tagged hint"),
    ("solution", mark(tags=[]), "stub: a code cell tagged solution has to follow"),
    ("seen", mark(slideshow={}), "seen: its slide type is None"),
    ("seen", mark(slideshow={"slide_type": "slide"}), "seen: slide type 'slide' and a text"),
    ("notes", mark(tags=[]), "notes: the tag notes and the slide type"),
    ("notes", put(source="Ask something."), "notes: speaker notes need minutes"),
    ("seen", lambda cell: cell.update(source="## More\n\n" + cell.source), "seen: this section has no speaker notes"),
    ("number", put(execution_count=None), "number: its execution count is None, not 4"),
    ("number", put(outputs=[]), "number: it prints and has no stored output"),
    ("number", put(source="40 + 2;"), "number: nbval sees the value"),
    ("number", put(outputs=[NotebookNode(ERROR)]), "number: it has stored an error"),
    ("number", show("x", name="stderr"), "number: it has stored a warning"),
    ("number", show("UserWarning: no"), "number: it has stored a warning"),
    ("number", show("at 12:30:01"), "number: its output holds a date or time of day (12:30:01)"),
    ("number", show("2025-01-31"), "number: its output holds a date or time of day (2025-01-31)"),
    ("number", show("x" * MAX_BYTES), "1.5 MB large"),
    ("point", mark(tags=[]), "point: a stored picture and the tag"),
    ("number", mark(tags=["explorer"]), "number: a stored picture and the tag"),
    ("seen", put(source="A point."), "point: the next Markdown cell needs a paragraph"),
    ("seen", put(source="**Figure.** Another."), "point: the alternative text is not the caption"),
    (
        "seen",
        lambda cell: cell.update(source=cell.source + "\n\n![x](https://a.org/x.png)"),
        "seen: it shows a picture",
    ),
    ("section", lambda cell: cell.update(source=cell.source + "<img width=3 src='//a.org/x'>"), "section: it shows"),
    ("number", put(source="open('/home/me/x')"), "number: it holds an absolute path (/home/)"),
    ("number", show("C:\\Users"), "number: it holds an absolute path"),
    ("number", put(source="from course_utils import nonsense"), "number: course_utils has no nonsense"),
    ("number", put(source="import course_utils.doctor"), "number: write 'from course_utils import"),
    ("stub", put(source="check.momentun"), "stub: course_utils.checks.gradient_descent has no momentun"),
    (
        "title",
        put(source="# 02 · A point\n\n<!-- cost --><!-- /cost -->"),
        "the first cell has to begin with '# 01 · '",
    ),
    ("title", put(source="# 01 · A point"), "hold <!-- cost -->"),
    (
        "start",
        put(source="from course_utils.checks import gradient_descent as check"),
        "the second cell has to import doctor",
    ),
]


@pytest.mark.parametrize(("id", "change", "expected"), BAD, ids=[expected for *_, expected in BAD])
def test_each_rule_sees_what_breaks_it(tmp_path: Path, id, change, expected):
    broken = sound()
    change(next(cell for cell in broken.cells if cell.id == id))
    problems = lint(stored(tmp_path, broken))
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda notebook: notebook.metadata.update(widgets={}), "its metadata has to be"),
        (lambda notebook: notebook.metadata.language_info.update(version="3.11"), "its metadata has to be"),
        (lambda notebook: notebook.metadata.kernelspec.update(name="conda"), "its kernel has to be python3"),
        (lambda notebook: notebook.update(nbformat_minor=4), "has not format 4.5"),
    ],
)
def test_rules_about_the_whole_notebook_see_what_breaks_them(tmp_path: Path, change, expected):
    broken = sound()
    change(broken)
    problems = lint(stored(tmp_path, broken))
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("chinese", "expected"),
    [
        ("学习率", None),
        ("步长", "the Chinese nowhere 学习率"),
        ("学习率，学习速率", "seen: says 学习速率; the course says 学习率"),
    ],
)
def test_the_glossary_is_followed(tmp_path: Path, chinese: str, expected: str | None):
    stored(tmp_path, notebook([markdown("seen", "Two learning rates.")]))
    problems = list(glossary(Book(stored(tmp_path, notebook([markdown("seen", chinese)]), "zh"))))
    assert len(problems) == (expected is not None) and all(expected in problem for problem in problems)


def test_glossary_names_each_term_once():
    names = [term for term, _, _ in terms()]
    assert len(names) == len(set(names)) >= 60
    assert not [form for _, forms, avoid in terms() for form in avoid for other in forms if form in other]
