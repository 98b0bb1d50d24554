"""Figures, explorer and checks of notebook 06."""

import base64
import math

import pytest
import torch

from course_utils import CourseError, explorers, plots
from course_utils.checks import attention as check


@pytest.fixture(autouse=True)
def style():
    plots.use_course_style()


def look(sentence, layer, head, causal, temperature):
    """Each token's weights fall with the distance, faster in higher layers."""
    place = torch.arange(len(sentence), dtype=torch.float64)
    scores = -layer * head * (place[:, None] - place).abs() / temperature
    if causal:
        scores = scores.masked_fill(place > place[:, None], -math.inf)
    return list(sentence), scores.softmax(dim=1)


def explorer(**settings) -> explorers.Explorer:
    return explorers.attention(look, **{"layers": 2, "heads": 3, "sentence": "小猫在沙发上玩耍"} | settings)


def shown_text(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_one_display_with_three_faces():
    bundle = explorer()._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert explorer()._repr_mimebundle_()["image/png"] == bundle["image/png"]


@pytest.mark.parametrize(
    "control, value",
    [("sentence", "小狗睡觉"), ("layer", 2), ("head", 3), ("causal", False), ("temperature", 5.0)],
)
def test_a_moved_control_draws_a_new_figure(control, value):
    shown = explorer()
    before = shown.image.value
    shown.controls[control].value = value
    assert shown.image.value != before


def test_the_drawn_sentence_is_what_was_typed():
    figure = explorer().draw("小狗睡觉", 1, 1, True, 1.0)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list("小狗睡觉")


@pytest.mark.parametrize("sentence", ["", "   ", "𝄞龘"])
def test_a_sentence_without_anything_to_draw_asks_for_one(sentence):
    shown = explorer()
    shown.controls["sentence"].value = sentence
    assert shown_text(explorer().draw(sentence, 1, 1, True, 1.0)) == ["Type a sentence.  请输入一句话。"]


def test_a_long_sentence_is_cut_and_signs_without_a_glyph_are_left_out():
    [ax] = explorer().draw("龘猫" * 100, 1, 1, True, 1.0).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["猫"] * explorers.LONGEST


@pytest.mark.parametrize("settings", [{"layer": 3}, {"head": 0}, {"layer": math.nan}, {"head": "first"}])
def test_bad_input_gets_one_line_that_says_what_to_do(settings):
    with pytest.raises(CourseError, match="must be a number from 1 to"):
        explorer(**settings)


def test_every_row_of_a_small_map_shows_its_numbers_and_leaves_out_what_is_masked():
    weights = look("小猫在", 1, 1, True, 1.0)[1]
    figure = plots.attention_maps({"one": weights}, list("小猫在"))
    assert len(shown_text(figure)) == 6 and shown_text(figure)[0] == "1.00"
    picture = figure.axes[0].images[0].get_array()
    assert picture.mask.sum() == 3 and picture.mask[0, 1:].all()


def test_maps_stand_in_rows_of_four_and_may_be_wider_than_high():
    weights = torch.full((2, 5), 0.2)
    figure = plots.attention_maps({str(i): weights for i in range(6)}, ["a", "b"], list("一二三四五"))
    drawn = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in drawn] == list("012345")
    assert drawn[4].get_position().y0 < drawn[0].get_position().y0
    assert drawn[0].images[0].get_array().shape == (2, 5)


def test_the_fitted_power_is_that_of_the_last_three_points():
    lines = {"square": [9.0, 4e-4 * 4, 4e-4 * 16, 4e-4 * 64]}
    figure = plots.power_laws({"seconds": lines, "MiB": {"flat": [1.0] * 4}}, [8, 16, 32, 64], "n")
    labels = [ax.get_legend().get_texts()[0].get_text() for ax in figure.axes]
    assert labels == ["square: n to the power 2.0", "flat: n to the power 0.0"]


@pytest.mark.parametrize(
    "exercise, student, wanted",
    [
        (check.attention, lambda X, W_Q, W_K, W_V: (X @ W_Q @ (X @ W_K).T).softmax(dim=-1), "wrong shape"),
        (check.attention, lambda X, W_Q, W_K, W_V: (X, X), "no tensor"),
        (check.causal_weights, lambda scores: scores.sum(), "wrong shape"),
        (check.grouped, lambda Q, K, V: K, "wrong shape"),
    ],
)
def test_an_answer_of_the_wrong_kind_is_named(exercise, student, wanted):
    assert exercise.diagnose(student).name == wanted


def test_changing_the_scores_in_place_is_seen():
    def student(scores):
        scores[scores.new_ones(scores.shape).triu(1).bool()] = -math.inf
        return scores.softmax(dim=-1)

    assert check.causal_weights.diagnose(student).name == "changed in place"


def test_another_right_way_is_right():
    def loop(X, W_Q, W_K, W_V, W_O, num_heads):
        width = X.shape[1] // num_heads
        heads = []
        for h in range(num_heads):
            columns = slice(h * width, (h + 1) * width)
            weights = (X @ W_Q[:, columns] @ (X @ W_K[:, columns]).T / width**0.5).softmax(dim=1)
            heads.append(weights @ X @ W_V[:, columns])
        return torch.cat(heads, dim=1) @ W_O

    def weights_divided_again(scores):
        weights = scores.softmax(dim=-1).tril()
        return weights / weights.sum(dim=-1, keepdim=True)

    assert check.multi_head.diagnose(loop).kind == "right"
    assert check.causal_weights.diagnose(weights_divided_again).kind == "right"


def test_the_checks_leave_the_random_numbers_alone():
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    check.attention.diagnose(check.attention.solution)
    assert torch.equal(torch.rand(3), wanted)
