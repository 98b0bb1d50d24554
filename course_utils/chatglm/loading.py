"""Load a ChatGLM folder, as published or converted, into a model of today's transformers."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, GenerationConfig, GlmForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from course_utils.chatglm import quantization
from course_utils.chatglm.memory import (
    free_bytes,
    gib,
    needed_bytes,
    needed_bytes_by_bitsandbytes,
    pick_device,
    with_margin,
)
from course_utils.chatglm.modeling import ChatGLM1Config, ChatGLM1ForCausalLM
from course_utils.chatglm.prefix import prefix_tensors, set_prefix
from course_utils.chatglm.published import (
    PREFIX_NAMES,
    Tensors,
    closing_files,
    first_generation_config,
    first_generation_tensors,
    generation_of,
    native_config,
    native_tensors,
    open_tensors,
    output_is_embedding,
    quantization_bits,
    read_config,
    weight_files,
)
from course_utils.files import writing, written_whole
from course_utils.messages import CourseError
from course_utils.runtime import GIB

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_chatglm(
    folder: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    quantize: str | None = None,
) -> PreTrainedModel:
    """The model in `folder`, ready to generate. Which generation it is says its config.json.

    Args:
        folder: A published ChatGLM-6B, ChatGLM2-6B, ChatGLM3-6B or GLM-4-9B-chat, or one that `convert` or
            `save_pretrained` wrote.
        dtype: "auto" takes that of the files, and float16 for bfloat16 on a GPU that does not compute it.
        device: "auto" takes the GPU where there is one that works.
        quantize: None; "int8" or "int4", which run everywhere; "bnb-int8" or "bnb-nf4" by bitsandbytes.

    The second generation and later become transformers' own `GlmForCausalLM`. Weights are read one at a time
    and go straight to their device; nothing is written to disk.
    """
    raw = read_config(folder)
    folder = Path(folder)
    config, tensors = translate(folder, raw)
    prefix = prefix_tensors(tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if PREFIX_NAMES not in name}
    config.pre_seq_len = None  # set again when the prefix is there

    chosen_device = pick_device(device)
    chosen_dtype = _pick_dtype(dtype, raw, chosen_device)
    plain = tensors if getattr(config, "quantization_config", None) is None else {}  # what can still be quantised
    if quantize in quantization.ROWWISE and plain:
        bits = quantization.ROWWISE[quantize]
        tensors = quantization.quantized_tensors(tensors, bits)
        config.quantization_config = {"quant_method": "rowwise", "bits": bits}
    by_library = _bitsandbytes(quantize, config, chosen_device, chosen_dtype)
    _check_names_and_shapes(config, tensors, folder)
    need = needed_bytes(tensors, chosen_dtype)
    if by_library is not None:
        need = needed_bytes_by_bitsandbytes(tensors, chosen_dtype, 8 if by_library.load_in_8bit else 4)
    _check_memory(need, chosen_device, _cheaper(plain, chosen_dtype, quantize))

    with _progress_bar(need > GIB), closing_files():
        model = model_class(config).from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=chosen_dtype,
            device_map={"": chosen_device},
            quantization_config=by_library,
        )
    # A PEFT adapter writes down what it was trained on and reads its config again. In a published one it
    # would misread the vocabulary and save the embeddings with the adapter; no name spares it that.
    model.name_or_path = model.config.name_or_path = "" if raw["model_type"] == "chatglm" else str(folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    if prefix:
        set_prefix(model, prefix, folder)
    return model


def translate(folder: Path, raw: dict[str, Any]) -> tuple[PreTrainedConfig, Tensors]:
    """The configuration and the unread tensors of a folder, in the words of the class that will hold them."""
    stored = open_tensors(weight_files(folder))
    try:
        if raw["model_type"] != "chatglm":
            return AutoConfig.from_pretrained(folder), stored
        if generation_of(raw) == 1:
            config = first_generation_config(raw)
            # Training may have parted the two, and then each is needed.
            config.tie_word_embeddings &= output_is_embedding(stored)
            tensors = first_generation_tensors(stored, config)
        else:
            config = native_config(raw)
            tensors = native_tensors(stored, raw)
    except KeyError as missing:
        raise CourseError(
            f"config.json in {folder} lacks {missing}: download this file again.",
            f"{folder} 中的 config.json 缺少 {missing}：请重新下载该文件。",
        ) from None
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = str(error).rpartition("\n")[2].strip()
        raise CourseError(
            f"config.json in {folder} makes no configuration ({reason}): download this file again.",
            f"{folder} 中的 config.json 无法使用（{reason}）：请重新下载该文件。",
        ) from None
    if bits := quantization_bits(raw):
        config.quantization_config = {"quant_method": "rowwise", "bits": bits}
    return config, tensors


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The network that a translated configuration describes."""
    return ChatGLM1ForCausalLM if isinstance(config, ChatGLM1Config) else GlmForCausalLM


