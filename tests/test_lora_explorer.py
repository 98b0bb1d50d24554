"""Explorer of notebook 11: what it counts for a rank, and what moves when a control does."""

import pytest

from course_utils import CourseError, explorers, plots
from course_utils.runtime import GIB


def needed(model, target, rank):
    trained = rank * target * 1000
    return trained, model * 1_000_000, {"weights": model * GIB, "optimiser": 16 * trained}


def explorer(**settings) -> explorers.Explorer:
    plots.use_course_style()
    return explorers.lora(needed, {"small": 1, "large": 20}, {"all": 7, "q and v": 2}, {"T4": 14.6}, **settings)


def test_the_title_counts_what_is_trained():
    shown = explorer(rank=4, alpha=8)
    figure = shown.draw(**{name: control.value for name, control in shown.controls.items()})
    assert figure._suptitle.get_text() == "r = 4, α/r = 2, all: 28,000 trained, 2.800% of the model"
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([1, 16 * 28000 / GIB])


@pytest.mark.parametrize("control, value", [("model", "large"), ("target", "q and v"), ("rank", 64), ("alpha", 2)])
def test_a_moved_control_draws_a_new_figure(control, value):
    shown = explorer()
    before = shown.image.value
    shown.controls[control].value = value
    assert shown.image.value != before


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"model": "medium"}, "choose one of small, large"),
        ({"target": "k"}, "choose one of all"),
        ({"rank": 0}, "rank"),
    ],
)
def test_bad_input_gets_one_line(settings, says):
    with pytest.raises(CourseError) as problem:
        explorer(**settings)
    assert says in problem.value.text.en
