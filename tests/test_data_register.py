"""Every file under data/ has its row in data/DATA.md, with the size and the hash that it really has."""

import hashlib
from pathlib import Path

import pytest

from course_utils import runtime

COLUMNS = ["path", "source", "licence", "bytes", "sha256"]


def register(data: Path) -> dict[str, dict[str, str]]:
    """The rows of the register's table, by path."""
    lines = (data / "DATA.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    assert cells and cells[0] == COLUMNS, f"the table of data/DATA.md has not the columns {COLUMNS}"
    wrong = [row for row in cells if len(row) != len(COLUMNS)]
    assert not wrong, f"rows of data/DATA.md that have not {len(COLUMNS)} cells: {wrong}"
    rows = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in cells[1:]}
    assert len(rows) == len(cells) - 1, "data/DATA.md has two rows for one file"
    return rows


def complaints(data: Path) -> list[str]:
    """What is wrong between the folder and its register, each with the row to write."""
    rows, found = register(data), []
    # Hidden files are what operating systems leave behind.
    files = {
        file.relative_to(data).as_posix(): file
        for file in sorted(data.rglob("*"))
        if file.is_file() and not file.name.startswith(".") and file != data / "DATA.md"
    }
    for path, file in files.items():
        content = file.read_bytes()
        row = rows.get(path, {"source": "SOURCE", "licence": "LICENCE"})
        facts = {"bytes": str(len(content)), "sha256": hashlib.sha256(content).hexdigest()}
        if "SOURCE" in row["source"] or "LICENCE" in row["licence"] or not row["source"] or not row["licence"]:
            what = "is not in the register"
        elif any(row[name] != value for name, value in facts.items()):
            what = "has changed"
        else:
            continue
        right = row | facts | {"path": path}
        found.append(f"data/{path} {what}; its row is:\n| {' | '.join(right[name] for name in COLUMNS)} |")
    found += [f"data/{path} is in the register but gone" for path in rows.keys() - files.keys()]
    return found


def test_the_register_is_true():
    found = complaints(runtime.DATA)
    assert not found, "\n".join(found)
    assert sum(int(row["bytes"]) for row in register(runtime.DATA).values()) < 60e6  # what is cloned stays small


@pytest.fixture
def data(tmp_path):
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "a.txt").write_bytes(b"abc\n")
    sha256 = hashlib.sha256(b"abc\n").hexdigest()
    table = "# Register\n\n| path | source | licence | bytes | sha256 |\n|---|---|---|---|---|\n"
    table += f"| fonts/a.txt | made | CC0 | 4 | {sha256} |\n"
    (tmp_path / "DATA.md").write_text(table, encoding="utf-8")
    assert complaints(tmp_path) == []
    return tmp_path


def test_an_unregistered_file_is_named_with_its_row(data):
    (data / "new.txt").write_bytes(b"")
    (found,) = complaints(data)
    assert "data/new.txt is not in the register" in found
    row = f"| new.txt | SOURCE | LICENCE | 0 | {hashlib.sha256(b'').hexdigest()} |"
    assert row in found
    # Copied without source and licence, the row is not accepted.
    with (data / "DATA.md").open("a", encoding="utf-8") as file:
        file.write(row + "\n")
    assert complaints(data) == [found]


def test_a_changed_file_is_seen_though_its_size_is_the_same(data):
    (data / "fonts" / "a.txt").write_bytes(b"abd\n")
    (found,) = complaints(data)
    assert "has changed" in found and "| fonts/a.txt | made | CC0 | 4 |" in found


def test_a_missing_file_is_seen(data):
    (data / "fonts" / "a.txt").unlink()
    assert complaints(data) == ["data/fonts/a.txt is in the register but gone"]


@pytest.mark.parametrize("line", ["| b.txt | made | CC0 | 4 |", "| fonts/a.txt | made | CC0 | 4 | 00 |"])
def test_a_row_that_cannot_be_right_is_refused(data, line):
    with (data / "DATA.md").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(AssertionError, match=r"cells|two rows"):
        complaints(data)
