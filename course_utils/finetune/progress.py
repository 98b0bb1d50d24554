"""What a run shows while it goes on: a bar, curves for TensorBoard, how full the memory is."""

import sys
from pathlib import Path

import psutil
import torch
from tqdm import tqdm

from course_utils.finetune.training import Step
from course_utils.messages import CourseError


def memory_line(device: torch.device) -> str:
    """How full the memory is, as `nvidia-smi` counts it: all programs together, in MiB."""
    if device.type == "cuda":
        free, total = (number // 2**20 for number in torch.cuda.mem_get_info(device))
        peak = torch.cuda.max_memory_allocated(device) // 2**20
        return f"{torch.cuda.get_device_name(device)} {total - free} / {total} MiB, tensors at most {peak} MiB"
    memory = psutil.virtual_memory()
    used = (memory.total - memory.available) // 2**20
    return f"CPU {used} / {memory.total // 2**20} MiB, this program {psutil.Process().memory_info().rss // 2**20} MiB"


class ProgressBar:
    """A callback that draws a bar with the time left, the loss and the memory.

    Of these the last line keeps nothing but the number of steps: it is the same on every machine.
    """

    FORMAT = "training |{bar:20}| {n}/{total}"

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def __call__(self, step: Step) -> None:
        if self.bar is None:
            going = self.FORMAT + ", {remaining} left{postfix}"
            self.bar = tqdm(total=step.total, initial=step.number - 1, file=sys.stdout, bar_format=going)
        if step.history.loss and step.history.loss[-1][0] == step.number:
            self.bar.set_postfix_str(f"loss {step.history.loss[-1][1]:.4f}, {memory_line(step.device)}", refresh=False)
        self.bar.update()
        if step.number == step.total or step.history.stopped_early:
            self.bar.clear()  # the shorter text would be filled up with blanks
            self.bar.bar_format = self.FORMAT
            self.bar.close()
            self.bar = None  # the next run gets one of its own


class TensorBoard:
    """A callback that writes the curves for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        self.writer = None

    def __call__(self, step: Step) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            if self.writer is None:
                # What a killed run had logged after its last checkpoint is logged again.
                self.writer = SummaryWriter(self.folder, purge_step=step.number)
            for name in ("loss", "validation", "learning_rate"):
                curve = getattr(step.history, name)
                if curve and curve[-1][0] == step.number:
                    self.writer.add_scalar(name, curve[-1][1], step.number)
                    self.writer.flush()
        except OSError as error:
            raise CourseError(
                f"The curves in {self.folder} cannot be written ({error.strerror}): make room on the disk or choose "
                "another folder, then go on from the last checkpoint.",
                f"无法写出 {self.folder} 中的曲线（{error.strerror}）：请清理磁盘或换一个文件夹，"
                "再从最后一个检查点继续。",
            ) from None