def convert(folder: str | Path, out: str | Path) -> Path:
    """Write `folder` as a native checkpoint, which `AutoModelForCausalLM` and other tools read, to `out`.

    The tokenizer goes along where the folder has one. `out` appears when it is complete. The library has no class
    for the first generation, for quantised weights, and for the tokenizers: a program of your own finds ours after
    `import course_utils.chatglm.loading, course_utils.chatglm.tokenization`.
    """
    raw = read_config(folder)
    folder, out = Path(folder), Path(out)
    if out.exists():
        raise CourseError(
            f"{out} exists already: give a folder that does not, nothing is overwritten.",
            f"{out} 已经存在：请给出一个尚不存在的文件夹，已有内容不会被覆盖。",
        )
    from course_utils.chatglm.tokenization import load_tokenizer

    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.model", "ice_text.model"))
    tokenizer = load_tokenizer(folder) if has_tokenizer else None
    # Loading checks this as well, but there the caller can quantise and here not.
    dtype = _pick_dtype("auto", raw, torch.device("cpu"))
    _check_memory(needed_bytes(translate(folder, raw)[1], dtype), torch.device("cpu"), {})
    need = sum(file.stat().st_size for file in weight_files(folder))
    existing = next(parent for parent in out.absolute().parents if parent.exists())
    if not existing.is_dir():
        raise CourseError(
            f"{existing} is a file, so there can be no {out}: give another place.",
            f"{existing} 是一个文件，无法在其下创建 {out}：请给出其他位置。",
        )
    free = shutil.disk_usage(existing).free
    if need > free:
        raise CourseError(
            f"The converted model takes {gib(need)} and {gib(free)} are free on the disk of {out}: free some, or "
            "give a folder on another disk.",
            f"转换后的模型需要 {gib(need)}，而 {out} 所在磁盘只剩 {gib(free)}：请腾出空间，"
            "或给出另一块磁盘上的文件夹。",
        )
    model = load_chatglm(folder, device="cpu")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as part:
        model.save_pretrained(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
    return out


def _pick_dtype(dtype: str | torch.dtype, raw: dict[str, Any], device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype == "auto":
        # `torch_dtype` is the word of the published files, `dtype` that of today's.
        published = DTYPES.get(raw.get("torch_dtype") or raw.get("dtype"), torch.float16)
        # Asking torch whether it supports bfloat16 says yes on a T4, where it is emulated.
        emulated = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
        return torch.float16 if published is torch.bfloat16 and emulated else published
    if dtype not in DTYPES:
        raise CourseError(
            f"There is no dtype {dtype!r}: give 'auto', {', '.join(map(repr, DTYPES))}.",
            f"没有名为 {dtype!r} 的 dtype：请给出 'auto'、{'、'.join(map(repr, DTYPES))}。",
        )
    return DTYPES[dtype]


def _bitsandbytes(quantize: str | None, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype):
    """The setting for bitsandbytes if `quantize` asks for it; an error if it asks for the impossible."""
    known = [*quantization.ROWWISE, *quantization.BITSANDBYTES]
    if quantize is not None and quantize not in known:
        raise CourseError(
            f"There is no quantize={quantize!r}: give None, {', '.join(map(repr, known))}.",
            f"没有 quantize={quantize!r} 这个选项：请给出 None、{'、'.join(map(repr, known))}。",
        )
    held = getattr(config, "quantization_config", None)
    if held is not None and quantize is not None and quantization.ROWWISE.get(quantize) != held.get("bits"):
        raise CourseError(
            f"These files are quantised already ({held.get('bits', '?')} bits): leave quantize out, or take the "
            "float16 files.",
            f"这些文件已经量化过（{held.get('bits', '?')} 位）：请去掉 quantize，或改用 float16 的文件。",
        )
    if quantize in quantization.BITSANDBYTES:
        return quantization.bitsandbytes_config(quantize, device, dtype)
    return None


def _check_names_and_shapes(config: PreTrainedConfig, tensors: Tensors, folder: Path) -> None:
    """Compare what the files hold with what the network needs, before anything is read."""
    with torch.device("meta"):
        network = model_class(config)(config)
    held = getattr(config, "quantization_config", None)
    if held is not None and held.get("quant_method") == "rowwise":
        quantization.replace_linears(network, held["bits"])
    needed = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for tied in network.all_tied_weights_keys:
        if tied not in tensors:
            needed.pop(tied, None)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if needed == found:
        return
    wrong = sorted(name for name in needed.keys() | found.keys() if needed.get(name) != found.get(name))
    name = wrong[0]
    raise CourseError(
        f"config.json and the weights in {folder} do not belong together: {name} is {found.get(name, 'missing')} in "
        f"the files and {needed.get(name, 'unknown')} by config.json ({len(wrong)} such). Download the folder again.",
        f"{folder} 中的 config.json 与权重不匹配：{name} 在文件中是 {found.get(name, '缺失')}，按 config.json 应为 "
        f"{needed.get(name, '没有')}（共 {len(wrong)} 处）。请重新下载该文件夹。",
    )


def _cheaper(plain: Tensors, dtype: torch.dtype, quantize: str | None) -> dict[str, int]:
    """What the caller could ask for instead, and the bytes it takes. `plain` is empty if the files are quantised."""
    if not plain:
        return {}
    cheaper = {}
    if quantize is None and dtype is torch.float32:
        cheaper["dtype='float16'"] = needed_bytes(plain, torch.float16)
    for kind, bits in quantization.ROWWISE.items():
        cheaper[f"quantize={kind!r}"] = needed_bytes(quantization.quantized_tensors(plain, bits), dtype)
    return cheaper


def _check_memory(need: int, device: torch.device, cheaper: dict[str, int]) -> None:
    """Compare what the weights need with what is free, and name a cure that works here."""
    free = free_bytes(device)
    if with_margin(need) <= free:
        return
    cures = [option for option, less in cheaper.items() if with_margin(less) <= free]
    if device.type == "cuda":
        host = free_bytes(torch.device("cpu"))
        on_cpu = {"device='cpu'": need}
        if not cures:
            on_cpu |= {f"device='cpu' + {option}": less for option, less in cheaper.items()}
        cures += [option for option, less in on_cpu.items() if with_margin(less) <= host][:1]
    english, chinese = "close other programs", "关闭其他程序"
    if cures:
        english, chinese = f"use {' or '.join(cures)}", f"使用 {' 或 '.join(cures)}"
    margin = with_margin(need) - need
    more = (f", a conversation {gib(margin)} more,", f"，对话还需 {gib(margin)}") if margin else ("", "")
    raise CourseError(
        f"The weights take {gib(need)}{more[0]} and {gib(free)} are free on {device}: {english}, or take a "
        "smaller model.",
        f"权重需要 {gib(need)}{more[1]}，而 {device} 上只剩 {gib(free)}：请{chinese}，或换用较小的模型。",
    )


@contextmanager
def _progress_bar(wanted: bool) -> Iterator[None]:
    """transformers draws a bar for every load; that of a tiny model would only clutter a notebook."""
    shown = transformers_logging.is_progress_bar_enabled()
    if shown and not wanted:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
