"""Exercise checks: the solution of the notebook passes, and every plausible wrong answer is named.

A wrong answer is made from the notebook's own solution cell by the slip that a student would make, so that checks
are tested with other code than their own.
"""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import nbformat
import pytest

from course_utils.checks import Exercise

NOTEBOOKS = Path(__file__).parent.parent / "notebooks" / "en"

# notebook → exercise → misconception → (what the solution says, what the student writes instead)
SLIPS = {
    "00_start_here": {
        "average": {
            "not divided": ("sum(numbers) / len(numbers)", "sum(numbers)"),
            "rounded down": ("/ len", "// len"),
            "one too few": ("len(numbers)", "max(1, len(numbers) - 1)"),
            "middle of the range": ("sum(numbers) / len(numbers)", "(max(numbers) - min(numbers)) / 2 + min(numbers)"),
            "middle number": ("sum(numbers) / len(numbers)", "__import__('statistics').median(numbers)"),
        }
    },
    "01_gradient_descent": {
        "momentum": {
            "velocity sign": ("theta + v", "theta - v"),
            "no memory": ("alpha * v - learning_rate * g", "-learning_rate * g"),
            "no friction": ("alpha * v", "v"),
            "no learning rate": ("learning_rate * g", "g"),
            "learning rate twice": ("theta + v", "theta + learning_rate * v"),
            "damped gradient": ("- learning_rate * g", "- (1 - alpha) * learning_rate * g"),
            "one step late": ("    v = alpha * v - learning_rate * g\n    return theta + v, v",
                              "    theta = theta + v\n    return theta, alpha * v - learning_rate * g"),
            "PyTorch's convention": ("v - learning_rate * g\n    return theta + v",
                                     "v + g\n    return theta - learning_rate * v"),
        },
        "rmsprop": {
            "g not squared": ("g**2", "g"),
            "delta missing": (" + delta", ""),
            "delta added to the parameter": ("(r**0.5 + delta)", "r**0.5 + delta"),
            "no root": ("r**0.5", "r"),
            "accumulates for ever": ("rho * r + (1 - rho) * g**2", "r + g**2"),
            "rho swapped": ("rho * r + (1 - rho)", "(1 - rho) * r + rho"),
            "delta inside the root": ("(r**0.5 + delta)", "(r + delta) ** 0.5"),
            "no memory": ("r = rho", "old, r = r, rho", "+ delta), r", "+ delta), old"),
            "climbs": ("theta - ", "theta + "),
        },
        "adam": {
            "no bias correction": (" / (1 - rho1**t)", "", " / (1 - rho2**t)", ""),
            "first moment not corrected": (" / (1 - rho1**t)", ""),
            "second moment not corrected": (" / (1 - rho2**t)", ""),
            "delta added to the parameter": ("(r_hat**0.5 + delta)", "r_hat**0.5 + delta"),
            "delta missing": (" + delta", ""),
            "delta inside the root": ("(r_hat**0.5 + delta)", "(r_hat + delta) ** 0.5"),
            "g not squared": ("g**2", "g"),
            "gradient multiplied in again": ("learning_rate * s_hat", "learning_rate * g * s_hat"),
            "s and r swapped in the step": ("s_hat / (r_hat**0.5", "r_hat / (s_hat**0.5"),
            "s and r swapped in the state": ("(t, s, r)\n", "(t, r, s)\n"),
            "t starts at 0": ("    t = t + 1\n", "", "(t, s, r)\n", "(t + 1, s, r)\n"),
            "t does not count": ("t = t + 1", "step, t = t, t + 1", "(t, s, r)\n", "(step, s, r)\n"),
            "corrected moments kept": ("(t, s, r)\n", "(t, s_hat, r_hat)\n"),
            "no root": ("r_hat**0.5", "r_hat"),
            "climbs": ("theta - ", "theta + "),
        },
    },
}  # fmt: skip
CASES = [(notebook, name) for notebook, exercises in SLIPS.items() for name in exercises]


