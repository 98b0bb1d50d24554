"""Exercises of notebook 06: scaled dot-product attention, the causal mask, all heads at once and grouped queries
(Vaswani et al. 2017; Ainslie et al. 2023).

Tokens are rows: X [n, d], W_Q [d, d_k], scores [n, n] with one row per query. Heads stand in front: [heads, n, width].
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from course_utils.checks import Exercise, Seen, Unusable, attempt

if TYPE_CHECKING:
    from torch import Tensor


def _random(*shapes: tuple[int, ...]) -> list["Tensor"]:
    """The same tensors each time; the notebook's own random numbers go on undisturbed."""
    import torch

    generator = torch.Generator().manual_seed(6)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).round(decimals=1) for shape in shapes]


def _seen(situation: str, function: Callable, wanted: tuple[int, ...], *arguments: object) -> Seen:
    """What the function returns, if it has the wanted shape and left its arguments as they were."""
    import torch

    before = [argument.clone() for argument in arguments if isinstance(argument, torch.Tensor)]
    result = attempt(situation, function, *arguments)
    after = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        raise Unusable(
            "changed in place",
            "you changed what came in, as `scores[later] = …` does, under the hands of the caller: "
            "use `scores.masked_fill(later, …)`, which makes a new tensor.",
            "你就地改动了传入的张量（例如 `scores[later] = …`），调用者手里的值也跟着变了："
            "请用 `scores.masked_fill(later, …)`，它会生成新的张量。",
        )
    if not isinstance(result, torch.Tensor):
        raise Unusable(
            "no tensor",
            f"a tensor is wanted; a {type(result).__name__} came back. Return one thing.",
            f"应返回一个张量；你返回的是 {type(result).__name__}。只返回一样东西。",
        )
    if tuple(result.shape) != wanted:
        raise Unusable(
            "wrong shape",
            f"for {situation} the result should be {list(wanted)}; yours is {list(result.shape)}. "
            "Write the shape beside each of your lines.",
            f"当 {situation} 时，结果的形状应为 {list(wanted)}，你得到 {list(result.shape)}。请在每一行旁写出形状。",
        )
    return Seen(situation, result.detach().double())


# --- scaled dot-product attention -------------------------------------------------------------------------


def _attention(X, W_Q, W_K, W_V):
    Q, K, V = X @ W_Q, X @ W_K, X @ W_V
    scores = Q @ K.T / K.shape[-1] ** 0.5  # [n, n]
    return scores.softmax(dim=-1) @ V  # [n, d_v]


def _attend(function: Callable) -> list[Seen]:
    """Four tokens of width 3 with d_k = 2 and d_v = 3, then three tokens of width 5 with d_k = 4 and d_v = 5."""
    seen = []
    for n, d, d_k in [(4, 3, 2), (3, 5, 4)]:
        X, W_Q, W_K, W_V = _random((n, d), (d, d_k), (d, d_k), (d, d))
        situation = f"X [{n}, {d}], W_Q and W_K [{d}, {d_k}], W_V [{d}, {d}]"
        seen.append(_seen(situation, function, (n, d), X, W_Q, W_K, W_V))
    return seen


attention = Exercise("attention", _attention, _attend, lambda X, W_Q, W_K, W_V: X @ W_V)


@attention.misconception(
    "no root",
    "the scores are not divided by √d_k: the wider the head, the more one token takes all.",
    "分数没有除以 √d_k：头越宽，注意力就越被某一个词元独占。",
)
def _(X, W_Q, W_K, W_V):
    return (X @ W_Q @ (X @ W_K).T).softmax(dim=-1) @ (X @ W_V)


@attention.misconception(
    "root of the embedding's width",
    "you divide by the root of the embedding's width d: take d_k, the width of Q and K, K.shape[-1].",
    "你除的是嵌入宽度 d 的平方根：应取 d_k，即 Q 和 K 的宽度 K.shape[-1]。",
)
def _(X, W_Q, W_K, W_V):
    return (X @ W_Q @ (X @ W_K).T / X.shape[-1] ** 0.5).softmax(dim=-1) @ (X @ W_V)


@attention.misconception(
    "root of the number of tokens",
    "you divide by the root of n, the number of tokens: a text twice as long would change every score. Take d_k.",
    "你除的是词元个数 n 的平方根：文本变长，每个分数都会跟着变。应取 d_k。",
)
def _(X, W_Q, W_K, W_V):
    return (X @ W_Q @ (X @ W_K).T / len(X) ** 0.5).softmax(dim=-1) @ (X @ W_V)


