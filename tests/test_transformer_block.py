"""Figures and explorer of notebook 07: what is drawn, and what the explorer says about a T4."""

import pytest
import torch

from course_utils import CourseError, explorers, plots
from course_utils.runtime import GIB

MODELS = {"small": 1, "large": 20}


def needed(model, dtype, context, batch, optimiser):
    if dtype == "int8" and optimiser != "none":
        return {}
    return {"weights": model * GIB, "KV cache": context * batch / 2048 * GIB}


def explorer(**settings) -> explorers.Explorer:
    plots.use_course_style()
    return explorers.memory(needed, MODELS, ["fp16", "int8"], ["none", "Adam"], **settings)


def title(shown: explorers.Explorer) -> str:
    return shown.draw(**{name: control.value for name, control in shown.controls.items()})._suptitle.get_text()


def test_stacked_bars_lie_end_to_end_and_keep_the_colour_of_a_part():
    figure = plots.stacked_bars({"a": {"weights": 2.0, "gradients": 1.0}, "b": {"gradients": 4.0}}, "GiB", {"card": 6})
    [ax] = figure.axes
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 2), (2, 1), (0, 4)]
    assert ax.patches[1].get_facecolor() == ax.patches[2].get_facecolor() != ax.patches[0].get_facecolor()
    assert [text.get_text().strip() for text in ax.texts] == ["3", "4", "card"]
    assert ax.get_xlim()[1] > 6
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["weights", "gradients"]


def test_who_hears_whom_shows_the_matrix_as_it_is():
    heard = torch.ones(3, 3, dtype=torch.bool).tril()
    figure = plots.who_hears_whom({"causal": heard, "both": heard | heard.T}, "小猫在")
    assert [ax.get_title() for ax in figure.axes] == ["causal", "both"]
    assert (figure.axes[0].images[0].get_array() == heard.numpy()).all()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list("小猫在")


@pytest.mark.parametrize(
    "settings, says",
    [
        ({}, "3.0 GiB, fits a T4"),
        ({"model": "large"}, "22.0 GiB, does not fit a T4"),
        ({"context": 4096, "batch": 7}, "15.0 GiB, does not fit a T4"),
    ],
)
def test_the_explorer_compares_with_a_t4(settings, says):
    assert title(explorer(**{"batch": 2} | settings)).endswith(says)


def test_what_cannot_be_trained_is_said_and_drawn_empty():
    shown = explorer(dtype="int8")
    shown.controls["optimiser"].value = "Adam"
    assert title(shown) == "int8 weights are too coarse for small steps: train in fp16 or fp32"


@pytest.mark.parametrize(
    "control, value", [("model", "large"), ("dtype", "int8"), ("context", 128), ("batch", 9), ("optimiser", "Adam")]
)
def test_a_moved_control_draws_a_new_figure(control, value):
    shown = explorer()
    before = shown.image.value
    shown.controls[control].value = value
    assert shown.image.value != before


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"model": "larg"}, "Did you mean 'large'?"),
        ({"dtype": "fp8"}, "choose one of fp16, int8"),
        ({"batch": 0}, "from 1 to 64"),
        ({"context": 10**6}, "from 128 to 32768"),
    ],
)
def test_bad_input_gets_one_line_that_says_what_to_do(settings, says):
    with pytest.raises(CourseError) as problem:
        explorer(**settings)
    assert says in problem.value.text.en
