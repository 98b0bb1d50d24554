"""Exercises of notebook 10: a prefix cut into keys and values, attention with it, what is trained, what is learned."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from course_utils.checks import Exercise, Seen, Unusable, attempt

if TYPE_CHECKING:
    from torch import Tensor


def _numbers(seed: int, *shape: int) -> "Tensor":
    """Random numbers, the same each time."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- a table of numbers becomes keys and values -------------------------------------------------------------


def _play_split(function: Callable) -> list[Seen]:
    import torch

    seen = []
    for length, layers, heads, width in [(3, 2, 2, 5), (4, 3, 1, 2)]:
        situation = f"length={length}, layers={layers}, heads={heads}, head_dim={width}"
        result = attempt(situation, function, _numbers(1, length, layers * 2 * heads * width), layers, heads, width)
        if isinstance(result, list | tuple) and not len(result):  # the stub
            seen.append(Seen(situation, torch.tensor([torch.nan], dtype=torch.float64)))
            continue
        try:
            pairs = [torch.stack([key, value]) for key, value in result]
            whole = torch.stack(pairs)
        except (TypeError, ValueError, RuntimeError):
            raise Unusable(
                "not a list of pairs",
                f"return a list with one pair (key, value) for each layer (for {situation}).",
                f"应返回一个列表，每层一对 (key, value)（此时 {situation}）。",
            ) from None
        wanted = [layers, 2, heads, length, width]
        if list(whole.shape) != wanted:
            raise Unusable(
                "shape",
                f"{len(pairs)} pairs of shape {list(whole.shape[2:])} came back, {layers} pairs of [heads, length, "
                f"head_dim] = {wanted[2:]} are wanted (for {situation}): view, then permute.",
                f"返回了 {len(pairs)} 对，形状为 {list(whole.shape[2:])}；应为 {layers} 对，形状 [heads, length, "
                f"head_dim] = {wanted[2:]}（此时 {situation}）：先 view，再 permute。",
            )
        seen.append(Seen(situation, whole.detach().double().flatten()))
    return seen


def _split_prefix(table, layers, heads, head_dim):
    parts = table.view(len(table), layers, 2, heads, head_dim)
    return [(key, value) for key, value in parts.permute(1, 2, 3, 0, 4)]


split_prefix = Exercise("split_prefix", _split_prefix, _play_split, lambda table, layers, heads, head_dim: [])


@split_prefix.misconception(
    "key and value swapped",
    "keys and values are swapped: within each layer the key stands first, (key, value).",
    "键和值写反了：每一层里先是键，(key, value)。",
)
def _(table, layers, heads, head_dim):
    parts = table.view(table.shape[0], layers, 2, heads, head_dim)
    return [(key, value) for value, key in parts.permute(1, 2, 3, 0, 4)]


@split_prefix.misconception(
    "no permute",
    "the shape is right and the numbers are mixed up: view only cuts, it does not turn. Cut by the order in which the "
    "numbers lie, [length, layers, 2, heads, head_dim], then permute.",
    "形状对了，数却乱了：view 只切分，不换轴。先按数的存放顺序 [length, layers, 2, heads, head_dim] 切开，再 permute。",
)
def _(table, layers, heads, head_dim):
    return [(key, value) for key, value in table.view(layers, 2, heads, table.shape[0], head_dim)]


@split_prefix.misconception(
    "all keys first",
    "this takes all layers' keys to lie before all values: in a row the order is layer by layer, key then value.",
    "这样等于认为先放所有层的键、再放所有层的值：实际上一行里是逐层排列，每层先键后值。",
)
def _(table, layers, heads, head_dim):
    parts = table.view(table.shape[0], 2, layers, heads, head_dim)
    return [(key, value) for key, value in parts.permute(2, 1, 3, 0, 4)]


@split_prefix.misconception(
    "heads inside",
    "heads and head_dim are exchanged when the row is cut: the numbers of one head lie side by side, so head_dim is "
    "last.",
    "切分一行时 heads 与 head_dim 写反了：同一个头的数是挨在一起的，head_dim 应在最后。",
)
def _(table, layers, heads, head_dim):
    parts = table.view(table.shape[0], layers, 2, head_dim, heads)
    return [(key, value) for key, value in parts.permute(1, 2, 4, 0, 3)]