@attention.misconception(
    "d_k without root",
    "you divide by d_k itself: a sum of d_k products has the standard deviation √d_k.",
    "你除的是 d_k 本身：d_k 个乘积之和的标准差是 √d_k。",
)
def _(X, W_Q, W_K, W_V):
    return (X @ W_Q @ (X @ W_K).T / W_K.shape[1]).softmax(dim=-1) @ (X @ W_V)


@attention.misconception(
    "multiplied by the root",
    "you multiply by √d_k: divide by it.",
    "你乘了 √d_k：应当除以它。",
)
def _(X, W_Q, W_K, W_V):
    return (X @ W_Q @ (X @ W_K).T * W_K.shape[1] ** 0.5).softmax(dim=-1) @ (X @ W_V)


@attention.misconception(
    "divided after the softmax",
    "you divide after the softmax: it only shrinks the weights, and they no longer add up to 1. Divide the scores.",
    "你在 softmax 之后才除：这只会缩小权重，使它们加起来不再是 1。应当先除分数。",
)
def _(X, W_Q, W_K, W_V):
    return (X @ W_Q @ (X @ W_K).T).softmax(dim=-1) / W_K.shape[1] ** 0.5 @ (X @ W_V)


@attention.misconception(
    "softmax over the wrong axis",
    "softmax runs down the columns: a token shares out its own attention, so each row must add up to 1, dim=-1.",
    "softmax 沿着列做了：每个词元分配的是自己的注意力，应当每一行加起来为 1，即 dim=-1。",
)
def _(X, W_Q, W_K, W_V):
    return (X @ W_Q @ (X @ W_K).T / W_K.shape[1] ** 0.5).softmax(dim=0) @ (X @ W_V)


@attention.misconception(
    "no softmax",
    "there is no softmax: scores can be negative and add up to anything.",
    "没有做 softmax：分数可能为负，加起来也不是 1。",
)
def _(X, W_Q, W_K, W_V):
    return X @ W_Q @ (X @ W_K).T / W_K.shape[1] ** 0.5 @ (X @ W_V)


@attention.misconception(
    "tokens instead of values",
    "you sum up the tokens' own vectors: what is handed over is the value, V = X @ W_V.",
    "你加权求和的是词元自己的向量：交出去的应是值，V = X @ W_V。",
)
def _(X, W_Q, W_K, W_V):
    return (X @ W_Q @ (X @ W_K).T / W_K.shape[1] ** 0.5).softmax(dim=-1) @ X


@attention.misconception(
    "query and key exchanged",
    "row i of your scores belongs to key i: one row per query is wanted, Q @ K.T.",
    "你的分数第 i 行属于第 i 个键：应当每个查询占一行，即 Q @ K.T。",
)
def _(X, W_Q, W_K, W_V):
    return (X @ W_K @ (X @ W_Q).T / W_K.shape[1] ** 0.5).softmax(dim=-1) @ (X @ W_V)


@attention.misconception(
    "queries compared with queries",
    "the queries are compared with one another: compare them with the keys, made by W_K.",
    "你让查询和查询相比了：应当与键相比，键由 W_K 得到。",
)
def _(X, W_Q, W_K, W_V):
    return (X @ W_Q @ (X @ W_Q).T / W_K.shape[1] ** 0.5).softmax(dim=-1) @ (X @ W_V)


# --- the causal mask --------------------------------------------------------------------------------------


def _causal_weights(scores):
    n = len(scores)
    later = scores.new_ones(n, n).triu(1).bool()
    return scores.masked_fill(later, -float("inf")).softmax(dim=-1)


def _look_back(function: Callable) -> list[Seen]:
    """Scores of two, three and four tokens, some of them negative."""
    seen = []
    for scores in _random((2, 2), (3, 3), (4, 4)):
        n = len(scores)
        rounded = [[round(number, 1) for number in row] for row in scores.tolist()]
        situation = f"scores = {rounded}" if n == 2 else f"scores [{n}, {n}]"
        seen.append(_seen(situation, function, (n, n), scores))
    return seen


causal_weights = Exercise("causal_weights", _causal_weights, _look_back, lambda scores: scores)


@causal_weights.misconception(
    "no mask",
    "nothing is masked: the first token sees the whole text.",
    "什么也没有遮住：第一个词元看见了整个文本。",
)
def _(scores):
    return scores.softmax(dim=-1)


@causal_weights.misconception(
    "mask after softmax",
    "the mask comes after the softmax: rows no longer add up to 1, and the later scores still stand in the "
    "denominator. Set the scores to −∞ before.",
    "掩码放在了 softmax 之后：每行加起来不再是 1，而且后面的分数仍留在分母里。应在 softmax 之前把分数设为 −∞。",
)
def _(scores):
    return scores.softmax(dim=-1).tril()


