"""Checks of the machine, each failure with its cure: the first cell of every notebook, and a command.

`start()` begins a notebook and speaks up only about what is wrong. `report()`, or `python -m course_utils.doctor`,
tells everything.
"""

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from course_utils import plots, runtime
from course_utils.messages import CourseError, Text
from course_utils.runtime import GIB, GPU, Runtime

DISTRIBUTION = "course-utils"
TESTED_PYTHON = ((3, 11), (3, 13))
CU126 = "https://download.pytorch.org/whl/cu126"
TIMEOUT_S = 2
MODELSCOPE = "https://modelscope.cn"
MARKS = {"ok": "✔", "warn": "⚠", "fail": "✘"}
GPU_NAME = Text("GPU", "显卡")
DRIVER_CURE = Text(
    "Shut down the kernels of other notebooks and restart this one; if it fails again, update the NVIDIA driver. "
    "Meanwhile the CPU is used.",
    "请关闭其他笔记本的内核并重启本内核；若仍失败，请更新 NVIDIA 驱动。在此之前使用 CPU。",
)


@dataclass(frozen=True)
class Finding:
    """What one check saw. A status of "warn" or "fail" always comes with a cure."""

    name: Text
    status: str
    detail: Text
    cure: Text | None = None

    def __post_init__(self):
        if (self.cure is None) != (self.status == "ok"):
            raise ValueError(f"{self.name.en}: a cure goes with what is not ok, and only with that")

    def __str__(self) -> str:
        # What reads the same in both languages, such as a version, is said once.
        head = self.name.en if self.name.en == self.name.zh else f"{self.name.en} {self.name.zh}"
        line = f"{MARKS[self.status]} {head}: {self.detail.en}"
        if self.cure:
            return f"{line}\n  → {self.cure.en}\n  {self.detail.zh}\n  → {self.cure.zh}"
        return line if self.detail.en == self.detail.zh else f"{line} · {self.detail.zh}"


def _same(text: str) -> Text:
    return Text(text, text)


def check_python(version: tuple[int, int, int] = sys.version_info[:3]) -> Iterator[Finding]:
    """Whether this Python is one that the course works with."""
    oldest, newest = TESTED_PYTHON
    tested = f"3.{oldest[1]}–3.{newest[1]}"
    found = ".".join(map(str, version))
    if version[:2] < oldest:
        yield Finding(
            _same("Python"),
            "fail",
            Text(f"{found} is too old; the course needs {tested}.", f"{found} 太旧；课程需要 {tested}。"),
            Text(
                f"Install Python {tested} (python.org), delete the folder .venv and run `make lab` again.",
                f"请安装 Python {tested}（python.org），删除 .venv 文件夹，再运行 `make lab`。",
            ),
        )
    else:
        yield Finding(_same("Python"), "ok", Text(f"{found} (tested: {tested})", f"{found}（测试过：{tested}）"))


