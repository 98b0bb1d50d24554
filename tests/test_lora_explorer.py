"""Explorers of notebooks 10 and 11: what they count, and what moves when a control does."""

import nbformat
import pytest
import torch
from transformers import GlmConfig, GlmForCausalLM

from course_utils import CourseError, explorers, finetune, plots
from course_utils.runtime import GIB, ROOT


def needed(model, target, rank):
    trained = rank * target * 1000
    return trained, model * 1_000_000, {"weights": model * GIB, "optimiser": 16 * trained}


def explorer(**settings) -> explorers.Explorer:
    plots.use_course_style()
    return explorers.lora(needed, {"small": 1, "large": 20}, {"all": 7, "q and v": 2}, {"T4": 14.6}, **settings)


def prefix(**settings) -> explorers.Explorer:
    def needed(model, pre_seq_len, batch):
        return 10 * pre_seq_len, {"weights": model, "activations": batch / 2}

    plots.use_course_style()
    return explorers.prefix(needed, {"small": 1, "large": 20}, {"T4": 14.6}, **settings)


def test_the_title_counts_what_is_trained():
    shown = explorer(rank=4, alpha=8)
    figure = shown.draw(**{name: control.value for name, control in shown.controls.items()})
    assert figure._suptitle.get_text() == "r = 4, α/r = 2, all: 28,000 trained, 2.800% of the model"
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([1, 16 * 28000 / GIB])


def test_the_title_counts_what_a_prefix_trains():
    shown = prefix(pre_seq_len=64, batch=4)
    figure = shown.draw(**{name: control.value for name, control in shown.controls.items()})
    assert figure._suptitle.get_text() == "prefix of 64, 4 at once: 640 numbers trained"
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1, 2]


@pytest.mark.parametrize(
    "make, control, value",
    [
        (explorer, "model", "large"),
        (explorer, "target", "q and v"),
        (explorer, "rank", 64),
        (explorer, "alpha", 2),
        (prefix, "model", "large"),
        (prefix, "pre_seq_len", 2),
        (prefix, "batch", 32),
    ],
)
def test_a_moved_control_draws_a_new_figure(make, control, value):
    shown = make()
    before = shown.image.value
    shown.controls[control].value = value
    assert shown.image.value != before


@pytest.mark.parametrize(
    "make, settings, says",
    [
        (explorer, {"model": "medium"}, "choose one of small, large"),
        (explorer, {"target": "k"}, "choose one of all"),
        (explorer, {"rank": 0}, "rank"),
        (prefix, {"model": "medium"}, "choose one of small, large"),
        (prefix, {"pre_seq_len": 0}, "pre_seq_len"),
        (prefix, {"batch": 99}, "from 1 to 32"),
    ],
)
def test_bad_input_gets_one_line(make, settings, says):
    with pytest.raises(CourseError) as problem:
        make(**settings)
    assert says in problem.value.text.en


@pytest.mark.parametrize(("dropout", "kept"), [(0.0, 1.0), (0.1, 1.5)])
def test_what_one_text_keeps_in_memory_beside_lora(dropout, kept):
    """The figures of notebook 11's section 4, by the count of notebook 10."""
    book = nbformat.read(ROOT / "notebooks" / "en" / "10_p_tuning.ipynb", as_version=4)
    count, sizes = next(cell.source for cell in book.cells if cell.id == "rough-run").split("\n\n\n")
    names = {"torch": torch, "GlmConfig": GlmConfig, "GlmForCausalLM": GlmForCausalLM}
    exec(f"{count}\n\n{sizes.partition('with torch.device')[0]}", names)
    with torch.device("meta"):
        model = finetune.add_adapter(
            GlmForCausalLM(names["config"]).half(), finetune.LoRASettings(lora_dropout=dropout)
        ).train()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # as train() does
        found = names["kept_bytes"](model, torch.zeros(1, 128, dtype=torch.long))[0] / GIB
    assert found == pytest.approx(kept, abs=0.05)