@causal_weights.misconception(
    "mask multiplied",
    "later scores become 0, and e⁰ = 1 is an ordinary weight: they must become −∞.",
    "后面的分数变成了 0，而 e⁰ = 1 是普通的权重：它们应变成 −∞。",
)
def _(scores):
    return scores.tril().softmax(dim=-1)


@causal_weights.misconception(
    "minus one",
    "later scores become −1, which is a score like any other: only −∞ gives weight 0.",
    "后面的分数变成了 −1，这只是一个普通的分数：只有 −∞ 才得到权重 0。",
)
def _(scores):
    later = scores.new_ones(scores.shape).triu(1).bool()
    return scores.masked_fill(later, -1).softmax(dim=-1)


@causal_weights.misconception(
    "plus infinity",
    "later scores become +∞ instead of −∞: ∞ / ∞ is nan.",
    "后面的分数变成了 +∞ 而不是 −∞：∞ / ∞ 得到 nan。",
)
def _(scores):
    later = scores.new_ones(scores.shape).triu(1).bool()
    return scores.masked_fill(later, float("inf")).softmax(dim=-1)


@causal_weights.misconception(
    "diagonal masked",
    "the mask is off by one: the diagonal is masked too, so no token sees itself, and the first one has nobody left "
    "(nan). Use triu(1).",
    "掩码差了一格：对角线也被遮住了，词元看不到自己，第一个词元更是谁也看不到（nan）。请用 triu(1)。",
)
def _(scores):
    later = scores.new_ones(scores.shape).triu(0).bool()
    return scores.masked_fill(later, -float("inf")).softmax(dim=-1)


@causal_weights.misconception(
    "one token ahead",
    "the mask is off by one: every token still sees the next one. Use triu(1).",
    "掩码差了一格：每个词元仍看得到下一个。请用 triu(1)。",
)
def _(scores):
    later = scores.new_ones(scores.shape).triu(2).bool()
    return scores.masked_fill(later, -float("inf")).softmax(dim=-1)


@causal_weights.misconception(
    "the past masked",
    "the past is masked and the future is seen: take the triangle above the diagonal, triu, not tril.",
    "遮住的是过去，看到的是将来：应取对角线上方的三角，用 triu 而不是 tril。",
)
def _(scores):
    earlier = scores.new_ones(scores.shape).tril(-1).bool()
    return scores.masked_fill(earlier, -float("inf")).softmax(dim=-1)


@causal_weights.misconception(
    "allowed and forbidden exchanged",
    "−∞ stands where looking is allowed: masked_fill fills where the mask is True, so it must mark the later tokens.",
    "−∞ 填到了允许看的位置：masked_fill 填的是掩码为 True 的地方，掩码应标出后面的词元。",
)
def _(scores):
    allowed = scores.new_ones(scores.shape).tril().bool()
    return scores.masked_fill(allowed, -float("inf")).softmax(dim=-1)


@causal_weights.misconception(
    "softmax over the wrong axis",
    "the mask is right, but softmax runs down the columns: each row must add up to 1, dim=-1.",
    "掩码是对的，但 softmax 沿着列做了：应当每一行加起来为 1，即 dim=-1。",
)
def _(scores):
    later = scores.new_ones(scores.shape).triu(1).bool()
    return scores.masked_fill(later, -float("inf")).softmax(dim=0)


@causal_weights.misconception(
    "no softmax",
    "the mask is right, but the softmax is missing: weights are wanted, not scores.",
    "掩码是对的，但少了 softmax：要的是权重，不是分数。",
)
def _(scores):
    later = scores.new_ones(scores.shape).triu(1).bool()
    return scores.masked_fill(later, -float("inf"))


# --- all heads at once ------------------------------------------------------------------------------------


