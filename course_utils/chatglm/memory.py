"""How much memory a checkpoint needs, and how much there is."""

import psutil
import torch

from course_utils.chatglm.published import Tensors
from course_utils.messages import CourseError
from course_utils.runtime import GIB, gpu_obstacle, probe_gpu


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
        return torch.device("cpu" if gpu_obstacle(probe_gpu()) else "cuda")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise CourseError(
            f"There is no device {device!r}: give 'auto', 'cpu', 'cuda' or 'cuda:1'.",
            f"没有设备 {device!r}：请给出 'auto'、'cpu'、'cuda' 或 'cuda:1'。",
        ) from None
    if chosen.type == "cuda" and (obstacle := gpu_obstacle(probe_gpu())):
        raise CourseError(f"{obstacle.en}: use device='cpu'.", f"{obstacle.zh}：请用 device='cpu'。")
    return chosen


def gib(number: int) -> str:
    """Bytes in words: 11.6 GiB, and MiB for what is small."""
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / 2**20:.1f} MiB"
