"""Figures and explorer of notebook 05: nothing of a text is lost, and every sign can be drawn."""

import pytest
import torch

from course_utils import CourseError, explorers, plots


@pytest.fixture(autouse=True)
def style():
    plots.use_course_style()


def shown(figure) -> list[str]:
    figure.draw_without_rendering()  # a glyph that no font has would raise here
    return [text.get_text() for text in figure.axes[0].texts]


def test_boxes_show_whole_characters_as_text_and_parts_as_bytes():
    cat = "猫".encode()
    assert shown(
        plots.token_boxes({"BPE": [b" the", "小".encode() + cat[:1], cat[1:], "🐉".encode(), b"\n", b"$x$"]})
    ) == [
        "BPE",
        "6 tokens, 0.55 per character",
        "␣the",
        "E5 B0 8F E7",
        "8C AB",
        "U+1F409",
        "⏎",
        "$x$",
    ]


def test_long_texts_are_wrapped_inside_the_figure():
    figure = plots.token_boxes({"bytes": [b"m"] * 300})
    ax = figure.axes[0]
    assert len(ax.patches) == 300
    assert max(box.get_x() + box.get_width() for box in ax.patches) <= ax.get_xlim()[1]
    assert min(box.get_y() for box in ax.patches) >= ax.get_ylim()[0]


def test_an_empty_text_has_no_tokens():
    assert shown(plots.token_boxes({"bytes": []})) == ["bytes", "0 tokens"]


def test_similarities_draw_one_square_each_with_the_words_in_order():
    groups = {"animals": ["cat", "dog"], "colours": ["red"]}
    figure = plots.similarities({"before": torch.eye(3), "after": torch.ones(3, 3)}, groups)
    first, second = figure.axes[:2]
    assert [label.get_text() for label in first.get_yticklabels()] == ["cat", "dog", "red"]
    assert second.get_title() == "after"
    assert first.images[0].get_clim() == second.images[0].get_clim() == (-1, 1)


def cut(text: str, merges: int) -> dict[str, list[bytes]]:
    return {f"{merges} merges": [character.encode() for character in text]}


def explorer(**settings) -> explorers.Explorer:
    return explorers.tokens(cut, 100, **{"text": "小猫", "merges": 50} | settings)


@pytest.mark.parametrize("control, value", [("text", "小狗🐉"), ("text", ""), ("text", "m" * 200), ("merges", 0)])
def test_a_moved_control_draws_a_new_figure(control, value):
    live = explorer()
    before = live.image.value
    live.controls[control].value = value
    assert live.image.value != before


def test_a_long_text_is_cut_and_the_figure_says_so():
    live = explorer(text="m" * 200)
    figure = live.draw(text="m" * 200, merges=0)
    assert len(figure.axes[0].patches) == explorers.LONGEST_TEXT
    assert str(explorers.LONGEST_TEXT) in figure.get_suptitle()


def test_bad_input_gets_one_line_that_says_what_to_do():
    with pytest.raises(CourseError, match="from 0 to 100"):
        explorer(merges=101)
