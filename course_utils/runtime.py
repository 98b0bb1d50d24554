"""Where the notebooks compute: the folders of the course, the device, its number format, and the seeds.

Probing the machine (`probe_gpu`) is kept apart from judging what was found (`choose`), so that every GPU can be
judged without owning it.
"""

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.messages import CourseError, Text

ROOT: Path
DATA: Path

GIB = 2**30


def __getattr__(name: str) -> Path:
    # ROOT and DATA are found when they are asked for: the doctor must be importable where they are missing.
    if name not in ("ROOT", "DATA"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    root = Path(__file__).resolve().parent.parent
    if not (root / "data" / "DATA.md").is_file():
        raise CourseError(
            "The course's files are not beside the installed package; "
            "run `pip install -e .` in a clone of the course repository.",
            "安装的包旁边没有课程文件；请在课程仓库的克隆目录里运行 `pip install -e .`。",
        )
    return root if name == "ROOT" else root / "data"


@dataclass(frozen=True)
class GPU:
    """What was found out about a CUDA GPU and about this torch build's kernels for it."""

    name: str
    capability: tuple[int, int]
    total_gib: float
    free_gib: float
    arch_list: tuple[str, ...]
    kernel_error: str | None = None

    @property
    def has_kernels(self) -> bool:
        """Whether this torch build carries code for the GPU, to go by its list of architectures."""
        return any(_runs_on(arch, self.capability) for arch in self.arch_list)

    @property
    def usable(self) -> bool:
        """Whether torch can compute here.

        Neither fact is enough alone: cuBLAS brings kernels of its own, so a matmul may run where torch's other
        operations have none, and a fitting list of architectures does not notice a broken driver.
        """
        return self.has_kernels and self.kernel_error is None


@dataclass(frozen=True)
class Runtime:
    """The device and number format that the notebooks use here, and why."""

    device: str
    dtype: str
    reason: Text


def _runs_on(arch: str, capability: tuple[int, int]) -> bool:
    """Whether code built for `arch`, such as sm_86, sm_90a or compute_75, runs on a GPU of this capability."""
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
    if match is None:
        return False
    kind, suffix = match[1], match[4]
    built_for = (int(match[2]), int(match[3]))
    if suffix == "a":  # uses features of exactly this architecture
        return built_for == capability
    if kind == "sm" or suffix == "f":  # machine code, or PTX of one family: good within the major version
        return built_for[0] == capability[0] and built_for <= capability
    return built_for <= capability  # PTX: the driver compiles it for any newer GPU


def probe_gpu() -> GPU | None:
    """Ask torch about the first CUDA GPU and run one matrix product on it; None where there is no such GPU."""
    import torch

    if torch.version.cuda is None or not torch.cuda.is_available():
        return None
    # Asked first: after a failed kernel CUDA may answer nothing any more.
    name, capability = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
    free, total = free_gpu_bytes(0), torch.cuda.mem_get_info(0)[1]
    try:
        ones = torch.ones(64, 64, device="cuda")
        right = (ones @ ones).sum().item() == 64**3
        kernel_error = None if right else "a matrix product came out wrong"
    except RuntimeError as error:
        kernel_error = str(error).strip().split("\n")[0]
    return GPU(name, capability, total / GIB, free / GIB, tuple(torch.cuda.get_arch_list()), kernel_error)


def free_gpu_bytes(device: Any = None) -> int:
    """GPU memory that this process can still have: what is free for all, and what torch keeps but does not use."""
    import torch

    # After `del model` torch keeps the memory in reserve, where tensors that are in use lie as well.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def gpu_obstacle(gpu: GPU | None) -> Text | None:
    """Why torch cannot compute on this machine's GPU, or None if it can."""
    if gpu is None:
        return Text("torch sees no GPU here", "torch 在此找不到 GPU")
    if not gpu.usable:
        return Text(
            f"torch cannot compute on the {gpu.name} (`python -m course_utils.doctor` names the cure)",
            f"torch 无法在 {gpu.name} 上计算（`python -m course_utils.doctor` 会给出解决办法）",
        )
    return None


def choose(gpu: GPU | None) -> Runtime:
    """The device and number format to use on a machine with this GPU."""
    if gpu is None:
        return Runtime(
            "cpu",
            "float32",
            Text("no CUDA GPU found; CPUs compute float32 fastest", "未找到 CUDA GPU；CPU 计算 float32 最快"),
        )
    if not gpu.usable:
        return Runtime(
            "cpu",
            "float32",
            Text(
                f"torch cannot compute on the {gpu.name}; CPUs compute float32 fastest",
                f"torch 无法在 {gpu.name} 上计算；CPU 计算 float32 最快",
            ),
        )
    capability = ".".join(map(str, gpu.capability))
    # Not torch.cuda.is_bf16_supported(): it counts emulation and says True on a T4.
    if gpu.capability >= (8, 0):
        return Runtime(
            "cuda",
            "bfloat16",
            Text(
                f"{gpu.name}, compute capability {capability}: it computes bfloat16 in hardware",
                f"{gpu.name}，计算能力 {capability}：硬件支持 bfloat16",
            ),
        )
    return Runtime(
        "cuda",
        "float16",
        Text(
            f"{gpu.name}, compute capability {capability}: bfloat16 needs 8.0 or more",
            f"{gpu.name}，计算能力 {capability}：bfloat16 需要 8.0 或更高",
        ),
    )


def set_seed(seed: int, threads: int = 1) -> None:
    """Make random numbers and sums repeatable: seeds of Python, numpy and torch, and a fixed number of threads.

    The threads matter because each computes a part of a sum: with another number of parts the sum is rounded
    differently, and after some hundred training steps the digits that a notebook prints are no longer the same.
    One thread is also the fastest for the small matrices of most notebooks, above all on busy cores. Two pay where
    a chat model is trained: a step of 16 examples of notebook 11 took 0.28 to 0.33 s instead of 0.42 to 0.51.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise CourseError(
            f"The seed {seed!r} is not a whole number from 0 to {2**32 - 1}; give one, such as seed=0.",
            f"随机种子 {seed!r} 不是 0 到 {2**32 - 1} 之间的整数；请给一个，例如 seed=0。",
        )
    random.seed(seed)
    import numpy as np
    import torch

    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
