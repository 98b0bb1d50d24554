"""How much memory a checkpoint needs, and how much there is."""

import psutil
import torch

from course_utils.chatglm.published import Tensors
from course_utils.messages import CourseError, Text

GIB = 2**30


def needed_bytes(tensors: Tensors, dtype: torch.dtype) -> int:
    """What these tensors take once loaded: floating-point ones in `dtype`, quantised ones as they are."""
    return sum(
        torch.Size(tensor.shape).numel() * (dtype if tensor.is_floating_point() else tensor.dtype).itemsize
        for tensor in tensors.values()
    )


def free_bytes(device: torch.device) -> int:
    """Memory that is free on `device` now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def pick_device(device: str | torch.device) -> torch.device:
    """`auto` is the GPU if this torch is built for it, else the CPU; anything else is taken at its word."""
    if device == "auto":
        return torch.device("cpu" if gpu_obstacle() else "cuda")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise CourseError(
            f"There is no device {device!r}: give 'auto', 'cpu', 'cuda' or 'cuda:1'.",
            f"没有设备 {device!r}：请给出 'auto'、'cpu'、'cuda' 或 'cuda:1'。",
        ) from None
    if chosen.type == "cuda" and (obstacle := gpu_obstacle()):
        raise CourseError(obstacle.en, obstacle.zh)
    return chosen


def gpu_obstacle() -> Text | None:
    """Why torch cannot compute on this machine's GPU, or None if it can.

    A P100 shows why asking `torch.cuda.is_available()` is not enough: it says yes and the first kernel fails.
    """
    if not torch.cuda.is_available():
        return Text("torch sees no GPU here: use device='cpu'.", "torch 在此找不到 GPU：请用 device='cpu'。")
    built = [
        int(name.removeprefix("sm_").rstrip("af")) for name in torch.cuda.get_arch_list() if "sm_" in name
    ]
    major, minor = torch.cuda.get_device_capability()
    if built and major * 10 + minor < min(built):
        name = torch.cuda.get_device_name()
        return Text(
            f"This torch is built for GPUs from sm_{min(built)} on, and {name} is sm_{major}{minor}: "
            f"install torch from "
            "the cu126 index, or use device='cpu'.",
            f"当前 torch 只支持 sm_{min(built)} 及以上的 GPU，而 {name} 是 sm_{major}{minor}：请安装 cu126 "
            f"版的 torch，"
            "或用 device='cpu'。",
        )
    return None


def gib(number: int) -> str:
    """Bytes in words: 11.6 GiB, and MiB for what is small."""
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / 2**20:.1f} MiB"
