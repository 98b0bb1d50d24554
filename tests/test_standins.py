"""The committed stand-ins do what their cards say.

A card's floor is what the course wants. Where a model reaches it, it is held here; where it does not yet, the card
shows both figures, and the lower end of the measured interval is held.
"""

import re
from dataclasses import replace

import pytest

from course_utils import runtime
from course_utils.metrics import wilson_interval
from course_utils.standins import chatglm3_tiny, chatglm_tiny, evaluation

STAND_INS = {"chatglm3-tiny": chatglm3_tiny, "chatglm-tiny": chatglm_tiny}
ROW = re.compile(r"^\| ([^|]+) \| (\d+) of \d+ \| ", re.M)


@pytest.mark.parametrize("name", STAND_INS)
def test_the_model_is_as_able_as_its_card_says(name):
    folder = runtime.DATA / "models" / name
    text = (folder / "README.md").read_text("utf-8")
    card = {row: int(right) for row, right in ROW.findall(text)}
    found = STAND_INS[name].evaluate(folder)
    assert {evaluation.NAMES[ability.name] for ability in found} == set(card)
    for ability in found:
        right = card[evaluation.NAMES[ability.name]]
        written = replace(ability, right=right)
        assert evaluation.card([written]).splitlines()[-1] in text  # share, interval and floor follow from the count
        low, _ = wilson_interval(right, ability.total)
        least = ability.floor if right >= ability.floor * ability.total else low
        counted = f"{ability.name}: {ability.right} of {ability.total}"
        assert ability.right >= least * ability.total, counted
        # Another CPU rounds otherwise, so that now and then another token is the likeliest.
        assert abs(ability.right - right) <= 0.02 * ability.total, counted


@pytest.mark.parametrize("name", STAND_INS)
def test_the_folder_is_small_and_holds_no_code(name):
    files = list((runtime.DATA / "models" / name).iterdir())
    assert sum(file.stat().st_size for file in files) < 15e6
    assert {file.suffix for file in files} == {".json", ".safetensors", ".model", ".md"}