@split_prefix.misconception(
    "places backwards",
    "the places come out in the other order: place 0 of the table stays place 0.",
    "位置的顺序反了：表中的第 0 个位置仍应是第 0 个位置。",
)
def _(table, layers, heads, head_dim):
    parts = table.flip(0).view(table.shape[0], layers, 2, heads, head_dim)
    return [(key, value) for key, value in parts.permute(1, 2, 3, 0, 4)]


# --- attention with a prefix --------------------------------------------------------------------------------


def _turn(x: "Tensor") -> "Tensor":
    """A rotary embedding: pairs turned by their place, counted from 0."""
    import torch

    first, second = x.chunk(2, dim=-1)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)


def _play_attention(function: Callable) -> list[Seen]:
    import torch

    seen = []
    for heads, length, places, width in [(2, 4, 3, 6), (1, 3, 2, 2)]:
        situation = f"heads={heads}, s={length}, length={places}, head_dim={width}"
        text = [_numbers(seed, heads, length, width) for seed in (1, 2, 3)]
        prefix = [_numbers(seed, heads, places, width) for seed in (4, 5)]
        visible = torch.ones(length, length, dtype=torch.bool).tril()
        try:
            result = attempt(situation, function, *text, *prefix, visible, _turn)
        except Unusable as problem:
            if "size of tensor" in problem.text.en:
                raise Unusable(
                    "mask not lengthened",
                    f"scores has {places + length} columns and visible only {length}: give the mask {places} columns "
                    "of True in front, since every token sees the prefix.",
                    f"scores 有 {places + length} 列，visible 只有 {length} 列：请在掩码前面补 {places} 列 True，"
                    "因为每个词元都看得见前缀。",
                ) from None
            raise
        if not isinstance(result, torch.Tensor) or result.shape != text[0].shape:
            got = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise Unusable(
                "shape",
                f"the result should have the query's shape {list(text[0].shape)}, one mixture for each token of the "
                f"text; yours is {got}.",
                f"结果应与 query 形状相同，{list(text[0].shape)}，即文本的每个词元一个加权和；你返回的是 {got}。",
            )
        seen.append(Seen(situation, result.detach().double().flatten()))
    return seen


def _cat(*parts):
    import torch

    return torch.cat(parts, dim=-2)


def _lengthened(visible, left, right=0, value=True):
    import torch

    return torch.nn.functional.pad(visible, (left, right), value=value)


def _mixture(query, key, value, visible, scale=True):
    scores = query @ key.transpose(-2, -1) / (query.shape[-1] ** 0.5 if scale else 1)
    return scores.masked_fill(~visible, float("-inf")).softmax(dim=-1) @ value


def _prefix_attention(query, key, value, prefix_key, prefix_value, visible, rotate):
    from torch import cat
    from torch.nn.functional import pad

    key = cat([prefix_key, rotate(key)], dim=-2)  # [heads, length + s, head_dim]
    value = cat([prefix_value, value], dim=-2)
    visible = pad(visible, (prefix_key.shape[-2], 0), value=True)  # [s, length + s]
    scores = rotate(query) @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    return scores.masked_fill(~visible, float("-inf")).softmax(dim=-1) @ value


prefix_attention = Exercise(
    "prefix_attention",
    _prefix_attention,
    _play_attention,
    lambda query, key, value, prefix_key, prefix_value, visible, rotate: 0 * query,
)


@prefix_attention.misconception(
    "values behind",
    "the prefix's values stand behind the text's, its keys in front: a weight then meets another place's value.",
    "前缀的值接在了文本后面，前缀的键却在前面：这样权重会乘到别的位置的值上。",
)
def _(query, key, value, prefix_key, prefix_value, visible, rotate):
    keys, values = _cat(prefix_key, rotate(key)), _cat(value, prefix_value)
    return _mixture(rotate(query), keys, values, _lengthened(visible, prefix_key.shape[-2]))


@prefix_attention.misconception(
    "keys as values",
    "the prefix's keys are used as values too: put prefix_value before value.",
    "前缀的键又被当成了值：value 前面应接 prefix_value。",
)
def _(query, key, value, prefix_key, prefix_value, visible, rotate):
    keys, values = _cat(prefix_key, rotate(key)), _cat(prefix_key, value)
    return _mixture(rotate(query), keys, values, _lengthened(visible, prefix_key.shape[-2]))


