"""Exercises of notebook 07: layer norm (Ba, Kiros & Hinton 2016), dropout (Srivastava and others 2014), the order of
the parts in a pre-norm block (Radford and others 2019), and how many parameters a GPT has.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from course_utils.checks import Exercise, Seen, Unusable, attempt

if TYPE_CHECKING:
    from torch import Tensor


def _like(x: "Tensor", result: object) -> "Tensor":
    """`result` if it is a tensor as large as `x`, with true or false as 1 or 0."""
    import torch

    if not isinstance(result, torch.Tensor) or result.shape != x.shape:
        came = f"{list(result.shape)}" if isinstance(result, torch.Tensor) else type(result).__name__
        raise Unusable(
            "other shape",
            f"x went in as {list(x.shape)} and came back as {came}: the result has one number for each in x.",
            f"x 输入时形状为 {list(x.shape)}，返回时成了 {came}：x 的每个数都应对应一个结果。",
        )
    return result.to(torch.float64)


def _unchanged(x: "Tensor", before: "Tensor") -> None:
    import torch

    if not torch.equal(x, before):
        raise Unusable(
            "changed in place",
            "you changed x in place, as `x += …` does, under the hands of the caller: write `x = x + …`.",
            "你就地改动了 x（例如 `x += …`），调用者手里的值也跟着变了：请写 `x = x + …`。",
        )


# --- layer norm -------------------------------------------------------------------------------------------


def _layer_norm(x, gain, bias, eps=1e-5):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return gain * (x - mean) / (variance + eps) ** 0.5 + bias


def _normalise(function: Callable) -> list[Seen]:
    """One row; three rows, of which one is constant, so that it shows where ε is missing; a batch of two sentences.

    ε is large, so that it shows where it stands.
    """
    import torch

    gain = torch.tensor([2.0, 1.0, 0.5, -1.0], dtype=torch.float64)
    bias = torch.tensor([0.0, 1.0, -1.0, 3.0], dtype=torch.float64)
    row = [[1.0, 3.0, 4.0, 8.0]]
    rows = [[1.0, 3.0, 4.0, 8.0], [5.0, 5.0, 5.0, 5.0], [-30.0, 10.0, 0.0, 40.0]]
    batch = [[[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 4.0]], [[9.0, -9.0, 3.0, 1.0], [2.0, 4.0, 4.0, 2.0]]]
    seen = []
    for values, eps in [(row, 0.0), (rows, 0.5), (batch, 0.5)]:
        x = torch.tensor(values, dtype=torch.float64)
        situation = f"x = {values}, gain = {gain.tolist()}, bias = {bias.tolist()}, eps = {eps}"
        result = attempt(situation, function, before := x.clone(), gain, bias, eps)
        _unchanged(before, x)
        seen.append(Seen(situation, _like(x, result)))
    return seen


layer_norm = Exercise("layer_norm", _layer_norm, _normalise, lambda x, gain, bias, eps: x)


@layer_norm.misconception(
    "wrong axis",
    "you take the mean over the rows (dim=0): each character is to be normalised by its own numbers, dim=-1.",
    "你是跨行求均值（dim=0）：每个字应该用自己那一行的数来归一化，即 dim=-1。",
)
def _(x, gain, bias, eps):
    mean = x.mean(dim=0, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=0, keepdim=True)
    return gain * (x - mean) / (variance + eps) ** 0.5 + bias


@layer_norm.misconception(
    "axis counted from the front",
    "dim=1 is a row's own axis only without a batch: of [batch, n, width] the width is the last axis, dim=-1.",
    "只有在没有批的时候，dim=1 才是一行自己的轴：形状 [batch, n, width] 中宽度是最后一轴，请用 dim=-1。",
)
def _(x, gain, bias, eps):
    mean = x.mean(dim=1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
    return gain * (x - mean) / (variance + eps) ** 0.5 + bias


@layer_norm.misconception(
    "one mean for everything",
    "one mean and one variance serve the whole of x: every row needs its own, dim=-1 with keepdim=True.",
    "整个 x 只用了一个均值和一个方差：每一行要有自己的，请用 dim=-1 和 keepdim=True。",
)
def _(x, gain, bias, eps):
    mean = x.mean()
    variance = ((x - mean) ** 2).mean()
    return gain * (x - mean) / (variance + eps) ** 0.5 + bias


@layer_norm.misconception(
    "unbiased variance",
    "x.var() divides by n − 1: layer norm divides by n, so take the mean of the squares or x.var(…, correction=0).",
    "x.var() 除以的是 n − 1：层归一化除以 n，请对平方取均值，或用 x.var(…, correction=0)。",
)
def _(x, gain, bias, eps):
    mean = x.mean(dim=-1, keepdim=True)
    return gain * (x - mean) / (x.var(dim=-1, keepdim=True) + eps) ** 0.5 + bias


@layer_norm.misconception(
    "eps outside the root",
    "ε is added after the root: it belongs to the variance, inside, (variance + eps) ** 0.5.",
    "ε 加在了开方之后：它应和方差一起放在根号里，(variance + eps) ** 0.5。",
)
def _(x, gain, bias, eps):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return gain * (x - mean) / (variance**0.5 + eps) + bias


@layer_norm.misconception(
    "eps missing",
    "ε is missing: where all numbers of a row are equal the variance is 0, and 0/0 is nan.",
    "缺少 ε：当一行的数全都相等时方差为 0，0/0 得到 nan。",
)
def _(x, gain, bias, eps):
    return _layer_norm(x, gain, bias, 0.0)


@layer_norm.misconception(
    "gain forgotten",
    "the gain is missing: each of the normalised numbers is multiplied by its own gain.",
    "缺少 gain：归一化后的每个数都要乘以它自己的增益。",
)
def _(x, gain, bias, eps):
    return _layer_norm(x, 1.0, bias, eps)


@layer_norm.misconception(
    "bias forgotten",
    "the bias is missing: it is added at the very end.",
    "缺少 bias：它要在最后加上。",
)
def _(x, gain, bias, eps):
    return _layer_norm(x, gain, 0.0, eps)


@layer_norm.misconception(
    "bias multiplied by the gain",
    "the bias is multiplied by the gain too: first gain times the normalised numbers, then plus bias.",
    "bias 也被乘上了 gain：先用 gain 乘归一化后的数，再加 bias。",
)
def _(x, gain, bias, eps):
    return gain * _layer_norm(x, 1.0, bias, eps)


@layer_norm.misconception(
    "mean not subtracted",
    "the mean is used for the variance only: subtract it above the fraction line as well, x − mean.",
    "均值只用在了方差里：分子也要减去它，x − mean。",
)
def _(x, gain, bias, eps):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return gain * x / (variance + eps) ** 0.5 + bias


@layer_norm.misconception(
    "RMSNorm",
    "no mean is taken off at all: this is RMSNorm, which comes next. Layer norm subtracts the mean of the row first.",
    "根本没有减去均值：这是后面才讲的 RMSNorm。层归一化要先减去这一行的均值。",
)
def _(x, gain, bias, eps):
    return gain * x / ((x**2).mean(dim=-1, keepdim=True) + eps) ** 0.5 + bias


@layer_norm.misconception(
    "divided by the variance",
    "you divide by the variance: the standard deviation is its root, ** 0.5.",
    "你除以的是方差：标准差是它的平方根，** 0.5。",
)
def _(x, gain, bias, eps):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return gain * (x - mean) / (variance + eps) + bias


@layer_norm.misconception(
    "softmax",
    "this is a softmax: layer norm makes mean 0 and variance 1, not numbers between 0 and 1 that add up to 1.",
    "这是 softmax：层归一化让均值为 0、方差为 1，而不是变成 0 到 1 之间、总和为 1 的数。",
)
def _(x, gain, bias, eps):
    return gain * x.softmax(dim=-1) + bias


# --- the order of the parts -------------------------------------------------------------------------------


def _block(x, attention, feed_forward, attention_norm, feed_forward_norm):
    x = x + attention(attention_norm(x))
    return x + feed_forward(feed_forward_norm(x))


def _wire(function: Callable) -> list[Seen]:
    """Parts that are easy to follow by hand and of which no two can change places unseen."""
    import torch

    parts = (
        lambda x: x.cumsum(dim=0),  # a row hears those before it
        lambda x: x**2,
        lambda x: x - x.mean(dim=-1, keepdim=True),
        lambda x: x / (1 + x.abs().amax(dim=-1, keepdim=True)),
    )
    named = (
        "attention = x.cumsum(dim=0), feed_forward = x**2, attention_norm = x - mean of the row, "
        "feed_forward_norm = x / (1 + largest of the row)"
    )
    seen = []
    for values in ([[1.0, 3.0]], [[1.0, 3.0], [-2.0, 6.0], [0.0, 1.0]]):
        x = torch.tensor(values, dtype=torch.float64)
        situation = f"x = {values}, {named}"
        result = attempt(situation, function, before := x.clone(), *parts)
        _unchanged(before, x)
        seen.append(Seen(situation, _like(x, result)))
    return seen


block = Exercise("block", _block, _wire, lambda x, *parts: x)


@block.misconception(
    "post-norm",
    "this is post-norm, as in the first transformer: here the norm stands before each part, and the sum stays as is.",
    "这是最早的 Transformer 所用的 post-norm：这里归一化放在每个部件之前，相加的结果保持原样。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    x = attention_norm(x + attention(x))
    return feed_forward_norm(x + feed_forward(x))


@block.misconception(
    "both residuals forgotten",
    "nothing is added: both parts must be added to x, or the +1 of the gradient is gone.",
    "什么都没有加：两个部件的结果都要加到 x 上，否则梯度里就没有那个 +1。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    return feed_forward(feed_forward_norm(attention(attention_norm(x))))


@block.misconception(
    "no residual around attention",
    "attention replaces x: add what it returns, x + attention(…).",
    "注意力的结果取代了 x：应该加上去，x + attention(…)。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    x = attention(attention_norm(x))
    return x + feed_forward(feed_forward_norm(x))


@block.misconception(
    "no residual around the feed-forward network",
    "the feed-forward network replaces x: add what it returns, x + feed_forward(…).",
    "前馈网络的结果取代了 x：应该加上去，x + feed_forward(…)。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    x = x + attention(attention_norm(x))
    return feed_forward(feed_forward_norm(x))


@block.misconception(
    "normalised value carried on",
    "you add to the normalised x: the stream itself must go on untouched. (ChatGLM-6B does this, with a factor.)",
    "你加到了归一化之后的 x 上：残差流本身应原样往下传。（ChatGLM-6B 正是这样做的，但带一个系数。）",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    x = attention_norm(x) + attention(attention_norm(x))
    return feed_forward_norm(x) + feed_forward(feed_forward_norm(x))


@block.misconception(
    "both read the old x",
    "the feed-forward network reads the x from before attention: it must see what attention has added.",
    "前馈网络读的是注意力之前的 x：它应该看到注意力加进来的东西。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    return x + attention(attention_norm(x)) + feed_forward(feed_forward_norm(x))


@block.misconception(
    "what attention added is lost",
    "the second sum starts again from the first x, so what attention added is lost: add to the new x.",
    "第二次相加又从最初的 x 开始，注意力加进来的东西丢了：要加到新的 x 上。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    return x + feed_forward(feed_forward_norm(x + attention(attention_norm(x))))


@block.misconception(
    "no norms",
    "neither part is given normalised numbers: attention(attention_norm(x)), and likewise below.",
    "两个部件拿到的都不是归一化后的数：应为 attention(attention_norm(x))，下一行同理。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    x = x + attention(x)
    return x + feed_forward(x)


@block.misconception(
    "norm behind the part",
    "you normalise what a part returns: normalise what it is given.",
    "你归一化的是部件的输出：应该归一化它的输入。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    x = x + attention_norm(attention(x))
    return x + feed_forward_norm(feed_forward(x))


@block.misconception(
    "one norm for both",
    "attention's norm serves twice: the feed-forward network has a norm of its own, with its own gain and bias.",
    "注意力的归一化用了两次：前馈网络有自己的归一化，有自己的增益和偏置。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    x = x + attention(attention_norm(x))
    return x + feed_forward(attention_norm(x))


@block.misconception(
    "norms swapped",
    "the two norms are swapped: attention_norm stands before attention.",
    "两个归一化放反了：attention_norm 在注意力之前。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    x = x + attention(feed_forward_norm(x))
    return x + feed_forward(attention_norm(x))


@block.misconception(
    "feed-forward first",
    "the feed-forward network comes first: first the rows exchange what they know, then each works on it.",
    "前馈网络放在了前面：先让各行交换信息，再各自加工。",
)
def _(x, attention, feed_forward, attention_norm, feed_forward_norm):
    x = x + feed_forward(feed_forward_norm(x))
    return x + attention(attention_norm(x))


# --- dropout ----------------------------------------------------------------------------------------------


def _dropout(x, noise, rate, training):
    if not training:
        return x
    kept = noise >= rate
    return x * kept / (1 - rate)


def _drop(function: Callable) -> list[Seen]:
    """In training and in evaluation, with rates on both sides of one half."""
    import torch

    x = torch.tensor([[1.0, -2.0, 3.0, 4.0], [5.0, 6.0, -7.0, 8.0]], dtype=torch.float64)
    noise = torch.tensor([[0.1, 0.9, 0.3, 0.6], [0.7, 0.05, 0.95, 0.4]], dtype=torch.float64)
    seen = []
    for rate, training in [(0.2, True), (0.65, True), (0.2, False)]:
        situation = f"x = {x.tolist()}, noise = {noise.tolist()}, rate = {rate}, training = {training}"
        result = attempt(situation, function, before := x.clone(), noise.clone(), rate, training)
        _unchanged(before, x)
        seen.append(Seen(situation, _like(x, result)))
    return seen


dropout = Exercise("dropout", _dropout, _drop, lambda x, noise, rate, training: x)


@dropout.misconception(
    "active in evaluation",
    "numbers are dropped in evaluation too: without training, x comes back as it is, or answers become a lottery.",
    "评估时也在丢：不在训练时 x 应原样返回，否则回答就成了抽签。",
)
def _(x, noise, rate, training):
    return x * (noise >= rate) / (1 - rate)


@dropout.misconception(
    "only in evaluation",
    "numbers are dropped in evaluation and kept in training: it is the other way round.",
    "评估时在丢，训练时反而保留：正好反了。",
)
def _(x, noise, rate, training):
    return x if training else x * (noise >= rate) / (1 - rate)


@dropout.misconception(
    "not rescaled",
    "what is kept must be divided by 1 − rate: else the next layer gets less in training than in evaluation.",
    "留下的数要除以 1 − rate：否则下一层在训练时得到的比评估时少。",
)
def _(x, noise, rate, training):
    return x * (noise >= rate) if training else x


@dropout.misconception(
    "rescaled in evaluation",
    "you make up for it in evaluation, times 1 − rate. It evens out too, but today it is done in training, divided by "
    "1 − rate, so that evaluation is left alone.",
    "你是在评估时乘以 1 − rate 来补偿。平均上也对，但如今的做法是训练时除以 1 − rate，评估时什么都不用做。",
)
def _(x, noise, rate, training):
    return x * (noise >= rate) if training else x * (1 - rate)


@dropout.misconception(
    "rescaled twice",
    "you make up for it twice, in training by dividing and in evaluation by multiplying: one is enough, divide in "
    "training.",
    "你补偿了两次：训练时除以、评估时又乘以 1 − rate。补一次就够，在训练时除。",
)
def _(x, noise, rate, training):
    return x * (noise >= rate) / (1 - rate) if training else x * (1 - rate)


@dropout.misconception(
    "kept and dropped swapped",
    "you keep the share that should be dropped: a number stays where noise ≥ rate.",
    "你留下的正是该丢掉的那部分：noise ≥ rate 的数才留下。",
)
def _(x, noise, rate, training):
    return x * (noise < rate) / (1 - rate) if training else x


@dropout.misconception(
    "divided by the rate",
    "you divide by the rate: what is left is the share 1 − rate, so divide by that.",
    "你除以的是 rate：留下的比例是 1 − rate，应除以它。",
)
def _(x, noise, rate, training):
    return x * (noise >= rate) / rate if training else x


@dropout.misconception(
    "multiplied by the kept share",
    "you multiply by 1 − rate: what is left must become larger to make up for what is gone, so divide.",
    "你乘的是 1 − rate：留下的数要变大才能弥补丢掉的，所以要除。",
)
def _(x, noise, rate, training):
    return x * (noise >= rate) * (1 - rate) if training else x


@dropout.misconception(
    "dropped numbers stay",
    "the dropped numbers are still there: multiply x by the mask, so that they become 0.",
    "该丢的数还在：用 x 乘以掩码，让它们变成 0。",
)
def _(x, noise, rate, training):
    return x / (1 - rate * (noise >= rate)) if training else x


@dropout.misconception(
    "whole rows dropped",
    "one noise decides for a whole row: each number has its own.",
    "一个随机数决定了一整行：每个数应各有自己的。",
)
def _(x, noise, rate, training):
    return x * (noise[:, :1] >= rate) / (1 - rate) if training else x


@dropout.misconception(
    "the mask returned",
    "you return the mask: multiply x by it.",
    "你返回的是掩码：要用它去乘 x。",
)
def _(x, noise, rate, training):
    return (noise >= rate) / (1 - rate) if training else x


# --- counting ---------------------------------------------------------------------------------------------


def _gpt_parameters(vocab_size, context_length, hidden_size, num_layers):
    h = hidden_size
    embeddings = vocab_size * h + context_length * h
    attention = 4 * (h * h + h)
    feed_forward = (h * 4 * h + 4 * h) + (4 * h * h + h)
    norms = 2 * (h + h)
    return embeddings + num_layers * (attention + feed_forward + norms) + 2 * h


def _count(function: Callable) -> list[Seen]:
    """Three networks so small that every part shows."""
    import torch

    seen = []
    for sizes in [(8, 4, 2, 1), (10, 3, 4, 2), (100, 16, 8, 3)]:
        situation = "vocab_size = {}, context_length = {}, hidden_size = {}, num_layers = {}".format(*sizes)
        result = attempt(situation, function, *sizes)
        if not isinstance(result, int | float):
            raise Unusable(
                "not a number",
                f"a number is wanted; this is a {type(result).__name__}.",
                f"这里应是一个数；现在是 {type(result).__name__}。",
            )
        seen.append(Seen(situation, torch.tensor(float(result), dtype=torch.float64)))
    return seen


gpt_parameters = Exercise(
    "gpt_parameters",
    _gpt_parameters,
    _count,
    lambda vocab_size, context_length, hidden_size, num_layers: 0,
)


@gpt_parameters.misconception(
    "biases forgotten",
    "the biases of the linear layers are missing: each has as many as it has outputs, 4h in attention, 4h + h behind.",
    "缺少线性层的偏置：每层的偏置数等于它的输出数，注意力有 4h 个，前馈网络有 4h + h 个。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    h = hidden_size
    return (vocab_size + context_length) * h + num_layers * (12 * h * h + 4 * h) + 2 * h


@gpt_parameters.misconception(
    "tied head counted twice",
    "the head is the token matrix once more: both share one set of numbers, so count it once.",
    "输出层就是词元嵌入矩阵：两者共用一份参数，只数一次。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    return _gpt_parameters(2 * vocab_size, context_length, hidden_size, num_layers)


@gpt_parameters.misconception(
    "positions forgotten",
    "the position vectors are missing: one of width h for each place of the context.",
    "缺少位置向量：上下文的每个位置各有一个宽为 h 的向量。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    return _gpt_parameters(vocab_size, 0, hidden_size, num_layers)


@gpt_parameters.misconception(
    "final norm forgotten",
    "the last norm is missing: behind all blocks there is one more, with gain and bias, 2h.",
    "缺少最后的归一化：所有块之后还有一个，含增益和偏置，共 2h。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    return _gpt_parameters(vocab_size, context_length, hidden_size, num_layers) - 2 * hidden_size


@gpt_parameters.misconception(
    "final norm in every layer",
    "the last norm stands once behind all blocks; you count it in every layer.",
    "最后的归一化在所有块之后只有一个；你在每层都数了一次。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    return _gpt_parameters(vocab_size, context_length, hidden_size, num_layers) + (num_layers - 1) * 2 * hidden_size


@gpt_parameters.misconception(
    "norms of the blocks forgotten",
    "the two norms of each block are missing: gain and bias each, 4h a block.",
    "缺少每个块里的两个归一化：各有增益和偏置，每块 4h。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    return _gpt_parameters(vocab_size, context_length, hidden_size, num_layers) - num_layers * 4 * hidden_size


@gpt_parameters.misconception(
    "one norm a block",
    "a block has two norms, one before attention and one before the feed-forward network; you count one.",
    "一个块有两个归一化，注意力之前和前馈网络之前各一个；你只数了一个。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    return _gpt_parameters(vocab_size, context_length, hidden_size, num_layers) - num_layers * 2 * hidden_size


@gpt_parameters.misconception(
    "output projection forgotten",
    "attention has four matrices: query, key, value, and the output projection behind the heads.",
    "注意力有四个矩阵：query、key、value，以及各头拼接之后的输出投影。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    h = hidden_size
    return _gpt_parameters(vocab_size, context_length, h, num_layers) - num_layers * (h * h + h)


@gpt_parameters.misconception(
    "only the way up",
    "the feed-forward network has two matrices, up to 4h and back; you count one.",
    "前馈网络有两个矩阵，升到 4h 再回来；你只数了一个。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    h = hidden_size
    return _gpt_parameters(vocab_size, context_length, h, num_layers) - num_layers * (4 * h * h + h)


@gpt_parameters.misconception(
    "not widened",
    "the feed-forward network is four times as wide in its middle: its matrices are h × 4h and 4h × h.",
    "前馈网络中间有四倍宽：两个矩阵是 h × 4h 和 4h × h。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    h = hidden_size
    return _gpt_parameters(vocab_size, context_length, h, num_layers) - num_layers * (6 * h * h + 3 * h)


@gpt_parameters.misconception(
    "one layer",
    "you count one block: multiply by num_layers.",
    "你只数了一个块：要乘以 num_layers。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    return _gpt_parameters(vocab_size, context_length, hidden_size, 1)


@gpt_parameters.misconception(
    "embeddings in every layer",
    "you multiply the embeddings by the number of layers: text is looked up once, before the first block.",
    "你把嵌入也乘上了层数：查表只在第一个块之前做一次。",
)
def _(vocab_size, context_length, hidden_size, num_layers):
    extra = (num_layers - 1) * (vocab_size + context_length) * hidden_size
    return _gpt_parameters(vocab_size, context_length, hidden_size, num_layers) + extra
