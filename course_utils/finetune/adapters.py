"""What is trained of a model: put in place, found again in a folder, told from another model's."""

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedModel

from course_utils.chatglm.modeling import ChatGLM1Config
from course_utils.chatglm.prefix import add_prefix, load_prefix
from course_utils.chatglm.published import PREFIX_NAMES
from course_utils.finetune.settings import PTuningSettings, Settings
from course_utils.messages import CourseError


def add_adapter(model: PreTrainedModel, settings: Settings) -> PreTrainedModel | PeftModel:
    """Freeze `model` and give it what is to be trained: a prefix or low-rank matrices, drawn with settings.seed.

    PEFT does it, except for the prefix of the first generation, which has a place in that network.
    """
    set_seed(settings.seed)
    if isinstance(settings, PTuningSettings):
        if isinstance(model.config, ChatGLM1Config):
            add_prefix(model, settings.pre_seq_len, settings.prefix_projection)
            return model
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=settings.pre_seq_len,
            prefix_projection=settings.prefix_projection,
            encoder_hidden_size=model.config.hidden_size,
        )
    else:
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=_target_modules(model, settings.lora_target),
        )
    with _peft_quiet():
        return get_peft_model(model, config)


def _target_modules(model: PreTrainedModel, lora_target: str | list[str]) -> str | list[str]:
    """PEFT's word for the layers that lora_target names; all of them are there."""
    given = lora_target.split(",") if isinstance(lora_target, str) else lora_target
    targets = [target.strip() for target in given]
    if targets == ["all"]:
        return "all-linear"
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    there = {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, kinds)}
    if unknown := sorted(set(targets) - there):
        raise CourseError(
            f"lora_target names {', '.join(unknown)}, which this model does not have: choose 'all' or some of "
            f"{', '.join(sorted(there))}.",
            f"lora_target 中的 {'、'.join(unknown)} 在本模型里不存在：请写 'all'，或从 {'、'.join(sorted(there))} "
            "中选择。",
        )
    return targets


@contextmanager
def _peft_quiet() -> Iterator[None]:
    """PEFT asks transformers for something by its old name, and transformers warns the reader."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
        yield


def load_trained(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel | PeftModel:
    """Give the base model what a training run saved: `folder` is its output_dir, or one checkpoint in it.

    The result goes to `chat`, `generate` and `serve.Service` like any other model.
    """
    folder = Path(folder)
    if (folder / "adapter").is_dir():
        folder = folder / "adapter"
    elif checkpoints := checkpoints_in(folder):
        folder = checkpoints[-1]
    record = read_record(folder)
    check_base(record["base"], model, folder)
    if (folder / "adapter_config.json").is_file():
        with _peft_quiet():
            return PeftModel.from_pretrained(model, folder).eval()
    tensors = load_file(folder / "model.safetensors")
    if any(PREFIX_NAMES in name for name in tensors):
        load_prefix(model, folder)
    else:
        model.load_state_dict(tensors, strict=False)
    return model.eval()


def checkpoints_in(folder: Path | None) -> list[Path]:
    """The checkpoints of a run, oldest first; what else lies there, such as a copy of one, is not among them."""
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()] if folder else []
    return sorted(found, key=lambda path: int(path.name[11:]))


def read_record(folder: Path) -> dict[str, Any]:
    """What a run wrote down beside the weights."""
    try:
        return json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CourseError(
            f"{folder} holds nothing that was trained here (no training.json): give the output_dir of a run.",
            f"{folder} 中没有训练结果（缺少 training.json）：请给出某次训练的 output_dir。",
        ) from None


def base_signature(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    """What tells one base model from another: its sizes, and some of its numbers.

    The embeddings are the same in a model into which an adapter was merged; the matrices of its last block are not.
    """
    config, embeddings = model.config, model.get_input_embeddings().weight
    linear = [(name, module.weight) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    matrices = [weight for name, weight in linear if ".layers." in name and "lora_" not in name]
    return {
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "dtype": str(embeddings.dtype),
        "embedding": _some_numbers(embeddings[min(100, len(embeddings) - 1)]),
        "last block": [_some_numbers(weight[0]) for weight in matrices[-4:] if weight.is_floating_point()],
    }


def _some_numbers(row: torch.Tensor) -> list[float]:
    return [round(value, 6) for value in row[:8].float().tolist()]


def check_base(saved: dict[str, Any], model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Refuse a base model that is not the one that was trained."""
    here = base_signature(model)
    # Number formats round; bfloat16 to three digits.
    near = {"rel_tol": 1e-2, "abs_tol": 1e-4} if saved.get("dtype") != here.pop("dtype") else {"abs_tol": 2e-6}
    for name, value in here.items():
        same = saved.get(name) == value
        if name == "embedding":
            same = all(math.isclose(a, b, **near) for a, b in zip(saved[name], value, strict=True))
        elif name == "last block":  # quantised, a model has other numbers there
            pairs = zip(chain(*saved.get(name, ())), chain(*value), strict=False)
            same = all(math.isclose(a, b, **near) for a, b in pairs)
        if not same:
            raise CourseError(
                f"{folder} was trained on another model ({name}: {saved[name]} there, {value} here): load that model.",
                f"{folder} 是在另一个模型上训练的（{name}：那里是 {saved[name]}，这里是 {value}）："
                "请加载训练它的模型。",
            )
