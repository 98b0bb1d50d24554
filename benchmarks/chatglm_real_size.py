"""Load and run a ChatGLM3-6B of real size with random weights: seconds, peak memory, speed of decoding.

    python benchmarks/chatglm_real_size.py FOLDER [--device cuda | meta] [--bin] [--quantize int4] [--train lora]

Writes 12.5 GB of random float16 weights in the published layout to FOLDER, in .safetensors files or, as the models of
2023 were published, in .bin files; measures in processes of their own,
prints what it measured and deletes FOLDER again; one that was there before is used and stays. With `--train`
two steps of the course's recipe (`data/finetune/`) follow, on texts as long as it allows. On a CPU, 14 GB of
free memory are needed for float16. A GPU is held to 15 GiB, as on a T4, and the host memory that loading took
is compared with its bound: 3 GiB, which Python, torch and CUDA take up before, and the largest shard; on a CPU the
bound is 1.1 times the weights, where they are not quantised. A broken bound ends in exit code 1. Without
a GPU, `--device meta` shows the host's side of it: every weight is read and made ready, and the device keeps
none.
The floor under the time of a token is the time that reading its weights once takes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "tests" / "fixtures" / "chatglm" / "configs" / "chatglm3_6b.json"
SHARD_BYTES = 1.9e9  # as published: seven files
GIB = 2**30
GPU_LIMIT = 15 * GIB
broken: list[str] = []


def published_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published checkpoint."""
    h, f, v, d = (config[k] for k in ("hidden_size", "ffn_hidden_size", "padded_vocab_size", "kv_channels"))
    fused = (config["num_attention_heads"] + 2 * config["multi_query_group_num"]) * d
    shapes = {
        "transformer.embedding.word_embeddings.weight": (v, h),
        "transformer.rotary_pos_emb.inv_freq": (d // 4,),
    }
    for i in range(config["num_layers"]):
        block = f"transformer.encoder.layers.{i}"
        shapes[f"{block}.input_layernorm.weight"] = (h,)
        shapes[f"{block}.self_attention.query_key_value.weight"] = (fused, h)
        shapes[f"{block}.self_attention.query_key_value.bias"] = (fused,)
        shapes[f"{block}.self_attention.dense.weight"] = (h, h)
        shapes[f"{block}.post_attention_layernorm.weight"] = (h,)
        shapes[f"{block}.mlp.dense_h_to_4h.weight"] = (2 * f, h)
        shapes[f"{block}.mlp.dense_4h_to_h.weight"] = (h, f)
    return shapes | {
        "transformer.encoder.final_layernorm.weight": (h,),
        "transformer.output_layer.weight": (v, h),
    }


def write_folder(folder: Path, config: dict, as_bin: bool = False) -> None:
    """Random weights on disk, shard after shard."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    pool = (torch.randn(2**26, generator=torch.Generator().manual_seed(0)) * 0.02).half()  # cut anew for each tensor
    shards: list[dict[str, torch.Size]] = [{}]
    filled = written = 0
    for name, shape in published_shapes(config).items():
        size = 2 * torch.Size(shape).numel()
        if filled and filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = torch.Size(shape)
        filled += size
        written += size

    stem, save = ("pytorch_model", torch.save) if as_bin else ("model", save_file)
    suffix = "bin" if as_bin else "safetensors"
    weight_map, start = {}, 0
    for number, shapes in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
        tensors = {}
        for name, shape in shapes.items():
            start += 7919
            pieces = pool.roll(start).repeat(-(-shape.numel() // len(pool)))[: shape.numel()]
            tensors[name] = torch.ones(shape).half() if "layernorm" in name else pieces.clone().view(shape)
            weight_map[name] = file
        save(tensors, folder / file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    print(f"written: {written / 1e9:.2f} GB of weights in {len(shards)} .{suffix} files")


def peak() -> float:
    """The most memory this process has ever held, in GiB, pages of mapped files included (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / GIB


def judge(what: str, found: float, bound: float) -> None:
    """Compare with a bound, both in GiB; a broken one fails the run in the end."""
    print(f"{what}: {found:.2f} GiB, bound {bound:.2f} GiB, {'kept' if found < bound else 'BROKEN'}")
    if found >= bound:
        broken.append(what)


def measure(folder: Path, device: str, quantize: str | None, tokens: int, train: str | None) -> None:
    """Load once and decode a little, in this process."""
    from transformers.generation.streamers import BaseStreamer

    from course_utils.chatglm import load_chatglm

    gpu = torch.device(device).type == "cuda"
    if gpu:  # what CUDA itself takes belongs to the memory before, not to the load
        torch.cuda.set_per_process_memory_fraction(min(1.0, GPU_LIMIT / torch.cuda.mem_get_info()[1]))
        print(f"{torch.cuda.get_device_name()}, held to {GPU_LIMIT // GIB} GiB")
        (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()

    def wait() -> None:
        if gpu:  # a GPU computes on while Python looks at the clock
            torch.cuda.synchronize()

    before = peak()
    print(f"host memory before loading: {before:.2f} GiB (Python with torch and transformers)")
    begin = time.perf_counter()
    model = load_chatglm(folder, device=device, quantize=quantize)
    wait()
    print(f"load_chatglm: {time.perf_counter() - begin:.1f} s, peak host memory {peak():.2f} GiB")
    bound = 3 + max(file.stat().st_size for file in folder.glob("*-of-*")) / GIB
    if model.device.type == "meta":
        files = sum(file.stat().st_size for file in folder.glob("*-of-*")) / GIB
        read = int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0]) / GIB
        print(f"read: {read:.2f} GiB in all, mapped files not counted; the weights' files hold {files:.2f} GiB")
        judge("host memory", peak(), bound)
        return
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    begin = time.perf_counter()
    for tensor in tensors:  # one number of every page: nothing of the load may have been put off
        tensor.reshape(-1)[::1024].count_nonzero()
    wait()
    after = peak()
    print(
        f"every weight touched once: {time.perf_counter() - begin:.1f} s more, peak host memory {after:.2f} GiB, "
        f"{after - before:.2f} GiB of it for loading; weights {size / GIB:.2f} GiB"
    )
    if gpu:
        judge("host memory", after, bound)
        print(f"peak GPU memory {torch.cuda.max_memory_allocated() / GIB:.2f} GiB")
    elif quantize is None:
        judge("host memory", after, 1.1 * size / GIB)

    # The floor: a token needs every weight of the blocks and of the output matrix once, and one row of the embeddings.
    skipped = model.get_input_embeddings().weight
    floor = 0.0
    for _ in range(2):  # the first time also fetches the kernels
        begin = time.perf_counter()
        for tensor in (tensor for tensor in tensors if tensor is not skipped):
            tensor.view(-1).view(torch.int64 if tensor.nbytes % 8 == 0 else tensor.dtype).max()
        wait()
        floor = time.perf_counter() - begin

    class Clock(BaseStreamer):
        times: list[float]

        def put(self, value) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    ids = torch.randint(10, model.config.vocab_size, (1, 16), device=model.device)
    clock = Clock()
    clock.times = []
    model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, streamer=clock)
    steps = [later - earlier for earlier, later in zip(clock.times[1:], clock.times[2:], strict=False)]
    median = sorted(steps)[len(steps) // 2]
    print(f"one token of generate: {median:.4f} s (median of {len(steps)}); reading its weights once: {floor:.4f} s")
    print(f"peak host memory at the end: {peak():.2f} GiB")
    if gpu:
        print(f"peak GPU memory at the end: {torch.cuda.max_memory_allocated() / GIB:.2f} GiB")
    if train:
        measure_training(model, train)


def measure_training(model: torch.nn.Module, method: str) -> None:
    """Two steps of the recipe with texts of random tokens, each as long as the recipe allows."""
    from course_utils import finetune

    recipe = {"ptuning": "ptuning_adgen.yaml", "lora": "lora_magic_conch.yaml"}[method]
    settings = finetune.read_settings(ROOT / "data" / "finetune" / recipe, method)
    settings = settings.model_copy(update={"max_steps": 2, "output_dir": None, "quantization_bit": None})
    length = settings.cutoff_len or settings.max_source_length + settings.max_target_length
    rows = torch.randint(10, model.config.vocab_size, (settings.gradient_accumulation_steps, length)).tolist()
    examples = [{"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]} for ids in rows]
    gpu = model.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    tuned = finetune.add_adapter(model, settings)
    begin = time.perf_counter()
    history = finetune.train(tuned, examples, settings)
    seconds = (time.perf_counter() - begin) / 2
    memory = f"GPU memory {torch.cuda.max_memory_allocated() / GIB:.2f}" if gpu else f"host memory {peak():.2f}"
    print(
        f"{method}: one step of {len(rows)} texts of {length} tokens takes {seconds:.1f} s, peak {memory} GiB; "
        f"loss {history.loss[-1][1]:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bin", action="store_true", help="write .bin files")
    parser.add_argument("--quantize")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--train", choices=["ptuning", "lora"])
    parser.add_argument("--keep", action="store_true", help="leave the folder; a later run uses it")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.folder, given.device, given.quantize, given.tokens, given.train)
        sys.exit(1 if broken else 0)
    ours = not given.folder.exists()
    if ours:
        write_folder(given.folder, json.loads(CONFIG.read_text()), given.bin)
    try:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--measure"], env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
    finally:
        if ours and not given.keep:
            shutil.rmtree(given.folder)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
