"""The figures of notebook 09, and that its exercises look at what they should."""

import importlib

import pytest

from course_utils import CourseError, explorers, plots

MODELS = {"small": ({"fp16": 4.0, "int8": 2.0}, 2**20), "large": ({"fp16": 30.0}, 2**21)}


def explorer(**settings) -> explorers.Explorer:
    plots.use_course_style()
    return explorers.chatglm_memory(MODELS, {"T4": 14.6, "P100": 15.9}, **settings)


def test_bars_stack_weights_cache_and_rest():
    [ax] = plots.memory_bars({"fp16": 4.0, "int8": 2.0}, 0.5, 1.0, {"T4": 14.6}).axes
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [
        *[(0, 4.0), (4.0, 0.5), (4.5, 1.0)],
        *[(0, 2.0), (2.0, 0.5), (2.5, 1.0)],
    ]
    assert [text.get_text().strip() for text in ax.texts] == ["5.5", "3.5", "T4"]


def test_a_bar_longer_than_every_card_stays_inside():
    [ax] = plots.memory_bars({"fp16": 40.0}, 1.0, 1.0, {"T4": 14.6}).axes
    assert ax.get_xlim()[1] > 42


@pytest.mark.parametrize("control, value", [("model", "large"), ("tokens", 32768), ("conversations", 32)])
def test_a_moved_control_draws_a_new_figure(control, value):
    shown = explorer()
    before = shown.image.value
    shown.controls[control].value = value
    assert shown.image.value != before


@pytest.mark.parametrize(
    "settings, says",
    [({"model": "smal"}, "Did you mean 'small'"), ({"tokens": 0}, "from 1"), ({"conversations": 99}, "to 32")],
)
def test_bad_input_gets_one_line_that_says_what_to_do(settings, says):
    with pytest.raises(CourseError) as problem:
        explorer(**settings)
    assert says in str(problem.value).splitlines()[0]


def check():
    return importlib.import_module("course_utils.checks.chatglm_inference")


def test_an_unknown_slip_in_a_text_is_shown_as_text():
    verdict = check().chatglm2_text.diagnose(lambda history, query: f"Q: {query}")
    assert verdict.kind == "different" and "'Q: 再见'" in verdict.text.en
    slip = check()._chatglm3_prompt
    verdict = check().chatglm3_prompt.diagnose(lambda messages, encode, control: [*slip(messages, encode, control), 7])
    assert "[gMASK] sop <|user|> ▁ \\n ▁ 你 好 <|assistant|>;" in verdict.text.en


@pytest.mark.parametrize(
    "exercise, answer, name",
    [
        ("chatglm3_prompt", lambda messages, encode, control: [encode("a")], "not a list of ids"),
        ("chatglm3_prompt", lambda messages, encode, control: "[gMASK]sop", "not a list of ids"),
        ("chatglm2_text", lambda history, query: [query], "not a text"),
        ("cache_bytes", lambda config, tokens, number_bytes=2: "7", "not a number"),
        ("quantize_rows", lambda W, bits: W, "does not return two tensors"),
        ("quantize_rows", lambda W, bits: (W.T, W[:, :1]), "another shape"),
    ],
)
def test_the_wrong_kind_of_thing_is_named(exercise, answer, name):
    assert getattr(check(), exercise).diagnose(answer).name == name


def test_one_scale_for_all_rows_is_known_in_any_shape():
    """The stub returns a column, so whoever takes one scale for the matrix may well repeat it for each row."""

    def repeated(W, bits):
        scale = (W.abs().max() / (2 ** (bits - 1) - 1)).expand(len(W), 1)
        return (W / scale).round(), scale

    assert check().quantize_rows.diagnose(repeated).name == "one scale for the whole matrix"


def test_scales_may_come_as_a_column_or_as_a_list():
    right = check()._quantize_rows
    assert check().quantize_rows.diagnose(lambda W, bits: (right(W, bits)[0], right(W, bits)[1][:, 0])).kind == "right"
