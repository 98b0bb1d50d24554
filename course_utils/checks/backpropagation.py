"""Exercises of notebook 02: backward of a product, the sweep through a graph, backward of a linear layer, and softmax
with cross-entropy. `gradient` is always the gradient of L with respect to an operation's output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_utils.checks import Exercise, Seen, Unusable, attempt

if TYPE_CHECKING:
    from torch import Tensor


def _observe(situation: str, result: object, names: list[str], shapes: list[tuple[int, ...]]) -> list[Seen]:
    """The returned things as observations, or Unusable that names what is missing or has the wrong shape."""
    import torch

    if not (isinstance(result, tuple | list) and len(result) == len(names)):
        wanted = ", ".join(names)
        raise Unusable(
            f"does not return {len(names)} things",
            f"return {len(names)} things in this order: `return {wanted}`.",
            f"要按顺序返回 {len(names)} 样东西：`return {wanted}`。",
        )
    seen = []
    for name, thing, shape in zip(names, result, shapes, strict=True):
        try:
            value = torch.as_tensor(thing, dtype=torch.float64).detach().clone()
        except (TypeError, ValueError, RuntimeError):
            raise Unusable(
                "not a number",
                f"{name} has to be made of numbers; this is a {type(thing).__name__}.",
                f"{name} 应由数组成；现在是 {type(thing).__name__}。",
            ) from None
        if value.shape != shape:
            raise Unusable(
                "wrong shape",
                f"{name} has shape {list(value.shape)}, but must have {list(shape)}, as what it is the gradient of.",
                f"{name} 的形状是 {list(value.shape)}，应为 {list(shape)}：梯度与它所对应的量形状相同。",
            )
        seen.append(Seen(f"{situation} ({name})", value))
    return seen


# --- multiply ---------------------------------------------------------------------------------------------


def _multiply_backward(gradient, a, b):
    return gradient * b, gradient * a


def _play_multiply(function: Callable) -> list[Seen]:
    seen = []
    for gradient, a, b in [(0.6, 0.8, 1.5), (-2.0, 3.0, -0.7), (0.3, -1.2, 0.0)]:
        situation = f"gradient = {gradient}, a = {a}, b = {b}"
        result = attempt(situation, function, gradient, a, b)
        seen += _observe(situation, result, ["gradient_of_a", "gradient_of_b"], [(), ()])
    return seen


multiply_backward = Exercise("multiply_backward", _multiply_backward, _play_multiply, lambda gradient, a, b: (0.0, 0.0))


@multiply_backward.misconception(
    "own factor",
    "each input gets its own factor: when a grows a little, a·b grows b times as much, so a gets b, and b gets a.",
    "每个输入乘上了自己：a 变化一点点，a·b 的变化是它的 b 倍，所以 a 得到 b，b 得到 a。",
)
def _(gradient, a, b):
    return gradient * a, gradient * b


@multiply_backward.misconception(
    "upstream forgotten",
    "these are the derivatives of a·b, not of L: multiply by the gradient that comes from behind.",
    "这是 a·b 的导数，不是 L 的导数：还要乘上从后面传来的 gradient。",
)
def _(gradient, a, b):
    return b, a


@multiply_backward.misconception(
    "like a sum",
    "this is the backward of a + b: a product hands each input the gradient times the other input.",
    "这是 a + b 的反向：乘积传给每个输入的，是 gradient 乘以另一个输入。",
)
def _(gradient, a, b):
    return gradient, gradient


@multiply_backward.misconception(
    "both factors",
    "a·b is the value itself: the derivative with respect to a no longer holds a.",
    "a·b 是它的值本身：对 a 求导以后，a 就不在了。",
)
def _(gradient, a, b):
    return gradient * a * b, gradient * a * b


@multiply_backward.misconception(
    "upstream added",
    "the chain rule multiplies: gradient times local derivative, not plus.",
    "链式法则是相乘：gradient 乘以局部导数，而不是相加。",
)
def _(gradient, a, b):
    return gradient + b, gradient + a


# --- sweep ------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Node:
    """A node as the notebook's engine has it; its operation is a product or, without factors, a sum."""

    inputs: tuple = ()
    factors: tuple[float, ...] = ()

    @property
    def operation(self) -> "_Node":
        return self

    def backward(self, gradient: float) -> tuple[float, ...]:
        return tuple(gradient * factor for factor in self.factors)


