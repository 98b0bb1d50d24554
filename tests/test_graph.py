"""The drawn graph and the walk through it tell the truth about an engine like the one of notebook 02."""

import itertools
from dataclasses import dataclass, field

import pytest

from course_utils import CourseError, explorers, plots
from course_utils.checks import backpropagation as check

plots.use_course_style()


@dataclass
class Product:
    a: float
    b: float
    symbol: str = "×"

    def backward(self, gradient):
        return gradient * self.b, gradient * self.a


@dataclass
class Sum:
    symbol: str = "+"

    def backward(self, gradient):
        return gradient, gradient


@dataclass
class Given:
    symbol: str = ""

    def backward(self, gradient):
        return ()


@dataclass(eq=False)
class Node:
    data: float
    name: str = ""
    operation: object = field(default_factory=Given)
    inputs: tuple = ()
    grad: float = 0.0

    def __mul__(self, other):
        return Node(self.data * other.data, "", Product(self.data, other.data), (self, other))

    def __add__(self, other):
        return Node(self.data + other.data, "", Sum(), (self, other))


def tangled(w: float) -> Node:
    """Edges that pass columns, a value used thrice, and a value times itself: L = (w·x·w + w)²."""
    w, x = Node(w, "w"), Node(1.5, "x")
    s = w * x * w + w
    L = s * s
    L.name = "L"
    return L


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_nodes_come_after_their_inputs_and_once():
    nodes = plots.graph_nodes(tangled(0.8))
    assert len(nodes) == len(set(nodes)) == 6
    assert all(nodes.index(source) < nodes.index(node) for node in nodes for source in node.inputs)


def test_boxes_stand_right_of_their_inputs_and_none_on_another():
    nodes = plots.graph_nodes(tangled(0.8))
    place, route = plots._layers(nodes)
    for one, other in itertools.combinations(place.values(), 2):
        assert one[0] != other[0] or abs(one[1] - other[1]) > 0.99
    for (node, index), places in route.items():
        assert places[0] is node.inputs[index] and places[-1] is node
        columns = [place[key][0] for key in places]
        assert columns == list(range(columns[0], columns[-1] + 1)) and len(columns) > 1


def test_the_figure_shows_values_gradients_and_local_derivatives():
    L = tangled(0.8)
    assert sorted(texts(plots.graph(L, values=[], gradients={}))) == sorted(["w", "x", "×", "×", "+", "L : ×"])
    shown = texts(plots.graph(L))
    assert "w" in shown and "L : ×" in shown
    assert "1.5" in shown and "3.1" in shown  # x; L = 1.76² = 3.0976
    assert shown.count("1.76") == 3  # the sum, and it stands on both edges into L
    assert "0" in shown and "0" not in texts(plots.graph(L, gradients={}))
    assert "−2" in texts(plots.graph(L, gradients={L: -2.0}))
    assert texts(plots.graph(L, title="here")) == shown


def test_the_walk_ends_with_the_gradient_that_a_nudge_finds():
    L = tangled(0.8)
    steps = explorers.walk(L)
    made = [node for node in plots.graph_nodes(L) if node.inputs]
    assert len(steps) == 1 + 2 * len(made)
    assert [len(values) for values, *_ in steps] == [2, 3, 4, 5, 6, 6, 6, 6, 6]
    assert [active for _, _, active, _ in steps] == [None, *made, *reversed(made)]
    assert not any(gradients for _, gradients, _, _ in steps[: 1 + len(made)])
    w = next(node for node in plots.graph_nodes(L) if node.name == "w")
    nudged = (tangled(0.8 + 1e-5).data - tangled(0.8 - 1e-5).data) / 2e-5
    assert steps[-1][1][w] == pytest.approx(nudged, rel=1e-6)
    assert 0 < steps[-2][1][w] < steps[-1][1][w], "a value used twice receives its parts one after the other"
    assert "hands on" in steps[-1][3]


def test_the_explorer_draws_every_step_of_every_graph():
    shown = explorers.backpropagation({"small": lambda w: Node(w, "w") * Node(2.0, "x"), "tangled": tangled})
    seen = set()
    for step in range(shown.controls["step"].max + 1):
        shown.controls["step"].value = step
        seen.add(bytes(shown.image.value))
    assert len(seen) == 3  # start, forward, back; the slider is as long as the longest graph needs
    for control, value in [("graph", "tangled"), ("step", 4), ("w", -1.0)]:
        before = shown.image.value
        shown.controls[control].value = value
        assert shown.image.value != before


def test_an_unknown_graph_is_named():
    with pytest.raises(CourseError, match="choose one of tangled"):
        explorers.backpropagation({"tangled": tangled}, graph="knot")


def test_the_border_lies_where_the_score_changes_sign():
    torch = pytest.importorskip("torch")
    points, labels = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([-1.0, 1.0])
    figure = plots.decision(lambda x1, x2: x1, points, labels, {"ours": [3, 2, 1], "theirs": [3, 2, 1]})
    plane, curve = figure.axes
    [border] = [path for path in plane.collections[-1].get_paths()]
    assert abs(border.vertices[:, 0]).max() < 1e-9
    assert [line.get_label() for line in curve.lines] == ["ours", "theirs"]
    assert curve.lines[1].get_linestyle() == "None"


@pytest.mark.parametrize(
    "exercise, student, name, says",
    [
        (check.multiply_backward, lambda gradient, a, b: gradient * b, "does not return 2 things", "gradient_of_a"),
        (check.multiply_backward, lambda gradient, a, b: ("b", "a"), "not a number", "str"),
        (check.sweep, lambda order: order, "not a gradient for each node", "dictionary"),
        (check.sweep, lambda order: {order[0]: 1.0}, "not a gradient for each node", "every node"),
        (check.linear_backward, lambda dY, X, W: (dY @ W.T, X.T @ dY, dY), "wrong shape", "db has shape [3, 3]"),
        (check.softmax_cross_entropy, lambda logits, labels: (logits[:, 0], logits), "wrong shape", "loss has shape"),
    ],
)
def test_answers_of_the_wrong_kind_are_named(exercise, student, name, says):
    verdict = exercise.diagnose(student)
    assert (verdict.kind, verdict.name) == ("unusable", name) and says in verdict.text.en
