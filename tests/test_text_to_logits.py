"""The figure that grows from notebook 05 to 08: each stage keeps what the earlier ones showed, with true shapes."""

import itertools

import pytest
import torch

from course_utils import CourseError, plots
from course_utils.gpt import GPT, GPTConfig

STAGES = ["embeddings", "attention", "block", "logits", "token"]
TOKENS = list("小猫在沙发上玩耍")


def texts(until: str, **settings) -> list[str]:
    plots.use_course_style()
    figure = plots.text_to_logits(until, TOKENS, range(8), 1000, hidden_size=96, num_layers=3, num_heads=6, **settings)
    figure.draw_without_rendering()  # a glyph that no font has would raise here
    return [text.get_text() for text in figure.axes[0].texts]


def test_each_stage_adds_to_the_one_before():
    shown = [texts(stage) for stage in STAGES]
    for before, after in itertools.pairwise(shown):
        assert after[: len(before)] == before
        assert len(after) > len(before)
    assert TOKENS == [text for text in shown[0] if text in TOKENS]
    assert texts("token", next_token="。")[-1] == "。"


def test_shapes_are_those_of_the_model():
    shown = texts("token")
    model = GPT(GPTConfig(vocab_size=1000, context_length=8, hidden_size=96, num_layers=3, num_heads=6))
    attention = model.blocks[0].attention
    shapes = {}
    for name in ["query", "key", "value"]:
        getattr(attention, name).register_forward_hook(
            lambda _, __, made, name=name: shapes.update({name: list(attention.heads(made).shape[1:])})
        )
    model.blocks[0].feed_forward.up.register_forward_hook(
        lambda _, __, made: shapes.update({"feed-forward": list(made.shape[1:])})
    )
    logits, [weights, *_], _ = model.step(torch.arange(8)[None])
    shapes |= {"weights": list(weights.shape[1:])}
    for name, shape in shapes.items():
        assert shown[shown.index(name) + 1] == str(shape)
    assert shown[shown.index("logits") + 1].startswith(str(list(logits.shape[1:])))
    assert "07 · a block, 3 of them" in shown


def test_bad_input_is_named():
    with pytest.raises(CourseError, match="embeddings, attention, block, logits, token"):
        texts("softmax")
    with pytest.raises(CourseError, match="8 tokens and 7 ids"):
        plots.text_to_logits("token", TOKENS, range(7), 1000)
