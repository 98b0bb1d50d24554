"""A course of one tiny notebook, complete and correct, that tests copy, break and run."""

import base64
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import ROOT, describe_pictures, read, write
from tools.translate import accept, sync


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# One grey pixel.
PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\x00\x80"))
    + _chunk(b"IEND", b"")
).decode()
DRAW = f"""from IPython.display import display

display({{"image/png": "{PNG}", "text/plain": "a grey point"}}, raw=True)"""


def markdown(id: str, source: str, slide: str = "-", **metadata) -> NotebookNode:
    """A Markdown cell."""
    return new_markdown_cell(source, id=id, metadata={"slideshow": {"slide_type": slide}, **metadata})


def code(id: str, source: str, count: int | None, *outputs: NotebookNode, **metadata) -> NotebookNode:
    """A code cell as it is stored after a run."""
    metadata = {"slideshow": {"slide_type": "-"}, **metadata}
    return new_code_cell(source, id=id, execution_count=count, outputs=list(outputs), metadata=metadata)


def printed(text: str) -> NotebookNode:
    """What `print` leaves in a notebook."""
    return new_output("stream", name="stdout", text=text)


def notebook(cells: list[NotebookNode]) -> NotebookNode:
    """A notebook with the metadata that ours have."""
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def english() -> NotebookNode:
    """The tiny notebook: a number and a picture."""
    picture = new_output("display_data", data={"image/png": PNG, "text/plain": "a grey point"})
    cells = [
        markdown("title", "# 01 · A point\n\nOne point is enough.\n\n<!-- cost -->1 s<!-- /cost -->", "slide"),
        code("number", "print(40 + 2)", 1, printed("42\n")),
        code("point", DRAW, 2, picture, tags=["figure"]),
        markdown("seen", "A point.\n\n**Figure.** A *grey*\n`point`."),
    ]
    small = notebook(cells)
    describe_pictures(small, "en")
    return small


def write_course(root: Path) -> tuple[Path, Path]:
    """Write the notebook in both languages, translated and in step; return both paths."""
    en, zh = (root / "notebooks" / language / "01_point.ipynb" for language in ("en", "zh"))
    en.parent.mkdir(parents=True)
    write(en, english())
    sync(root)
    edit(zh, "title", "# 01 · 一个点\n\n一个点就够了。\n\n<!-- cost -->1 s<!-- /cost -->")
    edit(zh, "seen", "一个点。\n\n**图**：一个灰点。")
    accept(root, "01", ["title", "seen"])
    sync(root)
    return en, zh


BIG = code("big", "print('on the GPU')", None, tags=["gpu"], reason="too big for a CPU")


def edit(path: Path, id: str, source: str) -> None:
    """Give one cell another source."""
    changed = read(path)
    next(cell for cell in changed.cells if cell.id == id).source = source
    write(path, changed)


def write_house(root: Path) -> tuple[Path, Path]:
    """The same with what pytest needs to run it as it runs the real notebooks."""
    for name in ("conftest.py", "pyproject.toml", "tools", "tests/no_network", "tests/sanitize.cfg"):
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for name in ("test_translation.py", "small_course.py"):
        shutil.copy(ROOT / "tests" / name, root / "tests")
    return write_course(root)


def run_pytest(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in such a house, in one process and without its GPU."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-v", "--color=no", "-p", "no:cacheprovider", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, encoding="utf-8")
