"""Exercises of notebook 04: a measure of symmetry, and the sizes of weights after Glorot & Bengio (2010), here Xavier,
and He, Zhang, Ren & Sun (2015), here Kaiming. A weight matrix W has shape [n_in, n_out]: one column per neuron.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from course_utils.checks import Exercise, Seen, Unusable, attempt

if TYPE_CHECKING:
    from torch import Tensor


def _number(value: object) -> "Tensor":
    import torch

    try:
        return torch.tensor(float(value), dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        kind = f"tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise Unusable(
            "not a number",
            f"a number is wanted here; this is a {kind}.",
            f"这里应是一个数；现在是 {kind}。",
        ) from None


# --- symmetry ---------------------------------------------------------------------------------------------


def _closest_pair(W):
    neurons = W.T
    distances = [(neurons[i] - neurons[j]).norm() for i in range(len(neurons)) for j in range(i)]
    return min(distances)


def _measure(function: Callable) -> list[Seen]:
    """Four layers: without twins, twice with twins that stand apart, and two neurons that only look alike."""
    import torch

    layers = [
        [[3.0, 0.5, -1.0, 2.0], [0.0, 1.0, 1.0, 0.25], [1.0, -2.0, 0.0, -4.0]],
        [[1.0, 2.0, 1.0], [0.5, 0.5, 0.5]],
        [[0.0, 1.0, 4.0, 1.0], [2.0, 0.0, 0.0, 0.0], [7.0, 1.0, 2.0, 1.0]],
        [[1.0, -1.0], [-1.0, 1.0]],
    ]
    seen = []
    for W in layers:
        situation = f"W = {W}"
        result = attempt(situation, function, torch.tensor(W, dtype=torch.float64))
        seen.append(Seen(situation, _number(result)))
    return seen


closest_pair = Exercise("closest_pair", _closest_pair, _measure, lambda W: -1.0)


@closest_pair.misconception(
    "inputs compared instead of neurons",
    "you compare rows: a row is one input. A neuron's weights are a column of W, a row of W.T.",
    "比较的是行：一行对应一个输入。一个神经元的权重是 W 的一列，也就是 W.T 的一行。",
)
def _(W):
    return min((W[i] - W[j]).norm() for i in range(len(W)) for j in range(i))


@closest_pair.misconception(
    "a neuron compared with itself",
    "a neuron is compared with itself, so the answer is always 0: take pairs with i ≠ j only.",
    "神经元和自己比了，结果永远是 0：只取 i ≠ j 的两个。",
)
def _(W):
    return 0.0


@closest_pair.misconception(
    "furthest pair",
    "this is the furthest pair: twins are overlooked as soon as a third neuron differs. Take the smallest.",
    "这是相距最远的一对：只要有第三个神经元不同，双胞胎就漏掉了。请取最小的距离。",
)
def _(W):
    return max((W[:, i] - W[:, j]).norm() for i in range(W.shape[1]) for j in range(i))


@closest_pair.misconception(
    "average over the pairs",
    "this is the average distance: it is above 0 although two neurons are identical. Take the smallest.",
    "这是平均距离：即使有两个神经元完全相同，它也大于 0。请取最小值。",
)
def _(W):
    distances = [(W[:, i] - W[:, j]).norm() for i in range(W.shape[1]) for j in range(i)]
    return sum(distances) / len(distances)


@closest_pair.misconception(
    "only neighbours",
    "only neurons next to each other are compared: the first and the third can be twins as well.",
    "只比较了相邻的神经元：第一个和第三个也可能是双胞胎。",
)
def _(W):
    return min((W[:, i] - W[:, i - 1]).norm() for i in range(1, W.shape[1]))


@closest_pair.misconception(
    "only against the first neuron",
    "every neuron is compared with the first one only: the second and the fourth can be twins as well.",
    "只和第一个神经元比了：第二个和第四个也可能是双胞胎。",
)
def _(W):
    return min((W[:, i] - W[:, 0]).norm() for i in range(1, W.shape[1]))


@closest_pair.misconception(
    "signs cancel",
    "differences of both signs cancel in a sum, and different neurons look alike: square them, as .norm() does.",
    "求和时正负差值互相抵消，不同的神经元看上去也一样：要先平方，.norm() 就是这样做的。",
)
def _(W):
    return min((W[:, i] - W[:, j]).sum().abs() for i in range(W.shape[1]) for j in range(i))


@closest_pair.misconception(
    "lengths compared",
    "you compare how long the two columns are: (1, −1) and (−1, 1) are equally long and opposite. Subtract first.",
    "比较的是两列的长度：(1, −1) 与 (−1, 1) 一样长，方向却相反。请先相减。",
)
def _(W):
    return min((W[:, i].norm() - W[:, j].norm()).abs() for i in range(W.shape[1]) for j in range(i))


@closest_pair.misconception(
    "root forgotten",
    "this is the squared distance: take the root of the sum of squares.",
    "这是距离的平方：平方和还要开方。",
)
def _(W):
    return min(((W[:, i] - W[:, j]) ** 2).sum() for i in range(W.shape[1]) for j in range(i))


# --- Xavier -----------------------------------------------------------------------------------------------


def _xavier(n_in, n_out, gain=1.0):
    std = gain * (2 / (n_in + n_out)) ** 0.5
    bound = 3**0.5 * std
    return std, bound


def _sizes(function: Callable) -> list[Seen]:
    """Standard deviation and bound for layers that narrow, widen and stay, with gains on both sides of 1."""
    seen = []
    for case in [(400, 100, 1.0), (30, 70, 5 / 3), (64, 64, 0.5), (3, 1, 2.0)]:
        situation = "n_in = {}, n_out = {}, gain = {:.4g}".format(*case)
        result = attempt(situation, function, *case)
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise Unusable(
                "does not return two things",
                "return two numbers, the standard deviation and the bound: `return std, bound`.",
                "要返回两个数，标准差和界：`return std, bound`。",
            )
        for name, value in zip(("std", "bound"), result, strict=True):
            seen.append(Seen(f"{situation} ({name})", _number(value)))
    return seen


xavier = Exercise("xavier", _xavier, _sizes, lambda n_in, n_out, gain: (1.0, 1.0))


def _both(right: Callable[..., float]) -> Callable:
    """A wrong standard deviation, with the bound that rightly belongs to it."""

    def wrong(n_in, n_out, gain):
        std = right(n_in, n_out, gain)
        return std, 3**0.5 * std

    return wrong


def _wrong_xavier() -> Iterator[tuple[str, str, str, Callable]]:
    yield (
        "variance used as standard deviation",
        "2 / (n_in + n_out) is the variance: the standard deviation is its square root.",
        "2 / (n_in + n_out) 是方差：标准差是它的平方根。",
        _both(lambda n_in, n_out, gain: gain * 2 / (n_in + n_out)),
    )
    yield (
        "gain forgotten",
        "the gain is missing: multiply the standard deviation by it.",
        "漏了增益：标准差要乘以 gain。",
        _both(lambda n_in, n_out, gain: (2 / (n_in + n_out)) ** 0.5),
    )
    yield (
        "gain inside the root",
        "the gain stands inside the root: it multiplies the standard deviation, so the variance by gain².",
        "增益放进了根号里：它乘的是标准差，方差要乘的是 gain²。",
        _both(lambda n_in, n_out, gain: (gain * 2 / (n_in + n_out)) ** 0.5),
    )
    yield (
        "only the inputs counted",
        "this is 1/n_in, which keeps the signal but not the gradient: Xavier averages n_in and n_out.",
        "这是 1/n_in，保住了信号，却没保住梯度：Xavier 取 n_in 与 n_out 的平均。",
        _both(lambda n_in, n_out, gain: gain * (1 / n_in) ** 0.5),
    )
    yield (
        "only the outputs counted",
        "this is 1/n_out, which keeps the gradient but not the signal: Xavier averages n_in and n_out.",
        "这是 1/n_out，保住了梯度，却没保住信号：Xavier 取 n_in 与 n_out 的平均。",
        _both(lambda n_in, n_out, gain: gain * (1 / n_out) ** 0.5),
    )
    yield (
        "sum instead of average",
        "the 2 is missing: 1 over the average of n_in and n_out is 2 over their sum.",
        "缺少 2：n_in 与 n_out 的平均的倒数，是 2 除以它们的和。",
        _both(lambda n_in, n_out, gain: gain * (1 / (n_in + n_out)) ** 0.5),
    )
    yield (
        "fans multiplied",
        "n_in and n_out are added, not multiplied.",
        "n_in 与 n_out 应相加，而不是相乘。",
        _both(lambda n_in, n_out, gain: gain * (2 / (n_in * n_out)) ** 0.5),
    )
    yield (
        "bound is the standard deviation",
        "the bound equals your std: uniform numbers in [−a, a] have std a/√3, so the bound is √3 times larger.",
        "界与标准差相等了：[−a, a] 上均匀分布的标准差是 a/√3，所以界要大 √3 倍。",
        lambda n_in, n_out, gain: (_xavier(n_in, n_out, gain)[0],) * 2,
    )
    yield (
        "3 instead of its root",
        "the bound is √3 times the std, not 3 times: a²/3 is the variance.",
        "界是标准差的 √3 倍，不是 3 倍：a²/3 是方差。",
        lambda n_in, n_out, gain: (_xavier(n_in, n_out, gain)[0], 3 * _xavier(n_in, n_out, gain)[0]),
    )
    yield (
        "whole width as bound",
        "√12 times the std is the whole width, from −a to a: the bound a is half of it.",
        "标准差的 √12 倍是从 −a 到 a 的全宽：界 a 是它的一半。",
        lambda n_in, n_out, gain: (_xavier(n_in, n_out, gain)[0], 12**0.5 * _xavier(n_in, n_out, gain)[0]),
    )
    yield (
        "gain missing in the bound",
        "the gain is in the std but not in the bound: both describe weights of the same size.",
        "标准差里有增益，界里没有：两者说的是同样大小的权重。",
        lambda n_in, n_out, gain: (_xavier(n_in, n_out, gain)[0], (6 / (n_in + n_out)) ** 0.5),
    )
    yield (
        "std and bound swapped",
        "the two are swapped: return the standard deviation first, then the larger bound.",
        "两者写反了：先返回标准差，再返回较大的界。",
        lambda n_in, n_out, gain: _xavier(n_in, n_out, gain)[::-1],
    )


for _name, _en, _zh, _wrong in _wrong_xavier():
    xavier.misconception(_name, _en, _zh)(_wrong)


# --- Kaiming ----------------------------------------------------------------------------------------------


def _kaiming(noise, slope=0.0):
    n_in = noise.shape[0]
    gain = (2 / (1 + slope**2)) ** 0.5
    return gain / n_in**0.5 * noise


def _scale(function: Callable) -> list[Seen]:
    """The weights made of fixed noise, for ReLU (slope 0) and two leaky ones, none of them in a square layer."""
    import torch

    seen = []
    for shape, slope in [((6, 2), 0.0), ((3, 5), 0.0), ((4, 3), 0.2), ((2, 3), 0.5)]:
        noise = torch.linspace(-2, 1.5, shape[0] * shape[1], dtype=torch.float64).reshape(shape)
        rows = [[round(number, 2) for number in row] for row in noise.tolist()]
        situation = f"noise = {rows}, slope = {slope}"
        W = attempt(situation, function, noise.clone(), slope)
        if not isinstance(W, torch.Tensor) or W.shape != shape:
            found = list(W.shape) if isinstance(W, torch.Tensor) else type(W).__name__
            raise Unusable(
                "not the shape of the noise",
                f"return the weights, shape {list(shape)} like the noise; this is {found}.",
                f"要返回权重，形状与噪声相同，为 {list(shape)}；现在是 {found}。",
            )
        seen.append(Seen(situation, W))
    return seen


kaiming = Exercise("kaiming", _kaiming, _scale, lambda noise, slope: noise)


@kaiming.misconception(
    "fan_in and fan_out swapped",
    "n_in and n_out are swapped: y = X @ W adds up n_in products, and n_in is the number of rows, noise.shape[0].",
    "n_in 与 n_out 弄反了：y = X @ W 是 n_in 个乘积之和，n_in 是行数，即 noise.shape[0]。",
)
def _(noise, slope):
    return (2 / (1 + slope**2) / noise.shape[1]) ** 0.5 * noise


@kaiming.misconception(
    "variance used as standard deviation",
    "2/n_in is the variance: noise is multiplied by the standard deviation, its square root.",
    "2/n_in 是方差：噪声要乘的是标准差，即它的平方根。",
)
def _(noise, slope):
    return 2 / (1 + slope**2) / noise.shape[0] * noise


@kaiming.misconception(
    "gain forgotten",
    "the gain is missing: 1/n_in is for layers without ReLU; ReLU throws half away, so the variance is 2/n_in.",
    "漏了增益：1/n_in 用于没有 ReLU 的层；ReLU 丢掉一半，所以方差是 2/n_in。",
)
def _(noise, slope):
    return noise / noise.shape[0] ** 0.5


@kaiming.misconception(
    "2 outside the root",
    "the 2 belongs to the variance: √(2/n_in), not 2/√n_in, which makes every layer √2 times too loud.",
    "2 属于方差：应为 √(2/n_in)，而不是 2/√n_in，后者让每一层都大了 √2 倍。",
)
def _(noise, slope):
    return 2 / (1 + slope**2) / noise.shape[0] ** 0.5 * noise


@kaiming.misconception(
    "Xavier's average",
    "this is Xavier, 2/(n_in + n_out): in a square layer it is only half of Kaiming's variance.",
    "这是 Xavier 的 2/(n_in + n_out)：在方形的层里，方差只有 Kaiming 的一半。",
)
def _(noise, slope):
    return (2 / sum(noise.shape)) ** 0.5 * noise


@kaiming.misconception(
    "slope ignored",
    "the slope is not used: a leaky ReLU keeps slope² of the other half, so gain² = 2 / (1 + slope²).",
    "没有用上斜率 slope：leaky ReLU 保留了另一半的 slope²，所以 gain² = 2 / (1 + slope²)。",
)
def _(noise, slope):
    return (2 / noise.shape[0]) ** 0.5 * noise


@kaiming.misconception(
    "slope not squared",
    "the slope enters squared: the second moment of slope·y is slope² times that of y.",
    "斜率要平方：slope·y 的二阶矩是 y 的 slope² 倍。",
)
def _(noise, slope):
    return (2 / (1 + slope) / noise.shape[0]) ** 0.5 * noise


@kaiming.misconception(
    "all weights counted",
    "you divide by the number of all weights: one neuron adds up only its own n_in products.",
    "除以了全部权重的个数：一个神经元只把自己的 n_in 个乘积加起来。",
)
def _(noise, slope):
    return (2 / (1 + slope**2) / noise.numel()) ** 0.5 * noise


@kaiming.misconception(
    "added instead of multiplied",
    "you add the standard deviation to the noise, which only shifts it: multiply.",
    "把标准差加到了噪声上，这只会平移：应该相乘。",
)
def _(noise, slope):
    return (2 / (1 + slope**2) / noise.shape[0]) ** 0.5 + noise
