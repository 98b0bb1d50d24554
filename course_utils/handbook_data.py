"""The handbook of a made-up company, and the questions about it, read and checked."""

import csv
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from course_utils import runtime
from course_utils.messages import CourseError

LANGUAGES = ("zh", "en")
CATEGORIES = ("company", "hr", "travel", "it", "office", "safety", "products", "service")
KINDS = ("single", "paraphrase", "two_passages", "unanswerable", "english")
SPLITS = ("train", "dev")
SUFFIXES = (".md", ".pdf", ".csv")


@dataclass(frozen=True)
class Document:
    """One file of the handbook: its path inside the folder, its text, and what it says about itself."""

    file: str
    title: str
    text: str
    language: str = ""
    category: str = ""
    updated: date | None = None
    injection: bool = False


@dataclass(frozen=True)
class Evidence:
    """A passage, word for word, of a file of the handbook."""

    file: str
    passage: str


@dataclass(frozen=True)
class Question:
    """A question with its answer. Two passages are needed together; of any other kind each passage is enough."""

    id: str
    question: str
    answer: str
    evidence: tuple[Evidence, ...]
    kind: str
    split: str


@dataclass(frozen=True)
class Passage:
    """A piece of a document, `document.text[start:end]`, and the text by which it is searched and quoted.

    `text` begins with the title and the heading that the piece stands under, for a sentence alone rarely says what it
    is about; a row of a table carries the names of its columns.
    """

    file: str
    start: int
    end: int
    text: str


def load_handbook(folder: Path | None = None) -> list[Document]:
    """Every Markdown, PDF and CSV file below the folder, in the order of their paths."""
    folder = folder or runtime.DATA / "handbook"
    readers = dict(zip(SUFFIXES, (_markdown, _pdf, _csv), strict=True))
    files = readable_files(folder)
    if not files:
        raise CourseError(
            f"{folder} holds no .md, .pdf or .csv file; check the folder's name.",
            f"{folder} 里没有 .md、.pdf 或 .csv 文件；请检查文件夹的名字。",
        )
    return [readers[file.suffix.lower()](file, file.relative_to(folder).as_posix()) for file in files]


def readable_files(folder: Path) -> list[Path]:
    """The files below the folder that `load_handbook` reads; the case of their endings does not matter."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    return sorted(file for file in files if not file.name.startswith("."))


def split_passages(document: Document) -> list[Passage]:
    """The document's sentences, items of lists and rows of tables, in their order."""
    pieces = _rows(document) if document.file.lower().endswith(".csv") else _prose(document)
    return [
        Passage(document.file, start, end, f"{place}：{text}" if place else text) for start, end, place, text in pieces
    ]


def holds(passage: Passage, evidence: Evidence, document: Document, answer: str) -> bool:
    """Whether the piece overlaps the evidence and has the answer; all of the evidence, where that lacks the answer."""
    if passage.file != evidence.file:
        return False
    start = document.text.find(evidence.passage)
    end = start + len(evidence.passage)
    if answer not in evidence.passage:
        return passage.start <= start and end <= passage.end
    return passage.start < end and start < passage.end and answer in document.text[passage.start : passage.end]


def load_questions(path: Path | None = None) -> list[Question]:
    """The questions of a JSON Lines file. Without a path, those about the course's handbook."""
    path = path or runtime.DATA / "handbook_questions.jsonl"
    questions, seen = [], {}
    for number, line in _lines(path):
        item = _question(path, number, line)
        for what in (item.id, item.question):
            if what in seen:
                raise _broken(
                    path, number, f"{what!r} stands in line {seen[what]} too", f"{what!r} 与第 {seen[what]} 行重复"
                )
            seen[what] = number
        questions.append(item)
    if not questions:
        raise _broken(path, 1, "the file is empty", "文件是空的")
    return questions


