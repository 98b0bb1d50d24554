"""Trainer and PEFT take the loaded models as they take any other."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from course_utils.chatglm import add_prefix, load_chatglm

FIXTURES = Path(__file__).parent / "fixtures" / "chatglm"
TARGETS = {"v3_mqa2": ["q_proj", "k_proj", "v_proj", "o_proj"], "v1_base": ["query_key_value"]}


def examples(name: str) -> list[dict[str, torch.Tensor]]:
    reference = load_file(FIXTURES / name / "expected.safetensors")
    if name == "v3_mqa2":
        ids, labels = reference["input_ids"][0], reference["loss_labels"][0]
    else:
        ids, labels = reference["train_input_ids"][0], reference["train_labels"][0]
    return [{"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}] * 12


def assert_learns(model, name: str, folder: Path, rate: float, **options) -> None:
    """Six steps of Trainer lower the loss."""
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=2,
        learning_rate=rate,
        num_train_epochs=1,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        **options,
    )
    data = examples(name)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data[:1])
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.05


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_lora_with_trainer_and_gradient_checkpointing(name, tmp_path):
    model = load_chatglm(FIXTURES / name, device="cpu")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=TARGETS[name]))
    assert_learns(model, name, tmp_path, 0.02, gradient_checkpointing=True)
    ids = examples(name)[0]["input_ids"][None]
    model.eval().save_pretrained(tmp_path / "adapter")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(".lora_" in name for name in names)
    again = PeftModel.from_pretrained(load_chatglm(FIXTURES / name, device="cpu"), tmp_path / "adapter")
    with torch.no_grad():
        logits = model(ids).logits
        torch.testing.assert_close(again(ids).logits, logits)
        torch.testing.assert_close(again.merge_and_unload()(ids).logits, logits, rtol=1e-4, atol=1e-4)
    assert model.generate(input_ids=ids, max_new_tokens=2, do_sample=False).shape[1] > ids.shape[1]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("quantize", [None, "int4"])
def test_prefix_with_trainer(name, quantize, tmp_path):
    model = load_chatglm(FIXTURES / name, device="cpu", quantize=quantize)
    add_prefix(model, 4)
    assert_learns(model, name, tmp_path, 0.2)


@pytest.mark.parametrize("name", TARGETS)
def test_lora_on_quantised_weights(name, tmp_path):
    model = load_chatglm(FIXTURES / name, device="cpu", quantize="int4")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=TARGETS[name]))
    assert_learns(model, name, tmp_path, 0.02)


@pytest.mark.parametrize("name", TARGETS)
def test_full_training_saves_a_native_checkpoint(name, tmp_path):
    model = load_chatglm(FIXTURES / name, device="cpu")
    assert_learns(model, name, tmp_path, 0.02)
    model.eval().save_pretrained(tmp_path / "saved")
    ids = examples(name)[0]["input_ids"][None]
    with torch.no_grad():
        torch.testing.assert_close(load_chatglm(tmp_path / "saved", device="cpu")(ids).logits, model(ids).logits)
