"""Importing the package is quick because it loads no heavy library."""

import pkgutil
import subprocess
import sys

import course_utils

HEAVY = {
    "torch",
    "numpy",
    "matplotlib",
    "transformers",
    "sentence_transformers",
    "faiss",
    "peft",
    "IPython",
    "ipywidgets",
}

NETWORKS = tuple(f"course_utils.{name}" for name in ("chatglm.", "finetune.", "gpt", "serve", "standins.", "few_shot"))
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(course_utils.__path__, "course_utils.")
    # Inside chatglm and finetune are networks of torch, which these load when a name is asked for; gpt is one, serve
    # runs one and the modules of standins train some.
    if not module.name.endswith("__main__") and not module.name.startswith(NETWORKS)
)


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after running `code`."""
    code += "\nimport sys\nprint(*{name.split('.')[0] for name in sys.modules})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_no_module_of_the_course_loads_a_heavy_library():
    loaded = loaded_by("\n".join(f"import {name}" for name in ["course_utils", *MODULES]))
    assert not loaded & HEAVY, "import these inside the functions that use them"
    assert {"course_utils.doctor", "course_utils.chatglm", "course_utils.models"} <= set(MODULES)


def test_the_list_of_loaded_modules_sees_a_heavy_one():
    assert "numpy" in loaded_by("import numpy")