def _tested_pins() -> dict[str, str]:
    """The exact set in requirements.txt, by name; empty where that file is not to be had."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        lines = (runtime.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, CourseError):
        return {}
    requirements = [Requirement(line.split("#")[0]) for line in lines if line[:1].isalnum()]
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }


def check_libraries() -> Iterator[Finding]:
    """Whether each library that the course uses is there, in a version that it is meant to work with."""
    import importlib.metadata

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            _same(DISTRIBUTION),
            "fail",
            Text("not installed in this Python.", "未安装到当前 Python。"),
            Text("Run `pip install -e .` in the course's folder.", "请在课程目录运行 `pip install -e .`。"),
        )
        return
    pins = _tested_pins()
    for requirement in map(Requirement, lines):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name
        cure = Text(
            f'Run `pip install "{name}{requirement.specifier}"`, then restart the kernel.',
            f'请运行 `pip install "{name}{requirement.specifier}"`，然后重启内核。',
        )
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(_same(name), "fail", Text("not installed.", "未安装。"), cure)
            continue
        pin = pins.get(canonicalize_name(name))
        if not requirement.specifier.contains(version, prereleases=True):
            yield Finding(
                _same(name),
                "fail",
                Text(
                    f"{version} is installed; the course works with {requirement.specifier}.",
                    f"已安装 {version}；课程适用的版本为 {requirement.specifier}。",
                ),
                cure,
            )
        elif pin and Version(version).public != Version(pin).public:
            note = Text(f"{version} (in range; tested: {pin})", f"{version}（在范围内；测试过：{pin}）")
            yield Finding(_same(name), "ok", note)
        else:
            yield Finding(_same(name), "ok", _same(version))


def check_gpu(gpu: GPU | None) -> Iterator[Finding]:
    """Whether torch can compute on the GPU, and whether the 6B model fits into its memory."""
    if gpu is None:
        yield Finding(GPU_NAME, "ok", Text("no CUDA GPU; none is needed", "没有 CUDA 显卡；课程不需要"))
        return
    capability = ".".join(map(str, gpu.capability))
    known = f"{gpu.name}, sm_{capability.replace('.', '')}"
    if not gpu.has_kernels:
        if gpu.capability < (5, 0):
            cure = Text(
                "No current torch supports it. The CPU is used; or open the course on ModelScope, Colab or Kaggle.",
                "现在的 torch 都不支持它。将使用 CPU；也可在魔搭 ModelScope、Colab 或 Kaggle 上打开课程。",
            )
        elif gpu.capability < (7, 5):
            cure = Text(
                f"Run `pip uninstall -y torch`, then `pip install torch --index-url {CU126}`, "
                "and restart the kernel. Meanwhile the CPU is used.",
                f"请先运行 `pip uninstall -y torch`，再运行 `pip install torch --index-url {CU126}`，"
                "然后重启内核。在此之前使用 CPU。",
            )
        else:
            cure = Text(
                "Run `pip install --upgrade torch` and restart the kernel. Meanwhile the CPU is used.",
                "请运行 `pip install --upgrade torch`，然后重启内核。在此之前使用 CPU。",
            )
        yield Finding(
            GPU_NAME,
            "fail",
            Text(
                f"{known}: this torch has no kernels for it, only {' '.join(gpu.arch_list)}.",
                f"{known}：当前 torch 不含它的内核，只有 {' '.join(gpu.arch_list)}。",
            ),
            cure,
        )
        return
    if gpu.kernel_error:
        yield Finding(
            GPU_NAME,
            "fail",
            Text(
                f"{known}: a small matrix product failed ({gpu.kernel_error}).",
                f"{known}：一次小的矩阵乘法失败（{gpu.kernel_error}）。",
            ),
            DRIVER_CURE,
        )
        return
    yield Finding(GPU_NAME, "ok", Text(f"{known}; a matrix product ran", f"{known}；矩阵乘法运行成功"))
    yield _gpu_memory(gpu)


def _model_for(gib: float) -> tuple[int, Text]:
    """How large a model goes into this much GPU memory: a rank, and its name."""
    # Published needs of the 6B model are 13, 8 and 6 GB; cards sold as 8 or 6 GB report somewhat less.
    if gib >= 13:
        return 3, Text("the 6B model in float16", "float16 的 6B 模型")
    if gib >= 7.5:
        return 2, Text("the 6B model in int8", "int8 的 6B 模型")
    if gib >= 5.5:
        return 1, Text("the 6B model in int4", "int4 的 6B 模型")
    return 0, Text("the small stand-in model", "小型替身模型")


def _gpu_memory(gpu: GPU) -> Finding:
    name = Text("GPU memory", "显存")
    free = f"{gpu.free_gib:.1f} / {gpu.total_gib:.1f} GiB"
    rank, model = _model_for(gpu.free_gib)
    possible, _ = _model_for(gpu.total_gib)
    if rank == 3:
        return Finding(name, "ok", Text(f"{free} free: enough for {model.en}", f"空闲 {free}：足够运行{model.zh}"))
    if rank < possible:
        cure = Text(
            "Shut down the kernels of other notebooks and close other programs that use the GPU, then run this again.",
            "请关闭其他笔记本的内核和其他占用显卡的程序，然后重新运行。",
        )
    else:
        cure = Text(
            "Nothing needs mending; for the 6B model in float16 open the course on a 16 GB GPU "
            "(ModelScope, Colab, Kaggle).",
            "无需修复；要运行 float16 的 6B 模型，请在 16 GB 显卡上打开课程（魔搭 ModelScope、Colab、Kaggle）。",
        )
    return Finding(
        name,
        "warn",
        Text(
            f"{free} free; the 6B model in float16 needs 13. Used instead: {model.en}.",
            f"空闲 {free}；float16 的 6B 模型需要 13。将改用{model.zh}。",
        ),
        cure,
    )


def check_memory() -> Iterator[Finding]:
    """Whether enough main memory is free."""
    import psutil

    yield _room(
        Text("Memory", "内存"),
        psutil.virtual_memory().available / GIB,
        Text(
            "Shut down the kernels of other notebooks, or close other programs.", "请关闭其他笔记本的内核或其他程序。"
        ),
    )


def check_disk() -> Iterator[Finding]:
    """Whether enough disk is free, for the course's folder as for the home folder, where libraries keep models."""
    free = min(shutil.disk_usage(folder).free for folder in (Path(__file__).parent, Path.home()))
    yield _room(
        Text("Disk", "磁盘"),
        free / GIB,
        Text(
            "Delete files that you no longer need; `pip cache purge` often frees some gigabytes.",
            "请删除不再需要的文件；`pip cache purge` 往往能腾出几 GB。",
        ),
    )


def _room(name: Text, gib: float, cure: Text) -> Finding:
    if gib < 2:
        detail = Text(f"only {gib:.1f} GiB free; 2 are needed.", f"只剩 {gib:.1f} GiB；需要 2 GiB。")
        return Finding(name, "warn", detail, cure)
    return Finding(name, "ok", Text(f"{gib:.0f} GiB free", f"空闲 {gib:.0f} GiB"))