@prefix_attention.misconception(
    "mask lengthened behind",
    "the mask got its new columns behind, and the prefix stands in front: the first tokens lose sight of the prefix "
    "and see tokens that come later.",
    "掩码的新列加在了后面，而前缀在前面：这样靠前的词元看不见前缀，却看见了后面的词元。",
)
def _(query, key, value, prefix_key, prefix_value, visible, rotate):
    keys, values = _cat(prefix_key, rotate(key)), _cat(prefix_value, value)
    return _mixture(rotate(query), keys, values, _lengthened(visible, 0, prefix_key.shape[-2]))


@prefix_attention.misconception(
    "prefix masked out",
    "the new columns of the mask are False, so nobody sees the prefix and it changes nothing: fill them with True.",
    "掩码的新列填成了 False，谁也看不见前缀，等于没有前缀：应填 True。",
)
def _(query, key, value, prefix_key, prefix_value, visible, rotate):
    return _mixture(rotate(query), rotate(key), value, visible)


@prefix_attention.misconception(
    "prefix rotated",
    "the prefix is rotated along with the text: it has no position, and the text's keys now count from the wrong "
    "place. Rotate the text's keys first, then put the prefix in front.",
    "前缀跟着文本一起旋转了：前缀没有位置，而且文本的键也因此从错误的位置数起。请先旋转文本的键，再接上前缀。",
)
def _(query, key, value, prefix_key, prefix_value, visible, rotate):
    keys, values = rotate(_cat(prefix_key, key)), _cat(prefix_value, value)
    return _mixture(rotate(query), keys, values, _lengthened(visible, prefix_key.shape[-2]))


@prefix_attention.misconception(
    "text not rotated",
    "the text has lost its positions: its queries and keys are rotated as without a prefix.",
    "文本丢失了位置：文本的查询和键仍应像没有前缀时那样旋转。",
)
def _(query, key, value, prefix_key, prefix_value, visible, rotate):
    keys, values = _cat(prefix_key, key), _cat(prefix_value, value)
    return _mixture(query, keys, values, _lengthened(visible, prefix_key.shape[-2]))


@prefix_attention.misconception(
    "no scale",
    "the scores are not divided by √head_dim.",
    "分数没有除以 √head_dim。",
)
def _(query, key, value, prefix_key, prefix_value, visible, rotate):
    keys, values = _cat(prefix_key, rotate(key)), _cat(prefix_value, value)
    return _mixture(rotate(query), keys, values, _lengthened(visible, prefix_key.shape[-2]), scale=False)


# --- what is trained ----------------------------------------------------------------------------------------


def _play_share(function: Callable) -> list[Seen]:
    import torch

    seen = []
    for frozen, trained in [((10, 30), (4, 5)), ((7,), (3, 2, 2))]:
        model = torch.nn.ParameterList([torch.zeros(frozen), torch.zeros(trained)])
        model[0].requires_grad_(False)
        situation = f"requires_grad=False: {list(frozen)}, requires_grad=True: {list(trained)}"
        result = attempt(situation, function, model)
        try:
            seen.append(Seen(situation, torch.tensor(float(result), dtype=torch.float64)))
        except (TypeError, ValueError, RuntimeError):
            raise Unusable(
                "not a number",
                f"return one number, the share; this is {type(result).__name__}.",
                f"应返回一个数，即占比；现在返回的是 {type(result).__name__}。",
            ) from None
    return seen


