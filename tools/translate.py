"""Keep notebooks/zh in step with notebooks/en.

python -m tools.translate check                  list what is stale, missing or different
python -m tools.translate sync [NN …]            carry code, outputs and metadata from en to zh
python -m tools.translate accept NN CELL_ID …    these cells now translate the present English text
"""

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools import COST, ROOT, describe_pictures, find_notebooks, read, write


def source_hash(source: str) -> str:
    """The hash by which a translation remembers its English text; the measured cost does not count."""
    return hashlib.sha256(COST.sub("", source).encode()).hexdigest()[:12]


def carry(en: NotebookNode, zh: NotebookNode) -> NotebookNode:
    """What the Chinese notebook has to be: all of the English one, with the Chinese text that there is."""
    texts = {cell.id: cell for cell in zh.cells if cell.cell_type == "markdown"}
    carried = deepcopy(en)
    for cell in carried.cells:
        text = texts.get(cell.id) if cell.cell_type == "markdown" else None
        if text is None:
            continue
        figures = "".join(COST.findall(cell.source)[:1])
        cell.source = COST.sub(figures, text.source)
        if "translation" in text.metadata:
            cell.metadata.translation = text.metadata.translation
    describe_pictures(carried, "zh")
    return carried


def _partner(english: Path) -> Path:
    return english.parents[1] / "zh" / english.name


def _read_zh(path: Path) -> NotebookNode:
    return read(path) if path.exists() else nbformat.v4.new_notebook()


def sync(root: Path, numbers: Iterable[str] = ()) -> None:
    """Carry code, outputs and metadata; English text stands in for Markdown that has no translation yet."""
    for english in find_notebooks(root, "en", numbers):
        chinese = _partner(english)
        chinese.parent.mkdir(exist_ok=True)
        write(chinese, carry(read(english), _read_zh(chinese)))


def accept(root: Path, number: str, ids: Iterable[str]) -> None:
    """Note that these Chinese cells translate the English text as it is now."""
    [english] = find_notebooks(root, "en", [number])
    chinese = _partner(english)
    sources = {cell.id: cell.source for cell in read(english).cells if cell.cell_type == "markdown"}
    notebook = _read_zh(chinese)
    cells = {cell.id: cell for cell in notebook.cells}
    if unknown := [id for id in ids if id not in sources or id not in cells]:
        raise SystemExit(f"{chinese.name} has no Markdown cell {', '.join(unknown)} in both languages; nothing changed")
    for id in ids:
        cells[id].metadata.translation = NotebookNode(source_hash=source_hash(sources[id]))
    write(chinese, notebook)


def check(root: Path) -> list[str]:
    """Every difference that should not be, each with its cell and its cure."""
    pairs = {path.name: path for path in find_notebooks(root, "en")}
    problems = [
        f"zh/{path.name}: there is no English notebook of this name; rename or delete it"
        for path in find_notebooks(root, "zh")
        if path.name not in pairs
    ]
    for name, english in pairs.items():
        if _partner(english).exists():
            different = _compare(name[:2], read(english), read(_partner(english)))
            problems += [f"zh/{name} · {problem}" for problem in different]
        else:
            problems.append(f"zh/{name}: missing; run python -m tools.translate sync {name[:2]}, then translate")
    return problems


def _compare(number: str, en: NotebookNode, zh: NotebookNode) -> Iterator[str]:
    cure = f"the English notebook decides: run python -m tools.translate sync {number}"
    wanted = carry(en, zh)
    have = {cell.id: cell for cell in zh.cells}
    order = [cell.id for cell in wanted.cells]
    if wanted.metadata != zh.metadata:
        yield f"the notebook's metadata differs from the English; {cure}"
    for id in sorted(have.keys() - set(order)):
        yield f"{id}: the English notebook has no such cell; {cure}"
    if [id for id in have if id in order] != [id for id in order if id in have]:
        yield f"the cells stand in another order; {cure}"
    sources = {cell.id: cell.source for cell in en.cells}
    for cell in wanted.cells:
        if cell.id not in have:
            yield f"{cell.id}: missing; {cure}"
            continue
        if different := [key for key in cell.keys() | have[cell.id].keys() if cell.get(key) != have[cell.id].get(key)]:
            yield f"{cell.id}: {', '.join(sorted(different))} differs from the English; {cure}"
        if cell.cell_type == "markdown":
            remembered = cell.metadata.get("translation", {}).get("source_hash")
            accept = f"then run python -m tools.translate accept {number} {cell.id}"
            if remembered is None:
                yield f"{cell.id}: not translated yet; translate it, {accept}"
            elif remembered != source_hash(sources[cell.id]):
                yield f"{cell.id}: the English text has changed since; bring the Chinese up to date, {accept}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.translate", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="list what is stale, missing or different")
    carrying = commands.add_parser("sync", help="carry code, outputs and metadata from en to zh")
    carrying.add_argument("numbers", nargs="*", metavar="NN")
    accepting = commands.add_parser("accept", help="these cells translate the present English text")
    accepting.add_argument("number", metavar="NN")
    accepting.add_argument("ids", nargs="+", metavar="CELL_ID")
    options = parser.parse_args()
    if options.command == "sync":
        sync(ROOT, options.numbers)
    elif options.command == "accept":
        accept(ROOT, options.number, options.ids)
    elif problems := check(ROOT):
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
