"""Commands for maintainers, and what they share: finding, reading and writing notebooks, and the closed network."""

import atexit
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

import setup_env

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = ("en", "zh")
COST = re.compile(r"(?<=<!-- cost -->).*?(?=<!-- /cost -->)", re.DOTALL)
CAPTION = {"en": "**Figure.**", "zh": "**图**："}


def find_notebooks(root: Path, language: str, numbers: Iterable[str] = ()) -> list[Path]:
    """The notebooks of a language with these numbers, in order; all of them where no number is given."""
    paths = sorted((root / "notebooks" / language).glob("*.ipynb"))
    wanted, known = set(numbers), {path.name[:2] for path in paths}
    if unknown := wanted - known:
        there = ", ".join(sorted(known)) or "none yet"
        raise SystemExit(f"No notebook {', '.join(sorted(unknown))} in notebooks/{language}; there are: {there}")
    return [path for path in paths if not wanted or path.name[:2] in wanted]


def read(path: Path) -> NotebookNode:
    """A notebook as it stands in the file.

    `nbformat.read` would invent an id for a cell that lacks one, and translations hang on ids.
    """
    return nbformat.v4.reads(path.read_text("utf-8"))


def write(path: Path, content: NotebookNode | str) -> None:
    """Write a notebook or a text whole or not at all."""
    text = content if isinstance(content, str) else nbformat.v4.writes(content) + "\n"
    part = path.with_name(path.name + ".part")
    part.write_text(text, "utf-8", newline="\n")
    os.replace(part, path)


def caption(cells: list[NotebookNode], index: int, language: str) -> str:
    """The text beneath the picture of this cell: the caption's paragraph in the next Markdown cell, or ''."""
    below = next((cell.source for cell in cells[index + 1 :] if cell.cell_type == "markdown"), "")
    mark = CAPTION[language]
    found = next((part for part in re.split(r"\n\s*\n", below) if part.startswith(mark)), "")
    return " ".join(re.sub(r"\*\*|`", "", found.removeprefix(mark)).split())


def describe_pictures(notebook: NotebookNode, language: str) -> None:
    """Give every stored picture its caption as alternative text, where nbconvert's templates look for it."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.metadata.setdefault("image/png", NotebookNode())["alt"] = caption(
                    notebook.cells, index, language
                )


def seal() -> None:
    """Close the network to this process's children and settle what else would leak into stored outputs."""
    folder = str(ROOT / "tests" / "no_network")
    others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part not in ("", folder)]
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *others])
    handle, log = tempfile.mkstemp(prefix="no-network-", suffix=".log")
    os.close(handle)
    atexit.register(Path(log).unlink, missing_ok=True)
    os.environ["NO_NETWORK_LOG"] = log
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):  # native clients run past Python's audit hooks
        os.environ[name] = os.environ[name.lower()] = "http://127.0.0.1:9"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1,::1"
    # One thread, where a notebook does not ask for two: sums come out alike on any number of cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["GOMP_SPINCOUNT"] = setup_env.SPINS  # two notebooks run side by side
    os.environ.pop("MPLBACKEND", None)  # would replace the inline figures


def network_attempts() -> str:
    """What tried to leave this machine since the last call, also where a cell swallowed the error."""
    log = Path(os.environ["NO_NETWORK_LOG"])
    text = log.read_text("utf-8")
    log.write_text("")
    return text