def _order() -> list[_Node]:
    """L = s · s, s = d + c, d = c · a, c = a · b, at a = 2, b = 3: every way in which a node can be used twice."""
    a, b = _Node(), _Node()
    c = _Node((a, b), (3.0, 2.0))
    d = _Node((c, a), (2.0, 6.0))
    s = _Node((d, c), (1.0, 1.0))
    return [_Node((s, s), (18.0, 18.0)), s, d, c, b, a]


def _sweep(order):
    gradient = dict.fromkeys(order, 0.0)
    gradient[order[0]] = 1.0
    for node in order:
        for source, part in zip(node.inputs, node.operation.backward(gradient[node]), strict=True):
            gradient[source] += part
    return gradient


def _play_sweep(function: Callable) -> list[Seen]:
    order = _order()
    situation = "d = (a·b)·a, L = (d + a·b)², a = 2, b = 3"
    result = attempt(situation, function, list(order))
    if not (isinstance(result, dict) and all(node in result for node in order)):
        raise Unusable(
            "not a gradient for each node",
            "return the dictionary `gradient`, with an entry for every node of `order`.",
            "应返回字典 `gradient`，其中 `order` 的每个节点都有一项。",
        )
    names = [f"gradient[order[{i}]]" for i in range(len(order))]
    return _observe(situation, [result[node] for node in order], names, [()] * len(order))


sweep = Exercise("sweep", _sweep, _play_sweep, lambda order: dict.fromkeys(order, float("nan")))


def _at_start(order: list) -> dict:
    return {**dict.fromkeys(order, 0.0), order[0]: 1.0}


def _wrong_sweep(order: list, hand_on: Callable[[dict, object, object, float], None]) -> dict:
    gradient = _at_start(order)
    for node in order:
        for source, part in zip(node.inputs, node.operation.backward(gradient[node]), strict=True):
            hand_on(gradient, node, source, part)
    return gradient


@sweep.misconception(
    "overwriting instead of accumulating",
    "a part overwrites the one before: a value that is used twice gets two parts, and its gradient is their sum (+=).",
    "后一份覆盖了前一份：用了两次的值会收到两份，它的梯度是两份之和（用 +=）。",
)
def _(order):
    return _wrong_sweep(order, lambda gradient, node, source, part: gradient.update({source: part}))


@sweep.misconception(
    "first part only",
    "only the first part counts here: a value that is used twice gets two parts, and its gradient is their sum (+=).",
    "这里只算了第一份：用了两次的值会收到两份，它的梯度是两份之和（用 +=）。",
)
def _(order):
    return _wrong_sweep(order, lambda gradient, node, source, part: gradient.update({source: gradient[source] or part}))


@sweep.misconception(
    "multiplied instead of added",
    "parts are multiplied with what was there, which is 0: along one way factors multiply, but ways add up (+=).",
    "各份与原来的 0 相乘了：同一条路上的因子相乘，不同的路则相加（用 +=）。",
)
def _(order):
    return _wrong_sweep(order, lambda gradient, node, source, part: gradient.update({source: gradient[source] * part}))


@sweep.misconception(
    "local derivative forgotten",
    "every input gets the whole gradient of the node: hand on the parts that operation.backward returns.",
    "每个输入都拿到了节点的整个梯度：应传递 operation.backward 返回的各份。",
)
def _(order):
    return _wrong_sweep(
        order, lambda gradient, node, source, part: gradient.update({source: gradient[source] + gradient[node]})
    )


