"""P-Tuning v2: learned keys and values in front of the text, on the models of every generation.

The first generation has room for a prefix in its own network. `GlmForCausalLM` has not, so there a hook puts
the prefix into the cache before the first tokens. The text keeps its positions from 0, as when the prefix was
trained.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from course_utils.chatglm.modeling import ChatGLM1Config, PrefixEncoder
from course_utils.chatglm.published import PREFIX_NAMES, Tensors, open_tensors, weight_files
from course_utils.messages import CourseError


def add_prefix(model: PreTrainedModel, length: int, projection: bool = False) -> PrefixEncoder:
    """Give `model` a fresh prefix of `length` places to train; everything else is frozen. Returns the prefix.

    It is saved with the model and comes back with `load_chatglm`, or alone with `load_prefix`.
    """
    config, base = model.config, model.base_model
    prefix = PrefixEncoder(config, length, projection)
    prefix.reset()
    had_prefix = getattr(base, "prefix_encoder", None) is not None
    model.requires_grad_(False)
    base.prefix_encoder = prefix.to(model.device).train(model.training)
    config.pre_seq_len, config.prefix_projection = length, projection
    if not isinstance(config, ChatGLM1Config) and not had_prefix:
        base.register_forward_pre_hook(_put_prefix_into_cache, with_kwargs=True)
        base.register_forward_hook(_hand_out_no_cache_unasked, with_kwargs=True)
    return prefix


def load_prefix(model: PreTrainedModel, path: str | Path) -> PreTrainedModel:
    """Put a trained prefix in front of `model`, which is changed and returned.

    `path` is a checkpoint of P-Tuning v2, a file or the folder it lies in: the prefix alone, as the published
    training script saves it, or inside a full checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise CourseError(
            f"There is no prefix at {path}: give the checkpoint folder of a P-Tuning v2 run, or the file in it.",
            f"{path} 不存在：请给出 P-Tuning v2 训练得到的检查点文件夹，或其中的文件。",
        )
    set_prefix(model, prefix_tensors(open_tensors(weight_files(path) if path.is_dir() else [path])), path)
    return model


def prefix_tensors(tensors: Tensors) -> Tensors:
    """Those tensors that make up a prefix, under the names they have within it."""
    return {name.split(PREFIX_NAMES)[1]: tensor for name, tensor in tensors.items() if PREFIX_NAMES in name}


def set_prefix(model: PreTrainedModel, tensors: Tensors, path: Path) -> None:
    """Give `model` the prefix that these tensors hold; `path` is where they came from."""
    if "embedding.weight" not in tensors:
        raise CourseError(
            f"{path} holds no prefix (no prefix_encoder.embedding.weight): give a P-Tuning v2 checkpoint; a LoRA "
            "adapter is loaded with peft.",
            f"{path} 中没有前缀（缺少 prefix_encoder.embedding.weight）：请给出 P-Tuning v2 检查点；LoRA 适配器请用 "
            "peft 加载。",
        )
    values = {name: tensor.read().float() for name, tensor in tensors.items()}
    projection = "trans.0.weight" in values
    length = values["embedding.weight"].shape[0]
    with torch.device("meta"):
        empty = PrefixEncoder(model.config, length, projection)
    wanted = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in values.items()}
    if wanted != found:
        name = next(name for name in wanted if wanted[name] != found.get(name))
        raise CourseError(
            f"The prefix in {path} was trained for another model: {name} is {found.get(name)}, this model needs "
            f"{wanted[name]}. Load the model that it was trained on.",
            f"{path} 中的前缀是为另一个模型训练的：{name} 的形状是 {found.get(name)}，本模型需要 {wanted[name]}。"
            "请加载训练它时所用的模型。",
        )
    add_prefix(model, length, projection).load_state_dict(values)


def _put_prefix_into_cache(base: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Before each call of GlmModel: fill an empty cache with the prefix, leave the text its positions."""
    prefix: PrefixEncoder = base.prefix_encoder
    if base.training and any(layer.gradient_checkpointing for layer in base.layers):
        raise CourseError(
            "A prefix lives in the cache, which gradient checkpointing throws away: train it without "
            "gradient_checkpointing, or train a LoRA.",
            "前缀存放在缓存中，而梯度检查点会丢弃缓存：训练前缀时请关闭 gradient_checkpointing，或改为训练 LoRA。",
        )
    if args:  # callers name all but the first argument
        kwargs = {"input_ids": args[0], **kwargs}
    tokens = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
    batch, length = tokens.shape[:2]

    cache = kwargs.get("past_key_values")
    if cache is None:
        cache = DynamicCache(config=base.config)
    if cache.get_seq_length() == 0:
        for layer, (key, value) in enumerate(prefix(batch, base.embed_tokens.weight.dtype)):
            cache.update(key, value, layer)
    text = cache.get_seq_length() - prefix.length  # tokens of the text that are in the cache already
    kwargs["past_key_values"] = cache

    mask = kwargs.get("attention_mask")
    if kwargs.get("position_ids") is None:
        if mask is None:
            kwargs["position_ids"] = torch.arange(text, text + length, device=tokens.device)[None]
        else:
            kwargs["position_ids"] = (mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -length:]
    if mask is not None:  # everyone sees the prefix
        kwargs["attention_mask"] = nn.functional.pad(mask, (prefix.length, 0), value=1)
    return (), kwargs


def _hand_out_no_cache_unasked(base: nn.Module, args: tuple, kwargs: dict, output):
    """After each call: without `use_cache` the cache only carried the prefix; `generate` must not keep it."""
    if kwargs.get("use_cache") is False:
        output.past_key_values = None
    return output
