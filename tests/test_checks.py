"""Exercise checks: the solution of the notebook passes, and every plausible wrong answer is named.

A wrong answer is made from the notebook's own solution cell by the slip that a student would make (tests/slips), so
that checks are tested with other code than their own.
"""

import ast
import importlib
import inspect
import re
import runpy
import textwrap
from pathlib import Path

import nbformat
import pytest

from course_utils.checks import Exercise

NOTEBOOKS = Path(__file__).parent.parent / "notebooks" / "en"
SLIP_FILES = Path(__file__).parent / "slips"

SLIPS = {path.stem: runpy.run_path(str(path))["SLIPS"] for path in sorted(SLIP_FILES.glob("*.py"))}
CASES = [(topic, name) for topic, exercises in SLIPS.items() for name in exercises]


def exercise_of(topic: str, name: str) -> Exercise:
    return getattr(importlib.import_module(f"course_utils.checks.{topic}"), name)


def cells_of(topic: str, name: str, tag: str) -> list[str]:
    [notebook] = NOTEBOOKS.glob(f"[0-9][0-9]_{topic}.ipynb")
    cells = nbformat.read(notebook, as_version=4).cells
    cells = [cell.source + "\n" for cell in cells if tag in cell.metadata.get("tags", [])]
    return [source for source in cells if f"check.{name}(" in source]


def function_in(source: str) -> object:
    """The first function that `source` defines, without the call of the check."""
    definition = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    namespace: dict[str, object] = {}
    exec(compile(ast.Module([definition], []), "<cell>", "exec"), namespace)
    return namespace[definition.name]


def test_every_exercise_has_slips():
    checks = Path(__file__).parent.parent / "course_utils" / "checks"
    for path in checks.glob("[a-z]*.py"):
        module = importlib.import_module(f"course_utils.checks.{path.stem}")
        exercises = {name for name, thing in vars(module).items() if isinstance(thing, Exercise)}
        assert exercises == set(SLIPS.get(path.stem, {})), f"tests/slips/{path.name}"


@pytest.mark.parametrize("topic, name", CASES)
def test_the_solution_passes_and_the_stub_is_unfinished(topic, name, capsys):
    exercise = exercise_of(topic, name)
    [solution], [stub] = (cells_of(topic, name, tag) for tag in ("solution", "exercise"))
    student = function_in(solution)
    assert exercise(student) is student
    assert "✔" in capsys.readouterr().out
    assert exercise(function_in(stub)) is exercise.solution
    assert "✎" in capsys.readouterr().out


@pytest.mark.parametrize("topic, name", CASES)
def test_every_slip_is_named(topic, name):
    exercise = exercise_of(topic, name)
    [solution] = cells_of(topic, name, "solution")
    slips = SLIPS[topic][name]
    assert len(slips) >= 4
    assert set(slips) == {misconception.name for misconception in exercise.misconceptions}
    for misconception, edits in slips.items():
        source = solution
        for right, wrong in zip(edits[::2], edits[1::2], strict=True):
            assert right in source, (misconception, right)
            source = source.replace(right, wrong)
        verdict = exercise.diagnose(function_in(source))
        assert verdict.kind == "misconception", (misconception, verdict)
        # Where several slips end in the same nan, all of them are named.
        assert misconception in verdict.name.split(" or ")
        assert verdict.name.count(" or ") <= 1, verdict.name
    for language in ("en", "zh"):
        assert len({getattr(m.text, language) for m in exercise.misconceptions}) == len(slips)


@pytest.mark.parametrize("topic, name", CASES)
def test_the_package_holds_the_taught_solution(topic, name):
    [solution] = cells_of(topic, name, "solution")
    taught = next(node for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef))
    kept = ast.parse(textwrap.dedent(inspect.getsource(exercise_of(topic, name).solution))).body[0]
    if isinstance(kept, ast.FunctionDef):
        assert ast.dump(kept.args) == ast.dump(taught.args)
        assert [ast.dump(line) for line in kept.body] == [ast.dump(line) for line in taught.body]
    else:  # a lambda within the exercise's own line
        assert ast.unparse(taught.body[0].value) in ast.unparse(kept)


