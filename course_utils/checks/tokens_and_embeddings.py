"""Exercises of notebook 05: one merge of byte-pair encoding (Gage 1994; Sennrich, Haddow & Birch 2016), windows of
inputs and targets, the gradient of an embedding table, and rotary positions (Su and others 2021).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from course_utils.checks import Exercise, Seen, Unusable, attempt

if TYPE_CHECKING:
    from torch import Tensor


def _numbers(value: object, what_en: str, what_zh: str) -> "Tensor":
    """A tensor or a (nested) list of numbers, of any shape, as float64."""
    import torch

    try:
        return torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise Unusable(
            "not numbers",
            f"{what_en} wanted; this is {_kind(value)}, and not all of it are numbers.",
            f"这里应是{what_zh}；现在是 {_kind(value)}，其中并非都是数。",
        ) from None


def _kind(value: object) -> str:
    return f"{type(value).__name__} of length {len(value)}" if hasattr(value, "__len__") else type(value).__name__


def _unchanged(now: object, before: object, name: str) -> None:
    if list(now) != list(before):
        raise Unusable(
            "changed in place",
            f"you changed {name} in place, under the hands of the caller: build something new and return it.",
            f"你就地改动了 {name}，调用者手里的也跟着变了：请另建一个新的再返回。",
        )


# --- one merge --------------------------------------------------------------------------------------------


def _merge(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def _merges(function: Callable) -> list[Seen]:
    """Lists where the pair stands at the start, at the end, twice in a row, overlapping, reversed and not at all."""
    cases = [
        ([1, 2, 3, 1, 2], (1, 2)),
        ([5, 1, 2, 1, 2, 7], (1, 2)),
        ([2, 1, 3, 2, 1], (1, 2)),
        ([4, 4, 4], (4, 4)),
        ([4, 4, 4, 4, 6], (4, 4)),
        ([1, 3, 2, 1], (1, 2)),
        ([8], (8, 8)),
        ([3, 9, 2, 4, 4, 2, 9, 3], (4, 4)),
    ]
    seen = []
    for ids, pair in cases:
        situation = f"ids = {ids}, pair = {pair}, new_id = 256"
        given = list(ids)
        result = attempt(situation, function, given, pair, 256)
        _unchanged(given, ids, "ids")
        seen.append(Seen(situation, _numbers(result, "a list of ids is", "一个 id 列表")))
    return seen


merge = Exercise("merge", _merge, _merges, lambda ids, pair, new_id: ids)


@merge.misconception(
    "only the first place",
    "only the first place is merged: go on through the list, the pair can stand there many times.",
    "只合并了第一处：请继续往后走，这一对可能出现很多次。",
)
def _(ids, pair, new_id):
    for i in range(len(ids) - 1):
        if tuple(ids[i : i + 2]) == pair:
            return [*ids[:i], new_id, *ids[i + 2 :]]
    return ids


@merge.misconception(
    "second half of the pair kept",
    "the new id is there, but the second half of the pair stands behind it again: after a merge go on two places.",
    "新 id 有了，但这一对的后一半又跟在后面：合并之后要前进两格。",
)
def _(ids, pair, new_id):
    return [new_id if tuple(ids[i : i + 2]) == pair else ids[i] for i in range(len(ids))]


@merge.misconception(
    "last id lost",
    "the last id is lost: it begins no pair, and still has to be copied.",
    "最后一个 id 丢了：它不会是一对的开头，但仍要照抄下来。",
)
def _(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids) - 1:
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


@merge.misconception(
    "order ignored",
    "(2, 1) is merged like (1, 2): the order counts, “ab” is not “ba”.",
    "(2, 1) 也当成 (1, 2) 合并了：顺序是有意义的，“ab”不是“ba”。",
)
def _(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        if sorted(ids[i : i + 2]) == sorted(pair):
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


@merge.misconception(
    "pair not removed",
    "the new id is put in front of the pair instead of into its place: the text grows. Leave the pair out.",
    "新 id 加在了这一对的前面，而没有取代它：文本变长了。请去掉原来的一对。",
)
def _(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged += [new_id, *pair]
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


@merge.misconception(
    "neighbour skipped",
    "you go on two places where nothing was merged: pairs that begin there are overlooked, and ids are lost.",
    "没有合并时也前进了两格：从那里开始的一对被漏掉，id 也丢了。",
)
def _(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        merged.append(new_id if tuple(ids[i : i + 2]) == pair else ids[i])
        i += 2
    return merged


@merge.misconception(
    "unmerged ids left out",
    "only merged places come out: every other id has to be copied.",
    "只留下了合并的地方：其余的 id 都要照抄。",
)
def _(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new_id)
            i += 2
        else:
            i += 1
    return merged


@merge.misconception(
    "each half replaced",
    "both ids of the pair become the new id wherever they stand: only side by side are they a pair.",
    "这一对的两个 id 不论在哪里都换成了新 id：只有挨在一起才算一对。",
)
def _(ids, pair, new_id):
    return [new_id if id in pair else id for id in ids]


@merge.misconception(
    "from the right",
    "4 4 4 is merged from the right: go from left to right, or two programs cut the same text differently.",
    "4 4 4 是从右边开始合并的：请从左到右，各家实现都是如此，否则切出的词元会不一样。",
)
def _(ids, pair, new_id):
    merged, i = [], len(ids)
    while i > 0:
        if tuple(ids[max(i - 2, 0) : i]) == pair:
            merged.insert(0, new_id)
            i -= 2
        else:
            merged.insert(0, ids[i - 1])
            i -= 1
    return merged


# --- windows ----------------------------------------------------------------------------------------------


def _windows(ids, length, stride):
    starts = range(0, len(ids) - length, stride)
    inputs = [ids[i : i + length] for i in starts]
    targets = [ids[i + 1 : i + length + 1] for i in starts]
    return inputs, targets


def _cut(function: Callable) -> list[Seen]:
    """Windows with and without overlap, and one text that ends between two of them."""
    seen = []
    for count, length, stride in [(6, 3, 1), (9, 3, 3), (11, 4, 2), (10, 3, 3)]:
        ids = list(range(10, 10 + count))
        situation = f"ids = {ids}, length = {length}, stride = {stride}"
        given = list(ids)
        result = attempt(situation, function, given, length, stride)
        _unchanged(given, ids, "ids")
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise Unusable(
                "does not return two things",
                "return two things, the inputs and the targets: `return inputs, targets`.",
                "要返回两样东西：输入和目标：`return inputs, targets`。",
            )
        for name, rows in zip(["inputs", "targets"], result, strict=True):
            seen.append(Seen(f"{situation} ({name})", _rows(rows)))
    return seen


def _rows(rows: object) -> "Tensor":
    """A list of windows as a table; where they differ in length, short ones are filled up with −1."""
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in rows] if hasattr(rows, "__iter__") else rows
    if isinstance(rows, list) and all(isinstance(row, list | tuple) for row in rows):
        longest = max(map(len, rows), default=0)
        rows = [[*row, *[-1] * (longest - len(row))] for row in rows]
    return _numbers(rows, "a list of windows is", "一个窗口列表")


windows = Exercise("windows", _windows, _cut, lambda ids, length, stride: ([], []))


def _starting(starts, ids, length, shift=1):
    return [ids[i : i + length] for i in starts], [ids[i + shift : i + shift + length] for i in starts]


@windows.misconception(
    "shift forgotten",
    "targets equal inputs: a model would learn to copy. The target of a token is the next one, shift by one.",
    "目标与输入相同：模型只会学到照抄。每个词元的目标是它的下一个，要错开一位。",
)
def _(ids, length, stride):
    return _starting(range(0, len(ids) - length, stride), ids, length, shift=0)


@windows.misconception(
    "next window as target",
    "targets are shifted by a whole window: the first token would have to guess what comes length places later. "
    "Shift by one.",
    "目标错开了整整一个窗口：第一个词元要猜的成了 length 位之后的内容。只错开一位。",
)
def _(ids, length, stride):
    return _starting(range(0, len(ids) - 2 * length + 1, stride), ids, length, shift=length)


@windows.misconception(
    "inputs and targets swapped",
    "inputs and targets are swapped: this model would be asked for the token before. Return inputs first.",
    "输入与目标写反了：这样模型要猜的是前一个词元。请先返回输入。",
)
def _(ids, length, stride):
    return _windows(ids, length, stride)[::-1]


@windows.misconception(
    "windows run over the end",
    "the last windows are too short: a slice beyond the end is cut off without an error. Stop earlier.",
    "最后几个窗口太短：超出末尾的切片会被截断，而且不报错。请早一点停下。",
)
def _(ids, length, stride):
    return _starting(range(0, len(ids), stride), ids, length)


@windows.misconception(
    "one target too few",
    "the last targets are one short: after the inputs of the last window there must be one more token.",
    "最后一行目标少了一个：最后一个窗口的输入之后，还必须有一个词元。",
)
def _(ids, length, stride):
    return _starting(range(0, len(ids) - length + 1, stride), ids, length)


@windows.misconception(
    "last window lost",
    "the last window is missing: the last start is len(ids) − length − 1, and range leaves its end out.",
    "少了最后一个窗口：最后一个起点是 len(ids) − length − 1，而 range 不含终点。",
)
def _(ids, length, stride):
    return _starting(range(0, len(ids) - length - 1, stride), ids, length)


@windows.misconception(
    "stride ignored",
    "every window starts one further: the distance between two starts is stride.",
    "每个窗口只前进了一位：相邻两个起点应相距 stride。",
)
def _(ids, length, stride):
    return _starting(range(0, len(ids) - length), ids, length)


@windows.misconception(
    "stride is the length",
    "windows stand side by side whatever the stride is: use stride as the step of range.",
    "不管 stride 是多少，窗口总是首尾相接：请把 stride 用作 range 的步长。",
)
def _(ids, length, stride):
    return _starting(range(0, len(ids) - length, length), ids, length)


@windows.misconception(
    "one target a window",
    "only the last token has a target: every token of a window has one, so targets are as long as inputs.",
    "只有最后一个词元有目标：窗口里每个词元都有，所以目标与输入一样长。",
)
def _(ids, length, stride):
    starts = range(0, len(ids) - length, stride)
    return [ids[i : i + length] for i in starts], [ids[i + length] for i in starts]


# --- gradient of the table --------------------------------------------------------------------------------


def _embedding_gradient(ids, upstream, vocab_size):
    gradient = upstream.new_zeros(vocab_size, upstream.shape[1])
    for row, token_id in enumerate(ids):
        gradient[token_id] += upstream[row]
    return gradient


def _scatter(function: Callable) -> list[Seen]:
    """Without repeated ids, with one that comes twice in a row, and with one that comes three times."""
    import torch

    cases = [
        (4, [2, 0], [[1.0, -2.0], [0.5, 3.0]]),
        (5, [3, 3, 1], [[1.0, 2.0], [10.0, 20.0], [-1.0, 4.0]]),
        (4, [1, 0, 1, 2, 1], [[1.0], [-2.0], [4.0], [8.0], [16.0]]),
    ]
    seen = []
    for vocab_size, ids, rows in cases:
        situation = f"ids = {ids}, upstream = {rows}, vocab_size = {vocab_size}"
        given, upstream = torch.tensor(ids), torch.tensor(rows, dtype=torch.float64)
        result = attempt(situation, function, given, upstream, vocab_size)
        _unchanged(upstream.flatten().tolist(), [number for row in rows for number in row], "upstream")
        seen.append(
            Seen(situation, _numbers(result, "a table of shape [vocab_size, width] is", "一张 [词表, 宽度] 的表"))
        )
    return seen


def _zeros(ids, upstream, vocab_size):
    return upstream.new_zeros(vocab_size, upstream.shape[1])


embedding_gradient = Exercise("embedding_gradient", _embedding_gradient, _scatter, _zeros)


@embedding_gradient.misconception(
    "overwritten",
    "where an id comes twice, only its last gradient is left: a value used twice gets the sum, so add (+=), one "
    "token at a time; `gradient[ids] += upstream` writes each row once only.",
    "同一个 id 出现两次时只剩最后一次的梯度：用了两次的量，梯度要相加（+=），而且要逐个词元地加；"
    "`gradient[ids] += upstream` 对每一行只写一次。",
)
def _(ids, upstream, vocab_size):
    gradient = _zeros(ids, upstream, vocab_size)
    for row, token_id in enumerate(ids):
        gradient[token_id] = upstream[row]
    return gradient


@embedding_gradient.misconception(
    "averaged over repetitions",
    "gradients of a repeated id are averaged: they add up. A mean, if any, stands already in the loss.",
    "重复 id 的梯度取了平均：应当相加。要取平均的话，损失里已经取过了。",
)
def _(ids, upstream, vocab_size):
    counts = ids.bincount(minlength=vocab_size).clamp(min=1)
    return _embedding_gradient(ids, upstream, vocab_size) / counts[:, None]


@embedding_gradient.misconception(
    "row of the place instead of the id",
    "token number 0 goes to row 0, number 1 to row 1: a gradient belongs to the row that was looked up, its id.",
    "第 0 个词元加到了第 0 行，第 1 个加到了第 1 行：梯度属于被查的那一行，也就是它的 id。",
)
def _(ids, upstream, vocab_size):
    gradient = upstream.new_zeros(max(vocab_size, len(ids)), upstream.shape[1])
    gradient[: len(ids)] = upstream
    return gradient[:vocab_size]


@embedding_gradient.misconception(
    "one row a token",
    "this has one row per token: the table has one row per entry of the vocabulary, most of them 0.",
    "这里每个词元一行：而表是词表里每一项一行，其中大多为 0。",
)
def _(ids, upstream, vocab_size):
    return upstream


@embedding_gradient.misconception(
    "uses counted",
    "you count how often each row was used: add the upstream gradient instead of 1.",
    "你数的是每一行用了几次：要加的是上游梯度，而不是 1。",
)
def _(ids, upstream, vocab_size):
    return _embedding_gradient(ids, upstream * 0 + 1, vocab_size)


@embedding_gradient.misconception(
    "subtracted",
    "the sign is turned: this is the direction of the step, not the gradient. Add.",
    "符号反了：这是更新的方向，不是梯度。应当相加。",
)
def _(ids, upstream, vocab_size):
    return -_embedding_gradient(ids, upstream, vocab_size)


@embedding_gradient.misconception(
    "every row gets everything",
    "every row of the table gets the whole gradient: rows that were not looked up get 0.",
    "表的每一行都得到了全部梯度：没有被查的行应为 0。",
)
def _(ids, upstream, vocab_size):
    return _zeros(ids, upstream, vocab_size) + upstream.sum(dim=0)


# --- rotary positions -------------------------------------------------------------------------------------


def _rotate(x, position, base=10_000.0):
    half = len(x) // 2
    angle = position * x.new_tensor([base ** (-i / half) for i in range(half)])
    left, right = x[:half], x[half:]
    turned = x.clone()
    turned[:half] = left * angle.cos() - right * angle.sin()
    turned[half:] = left * angle.sin() + right * angle.cos()
    return turned


def _turns(function: Callable) -> list[Seen]:
    """Two vectors, places 0, 1 and 7, and a base that is not the default (a number written into the function shows)."""
    import torch

    cases = [([1.0, 0.0], 1), ([1.0, 2.0, 3.0, -1.0], 0), ([1.0, 2.0, 3.0, -1.0], 1), ([0.5, -2, 1, 4, 0.25, 3], 7)]
    seen = []
    for values, position in cases:
        situation = f"x = {values}, position = {position}, base = 100"
        x = torch.tensor(values, dtype=torch.float64)
        result = attempt(situation, function, x, position, 100.0)
        _unchanged(x.tolist(), values, "x")
        seen.append(Seen(situation, _numbers(result, "a vector as long as x is", "与 x 一样长的向量")))
    return seen


rotate = Exercise("rotate", _rotate, _turns, lambda x, position, base: x)


def _rotation(x, position, base, exponent=lambda i, half: -i / half):
    import torch

    half = len(x) // 2
    angle = position * base ** exponent(torch.arange(half, dtype=torch.float64), half)
    return x[:half], x[half:], angle.cos(), angle.sin()


def _turned(left, right, cos, sin):
    import torch

    return torch.cat([left * cos - right * sin, left * sin + right * cos])


@rotate.misconception(
    "turned the other way",
    "the pairs turn the other way: the minus sign belongs to the left half, left·cos − right·sin.",
    "转反了方向：负号属于左半边，left·cos − right·sin。",
)
def _(x, position, base):
    left, right, cos, sin = _rotation(x, position, base)
    return _turned(left, right, cos, -sin)


@rotate.misconception(
    "minus missing",
    "both halves have a plus: that is no rotation, lengths change. The left half is left·cos − right·sin.",
    "两半都是加号：这不是旋转，长度会变。左半边应为 left·cos − right·sin。",
)
def _(x, position, base):
    import torch

    left, right, cos, sin = _rotation(x, position, base)
    return torch.cat([left * cos + right * sin, left * sin + right * cos])


@rotate.misconception(
    "neighbours paired",
    "you pair neighbours, (x₀, x₁), as ChatGLM2 does; here, as in Llama, number i goes with number i + half.",
    "你把相邻的两个 (x₀, x₁) 配成一对，ChatGLM2 是这样；这里与 Llama 相同，第 i 个与第 i + half 个配对。",
)
def _(x, position, base):
    import torch

    _, _, cos, sin = _rotation(x, position, base)
    left, right = x[0::2], x[1::2]
    return torch.stack([left * cos - right * sin, left * sin + right * cos], dim=1).flatten()


@rotate.misconception(
    "one angle for all pairs",
    "all pairs turn by the same angle: pair i turns by position · base^(−i / half), each slower than the one before.",
    "所有的对都转了同一个角：第 i 对应转 position · base^(−i / half)，一对比一对慢。",
)
def _(x, position, base):
    return _turned(*_rotation(x, position, base, lambda i, half: 0 * i))


@rotate.misconception(
    "exponent over the whole width",
    "the exponent is divided by the whole width: there are half as many pairs as numbers, so divide i by half.",
    "指数除以了整个宽度：对的个数只有数的一半，i 应除以 half。",
)
def _(x, position, base):
    return _turned(*_rotation(x, position, base, lambda i, half: -i / (2 * half)))


@rotate.misconception(
    "angles grow",
    "later pairs turn faster: the exponent needs a minus sign, so that they turn more slowly.",
    "后面的对转得更快了：指数要有负号，让它们转得更慢。",
)
def _(x, position, base):
    return _turned(*_rotation(x, position, base, lambda i, half: i / half))


@rotate.misconception(
    "counted from 1",
    "position 0 is turned already: places count from 0, use position as it comes.",
    "位置 0 已经转了：位置从 0 数起，直接使用 position。",
)
def _(x, position, base):
    return _turned(*_rotation(x, position + 1, base))


@rotate.misconception(
    "right half from the turned left",
    "the right half is computed from the left half that was turned already: keep the old left until both are done.",
    "右半边用的是已经转过的左半边：两半都算完之前，要保留旧的 left。",
)
def _(x, position, base):
    import torch

    left, right, cos, sin = _rotation(x, position, base)
    left = left * cos - right * sin
    return torch.cat([left, left * sin + right * cos])


@rotate.misconception(
    "sin and cos swapped",
    "sin and cos are swapped: a turn by 0 must change nothing, and cos 0 is 1.",
    "sin 与 cos 写反了：转 0 度应当什么都不变，而 cos 0 = 1。",
)
def _(x, position, base):
    left, right, cos, sin = _rotation(x, position, base)
    return _turned(left, right, sin, cos)


@rotate.misconception(
    "base ignored",
    "10,000 is written into the function: use the argument base.",
    "函数里写死了 10000：请使用参数 base。",
)
def _(x, position, base):
    return _turned(*_rotation(x, position, 10_000.0))


@rotate.misconception(
    "halves swapped",
    "the two halves come back in the other order: first the new left, then the new right.",
    "返回时两半的顺序反了：先新的左半边，再新的右半边。",
)
def _(x, position, base):
    left, right, cos, sin = _rotation(x, position, base)
    turned = _turned(left, right, cos, sin)
    return turned.roll(len(turned) // 2)