@sweep.misconception(
    "upstream forgotten",
    "backward is given 1 at every node: give it gradient[node], what has arrived there from L.",
    "每个节点都把 1 交给了 backward：应交给它 gradient[node]，即从 L 传到这里的梯度。",
)
def _(order):
    gradient = _at_start(order)
    for node in order:
        for source, part in zip(node.inputs, node.operation.backward(1.0), strict=True):
            gradient[source] += part
    return gradient


@sweep.misconception(
    "upstream twice",
    "the gradient of the node is multiplied in twice: operation.backward has done it already.",
    "节点的梯度乘了两次：operation.backward 里已经乘过了。",
)
def _(order):
    return _wrong_sweep(
        order, lambda gradient, node, source, part: gradient.update({source: gradient[source] + gradient[node] * part})
    )


@sweep.misconception(
    "no beginning",
    "every gradient is 0, because nothing was there to hand on: begin with dL/dL = 1 at order[0].",
    "所有梯度都是 0，因为一开始没有东西可传：应从 order[0] 处的 dL/dL = 1 开始。",
)
def _(order):
    return dict.fromkeys(order, 0.0)


@sweep.misconception(
    "wrong direction",
    "you walk from the inputs to L, and nothing has arrived there yet: `order` begins with L, keep it so.",
    "你是从输入走向 L 的，而那时梯度还没有传到：`order` 从 L 开始，不要反过来。",
)
def _(order):
    gradient = _at_start(order)
    for node in reversed(order):
        for source, part in zip(node.inputs, node.operation.backward(gradient[node]), strict=True):
            gradient[source] += part
    return gradient


# --- linear layer -----------------------------------------------------------------------------------------


def _linear_backward(dY, X, W):
    dX = dY @ W.T
    dW = X.T @ dY
    db = dY.sum(dim=0)
    return dX, dW, db


def _play_linear(function: Callable) -> list[Seen]:
    """All matrices are square, so that a swapped transpose gives wrong numbers, which can be named."""
    import torch

    dY = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [-0.2, 0.8, 1.1]], dtype=torch.float64)
    X = torch.tensor([[1.0, 2.0, -1.0], [0.5, -0.4, 3.0], [2.2, 0.1, 0.6]], dtype=torch.float64)
    W = torch.tensor([[0.3, -2.0, 1.2], [0.9, 0.7, -0.5], [1.4, 0.2, 0.8]], dtype=torch.float64)
    situation = f"dY = {dY.tolist()}, X = {X.tolist()}, W = {W.tolist()}"
    result = attempt(situation, function, dY.clone(), X.clone(), W.clone())
    return _observe(situation, result, ["dX", "dW", "db"], [(3, 3), (3, 3), (3,)])


def _zeros(dY, X, W):
    return 0 * X, 0 * W, 0 * W[0]


linear_backward = Exercise("linear_backward", _linear_backward, _play_linear, _zeros)


@linear_backward.misconception(
    "transposes swapped",
    "the transposes are swapped: dX = dY·Wᵀ and dW = Xᵀ·dY. Write the shapes down, [n, k]·[k, d] and [d, n]·[n, k].",
    "转置写反了：dX = dY·Wᵀ，dW = Xᵀ·dY。把形状写出来：[n, k]·[k, d] 和 [d, n]·[n, k]。",
)
def _(dY, X, W):
    return dY.T @ W, X @ dY.T, dY.sum(dim=0)


@linear_backward.misconception(
    "transposes forgotten",
    "both transposes are missing: dX = dY·Wᵀ and dW = Xᵀ·dY. It only ran because all matrices here are square.",
    "两处转置都漏了：dX = dY·Wᵀ，dW = Xᵀ·dY。这里没报错，只因为矩阵都是方阵。",
)
def _(dY, X, W):
    return dY @ W, X @ dY, dY.sum(dim=0)


@linear_backward.misconception(
    "W not transposed",
    "W is not transposed: dY is [n, k] and W is [d, k], so dX = dY·Wᵀ.",
    "W 没有转置：dY 是 [n, k]，W 是 [d, k]，所以 dX = dY·Wᵀ。",
)
def _(dY, X, W):
    return dY @ W, X.T @ dY, dY.sum(dim=0)


