"""Exercises of notebook 11: the two matrices of LoRA (Hu et al. 2021) beside a frozen layer, as torch keeps a layer.

Rows of x are tokens. W is [n_out, n_in], A is [r, n_in], B is [n_out, r]; the change of W is (α/r)·BA.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from course_utils.checks import Exercise, Seen, Unusable, attempt

if TYPE_CHECKING:
    from torch import Tensor


def _layers() -> list[tuple[str, dict[str, "Tensor"], float]]:
    """Small layers as many wide as high, on which a matrix the wrong way round still fits, with an α each."""
    import torch

    def matrix(rows: list[list[float]]) -> "Tensor":
        return torch.tensor(rows, dtype=torch.float64)

    x = matrix([[1, 0, 2], [-1, 3, 0.5]])
    W = matrix([[1, 2, 0], [0, -1, 3], [0.5, 0, 1]])
    two = {"A": matrix([[1, -1, 0.5], [2, 0, 1]]), "B": matrix([[0.5, 1], [-2, 0], [1, 3]])}
    one = {"A": two["A"][:1], "B": two["B"][:, :1]}
    return [("r = 2", {"x": x, "W": W, **two}, 8.0), ("r = 1", {"x": x, "W": W, **one}, 5.0)]


def _on_layers(function: Callable, names: str) -> list[Seen]:
    """What the function makes of these tensors of each layer, and of its α."""
    import torch

    seen = []
    for what, tensors, alpha in _layers():
        given = [tensors[name] for name in names.split()]
        before = [tensor.clone() for tensor in given]
        listed = ", ".join(f"{name} = {tensors[name].tolist()}" for name in names.split())
        situation = f"{listed}, alpha = {alpha:g} ({what})"
        result = attempt(situation, function, *given, alpha)
        if not all(torch.equal(now, then) for now, then in zip(given, before, strict=True)):
            raise Unusable(
                "changed in place",
                "you changed a matrix in place, as `W += …` does, and the frozen weights are lost: "
                "write `W + …` and return it.",
                "你就地改动了传入的矩阵（例如 `W += …`），冻结的权重就丢了：请写 `W + …` 并返回它。",
            )
        rows = given[0].shape  # x and W come first; the result has the shape of either, these layers being square
        if not isinstance(result, torch.Tensor) or result.shape != rows:
            came = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise Unusable(
                "another shape",
                f"the result should be a tensor {list(rows)} and is {came}: x @ A.T is [tokens, r], and @ B.T makes "
                "[tokens, n_out] of it; B @ A is as large as W.",
                f"结果应为 {list(rows)} 的张量，现在是 {came}：x @ A.T 是 [tokens, r]，再乘 B.T 得到 [tokens, n_out]；"
                "B @ A 与 W 一样大。",
            )
        seen.append(Seen(situation, result))
    return seen


# --- the layer --------------------------------------------------------------------------------------------


def _lora(x, W, A, B, alpha):
    return x @ W.T + alpha / len(A) * (x @ A.T @ B.T)


lora = Exercise("lora", _lora, lambda function: _on_layers(function, "x W A B"), lambda x, W, A, B, alpha: x @ W.T)

lora.misconception(
    "scaling forgotten",
    "the factor α/r is missing: the detour is multiplied by alpha / r before it is added.",
    "缺少系数 α/r：旁路在相加之前要乘以 alpha / r。",
)(lambda x, W, A, B, alpha: x @ W.T + x @ A.T @ B.T)
lora.misconception(
    "not divided by r",
    "you multiply by α alone: the factor is α/r, with r the number of rows of A.",
    "你只乘了 α：系数是 α/r，其中 r 是 A 的行数。",
)(lambda x, W, A, B, alpha: x @ W.T + alpha * (x @ A.T @ B.T))
lora.misconception(
    "divided by the width",
    "you divide α by the width of the layer: r is the number of ROWS of A, len(A).",
    "你用层的宽度去除 α：r 是 A 的“行”数，即 len(A)。",
)(lambda x, W, A, B, alpha: x @ W.T + alpha / A.shape[1] * (x @ A.T @ B.T))
lora.misconception(
    "r over alpha",
    "the factor is upside down: α/r, not r/α.",
    "系数上下颠倒了：应为 α/r，而不是 r/α。",
)(lambda x, W, A, B, alpha: x @ W.T + len(A) / alpha * (x @ A.T @ B.T))
lora.misconception(
    "A and B swapped",
    "x goes through B before A, which is the transposed change and fits only a square layer: first x @ A.T, "
    "then @ B.T.",
    "x 先经过了 B 再经过 A，这是转置后的改动，只在方阵时恰好能算：应先 x @ A.T，再乘 B.T。",
)(lambda x, W, A, B, alpha: x @ W.T + alpha / len(A) * (x @ B @ A))
lora.misconception(
    "W transposed",
    "W is used the wrong way round: torch keeps [n_out, n_in], so a layer computes x @ W.T.",
    "W 用反了方向：torch 中 W 的形状是 [n_out, n_in]，所以这一层算的是 x @ W.T。",
)(lambda x, W, A, B, alpha: x @ W + alpha / len(A) * (x @ A.T @ B.T))
lora.misconception(
    "W left out",
    "this is the detour alone: the frozen layer x @ W.T still has its say.",
    "这里只有旁路：冻结的那一层 x @ W.T 也要算进来。",
)(lambda x, W, A, B, alpha: alpha / len(A) * (x @ A.T @ B.T))
lora.misconception(
    "scaling on everything",
    "α/r multiplies the frozen layer too: only the detour is scaled.",
    "α/r 把冻结的那一层也放大了：只有旁路需要缩放。",
)(lambda x, W, A, B, alpha: alpha / len(A) * (x @ W.T + x @ A.T @ B.T))


# --- where training starts --------------------------------------------------------------------------------


def _first_matrices(random_a, random_b):
    return random_a, 0 * random_b


def _play_start(function: Callable) -> list[Seen]:
    import torch

    _, tensors, _ = _layers()[0]
    situation = f"random_a = {tensors['A'].tolist()}, random_b = {tensors['B'].tolist()}"
    result = attempt(situation, function, tensors["A"].clone(), tensors["B"].clone())
    if not (isinstance(result, tuple | list) and len(result) == 2 and all(isinstance(m, torch.Tensor) for m in result)):
        raise Unusable(
            "does not return two matrices",
            "return two matrices, first A and then B: `return A, B`.",
            "要返回两个矩阵，先 A 后 B：`return A, B`。",
        )
    return [Seen(f"{situation}: {name}", matrix) for name, matrix in zip("AB", result, strict=True)]


first_matrices = Exercise("first_matrices", _first_matrices, _play_start, lambda a, b: (a, b))

first_matrices.misconception(
    "both at zero",
    "both are zero: then the gradient of each, which holds the other as a factor, is zero too, and nothing ever moves.",
    "两个都是零：每个矩阵的梯度都含有另一个作为因子，于是梯度也全是零，永远不会动。",
)(lambda a, b: (0 * a, 0 * b))
first_matrices.misconception(
    "A at zero",
    "A is zero and B is not: that starts as quietly, but the convention (of the paper and of PEFT) is B at zero.",
    "为零的是 A 而不是 B：这样起步同样没有改动，但论文和 PEFT 的约定是让 B 为零。",
)(lambda a, b: (0 * a, b))
first_matrices.misconception(
    "returned in the other order",
    "B came first: return A, then B.",
    "先返回了 B：应先返回 A，再返回 B。",
)(lambda a, b: (0 * b, a))
first_matrices.misconception(
    "B of A's shape",
    "B is zero but has the shape of A, [r, n_in]: it must be [n_out, r].",
    "B 是零，但形状是 A 的 [r, n_in]：应为 [n_out, r]。",
)(lambda a, b: (a, 0 * a))
first_matrices.misconception(
    "B small",
    "B is small, but not zero: the model changes before it has seen a single example.",
    "B 虽小但不为零：模型一个样本都没看就已经变了。",
)(lambda a, b: (a, 0.01 * b))


# --- merging ----------------------------------------------------------------------------------------------


def _merge(W, A, B, alpha):
    return W + alpha / len(A) * B @ A


merge = Exercise("merge", _merge, lambda function: _on_layers(function, "W A B"), lambda W, A, B, alpha: W)

merge.misconception(
    "wrong sign",
    "the change is subtracted: that un-merges. Add it.",
    "改动被减掉了：那是“取消合并”。应当相加。",
)(lambda W, A, B, alpha: W - alpha / len(A) * B @ A)
merge.misconception(
    "merged twice",
    "the change is in there twice: merge once, or the model overshoots what it learned.",
    "改动被加了两次：只合并一次，否则模型就越过了它学到的东西。",
)(lambda W, A, B, alpha: W + 2 * alpha / len(A) * B @ A)
merge.misconception(
    "scaling forgotten",
    "the factor α/r is missing: the layer computed (α/r)·BA, so that is what has to be merged.",
    "缺少系数 α/r：这一层算的是 (α/r)·BA，所以合并的也应是它。",
)(lambda W, A, B, alpha: W + B @ A)
merge.misconception(
    "not divided by r",
    "you multiply by α alone: the factor is α/r.",
    "你只乘了 α：系数是 α/r。",
)(lambda W, A, B, alpha: W + alpha * B @ A)
merge.misconception(
    "transposed",
    "the change is transposed, which fits only a square layer: B @ A has the shape of W, [n_out, n_in].",
    "改动被转置了，只在方阵时恰好能加：B @ A 的形状才是 W 的 [n_out, n_in]。",
)(lambda W, A, B, alpha: W + alpha / len(A) * (B @ A).T)
merge.misconception(
    "W left out",
    "this is the change alone: add it to W.",
    "这里只有改动：还要加到 W 上。",
)(lambda W, A, B, alpha: alpha / len(A) * B @ A)
merge.misconception(
    "scaling on W too",
    "W is scaled too: mind the brackets, α/r belongs to BA alone.",
    "W 也被缩放了：注意括号，α/r 只属于 BA。",
)(lambda W, A, B, alpha: alpha / len(A) * (W + B @ A))


# --- counting ---------------------------------------------------------------------------------------------


def _trained_numbers(layers, r):
    return sum(r * (n_in + n_out) for n_out, n_in in layers)


def _play_count(function: Callable) -> list[Seen]:
    import torch

    seen = []
    for layers, r in [([(100, 100)], 2), ([(3, 5), (4, 7)], 3), ([(6, 2)], 1)]:
        situation = f"layers = {layers}, r = {r}"
        result = attempt(situation, function, list(layers), r)
        if not isinstance(result, int | float):
            raise Unusable(
                "no number",
                f"return one number; yours is {type(result).__name__}. `sum(… for n_out, n_in in layers)` adds up.",
                f"应返回一个数，你返回的是 {type(result).__name__}。可用 `sum(… for n_out, n_in in layers)` 求和。",
            )
        seen.append(Seen(situation, torch.tensor(float(result), dtype=torch.float64)))
    return seen


trained_numbers = Exercise("trained_numbers", _trained_numbers, _play_count, lambda layers, r: 0)

trained_numbers.misconception(
    "B forgotten",
    "B is not counted: it has r numbers for each of the n_out outputs.",
    "漏了 B：对 n_out 个输出，它各有 r 个数。",
)(lambda layers, r: sum(r * n_in for n_out, n_in in layers))
trained_numbers.misconception(
    "A forgotten",
    "A is not counted: it has r numbers for each of the n_in inputs.",
    "漏了 A：对 n_in 个输入，它各有 r 个数。",
)(lambda layers, r: sum(r * n_out for n_out, n_in in layers))
trained_numbers.misconception(
    "multiplied",
    "you multiply n_in by n_out: A has r·n_in numbers and B has n_out·r, so their sizes add up.",
    "你把 n_in 与 n_out 相乘了：A 有 r·n_in 个数，B 有 n_out·r 个数，应当相加。",
)(lambda layers, r: sum(r * n_in * n_out for n_out, n_in in layers))
trained_numbers.misconception(
    "the product's size",
    "that is the size of BA, so of W: what is trained are its two factors.",
    "那是乘积 BA（也就是 W）的大小：被训练的是它的两个因子。",
)(lambda layers, r: sum(n_in * n_out for n_out, n_in in layers))
trained_numbers.misconception(
    "frozen weights counted",
    "the frozen W is counted too: it is not trained.",
    "把冻结的 W 也算进去了：它不参与训练。",
)(lambda layers, r: sum(n_in * n_out + r * (n_in + n_out) for n_out, n_in in layers))
trained_numbers.misconception(
    "r forgotten",
    "r is missing: A has r rows, B has r columns.",
    "漏了 r：A 有 r 行，B 有 r 列。",
)(lambda layers, r: sum(n_in + n_out for n_out, n_in in layers))
trained_numbers.misconception(
    "an r by r matrix too",
    "there is nothing of size r·r: A is [r, n_in] and B is [n_out, r], and that is all.",
    "没有 r·r 大小的东西：只有 [r, n_in] 的 A 与 [n_out, r] 的 B。",
)(lambda layers, r: sum(r * (n_in + n_out) + r * r for n_out, n_in in layers))
trained_numbers.misconception(
    "one layer only",
    "only the first layer is counted: go through all of them.",
    "只数了第一层：应把所有层加起来。",
)(lambda layers, r: sum(r * (n_in + n_out) for n_out, n_in in layers[:1]))
