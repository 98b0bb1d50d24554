"""The suite passes on an unbroken copy of a small course and fails when one thing in it is wrong."""

import re
import shutil
from pathlib import Path

import pytest
from nbval.plugin import get_sanitize_patterns
from small_course import BIG, edit, run_pytest, write_house

from tools import ROOT, read, write
from tools.translate import sync

IN_STEP = "tests/test_translation.py::test_the_chinese_notebooks_are_in_step"


@pytest.fixture
def house(tmp_path: Path) -> tuple[Path, Path, Path]:
    return tmp_path, *write_house(tmp_path)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")


def test_an_unbroken_copy_passes(house):
    root, en, _ = house
    changed = read(en)
    changed.cells.append(BIG)
    write(en, changed)
    sync(root)
    done = run_pytest(root, IN_STEP, "notebooks/en")
    assert done.returncode == 0, done.stdout
    assert "no GPU here: too big for a CPU" in done.stdout and "3 passed, 1 skipped" in done.stdout


def test_a_changed_number_in_a_stored_output_fails(house):
    root, en, zh = house
    replace(en, "42\\n", "43\\n")
    shutil.copy(en, zh)
    done = run_pytest(root, "notebooks/en")
    assert done.returncode == 1 and "Cell outputs differ" in done.stdout and "1 failed, 1 passed" in done.stdout


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("✔ Ready: CPU (no GPU).\n✔ 就绪：CPU。\n", False),
        ("⚠ torch: 3.0\n  → …\nGoing on with: CPU (no GPU).\n继续使用：CPU。\n", False),
        ("loss 0.18\n", True),
        ("All Ready: 8 yuan\n", True),
    ],
)
def test_only_the_doctors_words_are_left_out(text, kept):
    for pattern, replacement in get_sanitize_patterns((ROOT / "tests/sanitize.cfg").read_text("ascii")):
        result = re.sub(pattern, replacement, text)
    assert (result == text) is kept


def test_an_edited_english_paragraph_fails(house):
    root, en, _ = house
    edit(en, "seen", "A tiny point.\n\n**Figure.** A *grey*\n`point`.")
    done = run_pytest(root, IN_STEP)
    assert done.returncode == 1 and "seen: the English text has changed since" in done.stdout


def test_code_that_differs_between_languages_fails(house):
    root, _, zh = house
    edit(zh, "number", "print(41 + 1)")
    done = run_pytest(root, IN_STEP)
    assert done.returncode == 1 and "number: source differs from the English" in done.stdout