def check_figures() -> Iterator[Finding]:
    """Whether figures can show Chinese."""
    name = Text("Figures", "图形")
    try:
        plots.use_course_style()
    except CourseError as error:
        yield Finding(name, "fail", Text("Chinese cannot be shown.", "无法显示中文。"), error.text)
    else:
        yield Finding(name, "ok", _same(f"DejaVu Sans, {plots.CHINESE_FONT}"))


def check_network() -> Iterator[Finding]:
    """Whether the places of the real models answer. Being offline is no fault: every notebook runs offline."""
    import urllib.error
    import urllib.request

    urls = [MODELSCOPE, os.environ.get("HF_ENDPOINT") or "https://huggingface.co"]
    answered: set[str] = set()

    def ask(url: str) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S).close()
        except urllib.error.HTTPError:  # an error page is an answer, too
            pass
        except Exception:  # whatever went wrong, nobody answered
            return
        answered.add(url)

    # Daemon threads that are left behind after the time-out: looking up a name may hang for much longer.
    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S + 0.5)
    for url in urls:
        if url in answered:
            detail = Text(f"{url} answers", "可以访问")
        else:
            detail = Text(f"{url} does not answer; notebooks run without it", "没有回应；笔记本离线也能运行")
        yield Finding(Text("Network", "网络"), "ok", detail)


def check_choice(choice: Runtime) -> Iterator[Finding]:
    """Which device and number format the notebooks use here."""
    detail = Text(f"{_device(choice)}: {choice.reason.en}", choice.reason.zh)
    yield Finding(Text("Device", "设备"), "ok", detail)


def _device(choice: Runtime) -> str:
    return f"{choice.device.upper().replace('CUDA', 'GPU')}, {choice.dtype}"


def _does_not_load(error: ImportError | OSError, module: str) -> Finding:
    return Finding(
        _same(module),
        "fail",
        Text(f"it does not load ({error}).", f"无法加载（{error}）。"),
        Text(
            f"Run `pip install --force-reinstall {module}`, then restart the kernel.",
            f"请运行 `pip install --force-reinstall {module}`，然后重启内核。",
        ),
    )


def _examine_gpu() -> tuple[GPU | None, list[Finding]]:
    try:
        gpu = runtime.probe_gpu()
    except ModuleNotFoundError:  # the check of the libraries says so
        return None, []
    except (ImportError, OSError) as error:
        return None, [_does_not_load(error, "torch")]
    except RuntimeError as error:
        detail = Text(f"torch cannot start CUDA ({error}).", f"torch 无法启动 CUDA（{error}）。")
        return None, [Finding(GPU_NAME, "fail", detail, DRIVER_CURE)]
    return gpu, list(check_gpu(gpu))


def examine(online: bool = False) -> tuple[Runtime, list[Finding]]:
    """Run all checks, those that ask the network only if `online`: what to compute on, and what was found."""
    gpu, gpu_findings = _examine_gpu()
    choice = runtime.choose(gpu)
    checks = [
        check_python,
        check_libraries,
        lambda: gpu_findings,
        lambda: check_choice(choice),
        check_memory,
        check_disk,
        check_figures,
    ]
    if online:
        checks.append(check_network)
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except ImportError as error:
            module = (error.name or "").split(".")[0]
            if module not in {finding.name.en for finding in findings if finding.status == "fail"}:
                findings.append(_does_not_load(error, module))
    return choice, findings


def start(seed: int = 0, threads: int = 1) -> Runtime:
    """Begin a notebook: check the machine, fix seeds and threads, set the style of the figures.

    Prints one line in each language when all is well, else every problem with its cure. What it returns can be
    used in either case. `threads`: on how many a CPU computes, see `runtime.set_seed`.
    """
    choice, findings = examine()
    with contextlib.suppress(ImportError, OSError):  # a library that does not load is among the findings
        runtime.set_seed(seed, threads)
    problems = [finding for finding in findings if finding.status != "ok"]
    en, zh = ("Going on with", "继续使用") if problems else ("✔ Ready", "✔ 就绪")
    for problem in problems:
        print(problem)
    device = _device(choice)
    print(f"{en}: {device} ({choice.reason.en}).")
    print(f"{zh}：{device.replace(', ', '，')}（{choice.reason.zh}）。")
    return choice


def report() -> None:
    """Print everything that the doctor finds, also about the network."""
    _, findings = examine(online=True)
    print(*findings, sep="\n")


def main() -> None:
    """The command: print the report, and exit with 1 if something must be mended."""
    sys.stdout.reconfigure(encoding="utf-8")  # Windows would write a pipe or file in a code page without ✔
    _, findings = examine(online=True)
    print(*findings, sep="\n")
    sys.exit(any(finding.status == "fail" for finding in findings))


if __name__ == "__main__":
    main()