def exercise_of(notebook: str, name: str) -> Exercise:
    return getattr(importlib.import_module(f"course_utils.checks.{notebook[3:]}"), name)


def cells_of(notebook: str, name: str, tag: str) -> list[str]:
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    cells = [cell.source + "\n" for cell in cells if tag in cell.metadata.get("tags", [])]
    return [source for source in cells if f"check.{name}(" in source]


def function_in(source: str) -> object:
    """The first function that `source` defines, without the call of the check."""
    definition = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    namespace: dict[str, object] = {}
    exec(compile(ast.Module([definition], []), "<cell>", "exec"), namespace)
    return namespace[definition.name]


@pytest.mark.parametrize("notebook, name", CASES)
def test_the_solution_passes_and_the_stub_is_unfinished(notebook, name, capsys):
    exercise = exercise_of(notebook, name)
    [solution], [stub] = (cells_of(notebook, name, tag) for tag in ("solution", "exercise"))
    student = function_in(solution)
    assert exercise(student) is student
    assert "✔" in capsys.readouterr().out
    assert exercise(function_in(stub)) is exercise.solution
    assert "✎" in capsys.readouterr().out


@pytest.mark.parametrize("notebook, name", CASES)
def test_every_slip_is_named(notebook, name):
    exercise = exercise_of(notebook, name)
    [solution] = cells_of(notebook, name, "solution")
    slips = SLIPS[notebook][name]
    assert len(slips) >= 4
    assert set(slips) == {misconception.name for misconception in exercise.misconceptions}
    for misconception, edits in slips.items():
        source = solution
        for right, wrong in zip(edits[::2], edits[1::2], strict=True):
            assert right in source, (misconception, right)
            source = source.replace(right, wrong)
        verdict = exercise.diagnose(function_in(source))
        assert (verdict.kind, verdict.name) == ("misconception", misconception)
    for language in ("en", "zh"):
        assert len({getattr(m.text, language) for m in exercise.misconceptions}) == len(slips)


@pytest.mark.parametrize("notebook, name", CASES)
def test_the_package_holds_the_taught_solution(notebook, name):
    [solution] = cells_of(notebook, name, "solution")
    taught = next(node for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef))
    kept = ast.parse(textwrap.dedent(inspect.getsource(exercise_of(notebook, name).solution))).body[0]
    if isinstance(kept, ast.FunctionDef):
        assert ast.dump(kept.args) == ast.dump(taught.args)
        assert [ast.dump(line) for line in kept.body] == [ast.dump(line) for line in taught.body]
    else:  # a lambda within the exercise's own line
        assert ast.unparse(taught.body[0].value) in ast.unparse(kept)


@pytest.mark.parametrize("notebook, name", CASES)
def test_unusable_answers_get_one_line_that_says_what_to_do(notebook, name, capsys):
    exercise = exercise_of(notebook, name)
    arguments = ", ".join(inspect.signature(exercise.solution).parameters)
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
    alone = check.momentum.diagnose(lambda theta, g, v, learning_rate, alpha=0.9: theta)
    assert alone.name == "does not return two things"
    stateless = check.adam.diagnose(
        lambda theta, g, state, learning_rate, rho1=0.9, rho2=0.999, delta=1e-8: (theta, state[0])
    )
    assert stateless.name == "state is not (t, s, r)"


def test_the_line_of_an_exception_is_the_students_own():
    check = importlib.import_module("course_utils.checks.gradient_descent")
    student = function_in(
        "def momentum(theta, g, v, learning_rate, alpha=0.9):\n    v = alpha * v\n    return theta.reshape(7), v\n"
    )
    assert "line 3" in check.momentum.diagnose(student).text.en


def test_an_unknown_mistake_names_the_first_value_that_differs():
    check = importlib.import_module("course_utils.checks.gradient_descent")
    verdict = check.momentum.diagnose(lambda theta, g, v, learning_rate, alpha=0.9: (theta - 0.123 * g, v))
    assert verdict.kind == "different" and "value 1" in verdict.text.en
