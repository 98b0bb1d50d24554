"""The small models that stand in for the real ones, and the data that was written for the course.

`python -m course_utils.standins data [NAME]` writes the generated files under data/ again, byte for byte;
`… train NAME` trains a model from scratch and `… evaluate NAME` measures what it can do.
"""

from importlib import import_module
from pathlib import Path

from course_utils import runtime
from course_utils.files import written_whole
from course_utils.messages import CourseError

# Each is a module here whose `files()` gives the text of every file, by its path under data/.
DATA_SETS = ("adgen", "magic_conch", "finance", "stories")

# Each is a module here with `train(folder)`, `evaluate(folder)` and `card(result)`.
MODELS = {"chatglm3-tiny": "chatglm3_tiny", "chatglm-tiny": "chatglm_tiny", "text2vec-tiny": "text2vec"}


def make_data(name: str, folder: Path | None = None) -> list[Path]:
    """Write the files of one data set under `folder`, by default data/, and return their paths."""
    if name not in DATA_SETS:
        raise CourseError(
            f"There is no data set {name!r}; choose from {', '.join(DATA_SETS)}.",
            f"没有数据集 {name!r}；可选：{'、'.join(DATA_SETS)}。",
        )
    written = []
    for path, text in import_module(f"course_utils.standins.{name}").files().items():
        target = (folder or runtime.DATA) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as part:
            part.write_bytes(text.encode("utf-8"))
        written.append(target)
    return written