@pytest.mark.parametrize("topic, name", CASES)
def test_unusable_answers_get_one_line_that_says_what_to_do(topic, name, capsys):
    exercise = exercise_of(topic, name)
    arguments = str(inspect.signature(exercise.solution))[1:-1]
    answers = {
        "not a function": 3,
        "other arguments": lambda x, y: x,
        "returns None": eval(f"lambda {arguments}: None"),
        "exception": eval(f"lambda {arguments}: 1 / 0"),
    }
    for wanted, answer in answers.items():
        assert exercise.diagnose(answer).name == wanted
        assert exercise(answer) is exercise.solution
        english, chinese = capsys.readouterr().out.splitlines()
        assert english.startswith(f"✘ {name}: ") and chinese.startswith(f"✘ {name}：")
        assert re.search("[\u4e00-\u9fff]", chinese)


def test_a_wrong_shape_and_a_wrong_state_are_named():
    check = importlib.import_module("course_utils.checks.gradient_descent")
    summed = check.momentum.diagnose(lambda theta, g, v, learning_rate, alpha=0.9: ((theta - g).sum(), v))
    assert summed.name == "theta changes shape" and "[3]" in summed.text.en
    rounded = check.momentum.diagnose(lambda theta, g, v, learning_rate, alpha=0.9: ((theta - g).float(), v))
    assert rounded.name == "theta changes shape" and "float32" in rounded.text.en
    mixed_up = check.adam.diagnose(
        lambda theta, g, state, learning_rate, rho1=0.9, rho2=0.999, delta=1e-8: (state, theta)
    )
    assert mixed_up.name == "theta is no tensor"
    alone = check.momentum.diagnose(lambda theta, g, v, learning_rate, alpha=0.9: theta)
    assert alone.name == "does not return two things"
    stateless = check.adam.diagnose(
        lambda theta, g, state, learning_rate, rho1=0.9, rho2=0.999, delta=1e-8: (theta, state[0])
    )
    assert stateless.name == "state is not (t, s, r)"


def test_changing_theta_in_place_is_seen():
    check = importlib.import_module("course_utils.checks.gradient_descent")
    student = function_in(
        "def momentum(theta, g, v, learning_rate, alpha=0.9):\n"
        "    v = alpha * v - learning_rate * g\n    theta += v\n    return theta, v\n"
    )
    assert check.momentum.diagnose(student).name == "changed in place"


def test_settings_written_into_the_function_or_its_defaults_are_seen():
    check = importlib.import_module("course_utils.checks.gradient_descent")
    source = (
        "def momentum(theta, g, v, learning_rate, alpha={}):\n"
        "    v = {} * v - learning_rate * g\n    return theta + v, v\n"
    )
    assert check.momentum.diagnose(function_in(source.format(0.9, "alpha"))).kind == "right"
    assert check.momentum.diagnose(function_in(source.format(0.9, 0.9))).kind == "different"
    assert check.momentum.diagnose(function_in(source.format(0.99, "alpha"))).name == "other arguments"


@pytest.mark.parametrize(
    "slip, cure",
    [("g^2", "written **"), ("__import__('math').sqrt(g)", "r**0.5"), ("v[0]", "without [ ]")],
)
def test_errors_of_libraries_get_a_cure(slip, cure):
    check = importlib.import_module("course_utils.checks.gradient_descent")
    student = function_in(f"def momentum(theta, g, v, learning_rate, alpha=0.9):\n    return theta + {slip}, v\n")
    assert cure in check.momentum.diagnose(student).text.en


def test_the_line_of_an_exception_is_the_students_own():
    check = importlib.import_module("course_utils.checks.gradient_descent")
    student = function_in(
        "def momentum(theta, g, v, learning_rate, alpha=0.9):\n    v = alpha * v\n    return theta.reshape(7), v\n"
    )
    assert "line 3" in check.momentum.diagnose(student).text.en


def test_an_unknown_mistake_says_what_to_do_by_hand():
    check = importlib.import_module("course_utils.checks.gradient_descent")
    verdict = check.momentum.diagnose(lambda theta, g, v, learning_rate, alpha=0.9: (theta - 0.123 * g, v))
    assert verdict.kind == "different"
    assert "g = [4, -0.5, 0], step 1, learning_rate = 0.1, alpha = 0.8" in verdict.text.en
