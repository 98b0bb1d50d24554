"""Each class of `course_utils.gpt` computes what the notebook that teaches it computes."""

import math
from pathlib import Path

import nbformat
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


def test_05_what_the_first_block_receives():
    config = gpt.GPTConfig(vocab_size=10, context_length=8, hidden_size=12, num_layers=1, num_heads=2)
    model = gpt.GPT(config).eval()
    lesson = taught("05", "together-define")["Embeddings"](config.vocab_size, config.context_length, config.hidden_size)
    lesson.load_state_dict({name: model.state_dict()[name] for name in lesson.state_dict()})
    received = []
    model.blocks[0].register_forward_pre_hook(lambda block, arguments: received.append(arguments[0]))
    input_ids = torch.randint(10, (2, 6))
    model(input_ids)
    assert torch.equal(received[0], lesson(input_ids))
