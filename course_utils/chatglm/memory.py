"""How much memory a checkpoint needs, and how much there is."""

import math
from pathlib import Path

import psutil
import torch

from course_utils.chatglm.published import Tensors
from course_utils.chatglm.quantization import quantized_tensors
from course_utils.messages import CourseError
from course_utils.runtime import GIB, free_gpu_bytes, gpu_obstacle, probe_gpu

CGROUP = Path("/sys/fs/cgroup")


def needed_bytes(tensors: Tensors, dtype: torch.dtype) -> int:
    """What these tensors take once loaded: floating-point ones in `dtype`, quantised ones as they are."""
    return sum(
        torch.Size(tensor.shape).numel() * (dtype if tensor.is_floating_point() else tensor.dtype).itemsize
        for tensor in tensors.values()
    )


def needed_bytes_by_bitsandbytes(tensors: Tensors, dtype: torch.dtype, bits: int) -> int:
    """What these tensors take once bitsandbytes has made 8 or 4 bits of the matrices of the blocks, and only of those.

    It takes the same matrices as our own format; in 4 bits it keeps a scale of a byte for every 64 numbers, and a
    float32 for every 256 scales.
    """
    quantized = quantized_tensors(tensors, bits)
    need = needed_bytes(quantized, dtype)
    if bits == 4:
        packed = sum(torch.Size(t.shape).numel() for t in quantized.values() if t.dtype is torch.int8)
        need += packed // 32 + packed // 2048  # two numbers in a byte
    return need


def with_margin(need: int) -> int:
    """What has to be free for weights of `need` bytes to be of use.

    A gibibyte on top is for the cache of a conversation, what a step computes with and, before, the 0.4 GiB that
    quantising works in. For the small models of the course that is too little to ask for.
    """
    return need + GIB if need >= GIB else need


def free_bytes(device: torch.device) -> int:
    """Memory on `device` that this process can have now."""
    if device.type == "cuda":
        return free_gpu_bytes(device)
    return min(psutil.virtual_memory().available, _free_bytes_of_container())


def _free_bytes_of_container() -> float:
    """What the limit of a container leaves; psutil sees the whole machine from within it."""
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        pages = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        # Pages of files count as used. They make way when memory is needed, and weights just downloaded fill many.
        return limit - used + int(pages["active_file"]) + int(pages["inactive_file"])
    except (OSError, ValueError, KeyError):  # not in a container, or in one without a limit ("max")
        return math.inf


def pick_device(device: str | torch.device) -> torch.device:
    """`auto` is the GPU if this torch is built for it, else the CPU; anything else is taken at its word."""
    if device == "auto":
        return torch.device("cpu" if gpu_obstacle(probe_gpu()) else "cuda")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise CourseError(
            f"There is no device {device!r}: give 'auto', 'cpu', 'cuda' or 'cuda:1'.",
            f"没有设备 {device!r}：请给出 'auto'、'cpu'、'cuda' 或 'cuda:1'。",
        ) from None
    if chosen.type == "cuda":
        if obstacle := gpu_obstacle(probe_gpu()):
            raise CourseError(f"{obstacle.en}: use device='cpu'.", f"{obstacle.zh}：请用 device='cpu'。")
        count = torch.cuda.device_count()
        # torch.device makes negative numbers of those above 127.
        if chosen.index is not None and not 0 <= chosen.index < count:
            raise CourseError(
                f"There is no device {device!r}: torch sees {count} GPU(s), counted from 0. Give 'cuda:0' or 'auto'.",
                f"没有设备 {device!r}：torch 找到 {count} 块 GPU，从 0 开始编号。请给出 'cuda:0' 或 'auto'。",
            )
        return chosen
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, ImportError):  # which of them depends on the kind of device
        raise CourseError(
            f"This machine has no device {device!r} that torch can use: use device='cpu' or 'auto'.",
            f"本机没有 torch 可用的设备 {device!r}：请用 device='cpu' 或 'auto'。",
        ) from None
    return chosen


def gib(number: int) -> str:
    """Bytes in words: 11.6 GiB, and MiB for what is small."""
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / 2**20:.1f} MiB"
