"""Files and folders that are written whole or not at all, and what the disk refuses, told in one line."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from course_utils.messages import CourseError, Text

CURE = Text(
    "close it in other programs, make room on its disk, or choose another folder; what was there before is untouched.",
    "请在别的程序里关闭它，腾出磁盘空间，或换一个文件夹；原来的内容完好无损。",
)


@contextmanager
def writing(path: Path, cure: Text = CURE) -> Iterator[None]:
    """Tell in one line what the disk refuses while `path` is written."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        reason = getattr(error, "strerror", None) or error  # without the path, which the message names already
        raise CourseError(
            f"{path} could not be written ({reason}): {cure.en}", f"{path} 写不进去（{reason}）：{cure.zh}"
        ) from None


@contextmanager
def written_whole(path: Path, cure: Text = CURE) -> Iterator[Path]:
    """Where to write a file or a folder, beside `path`, which gets that name when it is whole.

    A file takes the place of an older one; the name of a folder must be free. After an error nothing is left behind.
    """
    part = path.with_name(path.name + ".part")
    with writing(path, cure):
        _remove(part)  # a process that was killed could not tidy up
        try:
            yield part
            os.replace(part, path)
        finally:
            _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
