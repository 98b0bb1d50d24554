"""`python -m course_utils.chatglm inspect FOLDER | convert FOLDER OUT | chat FOLDER`."""

import argparse
import sys
from pathlib import Path

import torch

from course_utils.chatglm import quantization
from course_utils.chatglm.loading import convert, load_chatglm, model_class, translate
from course_utils.chatglm.memory import free_bytes, gib, needed_bytes, with_margin
from course_utils.chatglm.published import PREFIX_NAMES, generation_of, read_config, weight_files
from course_utils.messages import CourseError, Text
from course_utils.runtime import gpu_obstacle, probe_gpu

NAMES = {1: "ChatGLM-6B", 2: "ChatGLM2-6B", 3: "ChatGLM3-6B", 4: "GLM-4"}


def inspect(folder: Path) -> str:
    """What lies in a folder and what of it fits this machine. Reads headers and a few rows."""
    raw = read_config(folder)
    files = weight_files(folder)
    config, tensors = translate(folder, raw)
    prefix = any(PREFIX_NAMES in name for name in tensors)
    config.pre_seq_len = None
    with torch.device("meta"):
        network = model_class(config)(config)
    held = getattr(config, "quantization_config", None)
    lines = [
        f"model       generation {generation_of(raw)} ({NAMES[generation_of(raw)]} and its kin), "
        f"{sum(p.numel() for p in network.parameters()):,} parameters",
        f"layout      {'published' if raw['model_type'] == 'chatglm' else 'native'}, loads as {type(network).__name__}",
        f"files       {len(files)} × {files[0].suffix}, {gib(sum(file.stat().st_size for file in files))}, "
        f"{len(tensors)} tensors" + (", with a P-Tuning prefix" if prefix else ""),
    ]
    options = {}
    if held is not None:
        options[f"as it is, {held.get('bits', '?')} bits"] = needed_bytes(tensors, torch.float16)
    else:
        for dtype in (torch.float32, torch.float16):
            options[f'dtype="{str(dtype).removeprefix("torch.")}"'] = needed_bytes(tensors, dtype)
        for name, bits in quantization.ROWWISE.items():
            quantized = quantization.quantized_tensors(tensors, bits)
            options[f'quantize="{name}"'] = needed_bytes(quantized, torch.float16)
    places = {"CPU": free_bytes(torch.device("cpu"))}
    if gpu_obstacle(probe_gpu()) is None:
        places["GPU"] = free_bytes(torch.device("cuda"))
    lines.append("fits here   " + ", ".join(f"{place} has {gib(free)} free" for place, free in places.items()))
    for option, need in options.items():
        fits = ", ".join(f"{place} {'yes' if with_margin(need) <= free else 'no'}" for place, free in places.items())
        lines.append(f"  {option:18} {gib(need):>10}   {fits}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course_utils.chatglm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, meaning in {
        "inspect": "which model this is, how large, and what fits this machine",
        "convert": "write a native checkpoint that AutoModelForCausalLM reads",
        "chat": "talk to the model in this terminal",
    }.items():
        command = commands.add_parser(name, help=meaning, description=meaning)
        command.add_argument("folder", type=Path)
        if name == "convert":
            command.add_argument("out", type=Path)
        if name == "chat":
            command.add_argument("--dtype", default="auto")
            command.add_argument("--device", default="auto")
            command.add_argument("--quantize")
            command.add_argument(
                "--trained", type=Path, metavar="FOLDER", help="what a run of course_utils.finetune saved"
            )
    given = parser.parse_args(arguments)
    try:
        if given.command == "inspect":
            print(inspect(given.folder))
        elif given.command == "convert":
            print(f"written: {convert(given.folder, given.out)}")
            imports = "import course_utils.chatglm.loading, course_utils.chatglm.tokenization"
            print(
                Text(
                    f"In a program of your own, `{imports}` first: the library has no class for the first generation, "
                    "for quantised weights, and for these tokenizers.",
                    f"在自己的程序中请先运行 `{imports}`：第一代模型、量化的权重和这些分词器在库中没有对应的类。",
                )
            )
        else:
            from course_utils.chatglm.conversation import terminal_chat
            from course_utils.chatglm.tokenization import load_tokenizer

            tokenizer = load_tokenizer(given.folder)  # first: it fails at once, the model takes a minute
            model = load_chatglm(given.folder, given.dtype, given.device, given.quantize)
            if given.trained:
                from course_utils.finetune import load_trained

                model = load_trained(model, given.trained)
            terminal_chat(model, tokenizer)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while a model is loaded or converted; the chat has its own ways
        print(Text("Interrupted: nothing was left half-written.", "已中断：没有留下写了一半的文件。"), file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
