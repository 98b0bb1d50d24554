"""`make notebooks` stores outputs, costs and pictures' texts, and stops at an error without harm."""

import re
from pathlib import Path

import pytest
from small_course import BIG, code, edit, markdown, notebook, printed, write_course

from tools import COST, ROOT, find_notebooks, read, write
from tools.notebooks import WIDGET, run

WIDGETS = f"""from ipywidgets import IntSlider
slider = IntSlider()
print("a")
bundle = {{"text/plain": "a slider", "{WIDGET}": {{"model_id": slider.model_id, "version_major": 2}}}}
display(bundle, raw=True)
print("b")
held = bytearray(300 * 2**20)"""


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A course that was run once, with one more cell that shows a widget and needs memory."""
    root = tmp_path_factory.mktemp("course")
    en, _ = write_course(root)
    changed = read(en)
    changed.cells += [BIG, code("widget", WIDGETS, None)]
    changed.metadata.widgets = {}
    write(en, changed)
    for name in ("README.md", "README.zh-CN.md"):
        (root / name).write_text("# Map\n\n<!-- map -->\n<!-- /map -->\n\nThe end.\n", "utf-8")
    run(root)
    return root


def without_costs(root: Path) -> dict[str, str]:
    files = [*root.glob("notebooks/*/*.ipynb"), *root.glob("README*")]
    cost = re.compile(r"\d+ s · \d+\.\d GiB")
    return {path.name + path.parent.name: cost.sub("", path.read_text("utf-8")) for path in files}


def test_running_twice_changes_only_the_costs(course):
    before = without_costs(course)
    run(course)
    assert without_costs(course) == before


def test_outputs_are_stored_as_nbval_and_readers_need_them(course):
    stored = read(find_notebooks(course, "en")[0])
    cells = {cell.id: cell for cell in stored.cells}
    assert set(stored.metadata) == {"kernelspec", "language_info"}
    assert stored.metadata.language_info == {"name": "python"}
    assert [cells[id].execution_count for id in ("number", "point", "big", "widget")] == [1, 2, None, 3]
    assert cells["big"].outputs == []
    assert [output.get("text") for output in cells["widget"].outputs] == ["a\nb\n", None]
    assert cells["widget"].outputs[1].data == {"text/plain": "a slider"}
    assert not any("execution" in cell.metadata for cell in stored.cells)


def test_pictures_are_described_in_both_languages(course):
    texts = [read(find_notebooks(course, language)[0]).cells[2].outputs[0].metadata for language in ("en", "zh")]
    assert [text["image/png"]["alt"] for text in texts] == ["A *grey* point.", "一个灰点。"]


def test_costs_stand_in_both_notebooks_and_both_maps(course):
    costs = [
        COST.search(read(find_notebooks(course, language)[0]).cells[0].source).group() for language in ("en", "zh")
    ]
    seconds, memory = re.fullmatch(r"(\d+) s · (\d+\.\d) GiB", costs[0]).groups()
    assert costs[0] == costs[1] and int(seconds) >= 1 and float(memory) >= 0.3
    row = f"| 01 | [A point](notebooks/en/01_point.ipynb) | One point is enough. | {costs[0]} |"
    english = (course / "README.md").read_text("utf-8")
    assert row in english and english.startswith("# Map\n") and english.endswith("\nThe end.\n")
    row = f"| 01 | [一个点](notebooks/zh/01_point.ipynb) | 一个点就够了。 | {costs[0]} |"
    assert row in (course / "README.zh-CN.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print('x')\n1 / 0", "number: ZeroDivisionError: division by zero"),
        ("import os\nos._exit(1)", "number: Kernel died"),
        (
            "import socket\ntry:\n    socket.getaddrinfo('example.org', 80)\nexcept RuntimeError:\n    pass",
            "number: used the network: socket.getaddrinfo: example.org",
        ),
    ],
)
def test_a_failing_cell_is_named_and_the_file_stays(tmp_path, source, expected):
    en, _ = write_course(tmp_path)
    edit(en, "number", source)
    before = en.read_text("utf-8")
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, ["01"])
    assert str(stopped.value) == f"01_point.ipynb · {expected}"
    assert en.read_text("utf-8") == before
    assert [path.name for path in en.parent.iterdir()] == [en.name]


def test_an_unknown_number_is_refused(tmp_path):
    write_course(tmp_path)
    with pytest.raises(SystemExit, match="No notebook 07 in notebooks/en; there are: 01"):
        run(tmp_path, ["07"])


def test_the_kernel_runs_in_the_notebooks_folder_with_one_thread_and_inline_figures(tmp_path):
    en, _ = write_course(tmp_path)
    source = (
        "import os\nfrom pathlib import Path\n\n"
        "print(Path.cwd().name, os.environ['OMP_NUM_THREADS'], os.environ['MPLBACKEND'])"
    )
    write(en, notebook([markdown("title", "# 01 · Where"), code("where", source, None)]))
    run(tmp_path)
    assert read(en).cells[1].outputs == [printed("en 1 module://matplotlib_inline.backend_inline\n")]


def test_the_real_folder_may_be_empty():
    assert isinstance(find_notebooks(ROOT, "en"), list)
