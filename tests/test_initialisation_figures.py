"""Figures of notebook 04: what is drawn, what is left out and said, and an explorer that leaves chance alone."""

import pytest
import torch

from course_utils import CourseError, explorers, plots

SCHEMES = {"Xavier": lambda n_in, n_out: (2 / (n_in + n_out)) ** 0.5, "N(0, 1)": lambda n_in, n_out: 1.0}
ACTIVATIONS = {"tanh": torch.tanh, "ReLU": torch.relu}


def send(std_of, activation, width, depth):
    signals = [torch.randn(20, width)]
    for _ in range(depth):
        signals.append(activation(signals[-1] @ (std_of(width, width) * torch.randn(width, width))))
    return signals, signals


def explorer(**settings) -> explorers.Explorer:
    plots.use_course_style()
    return explorers.initialisation(send, SCHEMES, ACTIVATIONS, width=20, depth=8, **settings)


def test_lines_in_panels_share_axes_and_keep_the_colour_of_a_scheme():
    panels = {"tanh": {"Xavier": [1, 2], "Kaiming": [3, 4]}, "ReLU": {"Kaiming": [5, float("nan")]}}
    figure = plots.lines_in_panels({"forward": panels, "back": panels}, "layer", (1e-3, 1e3), log=True)
    assert len(figure.axes) == 4
    assert [ax.get_ylim() for ax in figure.axes] == [(1e-3, 1e3)] * 4
    assert [ax.get_title() for ax in figure.axes] == ["tanh", "ReLU", "", ""]
    first, second = figure.axes[0].lines[1], figure.axes[1].lines[0]
    assert first.get_color() == second.get_color() == plots.OF_SCHEME["Kaiming"]
    assert list(first.get_ydata()) == [3, 4]


def test_histograms_say_what_they_leave_out():
    values = torch.tensor([1.0, -1, 1, -1])
    figure = plots.histograms({"signal": {"first": values, "next": torch.tensor([0.0, 0.0, 9.0, 0.5])}})
    first, following = figure.axes
    assert first.get_title() == "first\nsize 1"
    assert first.get_xlim() == following.get_xlim() == (-4, 4)
    assert first.texts[0].get_text() == ""
    assert following.texts[0].get_text() == "50% zero\n25% outside"
    assert sum(bar.get_height() for bar in following.patches) == 1


@pytest.mark.parametrize(
    "control, value", [("scheme", "N(0, 1)"), ("activation", "ReLU"), ("width", 50), ("depth", 1), ("depth", 100)]
)
def test_a_moved_control_draws_a_new_figure(control, value):
    shown = explorer()
    before = shown.image.value
    shown.controls[control].value = value
    assert shown.image.value != before


def test_the_explorer_draws_the_same_each_time_and_leaves_the_notebooks_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = explorer()
    assert torch.equal(torch.rand(3), expected)
    assert explorer().image.value == first.image.value


@pytest.mark.parametrize(
    "settings, says",
    [({"scheme": "Xaver"}, "Did you mean 'Xavier'"), ({"activation": "step"}, "choose one of tanh, ReLU")],
)
def test_bad_input_gets_one_line_that_says_what_to_do(settings, says):
    with pytest.raises(CourseError) as problem:
        explorer(**settings)
    assert says in str(problem.value).splitlines()[0]
