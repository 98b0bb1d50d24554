"""Run the notebooks and store their outputs and what they cost.

python -m tools.notebooks run [NN …]

Running twice leaves no difference but the costs.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager

from tools import COST, ROOT, describe_pictures, find_notebooks, network_attempts, read, seal, write
from tools.translate import sync

# The kernel's peak memory in bytes: every system keeps it elsewhere and in its own unit.
PEAK = {
    "win32": "__import__('psutil').Process().memory_info().peak_wset",
    "darwin": "__import__('resource').getrusage(0).ru_maxrss",
}.get(sys.platform, "__import__('resource').getrusage(0).ru_maxrss * 1024")
WIDGET = "application/vnd.jupyter.widget-view+json"
MAP = re.compile(r"(?<=<!-- map -->).*?(?=<!-- /map -->)", re.DOTALL)
READMES = {
    "en": ("README.md", "| | Notebook | What it shows | Time · memory on a CPU |"),
    "zh": ("README.zh-CN.md", "| | 笔记本 | 内容 | CPU 上的用时 · 内存 |"),
}


class CellFailed(Exception):
    """One line: the cell and why it failed."""


def execute(notebook: NotebookNode, folder: Path) -> tuple[float, int]:
    """Run all cells but those for a GPU, in place; return the seconds and the kernel's peak memory in bytes.

    CellFailed names the cell that stops it.
    """
    kernel = AsyncKernelManager(  # the kernel of this environment, as in the tests
        kernel_name=CURRENT_ENV_KERNEL_NAME, kernel_spec_manager=NbvalKernelspecManager()
    )
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=840,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        skip_cells_with_tag="gpu",
    )
    start = time.perf_counter()
    with client.setup_kernel(cwd=str(folder), stderr=subprocess.DEVNULL, cleanup_kc=True):
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
            except CellExecutionError as error:
                raise CellFailed(f"{cell.id}: {error.ename}: {error.evalue}".partition("\n")[0]) from None
            except (CellControlSignal, DeadKernelError) as error:  # too slow; gone
                raise CellFailed(f"{cell.id}: {error}".partition("\n")[0]) from None
            if attempts := network_attempts():
                raise CellFailed(f"{cell.id}: used the network: {attempts.splitlines()[0]}")
        seconds = time.perf_counter() - start
        request = client.kc.execute("", silent=True, user_expressions={"peak": PEAK})
        reply = client.wait_for_reply(request)
    return seconds, int(reply["content"]["user_expressions"]["peak"]["data"]["text/plain"])


def tidy(notebook: NotebookNode) -> None:
    """Leave out what a run stores and nobody can use later."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = NotebookNode(name="python")
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            # Without its kernel a widget shows an error; its picture and text stay.
            output.get("data", {}).pop(WIDGET, None)


def set_cost(notebook: NotebookNode, seconds: float, memory: int) -> None:
    """Write the measured cost into the first cell, alike in every language."""
    figures = f"{max(seconds, 1):.0f} s · {memory / 2**30:.1f} GiB"
    notebook.cells[0].source = COST.sub(figures, notebook.cells[0].source)


def _row(path: Path, root: Path) -> str:
    """A line of the map: number, title with link, the paragraph beneath the title, cost."""
    first = read(path).cells[0].source
    title, *paragraphs = re.split(r"\n\s*\n", first.strip())
    number, _, name = title.removeprefix("# ").partition(" · ")
    claim = " ".join(paragraphs[0].split()) if paragraphs else ""
    claim = re.sub(r"^\*\*[^*]{1,9}\*\*[.:：]?\s*", "", claim)  # **Claim.**
    cost = COST.search(first)
    cells = [number, f"[{name}]({path.relative_to(root).as_posix()})", claim, cost.group() if cost else ""]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def write_maps(root: Path) -> None:
    """Make the table of notebooks in both READMEs anew."""
    for language, (name, header) in READMES.items():
        readme = root / name
        if readme.exists():
            rows = [_row(path, root) for path in find_notebooks(root, language)]
            table = "\n".join(["", header, "|---|---|---|---|", *rows, ""])
            write(readme, MAP.sub(lambda _, table=table: table, readme.read_text("utf-8")))


def run(root: Path, numbers: Iterable[str] = ()) -> None:
    """Run notebooks, store outputs and costs, carry them to the other language and to the READMEs."""
    for path in find_notebooks(root, "en", numbers):
        notebook = read(path)
        print(f"{path.name} … ", end="", flush=True)
        try:
            seconds, memory = execute(notebook, path.parent)
        except CellFailed as error:
            print("failed")
            raise SystemExit(f"{path.name} · {error}") from None
        tidy(notebook)
        describe_pictures(notebook, "en")
        set_cost(notebook, seconds, memory)
        write(path, notebook)
        print(f"{seconds:.1f} s, {memory / 2**30:.2f} GiB", flush=True)
    sync(root, numbers)
    write_maps(root)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run notebooks and store outputs and costs")
    running.add_argument("numbers", nargs="*", metavar="NN", help="which ones; all by default")
    seal()
    run(ROOT, parser.parse_args().numbers)


if __name__ == "__main__":
    main()
