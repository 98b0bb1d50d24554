"""Fine-tune a model by P-Tuning v2 or LoRA, for as long as it takes.

    python -m course_utils.finetune ptuning --config data/finetune/ptuning_adgen.yaml
    python -m course_utils.finetune lora --config data/finetune/lora_magic_conch.yaml
    python -m course_utils.finetune lora --config data/finetune/lora_magic_conch_cpu.yaml      (without a GPU)
    accelerate launch --multi_gpu -m course_utils.finetune lora --config …          (several GPUs, or processes)

The same command again goes on from the last checkpoint. With `fsdp: true` in the file, several GPUs share one copy of
the frozen weights.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.finetune.settings import METHODS, Settings, read_settings
from course_utils.messages import CourseError, Text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from course_utils.finetune.training import History


def run(settings: Settings) -> "History":
    """Load data and model, train, and save to output_dir; go on from the last checkpoint where there is one."""
    for name in ("model_name_or_path", "train_file", "output_dir"):
        if getattr(settings, name) is None:
            raise CourseError(f"The setting {name} is missing.", f"缺少设置 {name}。")

    # Not above: what is wrong with the settings is told at once.
    from accelerate import PartialState

    from course_utils.chatglm.memory import pick_device
    from course_utils.finetune.adapters import add_adapter
    from course_utils.finetune.examples import encode_examples, hold_out, load_items
    from course_utils.finetune.progress import ProgressBar, TensorBoard, memory_line
    from course_utils.finetune.training import check_processes, train

    check_processes(settings)
    items, validation = load_items(settings.train_file, settings), []
    if settings.validation_file:
        validation = load_items(settings.validation_file, settings)
    elif settings.val_size:
        items, validation = hold_out(items, settings.val_size, settings.seed)
    process = PartialState(cpu=pick_device("auto").type == "cpu")
    say = print if process.is_main_process else lambda text: None
    model, tokenizer = _load_base(settings, process.device, say)
    model = add_adapter(model, settings)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in model.parameters())
    say(
        Text(
            f"{trained:,} of {every:,} parameters are trained, on {len(items)} examples; {len(validation)} more are "
            "for validation.",
            f"训练 {every:,} 个参数中的 {trained:,} 个：{len(items)} 个样本用于训练，"
            f"另有 {len(validation)} 个用于验证。",
        )
    )
    callbacks = [ProgressBar(), TensorBoard(settings.output_dir / "tensorboard")]
    examples, held_out = (encode_examples(tokenizer, part, settings) for part in (items, validation))
    history = train(model, examples, settings, held_out, callbacks, resume=True)
    loss = f"{history.loss[-1][1]:.4f}"
    say(
        Text(
            f"Done: {settings.output_dir / 'adapter'}, loss {loss}. {memory_line(process.device)}",
            f"完成：{settings.output_dir / 'adapter'}，损失 {loss}。{memory_line(process.device)}",
        )
    )
    return history


def _load_base(
    settings: Settings, device: "torch.device", say: Callable[[object], object]
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from course_utils.chatglm import load_chatglm, load_tokenizer
    from course_utils.chatglm.published import NATIVE_TYPES
    from course_utils.models import CATALOGUE, find_model, incomplete
    from course_utils.runtime import choose, probe_gpu

    name = settings.model_name_or_path
    if Path(name).is_dir():
        folder = Path(name)
    elif name in CATALOGUE:
        found = find_model(name)
        say(found)
        folder = found.folder
    else:
        raise CourseError(
            f"model_name_or_path {name} is neither a folder nor one of {', '.join(CATALOGUE)}.",
            f"model_name_or_path {name} 既不是文件夹，也不是 {'、'.join(CATALOGUE)} 之一。",
        )
    if settings.fp16 and device.type == "cpu":
        raise CourseError(
            "fp16 training needs a GPU: leave fp16 out, or use bf16.", "fp16 训练需要 GPU：请去掉 fp16，或改用 bf16。"
        )
    if settings.fsdp:
        device = torch.device("cpu")  # such a model need not fit on one GPU: its parts go there later
    dtype = "float16" if settings.fp16 else "bfloat16" if settings.bf16 else choose(probe_gpu()).dtype
    if problem := incomplete(folder):
        raise CourseError(
            f"model_name_or_path {folder} holds no whole model: {problem} is missing.",
            f"model_name_or_path {folder} 中没有完整的模型：缺少 {problem}。",
        )
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type in ("chatglm", *NATIVE_TYPES):
        quantize = f"int{settings.quantization_bit}" if settings.quantization_bit else None
        tokenizer = load_tokenizer(folder)
        return load_chatglm(folder, dtype=dtype, device=device, quantize=quantize), tokenizer
    if settings.quantization_bit:
        raise CourseError(
            "quantization_bit is there for ChatGLM models only: leave it out.",
            "quantization_bit 只用于 ChatGLM 模型：请去掉。",
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.to(device), AutoTokenizer.from_pretrained(folder)


def main(arguments: list[str] | None = None) -> int:
    """Train as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a YAML file with settings")
    given = parser.parse_args(arguments)
    try:
        run(read_settings(given.config, given.method))
    except CourseError as error:
        print(f"\n✘ {error.text.en}\n✘ {error.text.zh}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"\n{Text('Interrupted: the same command goes on.', '已中断：重新运行同一命令即可继续。')}", file=sys.stderr
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
