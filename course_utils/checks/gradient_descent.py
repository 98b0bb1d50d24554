"""Exercises of notebook 01: momentum, RMSProp and Adam, in the notation of Goodfellow, Bengio & Courville,
*Deep Learning* (2016), chapter 8: ε `learning_rate`, α `alpha`, ρ `rho`, δ `delta`, velocity v, moments s and r.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from course_utils.checks import Exercise, Seen, Unusable, attempt

if TYPE_CHECKING:
    from torch import Tensor


def _walk(optimizer: Callable, state: object, **settings: float) -> list[Seen]:
    """Six steps of `optimizer` on fixed gradients: θ, shape [3], after each.

    The first gradient has a zero (0/0 shows where δ is missing), the gradients change sign and size, the learning
    rate is halved on the way (a velocity that holds it differs from one that does not), and the settings are not
    the defaults (a number written into the function shows).
    """
    import torch

    gradients = [[4.0, -0.5, 0.0], [3.0, 0.2, 0.1], [-2.0, -0.7, 0.3], [1.0, 0.4, -0.2], [-0.5, 0.9, 0.6], [2, -1, 0.8]]
    theta, seen = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), []
    for number, gradient in enumerate(gradients):
        g = torch.tensor(gradient, dtype=torch.float64)
        learning_rate = 0.1 if number < 3 else 0.05
        named = ", ".join(f"{name} = {value}" for name, value in settings.items())
        situation = (
            f"θ = {_listed(theta)}, g = {_listed(g)}, step {number + 1}, learning_rate = {learning_rate}, {named}"
        )
        before = theta.clone(), g.clone()
        result = attempt(situation, optimizer, theta, g, state, learning_rate, *settings.values())
        if not (_identical(theta, before[0]) and _identical(g, before[1])):
            raise Unusable(
                "changed in place",
                "you changed theta or g in place, as `theta += …` does, under the hands of the caller: "
                "write `theta = theta + …`.",
                "你就地改动了 theta 或 g（例如 `theta += …`），调用者手里的值也跟着变了：请写 `theta = theta + …`。",
            )
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise Unusable(
                "does not return two things",
                "return two things, the new theta and what the optimiser remembers: `return theta, …`.",
                "要返回两样东西：新的 theta 和优化器记住的量：`return theta, …`。",
            )
        theta, state = result
        if not isinstance(theta, torch.Tensor):
            raise Unusable(
                "theta is no tensor",
                f"theta came back as {type(theta).__name__}: return first the new theta, then what is remembered.",
                f"返回的 theta 成了 {type(theta).__name__}：先返回新的 theta，再返回记住的量。",
            )
        if theta.shape != (3,) or theta.dtype != torch.float64:
            came = f"{list(theta.shape)} {str(theta.dtype).removeprefix('torch.')}"
            raise Unusable(
                "theta changes shape",
                f"theta went in as [3] float64 and came back as {came}: work element by element, "
                "sum nothing, convert nothing.",
                f"theta 输入时为 [3] float64，返回时成了 {came}：逐元素计算，不要求和，也不要转换类型。",
            )
        seen.append(Seen(situation, theta, repr(state)))
    return seen


def _identical(vector: "Tensor", before: "Tensor") -> bool:
    import torch

    return torch.allclose(vector, before, rtol=0, atol=0, equal_nan=True)


def _listed(vector: "Tensor") -> str:
    return f"[{', '.join(f'{number:.4g}' for number in vector.tolist())}]"


def _stays(theta, g, state, *settings):
    return theta, state


# --- momentum ---------------------------------------------------------------------------------------------


def _momentum(theta, g, v, learning_rate, alpha=0.9):
    v = alpha * v - learning_rate * g
    return theta + v, v


momentum = Exercise("momentum", _momentum, lambda function: _walk(function, 0.0, alpha=0.8), _stays)


@momentum.misconception(
    "velocity sign",
    "the velocity points uphill: with v ← αv − εg the step is θ + v; change one of the two signs.",
    "速度指向上坡：若 v ← αv − εg，则更新为 θ + v；请改其中一个符号。",
)
def _(theta, g, v, learning_rate, alpha):
    v = alpha * v + learning_rate * g
    return theta + v, v


@momentum.misconception(
    "no memory",
    "the velocity is forgotten, so this is plain descent: use α·v, and return the new v.",
    "速度没有被记住，这只是普通的梯度下降：要用上 α·v，并返回新的 v。",
)
def _(theta, g, v, learning_rate, alpha):
    v = -learning_rate * g
    return theta + v, v


@momentum.misconception(
    "no friction",
    "α is missing: the old velocity must shrink to α·v, or the ball never comes to rest.",
    "缺少 α：旧速度应缩小为 α·v，否则小球永远停不下来。",
)
def _(theta, g, v, learning_rate, alpha):
    v = v - learning_rate * g
    return theta + v, v


@momentum.misconception(
    "no learning rate",
    "the learning rate is missing: the gradient enters the velocity as ε·g.",
    "缺少学习率：梯度应以 ε·g 进入速度。",
)
def _(theta, g, v, learning_rate, alpha):
    v = alpha * v - g
    return theta + v, v


@momentum.misconception(
    "learning rate twice",
    "the learning rate is used twice: v holds it already, so add v as it is.",
    "学习率用了两次：v 里已经含有它，直接加上 v。",
)
def _(theta, g, v, learning_rate, alpha):
    v = alpha * v - learning_rate * g
    return theta + learning_rate * v, v


@momentum.misconception(
    "damped gradient",
    "the gradient is multiplied by 1 − α as in a moving average: steps are 10 times too short for α = 0.9.",
    "梯度多乘了 1 − α（那是滑动平均）：α = 0.9 时步子只有应有的十分之一。",
)
def _(theta, g, v, learning_rate, alpha):
    v = alpha * v - (1 - alpha) * learning_rate * g
    return theta + v, v


@momentum.misconception(
    "one step late",
    "θ moves by the old velocity: compute the new v first, then add it.",
    "θ 用的是旧速度：先算出新的 v，再加上它。",
)
def _(theta, g, v, learning_rate, alpha):
    return theta + v, alpha * v - learning_rate * g


@momentum.misconception(
    "PyTorch's convention",
    "this is PyTorch's convention (v ← αv + g, θ ← θ − εv): the same path until ε changes, as it does here.",
    "这是 PyTorch 的约定（v ← αv + g，θ ← θ − εv）：ε 不变时路径相同，而这里 ε 会变。",
)
def _(theta, g, v, learning_rate, alpha):
    v = alpha * v + g
    return theta - learning_rate * v, v


@momentum.misconception(
    "alpha on everything",
    "α multiplies the new gradient as well: it belongs to the old velocity alone, α·v − ε·g.",
    "α 也乘到了新梯度上：它只作用于旧速度，α·v − ε·g。",
)
def _(theta, g, v, learning_rate, alpha):
    v = alpha * (v - learning_rate * g)
    return theta + v, v


@momentum.misconception(
    "theta not moved",
    "v is right, but theta comes back as it went in: return theta + v.",
    "v 是对的，但 theta 原样返回了：应返回 theta + v。",
)
def _(theta, g, v, learning_rate, alpha):
    return theta, alpha * v - learning_rate * g


@momentum.misconception(
    "returned in the other order",
    "theta and v come back in the other order: `return theta, v`.",
    "theta 与 v 的返回顺序反了：应为 `return theta, v`。",
)
def _(theta, g, v, learning_rate, alpha):
    v = alpha * v - learning_rate * g
    return v, theta + v


@momentum.misconception(
    "summed",
    "you add up the components of g: every parameter must use its own.",
    "你把 g 的各分量加在了一起：每个参数应使用自己的那个分量。",
)
def _(theta, g, v, learning_rate, alpha):
    v = alpha * v - learning_rate * g.sum()
    return theta + v, v


# --- RMSProp ----------------------------------------------------------------------------------------------


def _rmsprop(theta, g, r, learning_rate, rho=0.9, delta=1e-8):
    r = rho * r + (1 - rho) * g**2
    return theta - learning_rate * g / (r**0.5 + delta), r


rmsprop = Exercise("rmsprop", _rmsprop, lambda function: _walk(function, 0.0, rho=0.8, delta=0.1), _stays)


@rmsprop.misconception(
    "g not squared",
    "r must collect g², not g: a signed average can turn negative, and its root is nan.",
    "r 累积的应是 g² 而不是 g：带符号的平均可能为负，开方得到 nan。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = rho * r + (1 - rho) * g
    return theta - learning_rate * g / (r**0.5 + delta), r


@rmsprop.misconception(
    "delta missing",
    "δ is missing: where a gradient has always been 0 you divide 0 by 0, and θ becomes nan.",
    "缺少 δ：梯度一直为 0 的地方会出现 0 除以 0，θ 变成 nan。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = rho * r + (1 - rho) * g**2
    return theta - learning_rate * g / r**0.5, r


@rmsprop.misconception(
    "delta added to the parameter",
    "δ is added to the parameter: it belongs below the fraction line, ε·g / (√r + δ). Mind the brackets.",
    "δ 加到了参数上：它应在分母里，ε·g / (√r + δ)。注意括号。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = rho * r + (1 - rho) * g**2
    return theta - learning_rate * g / r**0.5 + delta, r


@rmsprop.misconception(
    "no root",
    "the square root is missing: divide by √r + δ, so that the step no longer depends on the gradient's unit.",
    "缺少平方根：应除以 √r + δ，这样步长才与梯度的量纲无关。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = rho * r + (1 - rho) * g**2
    return theta - learning_rate * g / (r + delta), r


@rmsprop.misconception(
    "accumulates for ever",
    "r only grows: that is AdaGrad. RMSProp forgets: r ← ρ·r + (1 − ρ)·g².",
    "r 只增不减：那是 AdaGrad。RMSProp 会遗忘：r ← ρ·r + (1 − ρ)·g²。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = r + g**2
    return theta - learning_rate * g / (r**0.5 + delta), r


@rmsprop.misconception(
    "rho swapped",
    "ρ and 1 − ρ are swapped: the memory keeps ρ of the past and takes 1 − ρ of the new g².",
    "ρ 与 1 − ρ 写反了：保留过去的 ρ 份，吸收新 g² 的 1 − ρ 份。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = (1 - rho) * r + rho * g**2
    return theta - learning_rate * g / (r**0.5 + delta), r


@rmsprop.misconception(
    "delta inside the root",
    "δ stands inside the root: take √r first, then add δ.",
    "δ 放进了根号里：先开方 √r，再加 δ。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = rho * r + (1 - rho) * g**2
    return theta - learning_rate * g / (r + delta) ** 0.5, r


@rmsprop.misconception(
    "no memory",
    "the new r is not kept: return it, or every step starts from nothing.",
    "新的 r 没有保留：要把它返回，否则每一步都从零开始。",
)
def _(theta, g, r, learning_rate, rho, delta):
    new = rho * r + (1 - rho) * g**2
    return theta - learning_rate * g / (new**0.5 + delta), r


@rmsprop.misconception(
    "climbs",
    "the step goes uphill: subtract it from θ.",
    "这一步走向了上坡：应从 θ 中减去。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = rho * r + (1 - rho) * g**2
    return theta + learning_rate * g / (r**0.5 + delta), r


@rmsprop.misconception(
    "half instead of root",
    "r**1/2 is half of r, since ** binds more tightly than /: write r**0.5.",
    "r**1/2 是 r 的一半，因为 ** 比 / 优先：请写 r**0.5。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = rho * r + (1 - rho) * g**2
    return theta - learning_rate * g / (r / 2 + delta), r


@rmsprop.misconception(
    "one step late",
    "the step uses the old r: compute the new r first, then move theta.",
    "这一步用的是旧的 r：先算新的 r，再移动 theta。",
)
def _(theta, g, r, learning_rate, rho, delta):
    return theta - learning_rate * g / (r**0.5 + delta), rho * r + (1 - rho) * g**2


@rmsprop.misconception(
    "no learning rate",
    "the learning rate is missing: the step is ε·g / (√r + δ).",
    "缺少学习率：更新量是 ε·g / (√r + δ)。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = rho * r + (1 - rho) * g**2
    return theta - g / (r**0.5 + delta), r


@rmsprop.misconception(
    "theta not moved",
    "r is right, but theta comes back as it went in: subtract the step.",
    "r 是对的，但 theta 原样返回了：还要减去这一步。",
)
def _(theta, g, r, learning_rate, rho, delta):
    return theta, rho * r + (1 - rho) * g**2


@rmsprop.misconception(
    "summed",
    "you add up the components of g: every parameter must use its own.",
    "你把 g 的各分量加在了一起：每个参数应使用自己的那个分量。",
)
def _(theta, g, r, learning_rate, rho, delta):
    r = rho * r + (1 - rho) * (g**2).sum()
    return theta - learning_rate * g / (r**0.5 + delta), r


# --- Adam -------------------------------------------------------------------------------------------------


def _adam(theta, g, state, learning_rate, rho1=0.9, rho2=0.999, delta=1e-8):
    t, s, r = state
    t = t + 1
    s = rho1 * s + (1 - rho1) * g
    r = rho2 * r + (1 - rho2) * g**2
    s_hat = s / (1 - rho1**t)
    r_hat = r / (1 - rho2**t)
    return theta - learning_rate * s_hat / (r_hat**0.5 + delta), (t, s, r)


def _play_adam(function: Callable) -> list[Seen]:
    def unpackable(theta, g, state, *settings):
        if not (isinstance(state, tuple | list) and len(state) == 3):
            raise Unusable(
                "state is not (t, s, r)",
                "the second thing to return is the state (t, s, r): `return theta, (t, s, r)`.",
                "第二个返回值应是状态 (t, s, r)：`return theta, (t, s, r)`。",
            )
        return function(theta, g, tuple(state), *settings)

    return _walk(unpackable, (0, 0.0, 0.0), rho1=0.8, rho2=0.99, delta=0.1)


adam = Exercise("adam", _adam, _play_adam, _stays)


def _moments(g, state, rho1, rho2):
    t, s, r = state
    t = t + 1
    s = rho1 * s + (1 - rho1) * g
    r = rho2 * r + (1 - rho2) * g**2
    return t, s, r, s / (1 - rho1**t), r / (1 - rho2**t)


@adam.misconception(
    "no bias correction",
    "the bias correction is missing: with the usual ρ₁ = 0.9, ρ₂ = 0.999 your first step is 3.2 times too long.",
    "缺少偏差修正：在常用的 ρ₁ = 0.9、ρ₂ = 0.999 下，第一步长了 3.2 倍。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, _, _ = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s / (r**0.5 + delta), (t, s, r)


@adam.misconception(
    "first moment not corrected",
    "s is not bias-corrected: with the usual ρ₁ = 0.9 your first step is 10 times too short. Use s / (1 − ρ₁ᵗ).",
    "s 没有做偏差修正：在常用的 ρ₁ = 0.9 下，第一步只有应有的十分之一。请用 s / (1 − ρ₁ᵗ)。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, _, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s / (r_hat**0.5 + delta), (t, s, r)


@adam.misconception(
    "second moment not corrected",
    "r is not bias-corrected: with the usual ρ₂ = 0.999 your first step is 32 times too long. Use r / (1 − ρ₂ᵗ).",
    "r 没有做偏差修正：在常用的 ρ₂ = 0.999 下，第一步长了 32 倍。请用 r / (1 − ρ₂ᵗ)。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, _ = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / (r**0.5 + delta), (t, s, r)


@adam.misconception(
    "delta added to the parameter",
    "δ is added to the parameter: it belongs below the fraction line, ŝ / (√r̂ + δ). Mind the brackets.",
    "δ 加到了参数上：它应在分母里，ŝ / (√r̂ + δ)。注意括号。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / r_hat**0.5 + delta, (t, s, r)


@adam.misconception(
    "delta missing",
    "δ is missing: where a gradient has always been 0 you divide 0 by 0, and θ becomes nan.",
    "缺少 δ：梯度一直为 0 的地方会出现 0 除以 0，θ 变成 nan。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / r_hat**0.5, (t, s, r)


@adam.misconception(
    "delta inside the root",
    "δ stands inside the root: take √r̂ first, then add δ.",
    "δ 放进了根号里：先开方 √r̂，再加 δ。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / (r_hat + delta) ** 0.5, (t, s, r)


@adam.misconception(
    "g not squared",
    "r must collect g², not g: a signed average can turn negative, and its root is nan.",
    "r 累积的应是 g² 而不是 g：带符号的平均可能为负，开方得到 nan。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r = state
    t = t + 1
    s, r = rho1 * s + (1 - rho1) * g, rho2 * r + (1 - rho2) * g
    return theta - learning_rate * (s / (1 - rho1**t)) / ((r / (1 - rho2**t)) ** 0.5 + delta), (t, s, r)


@adam.misconception(
    "gradient multiplied in again",
    "the raw gradient is multiplied in once more: ŝ has taken its place, the step is ε·ŝ / (√r̂ + δ).",
    "又多乘了一次原始梯度：ŝ 已经取代了它，更新量是 ε·ŝ / (√r̂ + δ)。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / (r_hat**0.5 + delta) * g, (t, s, r)


@adam.misconception(
    "s and r swapped in the step",
    "s and r are swapped: the direction ŝ stands above, the size √r̂ below the fraction line.",
    "s 与 r 写反了：分子是方向 ŝ，分母是大小 √r̂。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * r_hat / (s_hat**0.5 + delta), (t, s, r)


@adam.misconception(
    "s and r swapped in the state",
    "the state comes back as (t, r, s): keep the order (t, s, r), or the next step mixes them up.",
    "状态返回成了 (t, r, s)：请保持 (t, s, r) 的顺序，否则下一步会把两者弄混。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / (r_hat**0.5 + delta), (t, r, s)


@adam.misconception(
    "t starts at 0",
    "t is still 0 in the first step, so 1 − ρ⁰ = 0 and you divide by zero: count t up before you use it.",
    "第一步时 t 仍为 0，1 − ρ⁰ = 0，于是除以零：先给 t 加一再使用。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r = state
    s, r = rho1 * s + (1 - rho1) * g, rho2 * r + (1 - rho2) * g**2
    return theta - learning_rate * (s / (1 - rho1**t)) / ((r / (1 - rho2**t)) ** 0.5 + delta), (t + 1, s, r)


@adam.misconception(
    "t does not count",
    "every step is corrected like the first: return the t that you counted up, and mind the power in `1 - rho1**t`.",
    "每一步都按第一步来修正：请返回加一后的 t，并注意 `1 - rho1**t` 中的乘方。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    _, s, r, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / (r_hat**0.5 + delta), (state[0], s, r)


@adam.misconception(
    "corrected moments kept",
    "the corrected ŝ and r̂ are kept as state: correct only for the step, and remember the plain s and r.",
    "把修正后的 ŝ、r̂ 当成状态保存了：修正只用于这一步，记住的应是原来的 s 和 r。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, _, _, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / (r_hat**0.5 + delta), (t, s_hat, r_hat)


@adam.misconception(
    "no root",
    "the square root is missing: divide by √r̂ + δ.",
    "缺少平方根：应除以 √r̂ + δ。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / (r_hat + delta), (t, s, r)


@adam.misconception(
    "climbs",
    "the step goes uphill: subtract it from θ.",
    "这一步走向了上坡：应从 θ 中减去。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta + learning_rate * s_hat / (r_hat**0.5 + delta), (t, s, r)


@adam.misconception(
    "brackets missing",
    "brackets are missing: s / 1 - rho1**t divides by 1 first. Write s / (1 - rho1**t), and r alike.",
    "缺少括号：s / 1 - rho1**t 会先除以 1。请写 s / (1 - rho1**t)，r 也一样。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, _, _ = _moments(g, state, rho1, rho2)
    return theta - learning_rate * (s / 1 - rho1**t) / ((r / 1 - rho2**t) ** 0.5 + delta), (t, s, r)


@adam.misconception(
    "rho1 and rho2 swapped",
    "ρ₁ and ρ₂ are swapped: ρ₁ goes with s, ρ₂ with r.",
    "ρ₁ 与 ρ₂ 写反了：ρ₁ 用于 s，ρ₂ 用于 r。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, r_hat = _moments(g, state, rho2, rho1)
    return theta - learning_rate * s_hat / (r_hat**0.5 + delta), (t, s, r)


@adam.misconception(
    "no memory",
    "the new s and r are not kept: return (t, s, r) as you computed them, not the state that came in.",
    "新的 s 和 r 没有保留：应返回算出的 (t, s, r)，而不是传入的 state。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    _, _, _, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / (r_hat**0.5 + delta), state


@adam.misconception(
    "half instead of root",
    "r_hat**1/2 is half of r_hat, since ** binds more tightly than /: write r_hat**0.5.",
    "r_hat**1/2 是 r_hat 的一半，因为 ** 比 / 优先：请写 r_hat**0.5。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, s_hat, r_hat = _moments(g, state, rho1, rho2)
    return theta - learning_rate * s_hat / (r_hat / 2 + delta), (t, s, r)


@adam.misconception(
    "theta not moved",
    "the moments are right, but theta comes back as it went in: subtract the step.",
    "矩是对的，但 theta 原样返回了：还要减去这一步。",
)
def _(theta, g, state, learning_rate, rho1, rho2, delta):
    t, s, r, _, _ = _moments(g, state, rho1, rho2)
    return theta, (t, s, r)