def _broken(path: Path, line: int, en: str, zh: str) -> CourseError:
    return CourseError(f"{path}, line {line}: {en}.", f"{path} 第 {line} 行：{zh}。")


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CourseError(f"{path} cannot be read: {error.strerror}.", f"{path} 读不了：{error.strerror}。") from None
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _broken(
            path, line, "not UTF-8; save the file as UTF-8", "不是 UTF-8 编码；请把文件另存为 UTF-8"
        ) from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # Not splitlines(): a line separator inside a JSON string does not end the line.
    return ((number, line) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip())


def _is_date(value: str) -> bool:
    try:
        return bool(date.fromisoformat(value))
    except ValueError:
        return False


# What a page may say about itself before its text; `injection` marks a text that tries to give a model orders.
FRONT_MATTER = {
    "title": bool,
    "language": LANGUAGES.__contains__,
    "category": CATEGORIES.__contains__,
    "updated": _is_date,
    "injection": "true".__eq__,
}


def _markdown(path: Path, file: str) -> Document:
    head, *lines = _text(path).split("\n")
    if head != "---":  # a page that says nothing about itself: its title is the first heading, or the file's name
        text = "\n".join([head, *lines]).strip()
        if not text:
            raise _broken(path, 1, "the page has no text", "页面没有正文")
        title = next((line[2:].strip() for line in (head, *lines) if line.startswith("# ")), path.stem)
        return Document(file=file, title=title, text=text)
    if "---" not in lines:
        raise _broken(
            path,
            1,
            "what the page says about itself must end with a second line of ---",
            "页面开头的说明须以第二行 --- 结束",
        )
    end = lines.index("---")
    meta = {}
    for number, line in enumerate(lines[:end], 2):
        name, _, meta[name] = line.partition(": ")
        if name not in FRONT_MATTER or not FRONT_MATTER[name](meta[name]):
            raise _broken(path, number, f"{line!r} is no entry that a page may have", f"页面开头不能写 {line!r}")
    missing = FRONT_MATTER.keys() - {"injection"} - meta.keys()
    if missing:
        en, zh = ", ".join(sorted(missing)), "、".join(sorted(missing))
        raise _broken(path, end + 2, f"missing before this line: {en}", f"此行之前缺少 {zh}")
    meta["updated"] = date.fromisoformat(meta["updated"])
    meta["injection"] = "injection" in meta
    text = "\n".join(lines[end + 1 :]).strip()
    if not text:
        raise _broken(path, end + 2, "the page has no text", "页面没有正文")
    return Document(file=file, text=text, **meta)


def _csv(path: Path, file: str) -> Document:
    text = _text(path)
    width = 0
    rows = csv.reader(text.split("\n"))
    for row in rows:
        width = width or len(row)
        if row and len(row) != width:
            raise _broken(
                path, rows.line_num, f"{len(row)} cells instead of {width}", f"有 {len(row)} 格，应为 {width} 格"
            )
    if not width:
        raise _broken(path, 1, "the file is empty", "文件是空的")
    return Document(file=file, title=path.stem, text=text.strip())


def _pdf(path: Path, file: str) -> Document:
    # Only this reader needs it.
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(path)
        text = "\n".join(page.extract_text() for page in reader.pages).strip()
        title = reader.metadata and reader.metadata.title
    except PyPdfError as error:
        raise CourseError(f"{path} is no PDF that can be read: {error}.", f"{path} 不是能读的 PDF：{error}。") from None
    if not text:
        raise CourseError(
            f"{path} holds pictures of pages, no text; run it through text recognition (OCR) first.",
            f"{path} 只有页面的图像，没有文字；请先做文字识别（OCR）。",
        )
    return Document(file=file, title=title or path.stem, text=text)


def _rows(document: Document) -> Iterator[tuple[int, int, str, str]]:
    header, start = [], 0
    for line in document.text.split("\n"):
        cells = next(csv.reader([line]), [])
        if header and cells:
            yield start, start + len(line), document.title, _row(header, cells)
        header, start = header or cells, start + len(line) + 1