@linear_backward.misconception(
    "X not transposed",
    "X is not transposed: X is [n, d] and dY is [n, k], so dW = Xᵀ·dY.",
    "X 没有转置：X 是 [n, d]，dY 是 [n, k]，所以 dW = Xᵀ·dY。",
)
def _(dY, X, W):
    return dY @ W.T, X @ dY, dY.sum(dim=0)


@linear_backward.misconception(
    "dW transposed",
    "dW comes out transposed: dW[i, j] belongs to W[i, j], so it is Xᵀ·dY, not dYᵀ·X.",
    "dW 转置了：dW[i, j] 对应 W[i, j]，应为 Xᵀ·dY，而不是 dYᵀ·X。",
)
def _(dY, X, W):
    return dY @ W.T, dY.T @ X, dY.sum(dim=0)


@linear_backward.misconception(
    "factors in the wrong order",
    "the factors of dX stand in the wrong order: dX = dY·Wᵀ; a product of matrices does not commute.",
    "dX 的两个因子次序反了：dX = dY·Wᵀ；矩阵乘法不能交换。",
)
def _(dY, X, W):
    return W.T @ dY, X.T @ dY, dY.sum(dim=0)


@linear_backward.misconception(
    "rows summed",
    "db sums along the wrong side: b is added to every row, so each bias collects its column, dY.sum(dim=0).",
    "db 求和的方向反了：b 加到了每一行上，所以每个偏置收集自己那一列，dY.sum(dim=0)。",
)
def _(dY, X, W):
    return dY @ W.T, X.T @ dY, dY.sum(dim=1)


@linear_backward.misconception(
    "db averaged",
    "db is an average: b is used once in every row, and uses add up. A mean, if any, is in dY already.",
    "db 取了平均：每一行都用了一次 b，各次使用要相加。如果损失有取平均，dY 里已经含有。",
)
def _(dY, X, W):
    return dY @ W.T, X.T @ dY, dY.mean(dim=0)


@linear_backward.misconception(
    "divided by n again",
    "dW and db are divided by the number of rows: a mean, if any, is in dY already.",
    "dW 和 db 又除以了行数：如果损失有取平均，dY 里已经含有。",
)
def _(dY, X, W):
    return dY @ W.T, X.T @ dY / len(X), dY.sum(dim=0) / len(X)


@linear_backward.misconception(
    "dX and dW exchanged",
    "dX and dW are exchanged: return them in the order dX, dW, db.",
    "dX 与 dW 对调了：请按 dX、dW、db 的顺序返回。",
)
def _(dY, X, W):
    return X.T @ dY, dY @ W.T, dY.sum(dim=0)


# --- softmax and cross-entropy ----------------------------------------------------------------------------


def _softmax_cross_entropy(logits, labels):
    n = len(labels)
    shifted = logits - logits.max(dim=1, keepdim=True).values
    p = shifted.exp() / shifted.exp().sum(dim=1, keepdim=True)
    t = 0 * logits
    t[range(n), labels] = 1
    loss = -p[range(n), labels].log().mean()
    return loss, (p - t) / n


def _play_softmax(function: Callable) -> list[Seen]:
    """Loss and gradient for three ordinary rows, then for one whose exponentials overflow."""
    import torch

    seen = []
    ordinary = [[2.0, 1.0, 0.1, -1.0], [0.3, -0.8, 1.7, 0.0], [-1.2, 0.4, 0.9, 2.5]]
    for rows, labels in [(ordinary, [0, 1, 3]), ([[1000.0, 999.0, 998.0, 0.0], [1.0, 0.0, 0.5, 2.0]], [1, 0])]:
        logits = torch.tensor(rows, dtype=torch.float64)
        situation = f"logits = {rows}, labels = {labels}"
        result = attempt(situation, function, logits, torch.tensor(labels))
        seen += _observe(situation, result, ["loss", "gradient"], [(), logits.shape])
    return seen


