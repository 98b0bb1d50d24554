"""BLEU, ROUGE and intervals, against values worked out by hand and against the published formulas."""

import math
from collections import Counter

import jieba
import pytest

from course_utils import CourseError
from course_utils.metrics import adgen_scores, exact_match, wilson_interval

# 这件 上衣 采用 棉质 面料 / 这件 上衣 选用 纯棉 面料: three of five words, one of four pairs, three in order.
# Characters: 8 of 10, 4 of 9 pairs (这件 件上 上衣 面料), 2 of 8 triples, 1 of 7 quadruples; equally long.
PREDICTION, REFERENCE = "这件上衣采用棉质面料", "这件上衣选用纯棉面料"

# Example 1 of the README of ChatGLM-6B's ptuning folder: the label, and what the tuned model wrote.
LABEL = (
    "简约而不简单的牛仔外套,白色的衣身十分百搭。衣身多处有做旧破洞设计,打破单调乏味,增加一丝造型看点。"
    "衣身后背处有趣味刺绣装饰,丰富层次感,彰显别样时尚。"
)
TUNED = (
    "这是一款简约的牛仔外套,破洞设计,将牛仔布破洞,带来一种随意与个性。破洞的牛仔外套,展现出时尚气息,"
    "带来一种休闲感。同时,刺绣图案,让整件外套更加立体。"
)


def test_scores_worked_out_by_hand():
    scores = adgen_scores([PREDICTION], [REFERENCE])
    assert scores["rouge-1"] == pytest.approx(60)
    assert scores["rouge-2"] == pytest.approx(25)
    assert scores["rouge-l"] == pytest.approx(60)
    assert scores["bleu-4"] == pytest.approx(100 * (8 / 10 * 4 / 9 * 2 / 8 * 1 / 7) ** (1 / 4))


@pytest.mark.parametrize(
    ("prediction", "reference", "bleu"),
    [
        # One length without a match counts half a match; a prediction that is shorter by a quarter pays for it.
        ("海螺说好", "海螺说是的", math.exp(1 - 5 / 4) * (3 / 4 * 2 / 3 * 1 / 2 * (1 / 2) / 1) ** (1 / 4)),
        # The second such length counts a quarter.
        ("海螺好说", "海螺说是", (3 / 4 * 1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 4)),
        ("好", "海螺", 0),
    ],
)
def test_smoothing_of_bleu(prediction, reference, bleu):
    assert adgen_scores([prediction], [reference])["bleu-4"] == pytest.approx(100 * bleu)


def test_a_published_pair_by_the_published_formulas():
    scores = adgen_scores([TUNED], [LABEL])

    def grams(n: int, items: list) -> list:
        return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]

    # ROUGE-n: different n-grams of words, without the spaces that jieba gives.
    words = [list(jieba.cut(text)) for text in (TUNED, LABEL)]
    for n in (1, 2):
        ours, theirs = (set(grams(n, text)) for text in words)
        common = len(ours & theirs)
        assert scores[f"rouge-{n}"] == pytest.approx(200 * common / (len(ours) + len(theirs)), rel=1e-6)

    # ROUGE-L: the longest common subsequence of words, each word as often as it stands there.
    ours, theirs = words
    longest = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i, a in enumerate(ours):
        for j, b in enumerate(theirs):
            longest[i + 1][j + 1] = longest[i][j] + 1 if a == b else max(longest[i][j + 1], longest[i + 1][j])
    assert longest[-1][-1] == 13
    assert scores["rouge-l"] == pytest.approx(200 * 13 / (len(ours) + len(theirs)), rel=1e-6)

    # BLEU-4 over characters: clipped counts, smoothing 1/2, 1/4, … where nothing matches, brevity penalty.
    product, missing = 1.0, 0
    for n in (1, 2, 3, 4):
        ours, theirs = (Counter(grams(n, list(text))) for text in (TUNED, LABEL))
        matches = sum((ours & theirs).values())
        if matches == 0:
            missing += 1
            matches = 2**-missing
        product *= matches / sum(ours.values())
    penalty = min(1, math.exp(1 - len(LABEL) / len(TUNED)))
    assert scores["bleu-4"] == pytest.approx(100 * penalty * product ** (1 / 4))


def test_scores_are_means_over_the_texts_and_nothing_scores_nothing():
    scores = adgen_scores([REFERENCE, ""], [REFERENCE, REFERENCE])
    assert scores == pytest.approx({"rouge-1": 50, "rouge-2": 50, "rouge-l": 50, "bleu-4": 50})
    assert set(adgen_scores([" \n"], ["好"]).values()) == {0.0}


def test_exact_match():
    assert exact_match(["29元\n", "36 元", "好"], ["29元", "36元", "好"]) == pytest.approx(2 / 3)


def test_wilson_interval_by_its_formula():
    z, n, p = 1.959964, 10, 0.9
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson_interval(9, 10) == pytest.approx((middle - half, middle + half), abs=1e-6)
    low, high = wilson_interval(10, 10)
    assert 0.7 < low < 0.73 and high == 1.0
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(900, 1000)[0] > wilson_interval(9, 10)[0]


@pytest.mark.parametrize("score", [adgen_scores, exact_match])
def test_lists_that_do_not_match(score):
    with pytest.raises(CourseError, match="1 predictions and 2 references"):
        score(["a"], ["a", "b"])
    with pytest.raises(CourseError, match="0 predictions"):
        score([], [])


@pytest.mark.parametrize(("right", "total"), [(1, 0), (11, 10), (-1, 10)])
def test_impossible_counts(right, total):
    with pytest.raises(CourseError, match="0 ≤ right ≤ total"):
        wilson_interval(right, total)
