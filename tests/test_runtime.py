"""The judgement of simulated GPUs, the probe with a simulated torch, seeds, folders."""

import random
from types import SimpleNamespace

import pytest

from course_utils import CourseError, runtime
from course_utils.runtime import GIB, GPU

PYPI = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
NO_IMAGE = "CUDA error: no kernel image is available for execution on the device"

T4 = GPU("Tesla T4", (7, 5), 14.6, 14.4, PYPI)
P100_PYPI = GPU("Tesla P100-PCIE-16GB", (6, 0), 15.9, 15.6, PYPI, NO_IMAGE)
P100_CU126 = GPU("Tesla P100-PCIE-16GB", (6, 0), 15.9, 15.6, CU126)
SMALL = GPU("NVIDIA GeForce GTX 1650", (7, 5), 3.9, 3.6, PYPI)
A100 = GPU("NVIDIA A100-SXM4-40GB", (8, 0), 39.4, 39.0, PYPI)
BROKEN = GPU("NVIDIA A100-SXM4-40GB", (8, 0), 39.4, 39.0, PYPI, "CUDA error: unspecified launch failure")


@pytest.mark.parametrize(
    ("gpu", "device", "dtype", "because"),
    [
        (None, "cpu", "float32", "no CUDA GPU"),
        (T4, "cuda", "float16", "bfloat16 needs 8.0"),
        (P100_PYPI, "cpu", "float32", "cannot compute on the Tesla P100"),
        (P100_CU126, "cuda", "float16", "bfloat16 needs 8.0"),
        (SMALL, "cuda", "float16", "bfloat16 needs 8.0"),
        (A100, "cuda", "bfloat16", "in hardware"),
        (BROKEN, "cpu", "float32", "cannot compute on the NVIDIA A100"),
    ],
)
def test_device_and_dtype_of_simulated_gpus(gpu, device, dtype, because):
    choice = runtime.choose(gpu)
    assert (choice.device, choice.dtype) == (device, dtype)
    assert because in choice.reason.en


@pytest.mark.parametrize(
    ("arch", "capability", "runs"),
    [
        ("sm_75", (7, 5), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_75", (8, 0), False),
        ("sm_60", (6, 1), True),
        ("sm_90a", (9, 0), True),
        ("sm_120a", (12, 1), False),
        ("sm_100f", (10, 3), True),
        ("sm_100", (10, 0), True),
        ("compute_75", (9, 0), True),
        ("compute_120", (9, 0), False),
        ("compute_90a", (10, 0), False),
        ("compute_100f", (12, 0), False),
        ("gfx90a", (9, 0), False),
    ],
)
def test_which_code_runs_on_which_gpu(arch, capability, runs):
    assert GPU("?", capability, 16, 16, (arch,)).has_kernels is runs


def test_a_matmul_that_ran_does_not_make_up_for_missing_kernels():
    assert not GPU("P100", (6, 0), 16, 16, PYPI, kernel_error=None).usable


class FakeTensor:
    def __init__(self, product):
        self.product = product

    def __matmul__(self, other):
        if isinstance(self.product, Exception):
            raise self.product
        return self

    def sum(self):
        return self

    def item(self):
        return self.product


def fake_torch(product=64.0**3, available=True, cuda_build="13.0"):
    return SimpleNamespace(
        version=SimpleNamespace(cuda=cuda_build),
        ones=lambda *shape, device: FakeTensor(product),
        cuda=SimpleNamespace(
            is_available=lambda: available,
            get_device_name=lambda index: "Tesla T4",
            get_device_capability=lambda index: (7, 5),
            mem_get_info=lambda index: (9 * GIB, 15 * GIB),
            memory_reserved=lambda index: 3 * GIB,
            memory_allocated=lambda index: 1 * GIB,
            get_arch_list=lambda: list(PYPI),
        ),
    )


def probe_with(monkeypatch, **kwargs) -> GPU | None:
    monkeypatch.setitem(__import__("sys").modules, "torch", fake_torch(**kwargs))
    return runtime.probe_gpu()


def test_the_probe_reports_what_torch_says(monkeypatch):
    # 9 GiB are free for all. Of the 3 that torch holds, 1 is in use and 2 are free for this process.
    assert probe_with(monkeypatch) == GPU("Tesla T4", (7, 5), 15.0, 11.0, PYPI, None)


def test_after_a_model_is_deleted_its_memory_counts_as_free(monkeypatch):
    """torch keeps it. `load_chatglm` and `find_model` go by the same number."""
    import torch

    from course_utils.chatglm.memory import free_bytes

    for name in ("mem_get_info", "memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake_torch().cuda, name))
    assert free_bytes(torch.device("cuda")) == 11 * GIB


def test_the_probe_keeps_the_first_line_of_a_failed_kernel(monkeypatch):
    error = RuntimeError(f"{NO_IMAGE}\nCUDA kernel errors might be asynchronously reported")
    assert probe_with(monkeypatch, product=error).kernel_error == NO_IMAGE


def test_the_probe_notices_a_wrong_product(monkeypatch):
    assert "wrong" in probe_with(monkeypatch, product=0.0).kernel_error


@pytest.mark.parametrize("kwargs", [{"available": False}, {"cuda_build": None}])
def test_the_probe_finds_no_cuda_gpu(monkeypatch, kwargs):
    assert probe_with(monkeypatch, **kwargs) is None


def test_the_seed_repeats_all_random_numbers():
    import numpy as np
    import torch

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    runtime.set_seed(7)
    first = draw()
    runtime.set_seed(8)
    other = draw()
    runtime.set_seed(7)
    assert draw() == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_the_number_of_threads_is_fixed():
    import torch

    before = torch.get_num_threads()
    try:
        runtime.set_seed(0, threads=2)
        assert torch.get_num_threads() == 2
        runtime.set_seed(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "seven", None])
def test_a_seed_that_is_none_gets_a_message(seed):
    with pytest.raises(CourseError, match="give one, such as seed=0"):
        runtime.set_seed(seed)


def test_the_folders_of_the_course():
    assert (runtime.ROOT / "pyproject.toml").is_file()
    assert runtime.DATA == runtime.ROOT / "data"
    with pytest.raises(AttributeError):
        _ = runtime.NOTHING


def test_a_package_without_its_repository_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "site-packages" / "course_utils" / "runtime.py"))
    with pytest.raises(CourseError, match=r"pip install -e \."):
        _ = runtime.DATA
