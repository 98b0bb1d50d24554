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


def test_06_multi_head_attention():
    config = gpt.GPTConfig(vocab_size=10, hidden_size=24, num_heads=3, dropout=0.1)
    kept = gpt.MultiHeadAttention(config).eval()
    lesson = taught("06", "class-run")["MultiHeadAttention"](config).eval()
    lesson.load_state_dict(kept.state_dict())
    x = torch.randn(2, 6, 24)
    cache = kept(x[:, :2])[2]
    for arguments in [(x,), (x[:, 2:], cache)]:
        (y, weights, _), (wanted, wanted_weights, _) = lesson(*arguments), kept(*arguments)
        assert torch.equal(y, wanted) and torch.equal(weights, wanted_weights)
    torch.manual_seed(1)
    trained = kept.train()(x)[0]
    torch.manual_seed(1)
    assert torch.equal(lesson.train()(x)[0], trained)  # dropout stands in the same place
