"""Exercises of notebook 12: overlapping windows, cosine similarity, recall at k, and reciprocal rank fusion after
Cormack, Clarke & Büttcher (2009).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from course_utils.checks import Exercise, Seen, Unusable, attempt

if TYPE_CHECKING:
    from torch import Tensor


def _tensor(value: object, shape: tuple[int, ...]) -> "Tensor":
    """The value as numbers of this shape; anything else is named."""
    import torch

    try:
        numbers = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        numbers = None
    if numbers is None or numbers.shape != shape:
        found = type(value).__name__ if numbers is None else f"shape {list(numbers.shape)}"
        wanted = f"shape {list(shape)}" if shape else "one number"
        raise Unusable(
            "wrong kind of result",
            f"the result should be {wanted}; this is {found}.",
            f"结果应为 {wanted.replace('one number', '一个数').replace('shape', '形状')}；现在是 {found}。",
        )
    return numbers


# --- windows ----------------------------------------------------------------------------------------------


def _windows(length, size, overlap):
    pieces, start = [], 0
    while True:
        end = min(start + size, length)
        pieces.append((start, end))
        if end == length:
            return pieces
        start = end - overlap


def _cut(function: Callable) -> list[Seen]:
    """Texts that end with a window, within one, that fit into one, and one without overlap."""
    seen = []
    for case in [(10, 4, 1), (11, 4, 1), (12, 6, 3), (9, 3, 0), (5, 8, 2), (8, 8, 2), (20, 5, 4)]:
        situation = "length = {}, size = {}, overlap = {}".format(*case)
        pieces = attempt(situation, function, *case)
        if not isinstance(pieces, list) or not all(isinstance(piece, tuple) and len(piece) == 2 for piece in pieces):
            raise Unusable(
                "not a list of pairs",
                "return a list of pairs (start, end).",
                "请返回由 (start, end) 组成的列表。",
            )
        seen.append(Seen(f"{situation}, the number of pieces", _tensor(len(pieces), ())))
        seen.append(
            Seen(f"{situation}, starts and ends", _tensor([x for piece in pieces for x in piece], (2 * len(pieces),)))
        )
    return seen


windows = Exercise("windows", _windows, _cut, lambda length, size, overlap: [(0, length)])


def _stepping(step: Callable[[int, int], int]) -> Callable:
    """Windows that start every `step` characters and stop when the text is covered."""

    def wrong(length, size, overlap):
        pieces, start = [], 0
        while len(pieces) < 100:
            end = min(start + size, length)
            pieces.append((start, end))
            if end == length:
                return pieces
            start += step(size, overlap)
        return pieces

    return wrong


windows.misconception(
    "overlap off by one",
    "neighbours share one character too few: the next window starts at end − overlap, not one further.",
    "相邻两段少共享了一个字符：下一段从 end − overlap 开始，不要再加 1。",
)(_stepping(lambda size, overlap: size - overlap + 1))
windows.misconception(
    "overlap forgotten",
    "neighbours share nothing: go back by `overlap` before the next window.",
    "相邻两段没有重叠：下一段开始之前要退回 overlap 个字符。",
)(_stepping(lambda size, overlap: size))


@windows.misconception(
    "overlap used as the step",
    "you step by the overlap; the step is size − overlap (with overlap 0 yours would never end).",
    "把重叠当成了步长；步长应是 size − overlap（重叠为 0 时你的循环不会结束）。",
)
def _(length, size, overlap):
    pieces, start = [], 0
    while True:
        end = min(start + size, length)
        pieces.append((start, end))
        if end == length:
            return pieces
        start = start + max(overlap, 1)


@windows.misconception(
    "end of the text lost",
    "what is left after the last full window is lost: the last window may be shorter.",
    "最后一个完整窗口之后的文字丢了：最后一段可以短一些。",
)
def _(length, size, overlap):
    pieces, start = [], 0
    while True:
        end = min(start + size, length)
        pieces.append((start, end))
        if end + size - overlap > length:
            return pieces
        start = end - overlap


@windows.misconception(
    "a tail that repeats",
    "the last window lies wholly inside the one before it: stop as soon as a window reaches the end of the text.",
    "最后一段完全包含在前一段里：一旦某段到达文末就应停止。",
)
def _(length, size, overlap):
    pieces, start = [], 0
    while True:
        end = min(start + size, length)
        pieces.append((start, end))
        if start + size - overlap >= length:
            return pieces
        start = start + size - overlap


@windows.misconception(
    "end beyond the text",
    "the last window ends beyond the text: its end is min(start + size, length).",
    "最后一段的结尾超出了文字：应为 min(start + size, length)。",
)
def _(length, size, overlap):
    pieces, start = [], 0
    while True:
        end = start + size
        pieces.append((start, end))
        if end >= length:
            return pieces
        start = end - overlap


# --- cosine -----------------------------------------------------------------------------------------------


def _cosine(question, passages):
    norms = (passages**2).sum(axis=1) ** 0.5
    return passages @ question / (norms * (question @ question) ** 0.5)


def _compare(function: Callable) -> list[Seen]:
    """Vectors of different lengths and directions, by numpy as the embedding model returns them."""
    import numpy as np

    seen = []
    for question, passages in [
        ([3.0, 4.0], [[6.0, 8.0], [1.0, 0.0], [-3.0, -4.0]]),
        ([1.0, 2.0, 2.0], [[0.5, 1.0, 1.0], [4.0, 0.0, -2.0], [9.0, 9.0, 0.0], [0.0, 0.1, 0.0]]),
        ([0.0, 2.0], [[5.0, 1.0], [3.0, 1.0]]),
    ]:
        situation = f"question = {question}, passages = {passages}"
        given = np.array(question), np.array(passages)
        result = attempt(situation, function, *(array.copy() for array in given))
        seen.append(Seen(situation, _tensor(result, (len(passages),))))
    return seen


cosine = Exercise("cosine", _cosine, _compare, lambda question, passages: passages @ question * 0)


@cosine.misconception(
    "not normalised",
    "this is the inner product: long vectors win whatever they point at. Divide by both lengths.",
    "这是内积：向量越长分数越高，与方向无关。请除以两者的长度。",
)
def _(question, passages):
    return passages @ question


@cosine.misconception(
    "only the question normalised",
    "only the question is divided by its length: long passages still win.",
    "只有问题除以了长度：长的段落向量仍然占便宜。",
)
def _(question, passages):
    return passages @ question / (question @ question) ** 0.5


@cosine.misconception(
    "only the passages normalised",
    "the question's length is still in it: the order is right, but the values do not stay within −1 and 1.",
    "还带着问题的长度：排序没错，但数值不在 −1 到 1 之间。",
)
def _(question, passages):
    return passages @ question / (passages**2).sum(axis=1) ** 0.5


@cosine.misconception(
    "squared lengths",
    "you divide by the squared lengths: take the roots.",
    "除以的是长度的平方：请开方。",
)
def _(question, passages):
    return passages @ question / ((passages**2).sum(axis=1) * (question @ question))


@cosine.misconception(
    "lengths added",
    "the lengths are added: divide by their product.",
    "两个长度相加了：应除以它们的乘积。",
)
def _(question, passages):
    return passages @ question / ((passages**2).sum(axis=1) ** 0.5 + (question @ question) ** 0.5)


@cosine.misconception(
    "absolute values",
    "the sign is lost: opposite vectors have cosine −1, not 1.",
    "丢了符号：方向相反的向量余弦是 −1，不是 1。",
)
def _(question, passages):
    return abs(_cosine(question, passages))


@cosine.misconception(
    "one length for all passages",
    "every passage has a length of its own: sum along axis=1.",
    "每个段落有自己的长度：请沿 axis=1 求和。",
)
def _(question, passages):
    return passages @ question / ((passages**2).sum() ** 0.5 * (question @ question) ** 0.5)


# --- recall at k ------------------------------------------------------------------------------------------


def _recall(ranking, needs, k):
    found = set(ranking[:k])
    return sum(bool(need & found) for need in needs) / len(needs)


def _count(function: Callable) -> list[Seen]:
    """One need with one passage, one with several, two needs of which none, one or both are met."""
    seen = []
    for ranking, needs, k in [
        ([4, 7, 1, 9], [{7}], 2),
        ([4, 7, 1, 9], [{1}], 2),
        ([4, 7, 1, 9, 3], [{4, 7, 1}], 3),
        ([4, 7, 1, 9, 3], [{7}, {3}], 4),
        ([4, 7, 1, 9, 3], [{7}, {3, 1}], 4),
        ([5, 6, 8, 2], [{0}, {1}], 3),
        ([5, 6, 8, 2, 0, 1], [{8}, {0}, {6}, {2}], 3),
    ]:
        situation = f"ranking = {ranking}, needs = {needs}, k = {k}"
        result = attempt(situation, function, list(ranking), [set(need) for need in needs], k)
        seen.append(Seen(situation, _tensor(result, ())))
    return seen


recall = Exercise("recall", _recall, _count, lambda ranking, needs, k: 0.0)


@recall.misconception(
    "k forgotten",
    "the whole ranking is searched: only its first k passages reach the prompt.",
    "查找了整个排名：只有前 k 个段落会进入提示。",
)
def _(ranking, needs, k):
    return sum(bool(need & set(ranking)) for need in needs) / len(needs)


@recall.misconception(
    "counted over the wrong set: precision",
    "you divide by k: that is precision, the share of what was found that is useful. Recall is the share of what is "
    "needed that was found: divide by the number of needs.",
    "除以了 k：那是精确率，即找到的东西里有用的比例。召回率是需要的东西里找到的比例：请除以需求的个数。",
)
def _(ranking, needs, k):
    return sum(bool(need & set(ranking[:k])) for need in needs) / k


@recall.misconception(
    "counted over the wrong set: every alternative",
    "you count passages: of one need any passage is enough, so count the needs that are met.",
    "数的是段落：同一个需求只要有一个段落就够了，应当数被满足的需求。",
)
def _(ranking, needs, k):
    return sum(len(need & set(ranking[:k])) for need in needs) / sum(len(need) for need in needs)


@recall.misconception(
    "any need is enough",
    "one need is enough for your 1: a question with two needs of which one is met has recall 1/2.",
    "只要满足一个需求就给了 1：有两个需求、满足一个时，召回率是 1/2。",
)
def _(ranking, needs, k):
    return float(any(need & set(ranking[:k]) for need in needs))


@recall.misconception(
    "every need demanded",
    "you give 0 unless every need is met: with one of two needs met the recall is 1/2.",
    "只要有一个需求没满足就给了 0：两个需求满足一个时，召回率是 1/2。",
)
def _(ranking, needs, k):
    return float(all(need & set(ranking[:k]) for need in needs))


@recall.misconception(
    "one place too few",
    "the first k are ranking[:k]; yours stops one earlier.",
    "前 k 个是 ranking[:k]；你少取了一个。",
)
def _(ranking, needs, k):
    return sum(bool(need & set(ranking[: k - 1])) for need in needs) / len(needs)


@recall.misconception(
    "one place too many",
    "the first k are ranking[:k]; yours goes one further.",
    "前 k 个是 ranking[:k]；你多取了一个。",
)
def _(ranking, needs, k):
    return sum(bool(need & set(ranking[: k + 1])) for need in needs) / len(needs)


# --- reciprocal rank fusion -------------------------------------------------------------------------------


def _fuse(rankings, c=60):
    scores = {}
    for ranking in rankings:
        for place, passage in enumerate(ranking, 1):
            scores[passage] = scores.get(passage, 0) + 1 / (c + place)
    return scores


def _merge(function: Callable) -> list[Seen]:
    """Two and three rankings that agree, disagree, and know passages that the others do not."""
    seen = []
    for rankings, c in [
        ([[3, 1, 2], [1, 3, 0]], 60),
        ([[0, 1, 2, 3], [3, 2, 1, 0]], 60),
        ([[2, 0], [0, 1], [0, 2]], 10),
        ([[1, 0]], 1),
    ]:
        everyone = sorted({passage for ranking in rankings for passage in ranking})
        for settings in [(), (c,)] if c == 60 else [(c,)]:
            situation = f"rankings = {rankings}, c = {c}"
            scores = attempt(situation, function, [list(ranking) for ranking in rankings], *settings)
            if not isinstance(scores, dict):
                raise Unusable("not a dict", "return a dict: passage → score.", "请返回字典：段落 → 分数。")
            values = [float(scores.get(passage, 0)) for passage in everyone]
            seen.append(Seen(f"{situation}, scores of {everyone}", _tensor(values, (len(everyone),))))
    return seen


fuse = Exercise("fuse", _fuse, _merge, lambda rankings, c=60: {})


@fuse.misconception(
    "places counted from 0",
    "the first place is 1: enumerate(ranking, 1).",
    "第一名的名次是 1：enumerate(ranking, 1)。",
)
def _(rankings, c=60):
    scores = {}
    for ranking in rankings:
        for place, passage in enumerate(ranking):
            scores[passage] = scores.get(passage, 0) + 1 / (c + place)
    return scores


@fuse.misconception(
    "last ranking wins",
    "a passage that stands in both rankings keeps only its last share: add the shares up.",
    "同时出现在两个排名里的段落只留下了最后一份：请把各份加起来。",
)
def _(rankings, c=60):
    return {passage: 1 / (c + place) for ranking in rankings for place, passage in enumerate(ranking, 1)}


@fuse.misconception(
    "places added",
    "you add the places: then a passage that only one list knows beats one that both know. Add 1 / (c + place).",
    "把名次直接相加了：这样只出现在一个列表里的段落反而占便宜。应当相加的是 1 / (c + 名次)。",
)
def _(rankings, c=60):
    scores = {}
    for ranking in rankings:
        for place, passage in enumerate(ranking, 1):
            scores[passage] = scores.get(passage, 0) + c + place
    return scores


@fuse.misconception(
    "c forgotten",
    "the c is missing: with 1 / place a single first place outweighs everything below it.",
    "漏了 c：只用 1 / 名次，一个第一名就压过后面的一切。",
)
def _(rankings, c=60):
    scores = {}
    for ranking in rankings:
        for place, passage in enumerate(ranking, 1):
            scores[passage] = scores.get(passage, 0) + 1 / place
    return scores


@fuse.misconception(
    "only what all rankings know",
    "you drop passages that one ranking lacks: they keep the share that they have.",
    "丢掉了某个排名里没有的段落：它们应保留已有的那一份。",
)
def _(rankings, c=60):
    known = set.intersection(*map(set, rankings))
    return {passage: score for passage, score in _fuse(rankings, c).items() if passage in known}


@fuse.misconception(
    "average instead of sum",
    "you divide by the number of rankings that know the passage: being in both must count for more than being in one.",
    "除以了包含该段落的排名个数：两个排名里都有，应当比只有一个里有得分更高。",
)
def _(rankings, c=60):
    counts = {}
    for ranking in rankings:
        for passage in ranking:
            counts[passage] = counts.get(passage, 0) + 1
    return {passage: score / counts[passage] for passage, score in _fuse(rankings, c).items()}
