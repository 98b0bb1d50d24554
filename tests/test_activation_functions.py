"""Figures, explorer and checks of notebook 03."""

import base64
import math

import pytest
import torch

from course_utils import CourseError, explorers, plots
from course_utils.checks import activation_functions as check


@pytest.fixture(autouse=True)
def style():
    plots.use_course_style()


def leaky(x, slope=0.1):
    return torch.where(x > 0, x, slope * x)


def norms(f, input_scale=1.0):
    return torch.linspace(1e-3, 1, 21) * f(torch.tensor(-1.0)).abs() * input_scale


def explorer(**settings) -> explorers.Explorer:
    return explorers.activation_functions({"tanh": torch.tanh, "leaky ReLU": leaky}, norms, **settings)


def test_one_display_with_three_faces():
    bundle = explorer()._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert explorer()._repr_mimebundle_()["image/png"] == bundle["image/png"]


@pytest.mark.parametrize(
    "function, control, value",
    [("tanh", "function", "leaky ReLU"), ("tanh", "input_scale", 10.0), ("leaky ReLU", "slope", 0.7)],
)
def test_a_moved_control_draws_a_new_figure(function, control, value):
    shown = explorer(function=function)
    before = shown.image.value
    shown.controls[control].value = value
    assert shown.image.value != before


@pytest.mark.parametrize("input_scale", [0.5, 2.0])
def test_the_scale_widens_the_hill_of_inputs_and_reaches_the_stack(input_scale):
    _, derivative, stack = explorer().draw("tanh", input_scale, 0.1).axes
    hill = torch.as_tensor(derivative.collections[0].get_paths()[0].vertices)
    at_one_deviation = hill[(hill[:, 0] - 2**0.5 * input_scale).abs().argmin(), 1].item()
    assert at_one_deviation == pytest.approx(math.exp(-0.5), abs=0.03)
    assert stack.lines[0].get_ydata()[-1] == pytest.approx(math.tanh(1) * input_scale)


def test_the_slope_is_for_functions_that_have_one():
    shown = explorer()
    before = shown.image.value
    shown.controls["slope"].value = 0.7
    assert shown.image.value == before


def test_an_unknown_function_gets_one_line_that_says_what_to_do():
    with pytest.raises(CourseError, match="Did you mean 'tanh'"):
        explorer(function="tahn")


def test_a_region_is_shaded_where_the_output_is_positive():
    points = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.5, -1.0]])
    right_half, nowhere = (lambda x: x[:, :1]), (lambda x: -torch.ones(len(x), 1))
    figure = plots.decision_regions({"half": right_half, "no": nowhere}, points, points[:, 0] > 0, "a", "b")
    half, no = figure.axes
    inside = half.collections[0].get_paths()[1]
    assert inside.contains_point((0.5, 0)) and not inside.contains_point((-0.5, 0))
    assert not no.collections[0].get_paths()[1].vertices.size
    assert [len(line.get_xdata()) for line in half.lines] == [2, 1]


def test_the_right_panel_shows_the_derivative():
    figure = plots.functions_and_slopes({"square": lambda x: x**2})
    curve, slope = (ax.lines[0] for ax in figure.axes)
    assert torch.allclose(torch.as_tensor(slope.get_ydata()), 2 * torch.as_tensor(curve.get_xdata()))


def test_each_path_lies_on_its_own_loss_and_ends_where_it_ends():
    goal = torch.tensor([1.0, -1.0])
    path = torch.tensor([[-1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])
    walks = {name: (lambda w: ((w - goal) ** 2).sum(dim=-1), path) for name in ("sigmoid", "tanh")}
    figure = plots.paths_side_by_side(walks, (-2, 2, -2, 2), goal, ("a", "b"))
    assert [ax.get_title() for ax in figure.axes] == ["sigmoid", "tanh"]
    for ax in figure.axes:
        assert torch.equal(torch.as_tensor(ax.lines[0].get_xydata()).float(), path)
        assert ax.lines[0].get_color() == plots.OF_ACTIVATION[ax.get_title()]


def test_every_panel_gets_its_own_row_of_norms():
    values = {"tanh": torch.tensor([[1e-3, 1e-2, 1.0], [1e3, 1e2, 1.0]])}
    left, right = plots.gradient_by_layer(values, ["small", "large"]).axes
    assert left.lines[0].get_ydata()[0] == pytest.approx(1e-3)
    assert right.lines[0].get_ydata()[0] == pytest.approx(1e3)
    assert left.get_ylim() == right.get_ylim()


def test_activations_have_colours_of_their_own_and_share_none_with_each_other():
    assert len(set(plots.OF_ACTIVATION.values())) == len(plots.OF_ACTIVATION)
    assert not set(plots.OF_ACTIVATION) & set(plots.OF_OPTIMISER)


@pytest.mark.parametrize(
    "exercise, student, wanted",
    [
        (check.sigmoid_slope, lambda y: (y * (1 - y)).sum(), "changes shape"),
        (check.sigmoid_slope, lambda y: 0.25, "changes shape"),
        (check.count_dead, lambda outputs: (outputs == 0).all(dim=0), "not a number"),
        (check.count_dead, lambda outputs: "two", "not a number"),
        (check.leaky_relu, lambda x, upstream, slope=0.01: x, "does not return two things"),
        (check.leaky_relu, lambda x, upstream, slope=0.01: (x, slope), "changes shape"),
    ],
)
def test_an_answer_of_the_wrong_kind_is_named(exercise, student, wanted):
    assert exercise.diagnose(student).name == wanted


def test_changing_x_in_place_is_seen():
    def student(x, upstream, slope=0.01):
        factor = (x > 0) + slope * (x <= 0)
        x *= factor
        return x, factor * upstream

    assert check.leaky_relu.diagnose(student).name == "changed in place"


def test_a_number_is_as_good_as_a_tensor():
    assert check.count_dead.diagnose(lambda outputs: (outputs == 0).all(dim=0).sum()).kind == "right"
    assert check.count_dead.diagnose(lambda outputs: sum(col.count_nonzero() == 0 for col in outputs.T)).kind == "right"
