"""How many tokens a second: stream_chat, plain `generate`, a bare loop, and what the memory would allow.

    python benchmarks/decode_speed.py [--real]

Makes a random model of 0.4 billion parameters in the layout of ChatGLM3 on the fly (0.8 GB on disk while it
runs, 4 GB of memory), in float32, bfloat16, int8 and int4 on the CPU, and in the half-precision types, int8 and int4 on
a GPU where there is one, held to 15 GiB as on a T4. With --real the blocks are as many and as wide as ChatGLM3-6B's
(11.4 GB on disk, 14 GB of memory), and there is no float32. To write a token every weight has to be read once; the
floor is the time in which this machine reads them and does nothing but look for the largest. All take turns, so that
what else the machine does weighs on them alike; the medians are printed as a Markdown table. The vocabulary
is that of the tests, small, so that the time is that of the blocks.
"""

import argparse
import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from chatglm_real_size import CONFIG, GIB, GPU_LIMIT, ROOT, write_folder
from transformers import PreTrainedModel

from course_utils.chatglm import chat, load_chatglm
from course_utils.chatglm.prompts import prompt_parts
from course_utils.chatglm.tokenization import ChatGLM3Tokenizer
from course_utils.runtime import gpu_obstacle, probe_gpu

TOKENIZER = ROOT / "tests" / "fixtures" / "tokenizers" / "v3_bpe.model"
SMALL = {"num_layers": 16, "hidden_size": 1536, "ffn_hidden_size": 4096, "num_attention_heads": 12}
QUESTION = "你好"
TOKENS = {"cpu": 8, "cuda": 128}
WAYS = ("stream_chat", "generate", "bare loop", "floor")


def bare_loop(model: PreTrainedModel, ids: torch.Tensor, tokens: int) -> None:
    """The least that decoding takes: the network, its cache, and the likeliest token."""
    cache = None
    with torch.inference_mode():
        for _ in range(tokens):
            output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            ids = output.logits[:, -1:].argmax(-1)


def read_weights(model: PreTrainedModel, tokens: int) -> None:
    """Read, for each token, all that a token needs: every weight but the rows of other tokens' embeddings.

    Looking for the largest whole number is the fastest pass over memory that torch has; a sum takes longer.
    """
    skipped = model.get_input_embeddings().weight
    tensors = [t for t in [*model.parameters(), *model.buffers()] if t is not skipped and t.nbytes % 4 == 0]
    for _ in range(tokens):
        for tensor in tensors:
            tensor.view(-1).view(torch.int32).max()


def measure(model: PreTrainedModel, runs: int) -> dict[str, float]:
    """Tokens a second of each way: the median of several runs in turn, each with the prompt."""
    device = model.device.type
    tokens = TOKENS[device]
    tokenizer = ChatGLM3Tokenizer(str(TOKENIZER))
    prompt = tokenizer.encode_prompt(prompt_parts(3, [{"role": "user", "content": QUESTION}]))
    ids = torch.tensor([prompt], device=device)
    # Random weights would stop at random.
    length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    stops = {"eos_token_id": tokenizer.stop_ids, "pad_token_id": tokenizer.pad_token_id}
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, **length, **stops}
    ways: dict[str, Callable[[], object]] = {
        "stream_chat": lambda: chat(model, tokenizer, QUESTION, temperature=0, **length),  # joins its pieces
        "generate": lambda: model.generate(ids, **options),
        "bare loop": lambda: bare_loop(model, ids, tokens),
        "floor": lambda: read_weights(model, tokens),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    bare_loop(model, ids, 2)  # the first steps also prepare what later ones find ready
    for _ in range(runs):
        for way, run in ways.items():
            begin = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[way].append(time.perf_counter() - begin)
    return {way: tokens / median(times) for way, times in seconds.items()}


def processor() -> str:
    """The name of the CPU."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="blocks as in ChatGLM3-6B")
    real = parser.parse_args().real
    runs = 3 if real else 5
    config = json.loads(CONFIG.read_text()) | {"padded_vocab_size": 1809} | ({} if real else SMALL)
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    kinds = [("cpu", "bfloat16", quantize) for quantize in (None, "int8", "int4")]
    if not real:
        kinds = [("cpu", "float32", quantize) for quantize in (None, "int8", "int4")] + kinds
    if gpu_obstacle(probe_gpu()) is None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, GPU_LIMIT / torch.cuda.mem_get_info()[1]))
        print(f"{torch.cuda.get_device_name()}, held to {GPU_LIMIT // GIB} GiB")
        kinds += [("cuda", "float16", quantize) for quantize in (None, "int8", "int4")]
        if torch.cuda.get_device_capability() >= (8, 0):
            kinds.append(("cuda", "bfloat16", None))
    print(f"\n| tokens/s, median of {runs} | " + " | ".join(WAYS) + " | load average |")
    print("|---" * (len(WAYS) + 2) + "|")
    with tempfile.TemporaryDirectory() as temporary:
        write_folder(Path(temporary), config)
        for device, dtype, quantize in kinds:
            model = load_chatglm(temporary, dtype, device, quantize)
            speeds = measure(model, runs)
            del model
            gc.collect()  # before the next takes its place
            load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
            name = f"{device} {dtype}" + (f", {quantize}" if quantize else "")
            print(f"| {name} | " + " | ".join(f"{speeds[way]:.2f}" for way in WAYS) + f" | {load} |", flush=True)


if __name__ == "__main__":
    main()
