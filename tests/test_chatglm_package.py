"""The package itself: importing it is quick, and its names are found when they are asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import course_utils.chatglm

FIXTURES = Path(__file__).parent / "fixtures" / "chatglm"


def test_importing_loads_nothing_heavy():
    code = "import sys, course_utils.chatglm; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(("name", "quantize"), [("v1_base", None), ("v1_base", "int4"), ("v3_mqa2", "int4")])
def test_a_program_of_its_own_reads_what_the_library_has_no_class_for(name, quantize, tmp_path):
    """With the import that `convert` names, in a fresh process."""
    model = course_utils.chatglm.load_chatglm(FIXTURES / name, device="cpu", quantize=quantize)
    model.save_pretrained(tmp_path)
    code = (
        "import course_utils.chatglm.loading\n"
        "from transformers import AutoModelForCausalLM\n"
        f"print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})).__name__)"
    )
    assert "import course_utils.chatglm.loading" in course_utils.chatglm.convert.__doc__
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert shown.strip() == type(model).__name__


def test_every_name_is_a_function():
    for name in course_utils.chatglm.__all__:
        assert callable(getattr(course_utils.chatglm, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = course_utils.chatglm.nothing
