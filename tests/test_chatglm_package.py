"""The package itself: importing it is quick, and its names are found when they are asked for."""

import subprocess
import sys

import pytest

import course_utils.chatglm


def test_importing_loads_nothing_heavy():
    code = "import sys, course_utils.chatglm; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_name_is_a_function():
    for name in course_utils.chatglm.__all__:
        assert callable(getattr(course_utils.chatglm, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = course_utils.chatglm.nothing
