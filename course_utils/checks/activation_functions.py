"""Exercises of notebook 03: the slope of a sigmoid from its output, dead neurons, leaky ReLU with its gradient."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from course_utils.checks import Exercise, Seen, Unusable, attempt

if TYPE_CHECKING:
    from torch import Tensor


def _tensor(result: object, shape: tuple[int, ...]) -> "Tensor":
    """`result` as numbers of the shape that went in."""
    import torch

    if not isinstance(result, torch.Tensor | float | int) or torch.as_tensor(result).shape != shape:
        got = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        raise Unusable(
            "changes shape",
            f"a tensor of shape {list(shape)} went in and {got} came back: work element by element.",
            f"输入是形状为 {list(shape)} 的张量，返回的却是 {got}：请逐元素计算。",
        )
    return torch.as_tensor(result, dtype=torch.float64).detach().clone()


# --- the slope of a sigmoid -------------------------------------------------------------------------------


def _outputs(function: Callable) -> list[Seen]:
    import torch

    outputs = [0.5, 0.9, 0.25, 0.01, 0.998]
    situation = f"y = {outputs}"
    result = attempt(situation, function, torch.tensor(outputs, dtype=torch.float64))
    return [Seen(situation, _tensor(result, (5,)))]


sigmoid_slope = Exercise("sigmoid_slope", lambda y: y * (1 - y), _outputs, lambda y: 0 * y)


@sigmoid_slope.misconception(
    "sigmoid taken twice",
    "y is the sigmoid's output already: do not send it through the sigmoid again.",
    "y 已经是 sigmoid 的输出：不要再代入 sigmoid 一次。",
)
def _(y):
    y = 1 / (1 + (-y).exp())
    return y * (1 - y)


@sigmoid_slope.misconception(
    "tanh's formula",
    "1 − y² belongs to tanh; for the sigmoid the two factors are y and 1 − y.",
    "1 − y² 是 tanh 的公式；sigmoid 的两个因子是 y 和 1 − y。",
)
def _(y):
    return 1 - y**2


@sigmoid_slope.misconception(
    "factor y missing",
    "the factor y is missing: far to the left, where y is near 0, the curve is flat as well.",
    "缺少因子 y：在左侧远处，y 接近 0，曲线同样是平的。",
)
def _(y):
    return 1 - y


@sigmoid_slope.misconception(
    "factor 1 − y missing",
    "the factor 1 − y is missing: far to the right, where y is near 1, the curve is flat as well.",
    "缺少因子 1 − y：在右侧远处，y 接近 1，曲线同样是平的。",
)
def _(y):
    return y


@sigmoid_slope.misconception(
    "sign",
    "the sign is wrong: a sigmoid rises everywhere, so its slope is y·(1 − y), never negative.",
    "符号反了：sigmoid 处处上升，斜率是 y·(1 − y)，不会为负。",
)
def _(y):
    return y * (y - 1)


@sigmoid_slope.misconception(
    "slope of the inverse",
    "this is the slope of the inverse function, dx/dy: multiply y by 1 − y instead of dividing.",
    "这是反函数的斜率 dx/dy：应把 y 与 1 − y 相乘，而不是作除数。",
)
def _(y):
    return 1 / (y * (1 - y))


@sigmoid_slope.misconception(
    "largest slope everywhere",
    "0.25 is the slope in the middle only, where y = 0.5: away from it the curve gets flatter.",
    "0.25 只是正中间（y = 0.5）的斜率：离开中间，曲线就变平。",
)
def _(y):
    return 0 * y + 0.25


# --- dead neurons -----------------------------------------------------------------------------------------


def _counts(function: Callable) -> list[Seen]:
    import torch

    batches = [
        [[0.0, 0.0, 1.5, 0.0], [0.0, 2.0, 0.3, 0.0], [0.0, 0.1, 0.0, 0.4]],
        [[0.0, 0.0, 0.0], [0.0, 0.0, 1e-9]],
        [[1.0, 2.0], [0.5, 3.0], [0.0, 0.0], [0.0, 0.0]],
        [[0.0] * 6, [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]],
    ]
    seen = []
    for outputs in batches:
        situation = f"outputs = {outputs}"
        result = attempt(situation, function, torch.tensor(outputs, dtype=torch.float64))
        try:
            seen.append(Seen(situation, torch.tensor(float(result), dtype=torch.float64)))
        except (TypeError, ValueError, RuntimeError):
            got = f"shape {list(result.shape)}" if isinstance(result, torch.Tensor) else type(result).__name__
            raise Unusable(
                "not a number",
                f"return one number, how many neurons are dead; this has {got}: one `.sum()` is still missing?",
                f"应返回一个数，即死神经元的个数；现在返回的是 {got}：是否还差一个 `.sum()`？",
            ) from None
    return seen


def _count_dead(outputs):
    return (outputs == 0).all(dim=0).sum().item()


count_dead = Exercise("count_dead", _count_dead, _counts, lambda outputs: 0)


@count_dead.misconception(
    "counts zeros",
    "this counts every single 0: a neuron is dead only if its whole column is 0.",
    "这是在数所有的 0：只有整列都是 0 的神经元才算死。",
)
def _(outputs):
    return (outputs == 0).sum()


@count_dead.misconception(
    "silent once",
    "silent for one example is not dead: that is sparsity. Dead is silent for *all* of them.",
    "对某一个样本沉默不叫死，那是稀疏。对**所有**样本都沉默才叫死。",
)
def _(outputs):
    return (outputs == 0).any(dim=0).sum()


@count_dead.misconception(
    "examples instead of neurons",
    "this counts examples for which nothing fires: neurons are the columns, so go along dim=0.",
    "这数的是没有任何神经元响应的样本：神经元是列，应沿 dim=0 检查。",
)
def _(outputs):
    return (outputs == 0).all(dim=1).sum()


@count_dead.misconception(
    "first example only",
    "this looks at the first example only: the others may wake the neuron.",
    "只看了第一个样本：别的样本也许会激活这个神经元。",
)
def _(outputs):
    return (outputs[0] == 0).sum()


@count_dead.misconception(
    "share instead of number",
    "this is the share of dead neurons, a number from 0 to 1: the exercise asks how many.",
    "这是死神经元的比例（0 到 1）：题目问的是个数。",
)
def _(outputs):
    return (outputs == 0).all(dim=0).double().mean()


@count_dead.misconception(
    "counts the living",
    "these are the neurons that live: count those that do not.",
    "这数的是活着的神经元：要数的是死的。",
)
def _(outputs):
    return (outputs != 0).any(dim=0).sum()


@count_dead.misconception(
    "nearly zero",
    "a tiny output is alive: its slope is 1. Compare with 0 exactly.",
    "输出很小也是活的：它的斜率是 1。要与 0 精确比较。",
)
def _(outputs):
    return (outputs < 1e-6).all(dim=0).sum()


# --- leaky ReLU -------------------------------------------------------------------------------------------


def _forward_and_backward(function: Callable) -> list[Seen]:
    """Outputs and gradients for two slopes. No x is 0: there any slope between the two would do."""
    import torch

    x = torch.tensor([2.0, -3.0, 0.5, -0.2, -4.0, 1.5], dtype=torch.float64)
    upstream = torch.tensor([0.7, -1.0, -2.0, 3.0, 0.4, 1.1], dtype=torch.float64)
    seen = []
    for slope in (0.1, 0.25):
        situation = f"x = {x.tolist()}, upstream = {upstream.tolist()}, slope = {slope}"
        given = x.clone(), upstream.clone()
        result = attempt(situation, function, *given, slope)
        if not (torch.equal(given[0], x) and torch.equal(given[1], upstream)):
            raise Unusable(
                "changed in place",
                "you changed x or upstream in place: another operation may have kept it for its backward pass. "
                "Make a new tensor.",
                "你就地改动了 x 或 upstream：别的操作可能还留着它，反向传播时要用。请生成新的张量。",
            )
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise Unusable(
                "does not return two things",
                "return two things, the output and the gradient for x: `return y, dx`.",
                "要返回两样东西：输出，以及对 x 的梯度：`return y, dx`。",
            )
        seen += [
            Seen(f"{situation}, {part}", _tensor(value, (6,))) for part, value in zip(("y", "dx"), result, strict=True)
        ]
    return seen


def _leaky_relu(x, upstream, slope=0.01):
    factor = (x > 0) + slope * (x <= 0)
    return factor * x, factor * upstream


leaky_relu = Exercise("leaky_relu", _leaky_relu, _forward_and_backward, lambda x, upstream, slope: (x, upstream))


@leaky_relu.misconception(
    "plain ReLU",
    "this is ReLU: below 0 the output is slope·x, and the gradient is passed on times slope.",
    "这是 ReLU：在 0 以下，输出是 slope·x，梯度要乘以 slope 再传下去。",
)
def _(x, upstream, slope):
    return (x > 0) * x, (x > 0) * upstream


@leaky_relu.misconception(
    "slope missing in the backward pass",
    "the forward pass leaks, the backward pass does not: where x is negative, pass on slope·upstream.",
    "前向有泄漏，反向却没有：x 为负处，应传回 slope·upstream。",
)
def _(x, upstream, slope):
    return ((x > 0) + slope * (x <= 0)) * x, (x > 0) * upstream


@leaky_relu.misconception(
    "slope missing in the forward pass",
    "the backward pass leaks, the forward pass does not: where x is negative, the output is slope·x.",
    "反向有泄漏，前向却没有：x 为负处，输出应为 slope·x。",
)
def _(x, upstream, slope):
    return (x > 0) * x, ((x > 0) + slope * (x <= 0)) * upstream


@leaky_relu.misconception(
    "upstream forgotten",
    "this is the local derivative: multiply it by the gradient that arrives, upstream.",
    "这只是局部导数：还要乘以传来的梯度 upstream。",
)
def _(x, upstream, slope):
    factor = (x > 0) + slope * (x <= 0)
    return factor * x, factor * 1.0


@leaky_relu.misconception(
    "sign of upstream",
    "the backward pass asks for the sign of upstream: the branch was chosen by x in the forward pass.",
    "反向时看的是 upstream 的符号：走哪一支，前向时已由 x 决定。",
)
def _(x, upstream, slope):
    return ((x > 0) + slope * (x <= 0)) * x, ((upstream > 0) + slope * (upstream <= 0)) * upstream


@leaky_relu.misconception(
    "output instead of derivative",
    "upstream is multiplied by the output: multiply it by the derivative, which is 1 or slope.",
    "upstream 乘的是输出：应乘以导数，即 1 或 slope。",
)
def _(x, upstream, slope):
    y = ((x > 0) + slope * (x <= 0)) * x
    return y, y * upstream


@leaky_relu.misconception(
    "sides swapped",
    "the sides are swapped: positive numbers pass unchanged, negative ones are multiplied by slope.",
    "两侧写反了：正数原样通过，负数乘以 slope。",
)
def _(x, upstream, slope):
    factor = (x <= 0) + slope * (x > 0)
    return factor * x, factor * upstream


@leaky_relu.misconception(
    "folded upwards",
    "negative numbers come out positive: multiply by slope, not by minus slope.",
    "负数变成了正数：应乘以 slope，而不是 −slope。",
)
def _(x, upstream, slope):
    factor = (x > 0) + -slope * (x <= 0)
    return factor * x, factor * upstream