softmax_cross_entropy = Exercise(
    "softmax_cross_entropy",
    _softmax_cross_entropy,
    _play_softmax,
    lambda logits, labels: (0.0, 0 * logits),
)


def _loss_p_t(logits: "Tensor", labels: "Tensor", dim: int = 1) -> tuple["Tensor", "Tensor", "Tensor"]:
    import torch

    p = logits.softmax(dim=dim)
    t = torch.nn.functional.one_hot(labels, logits.shape[1]).to(p.dtype)
    return -(p * t).sum(dim=1).log().mean(), p, t


@softmax_cross_entropy.misconception(
    "sign of p − t",
    "the gradient points the other way: it is p − t. t − p is the direction in which descent steps.",
    "梯度的方向反了：应为 p − t。t − p 是下降时要走的方向。",
)
def _(logits, labels):
    loss, p, t = _loss_p_t(logits, labels)
    return loss, (t - p) / len(labels)


@softmax_cross_entropy.misconception(
    "mean forgotten in the gradient",
    "the loss is a mean over the rows, the gradient is not: divide p − t by the number of rows.",
    "损失对各行取了平均，梯度却没有：p − t 还要除以行数。",
)
def _(logits, labels):
    loss, p, t = _loss_p_t(logits, labels)
    return loss, p - t


@softmax_cross_entropy.misconception(
    "mean forgotten",
    "loss and gradient are sums over the rows: both have to be divided by the number of rows.",
    "损失和梯度都是各行之和：两者都要除以行数。",
)
def _(logits, labels):
    loss, p, t = _loss_p_t(logits, labels)
    return loss * len(labels), p - t


@softmax_cross_entropy.misconception(
    "divided by all entries",
    "the gradient is divided by rows times classes: the loss is a mean over the rows only.",
    "梯度除以了行数乘类别数：损失只对行取平均。",
)
def _(logits, labels):
    loss, p, t = _loss_p_t(logits, labels)
    return loss, (p - t) / p.numel()


@softmax_cross_entropy.misconception(
    "target forgotten",
    "t is missing: p alone pushes every logit down, the right one as well. Subtract 1 at the label.",
    "缺少 t：只有 p，会把所有 logits 都往下压，正确的那个也不例外。请在标签处减 1。",
)
def _(logits, labels):
    loss, p, _ = _loss_p_t(logits, labels)
    return loss, p / len(labels)


@softmax_cross_entropy.misconception(
    "softmax over the rows",
    "softmax runs over the examples: the probabilities of one example, one row, have to add up to 1 (dim=1).",
    "softmax 沿着样本方向做了：应让同一个样本（一行）的概率之和为 1（dim=1）。",
)
def _(logits, labels):
    loss, p, t = _loss_p_t(logits, labels, dim=0)
    return loss, (p - t) / len(labels)


@softmax_cross_entropy.misconception(
    "overflow",
    "exp(1000) is infinite and inf / inf is nan: subtract the largest logit of each row first; p stays the same.",
    "exp(1000) 是无穷大，inf / inf 得 nan：先从每一行减去最大的 logit，p 不变。",
)
def _(logits, labels):
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    _, _, t = _loss_p_t(logits, labels)
    return -p[range(len(labels)), labels].log().mean(), (p - t) / len(labels)


@softmax_cross_entropy.misconception(
    "minus forgotten",
    "the loss has the wrong sign: log p is negative, the loss is −log p.",
    "损失的符号反了：log p 是负数，损失是 −log p。",
)
def _(logits, labels):
    loss, p, t = _loss_p_t(logits, labels)
    return -loss, (p - t) / len(labels)


@softmax_cross_entropy.misconception(
    "log forgotten",
    "the loss lacks its logarithm: it is the mean of −log p at the label.",
    "损失里少了对数：应为标签处 −log p 的平均。",
)
def _(logits, labels):
    _, p, t = _loss_p_t(logits, labels)
    return -(p * t).sum(dim=1).mean(), (p - t) / len(labels)
