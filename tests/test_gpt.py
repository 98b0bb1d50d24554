"""Each class of `course_utils.gpt` computes what the notebook that teaches it computes."""

import math
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils import gpt

NOTEBOOKS = Path(__file__).parent.parent / "notebooks" / "en"


def taught(number: str, *cell_ids: str, **names: object) -> dict[str, object]:
    """What the cells with these ids define, given the notebook's imports and `names`."""
    [path] = NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
    namespace = {"math": math, "torch": torch, "nn": nn, "F": F, **names}
    for cell_id in cell_ids:
        exec(compile(cells[cell_id], cell_id, "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def exact():
    """The same random numbers for every test, in double precision."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def twins(lesson: type[nn.Module], kept: type[nn.Module], config: gpt.GPTConfig) -> tuple[nn.Module, nn.Module]:
    """One of each, started from the same random numbers; then all weights and biases drawn anew, alike."""
    torch.manual_seed(3)
    theirs = lesson(config)
    torch.manual_seed(3)
    ours = kept(config)
    for (name, weight), (other_name, other) in zip(theirs.state_dict().items(), ours.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(weight, other), f"{name} starts differently"
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


@pytest.mark.parametrize("name", ["FeedForward", "Block", "GPT"])
@pytest.mark.parametrize("training", [False, True])
def test_07_feed_forward_block_and_stack(name, training):
    lesson = taught("07", "feed-forward", "block-code", "gpt-code", MultiHeadAttention=gpt.MultiHeadAttention)[name]
    config = gpt.GPTConfig(vocab_size=10, context_length=8, hidden_size=24, num_layers=2, num_heads=3, dropout=0.3)
    theirs, ours = (module.train(training) for module in twins(lesson, getattr(gpt, name), config))
    x = torch.randint(10, (2, 6)) if name == "GPT" else torch.randn(2, 6, 24)
    results = []
    for module in (theirs, ours):
        torch.manual_seed(1)  # dropout falls on the same numbers
        results.append(module(x))
    for result, wanted in zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True):
        for tensor, other in zip(*(r if isinstance(r, tuple) else (r,) for r in (result, wanted)), strict=True):
            assert torch.equal(tensor, other)


def test_07_the_block_goes_on_from_a_cache():
    lesson = taught("07", "feed-forward", "block-code", MultiHeadAttention=gpt.MultiHeadAttention)["Block"]
    config = gpt.GPTConfig(vocab_size=10, hidden_size=24, num_heads=3)
    theirs, ours = twins(lesson, gpt.Block, config)
    x = torch.randn(2, 6, 24)
    cache = theirs(x[:, :4])[2]
    assert torch.allclose(theirs(x[:, 4:], cache)[0], ours(x)[0][:, 4:])
