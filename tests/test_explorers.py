"""Explorers show the same figure live and stored, redraw when a slider moves, and answer bad input in one line."""

import base64
import math

import nbformat
import pytest
from nbclient import NotebookClient

from course_utils import CourseError, explorers, plots


def sgd(theta, g, state, learning_rate):
    return theta - learning_rate * g, state


def momentum(theta, g, v, learning_rate, alpha=0.9):
    v = alpha * v - learning_rate * g
    return theta + v, v


def bowl(theta):
    return (theta**2).sum(dim=-1)


def explorer(**settings) -> explorers.Explorer:
    plots.use_course_style()
    return explorers.gradient_descent(
        {"SGD": (sgd, None), "momentum": (momentum, 0.0)},
        {"bowl": (bowl, (-2, 2, -2, 2))},
        **{"surface": "bowl"} | settings,
    )


def test_one_display_with_three_faces():
    bundle = explorer()._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == "Explorer: gradient descent on a surface"
    assert explorer()._repr_mimebundle_()["image/png"] == bundle["image/png"], (
        "the default picture must be reproducible"
    )


@pytest.mark.parametrize(
    "control, value", [("learning_rate", 0.5), ("optimizer", "momentum"), ("across", 0.9), ("up", 0)]
)
def test_a_moved_control_draws_a_new_figure(control, value):
    shown = explorer()
    before = shown.image.value
    shown.controls[control].value = value
    assert shown.image.value != before


def test_every_corner_of_the_controls_draws():
    shown = explorer()
    for learning_rate in (1e-4, 10.0):  # the larger one diverges
        for decay in (0.0, 0.99):
            for optimizer in ("SGD", "momentum"):
                shown.controls["optimizer"].value = optimizer
                shown.controls["decay"].value = decay
                shown.controls["learning_rate"].value = learning_rate
                assert bytes(shown.image.value).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"optimizer": "momentun"}, "Did you mean 'momentum'?"),
        ({"optimizer": None}, "choose one of SGD, momentum."),
        ({"surface": "moon"}, "choose one of bowl"),
        ({"learning_rate": -0.1}, "from 0.0001 to 10"),
        ({"learning_rate": math.nan}, "from 0.0001 to 10"),
        ({"learning_rate": math.inf}, "from 0.0001 to 10"),
        ({"learning_rate": "fast"}, "from 0.0001 to 10"),
    ],
)
def test_bad_input_gets_one_line_that_says_what_to_do(settings, says):
    with pytest.raises(CourseError) as problem:
        explorer(**settings)
    english, _chinese = str(problem.value).splitlines()
    assert says in english


def test_an_optimizer_that_forgets_its_state_is_told_what_to_return():
    with pytest.raises(CourseError, match="must return two things"):
        explorers.gradient_descent(
            {"SGD": (lambda theta, g, s, lr: theta - lr * g, None)}, {"taxi": (bowl, (-2, 2, -2, 2))}
        )


def test_nothing_to_choose_from_is_said():
    with pytest.raises(CourseError, match="optimizer 'SGD' is unknown"):
        explorers.gradient_descent({}, {"taxi": (bowl, (-2, 2, -2, 2))})


def test_a_notebook_shows_the_message_without_a_traceback():
    code = "from course_utils import explorers\nexplorers.between('learning_rate', -1, 0, 10)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, allow_errors=True).execute()
    [output] = notebook.cells[0].outputs
    assert output.traceback == [
        "✘ learning_rate is -1, but must be a number from 0 to 10.",
        "✘ learning_rate 为 -1，应为 0 到 10 之间的数。",
    ]