def _counts(model, count=lambda parameter: parameter.numel()):
    every = [(count(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(number for number, trained in every if trained), sum(number for number, _ in every)


def _share(model):
    every = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained / every


trained_share = Exercise("trained_share", _share, _play_share, lambda model: 0.0)


@trained_share.misconception(
    "counts tensors",
    "this counts tensors: a tensor holds p.numel() numbers.",
    "这数的是张量的个数：一个张量里有 p.numel() 个数。",
)
def _(model):
    trained, every = _counts(model, lambda parameter: 1)
    return trained / every


@trained_share.misconception(
    "counts rows",
    "this counts only along the first axis: p.numel() multiplies all of them.",
    "这只数了第一个轴：p.numel() 才是各轴相乘。",
)
def _(model):
    trained, every = _counts(model, lambda parameter: parameter.shape[0])
    return trained / every


@trained_share.misconception(
    "the frozen share",
    "this is the share of what is frozen: trained is what has requires_grad.",
    "这是被冻结部分的占比：requires_grad 为真的才是要训练的。",
)
def _(model):
    trained, every = _counts(model)
    return (every - trained) / every


@trained_share.misconception(
    "everything is counted as trained",
    "every parameter is counted as trained: ask for p.requires_grad above the line.",
    "所有参数都算成了要训练的：分子里要判断 p.requires_grad。",
)
def _(model):
    return 1.0


@trained_share.misconception(
    "against the frozen ones",
    "trained against frozen is a ratio, not a share: divide by all parameters, the trained ones among them.",
    "这是“训练的比冻结的”，不是占比：分母应是全部参数，包括要训练的。",
)
def _(model):
    trained, every = _counts(model)
    return trained / (every - trained)


# --- what is learned ----------------------------------------------------------------------------------------


def _play_example(function: Callable) -> list[Seen]:
    import torch

    seen = []
    for prompt, answer, end in [([11, 12, 13], [21, 22], 2), ([31], [41, 42, 43, 44], 2)]:
        situation = f"prompt = {prompt}, answer = {answer}, end = {end}"
        result = attempt(situation, function, list(prompt), list(answer), end)
        try:
            ids, labels = (torch.tensor([float(number) for number in row], dtype=torch.float64) for row in result)
        except (TypeError, ValueError):
            raise Unusable(
                "not two lists",
                "return two lists of ids: `return input_ids, labels`.",
                "应返回两个 id 列表：`return input_ids, labels`。",
            ) from None
        if ids.shape != labels.shape:
            raise Unusable(
                "lengths differ",
                f"input_ids has {len(ids)} places and labels {len(labels)}: each token needs one label (for "
                f"{situation}).",
                f"input_ids 有 {len(ids)} 个位置，labels 有 {len(labels)} 个：每个词元都要有一个标签（此时 "
                f"{situation}）。",
            )
        # Lengths may differ from one wrong answer to the next, and are compared too.
        value = torch.nn.functional.pad(torch.cat([ids, labels]), (0, 20 - 2 * len(ids)), value=-1)
        seen.append(Seen(situation, value, shown=repr(tuple(list(row) for row in result))))
    return seen


def _example(prompt, answer, end):
    input_ids = prompt + answer + [end]
    labels = [-100] * len(prompt) + answer + [end]
    return input_ids, labels


example = Exercise("example", _example, _play_example, lambda prompt, answer, end: (prompt, prompt))


@example.misconception(
    "loss on the prompt",
    "the prompt is to be learned too: the model would spend its few numbers on predicting questions. Its labels are "
    "−100.",
    "提示也被拿来学习了：模型会把本就不多的参数花在预测问题上。提示处的标签应为 −100。",
)
def _(prompt, answer, end):
    return [*prompt, *answer, end], [*prompt, *answer, end]


@example.misconception(
    "the end is not learned",
    "the last label is −100, so the model never learns to stop: `end` is part of what it should say.",
    "最后一个标签是 −100，模型就学不会停下：`end` 也是它该说的。",
)
def _(prompt, answer, end):
    return [*prompt, *answer, end], [-100] * len(prompt) + [*answer, -100]


@example.misconception(
    "no end",
    "the token that ends the answer is missing: without it the model never learns to stop.",
    "缺少结束词元：没有它，模型学不会停下。",
)
def _(prompt, answer, end):
    return [*prompt, *answer], [-100] * len(prompt) + [*answer]


@example.misconception(
    "shifted here",
    "the labels are shifted by one: the loss does this itself, so here a label stands at its own token.",
    "标签错开了一位：这一步由损失函数自己做，这里标签应与自己的词元对齐。",
)
def _(prompt, answer, end):
    return [*prompt, *answer, end], [-100] * (len(prompt) - 1) + [*answer, end, -100]


@example.misconception(
    "zero instead of −100",
    "0 is a token like any other, and the model would learn to say it: what is not to be learned has the label −100.",
    "0 也是一个词元，模型会学着去说它：不学的位置，标签是 −100。",
)
def _(prompt, answer, end):
    return [*prompt, *answer, end], [0] * len(prompt) + [*answer, end]


@example.misconception(
    "prompt learned instead of the answer",
    "the other way round: −100 belongs to the prompt, the answer is what is learned.",
    "正好反了：−100 应放在提示处，要学的是回答。",
)
def _(prompt, answer, end):
    return [*prompt, *answer, end], [*prompt, *[-100] * (len(answer) + 1)]