def _multi_head(X, W_Q, W_K, W_V, W_O, num_heads):
    n, d = X.shape
    Q, K, V = ((X @ W).view(n, num_heads, d // num_heads).transpose(0, 1) for W in (W_Q, W_K, W_V))
    scores = Q @ K.transpose(1, 2) / K.shape[-1] ** 0.5  # [heads, n, n]
    mixed = scores.softmax(dim=-1) @ V  # [heads, n, width]
    return mixed.transpose(0, 1).reshape(n, d) @ W_O


def _side_by_side(function: Callable) -> list[Seen]:
    """Four tokens of width 6 in three heads of width 2, then three tokens of width 4 in two heads."""
    seen = []
    for n, d, num_heads in [(4, 6, 3), (3, 4, 2)]:
        X, *matrices = _random((n, d), *[(d, d)] * 4)
        situation = f"X [{n}, {d}], four matrices [{d}, {d}], num_heads = {num_heads}"
        seen.append(_seen(situation, function, (n, d), X, *matrices, num_heads))
    return seen


multi_head = Exercise("multi_head", _multi_head, _side_by_side, lambda X, W_Q, W_K, W_V, W_O, num_heads: X @ W_V @ W_O)


def _cut(matrix, num_heads):
    n, d = matrix.shape
    return matrix.view(n, num_heads, d // num_heads).transpose(0, 1)


def _weigh(Q, K, divisor=None):
    return (Q @ K.transpose(1, 2) / (divisor or K.shape[-1]) ** 0.5).softmax(dim=-1)


def _join(mixed):
    return mixed.transpose(0, 1).flatten(1)


@multi_head.misconception(
    "sentence cut instead of columns",
    "view(num_heads, n, width) cuts the sentence into pieces, not the columns into heads: "
    "view(n, num_heads, width) first, then transpose(0, 1).",
    "view(num_heads, n, width) 切开的是句子，不是把各列分给各头：先 view(n, num_heads, width)，再 transpose(0, 1)。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = ((X @ W).view(num_heads, len(X), -1) for W in (W_Q, W_K, W_V))
    return _join(_weigh(Q, K) @ V) @ W_O


@multi_head.misconception(
    "not transposed back",
    "the heads are still in front when you put them together, so a row mixes several tokens: transpose(0, 1) first.",
    "合并时头还在最前面，一行里混进了好几个词元：先 transpose(0, 1)。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = (_cut(X @ W, num_heads) for W in (W_Q, W_K, W_V))
    return (_weigh(Q, K) @ V).reshape(X.shape) @ W_O


@multi_head.misconception(
    "neither cut nor joined by columns",
    "the sentence is cut instead of the columns, and put together the same way: each head sees only some of the "
    "tokens. view(n, num_heads, width), then transpose(0, 1), and back in the opposite order.",
    "切开的是句子而不是各列，合并时也一样：每个头只看到一部分词元。"
    "应先 view(n, num_heads, width) 再 transpose(0, 1)，合并时反过来做。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = ((X @ W).view(num_heads, len(X), -1) for W in (W_Q, W_K, W_V))
    return (_weigh(Q, K) @ V).reshape(X.shape) @ W_O


@multi_head.misconception(
    "heads concatenated in the wrong order",
    "the heads are put together in the reverse order: head 1 owns the first columns, and W_O expects it there.",
    "各个头的拼接顺序反了：第 1 个头占最前面的几列，W_O 就在那里等它。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = (_cut(X @ W, num_heads) for W in (W_Q, W_K, W_V))
    return _join((_weigh(Q, K) @ V).flip(0)) @ W_O


@multi_head.misconception(
    "heads interleaved",
    "the columns come out as 1st of every head, 2nd of every head, …: each head's columns must stay together, "
    "[n, heads, width] before the reshape.",
    "拼出来的列成了“各头的第 1 列、各头的第 2 列……”：每个头的列应连在一起，reshape 之前应是 [n, heads, width]。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = (_cut(X @ W, num_heads) for W in (W_Q, W_K, W_V))
    return (_weigh(Q, K) @ V).permute(1, 2, 0).flatten(1) @ W_O


@multi_head.misconception(
    "root of the embedding's width",
    "you divide by the root of the whole width d: a head's dot product has only d / num_heads terms, K.shape[-1].",
    "你除的是整个宽度 d 的平方根：一个头的点积只有 d / num_heads 项，即 K.shape[-1]。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = (_cut(X @ W, num_heads) for W in (W_Q, W_K, W_V))
    return _join(_weigh(Q, K, X.shape[1]) @ V) @ W_O


@multi_head.misconception(
    "no root",
    "the scores are not divided by √(d / num_heads).",
    "分数没有除以 √(d / num_heads)。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = (_cut(X @ W, num_heads) for W in (W_Q, W_K, W_V))
    return _join(_weigh(Q, K, 1) @ V) @ W_O


@multi_head.misconception(
    "softmax over the heads",
    "softmax runs across the heads, so that they compete: within each head each row must add up to 1, dim=-1.",
    "softmax 跨着各个头做了，头与头互相竞争：应当在每个头内部让每一行加起来为 1，即 dim=-1。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = (_cut(X @ W, num_heads) for W in (W_Q, W_K, W_V))
    return _join((Q @ K.transpose(1, 2) / K.shape[-1] ** 0.5).softmax(dim=0) @ V) @ W_O


@multi_head.misconception(
    "softmax over the wrong axis",
    "softmax runs down the columns of each head: each row must add up to 1, dim=-1.",
    "softmax 在每个头里沿着列做了：应当每一行加起来为 1，即 dim=-1。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = (_cut(X @ W, num_heads) for W in (W_Q, W_K, W_V))
    return _join((Q @ K.transpose(1, 2) / K.shape[-1] ** 0.5).softmax(dim=1) @ V) @ W_O


@multi_head.misconception(
    "no output projection",
    "the heads are put together rightly, but W_O is missing: @ W_O.",
    "各个头拼得对，但少了 W_O：还要 @ W_O。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = (_cut(X @ W, num_heads) for W in (W_Q, W_K, W_V))
    return _join(_weigh(Q, K) @ V)


@multi_head.misconception(
    "one head",
    "this is one head of the whole width: cut Q, K and V into num_heads heads.",
    "这只是一个整宽的头：请把 Q、K、V 切成 num_heads 个头。",
)
def _(X, W_Q, W_K, W_V, W_O, num_heads):
    Q, K, V = (_cut(X @ W, 1) for W in (W_Q, W_K, W_V))
    return _join(_weigh(Q, K) @ V) @ W_O


# --- grouped queries --------------------------------------------------------------------------------------


def _grouped(Q, K, V):
    share = len(Q) // len(K)  # query heads to one key head
    K, V = K.repeat_interleave(share, dim=0), V.repeat_interleave(share, dim=0)
    scores = Q @ K.transpose(1, 2) / K.shape[-1] ** 0.5
    return scores.softmax(dim=-1) @ V


def _share_out(function: Callable) -> list[Seen]:
    """Six query heads of width 2 that share two, then three key heads; four tokens."""
    seen = []
    for groups in [2, 3]:
        Q, K, V = _random((6, 4, 2), (groups, 4, 2), (groups, 4, 2))
        situation = f"Q [6, 4, 2], K and V [{groups}, 4, 2]"
        seen.append(_seen(situation, function, (6, 4, 2), Q, K, V))
    return seen


grouped = Exercise("grouped", _grouped, _share_out, lambda Q, K, V: Q)


@grouped.misconception(
    "groups dealt round",
    "the groups are dealt round like cards, 1 2 1 2 …: neighbouring query heads share one, 1 1 … 2 2 …. "
    "Use repeat_interleave.",
    "分组像发牌一样轮着来了，1 2 1 2……：应当相邻的查询头共用一组，1 1……2 2……。请用 repeat_interleave。",
)
def _(Q, K, V):
    share = len(Q) // len(K)
    return _weigh(Q, K.repeat(share, 1, 1)) @ V.repeat(share, 1, 1)


@grouped.misconception(
    "values dealt round",
    "the keys are shared by neighbours, but the values are dealt round: treat V like K.",
    "键由相邻的头共用，值却轮着分配了：V 应和 K 一样处理。",
)
def _(Q, K, V):
    share = len(Q) // len(K)
    return _weigh(Q, K.repeat_interleave(share, dim=0)) @ V.repeat(share, 1, 1)


@grouped.misconception(
    "first group for all",
    "all query heads use the first group: that is multi-query attention with the other groups lost.",
    "所有查询头都用了第一组：这成了多查询注意力，其余各组都丢掉了。",
)
def _(Q, K, V):
    return _weigh(Q, K[:1]) @ V[:1]


@grouped.misconception(
    "groups averaged",
    "the groups are averaged: each query head must use one of them as it is.",
    "各组被取了平均：每个查询头应原样使用其中一组。",
)
def _(Q, K, V):
    return _weigh(Q, K.mean(dim=0, keepdim=True)) @ V.mean(dim=0, keepdim=True)


@grouped.misconception(
    "no root",
    "the scores are not divided by the root of the head's width.",
    "分数没有除以头宽的平方根。",
)
def _(Q, K, V):
    share = len(Q) // len(K)
    return _weigh(Q, K.repeat_interleave(share, dim=0), 1) @ V.repeat_interleave(share, dim=0)


@grouped.misconception(
    "softmax over the wrong axis",
    "softmax runs down the columns of each head: each row must add up to 1, dim=-1.",
    "softmax 在每个头里沿着列做了：应当每一行加起来为 1，即 dim=-1。",
)
def _(Q, K, V):
    share = len(Q) // len(K)
    scores = Q @ K.repeat_interleave(share, dim=0).transpose(1, 2) / K.shape[-1] ** 0.5
    return scores.softmax(dim=1) @ V.repeat_interleave(share, dim=0)