def _prose(document: Document) -> Iterator[tuple[int, int, str, str]]:
    lines, start = [], 0
    for line in document.text.split("\n"):
        lines.append((start, start + len(line)))
        start += len(line) + 1
    printed = document.file.lower().endswith(".pdf")
    if printed:
        lines = _unwrap(document.text, lines)
    place, header, since = document.title, [], None
    for start, end in lines:
        line = document.text[start:end].replace("\n", "")
        if line.startswith("#") or (printed and re.fullmatch(r"\w{2,8}", line)):
            # The page's title stands before every passage already.
            place = document.title if line.startswith("# ") else f"{document.title} · {line.lstrip('# ')}"
            # A heading may hold a fact, such as a date: the piece after it begins with it.
            since = start
        elif line.startswith("|"):
            cells = [_plain(cell) for cell in line.strip("| ").split(" | ")]
            if header and not line.startswith("|---"):
                yield start if since is None else since, end, place, _row(header, cells)
                since = None
            header = header or cells
        else:
            header = []
            for found in re.finditer(r".+?(?:[。！？]”?|[.!?](?=\s)|$)\s*", document.text[start:end], re.S):
                if text := _plain(found[0].replace("\n", "")):
                    yield start + found.start() if since is None else since, start + found.end(), place, text
                    since = None


def _row(header: list[str], cells: list[str]) -> str:
    return "；".join(f"{name} {cell}" for name, cell in zip(header, cells, strict=False))


def _plain(text: str) -> str:
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"^(?:- |\d+\. )", "", text).replace("**", "").strip()


def _unwrap(text: str, lines: list[tuple[int, int]]) -> list[tuple[int, int]]:
    def width(line: str) -> int:
        return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)

    margin = 0.9 * max(width(text[start:end]) for start, end in lines)
    joined, full = [], False
    for start, end in lines:
        joined.append((joined.pop()[0] if full else start, end))
        # A printed line that reaches the margin continues in the next one.
        full = width(text[start:end]) > margin and text[end - 1] not in "。！？"
    return joined


def _question(path: Path, number: int, line: str) -> Question:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise _broken(path, number, f"not JSON ({error.msg})", f"不是 JSON（{error.msg}）") from None
    names = list(Question.__dataclass_fields__)
    if not isinstance(item, dict) or set(item) != set(names):
        raise _broken(path, number, f"the fields must be {', '.join(names)}", f"字段须为 {'、'.join(names)}")
    evidence = item.pop("evidence")
    if not isinstance(evidence, list) or not all(_is_record(one, ["file", "passage"]) for one in evidence):
        raise _broken(
            path, number, "evidence must be a list of file and passage", "evidence 须是由 file 和 passage 组成的列表"
        )
    if not all(isinstance(value, str) for value in item.values()) or not (item["id"] and item["question"].strip()):
        raise _broken(path, number, "id and question must be text that is not empty", "id 和 question 须是非空的文字")
    for name, allowed in (("kind", KINDS), ("split", SPLITS)):
        if item[name] not in allowed:
            raise _broken(
                path, number, f"{name} must be one of {', '.join(allowed)}", f"{name} 须为 {'、'.join(allowed)} 之一"
            )
    files = {one["file"] for one in evidence}
    if item["kind"] == "unanswerable":
        if evidence or item["answer"]:
            raise _broken(path, number, "an unanswerable question has no answer", "无法回答的问题不能有答案")
    elif not item["answer"] or len(files) < (2 if item["kind"] == "two_passages" else 1):
        raise _broken(
            path, number, "the answer or a passage that holds it is missing", "缺少答案，或缺少含有答案的段落"
        )
    return Question(**item, evidence=tuple(Evidence(**one) for one in evidence))


def _is_record(value: object, names: list[str]) -> bool:
    return isinstance(value, dict) and sorted(value) == names and all(isinstance(v, str) and v for v in value.values())
