"""Exercises of notebook 08: labels, perplexity, temperature and top-k, top-p, one step with a KV cache."""

from collections.abc import Callable

from course_utils.checks import Exercise, Seen, Unusable, attempt

# --- inputs and labels ------------------------------------------------------------------------------------


def _pairs(function: Callable) -> list[Seen]:
    """Inputs and labels of two texts, as a table [2, 12] filled up with −1."""
    import torch

    seen = []
    for ids, end in [([7, 3, 5, 3, 9], 0), ([4, 8], 2)]:
        situation = f"ids = {ids}, end = {end}"
        given = list(ids)
        result = attempt(situation, function, given, end)
        if given != ids:
            raise Unusable(
                "changed in place",
                "you changed the list that came in (as `ids.append(…)` does): make a new one, `ids + [end]`.",
                "你就地改动了传入的列表（例如 `ids.append(…)`）：请另建一个，如 `ids + [end]`。",
            )
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise Unusable(
                "does not return two lists",
                "return two lists, `return inputs, labels`.",
                "要返回两个列表：`return inputs, labels`。",
            )
        for row in result:
            if not (isinstance(row, list) and len(row) <= 12 and all(isinstance(number, int) for number in row)):
                raise Unusable(
                    "not lists of ids",
                    f"inputs and labels must be lists of single ids; one of yours is {row!r:.60}.",
                    f"输入和标签都应是由单个编号组成的列表；你返回的其中一个是 {row!r:.60}。",
                )
        rows = [row + [-1] * (12 - len(row)) for row in result]
        seen.append(Seen(situation, torch.tensor(rows, dtype=torch.float64)))
    return seen


def _inputs_and_labels(ids, end):
    return ids, [*ids[1:], end]


inputs_and_labels = Exercise("inputs_and_labels", _inputs_and_labels, _pairs, lambda ids, end: ([], []))


@inputs_and_labels.misconception(
    "not shifted",
    "every label is the token itself: the model would learn to copy what it sees. The label is the token after it.",
    "每个标签就是词元自己：模型只会学会照抄。标签应是它后面的那个词元。",
)
def _(ids, end):
    return ids, ids


@inputs_and_labels.misconception(
    "shifted the wrong way",
    "the labels are the tokens before: the model sees them already. Take the tokens after, ids[1:].",
    "标签成了前面的词元，而模型早已看见它们。应取后面的词元 ids[1:]。",
)
def _(ids, end):
    return ids, [end, *ids[:-1]]


@inputs_and_labels.misconception(
    "no end",
    "the last token has no label, so nothing teaches the model to stop: its label is the end.",
    "最后一个词元没有标签，模型学不会停下来：它的标签是结束符。",
)
def _(ids, end):
    return ids[:-1], ids[1:]


@inputs_and_labels.misconception(
    "shifted by two",
    "the labels are two places on: ids[1:] already leaves out the first token.",
    "标签错开了两位：ids[1:] 已经去掉了第一个词元。",
)
def _(ids, end):
    return ids, [*ids[2:], end, end]


@inputs_and_labels.misconception(
    "the end as an input",
    "the end is an input here, with a label of its own: after the end nothing needs to be guessed.",
    "结束符成了输入，还有自己的标签：结束之后不需要再猜什么。",
)
def _(ids, end):
    return [*ids, end], [*ids[1:], end, end]


@inputs_and_labels.misconception(
    "inputs and labels swapped",
    "the two lists are swapped: the inputs come first.",
    "两个列表的顺序反了：先返回输入。",
)
def _(ids, end):
    return [*ids[1:], end], ids


@inputs_and_labels.misconception(
    "one label too few",
    "there is one label less than inputs: append the end to ids[1:].",
    "标签比输入少一个：要在 ids[1:] 后面加上结束符。",
)
def _(ids, end):
    return ids, ids[1:]


# --- perplexity -------------------------------------------------------------------------------------------


def _perplexities(function: Callable) -> list[Seen]:
    import torch

    cases = {
        "logits = log [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], labels = [1, 0]": (
            torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], dtype=torch.float64).log(),
            torch.tensor([1, 0]),
        ),
        "logits = [[2, 0, −1], [0, 3, 1], [1, 1, 4]], labels = [0, 1, 0]": (
            torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 1.0], [1.0, 1.0, 4.0]], dtype=torch.float64),
            torch.tensor([0, 1, 0]),
        ),
    }
    seen = []
    for situation, (logits, labels) in cases.items():
        result = attempt(situation, function, logits.clone(), labels.clone())
        if not isinstance(result, torch.Tensor | float | int):
            raise Unusable(
                "not a number",
                f"perplexity is one number; yours is a {type(result).__name__}.",
                f"困惑度是一个数；你返回的是 {type(result).__name__}。",
            )
        result = torch.as_tensor(result, dtype=torch.float64)
        if result.numel() != 1:
            raise Unusable(
                "several numbers",
                f"perplexity is one number for the whole text; yours has the shape {list(result.shape)}: "
                "take the mean over the tokens.",
                f"整段文字只有一个困惑度；你返回的形状是 {list(result.shape)}：请对词元取平均。",
            )
        seen.append(Seen(situation, result.reshape(())))
    return seen


def _perplexity(logits, labels):
    log_p = logits.log_softmax(dim=-1)
    log_p = log_p.gather(1, labels[:, None])
    return (-log_p.mean()).exp()


perplexity = Exercise("perplexity", _perplexity, _perplexities, lambda logits, labels: 0.0)


def _right_log_p(logits, labels):
    return logits.log_softmax(dim=-1).gather(1, labels[:, None])


@perplexity.misconception(
    "sum instead of mean",
    "the logarithms are summed: a text twice as long would be much more perplexing. Take the mean over its tokens.",
    "对数被加在一起：文字长一倍，困惑度就大得多。应对词元取平均。",
)
def _(logits, labels):
    return (-_right_log_p(logits, labels).sum()).exp()


@perplexity.misconception(
    "two bases",
    "logarithm to base 2 and exp do not undo each other: use log with exp, or log2 with 2**.",
    "以 2 为底的对数与 exp 不能互相抵消：log 配 exp，log2 配 2**。",
)
def _(logits, labels):
    return (-(logits.softmax(dim=-1).log2().gather(1, labels[:, None])).mean()).exp()


@perplexity.misconception(
    "the loss itself",
    "this is the loss, the mean of −log p: perplexity is its exponential.",
    "这是损失，即 −log p 的平均：困惑度是它的指数。",
)
def _(logits, labels):
    return -_right_log_p(logits, labels).mean()


@perplexity.misconception(
    "sign lost",
    "a perplexity is at least 1; yours is below: the minus of −log p is missing.",
    "困惑度至少为 1，你的小于 1：漏了 −log p 的负号。",
)
def _(logits, labels):
    return _right_log_p(logits, labels).mean().exp()


@perplexity.misconception(
    "softmax over the positions",
    "the softmax runs over the positions: each row must sum to 1 over the vocabulary, dim=-1.",
    "softmax 沿着位置做了：每一行应在词表上加起来等于 1，即 dim=-1。",
)
def _(logits, labels):
    return (-logits.log_softmax(dim=0).gather(1, labels[:, None]).mean()).exp()


@perplexity.misconception(
    "mean of the probabilities",
    "the probabilities are averaged before the logarithm: one confident guess would hide many bad ones. "
    "Take the mean of the logarithms.",
    "先平均了概率再取对数：一个有把握的猜测会掩盖许多糟糕的猜测。应平均对数。",
)
def _(logits, labels):
    return 1 / _right_log_p(logits, labels).exp().mean()


@perplexity.misconception(
    "mean after the exponential",
    "each token's 1/p is averaged: take the mean of −log p first, and exp of that.",
    "平均的是每个词元的 1/p：应先平均 −log p，再取 exp。",
)
def _(logits, labels):
    return (-_right_log_p(logits, labels)).exp().mean()


@perplexity.misconception(
    "no softmax",
    "the logits are taken for logarithms of probabilities: log_softmax makes them so.",
    "把 logits 直接当成了对数概率：要先用 log_softmax。",
)
def _(logits, labels):
    return (-logits.gather(1, labels[:, None]).mean()).exp()


@perplexity.misconception(
    "all tokens instead of the right one",
    "the mean runs over the whole vocabulary: pick the right token's column in each row first.",
    "对整个词表取了平均：应先在每一行中取出正确词元的那一列。",
)
def _(logits, labels):
    return (-logits.log_softmax(dim=-1).mean()).exp()


# --- temperature and top-k --------------------------------------------------------------------------------


def _filtered(cases: list[tuple]) -> Callable[[Callable], list[Seen]]:
    """Plays a function (logits, *settings) → logits; −∞ is what a removed token gets."""

    def play(function: Callable) -> list[Seen]:
        import torch

        seen = []
        for logits, named in cases:
            logits = torch.tensor(logits, dtype=torch.float64)
            listed = ", ".join(f"{number:g}" for number in logits.flatten().tolist()).replace("-", "−")
            situation = f"logits = [{listed}], " + ", ".join(f"{name} = {value}" for name, value in named.items())
            given = logits.clone()
            result = attempt(situation, function, given, *named.values())
            if not torch.allclose(given, logits, rtol=0, atol=0):
                raise Unusable(
                    "changed in place",
                    "you changed the logits that came in: write into a copy, or use `masked_fill` without `_`.",
                    "你就地改动了传入的 logits：请写到副本里，或用不带下划线的 `masked_fill`。",
                )
            if not isinstance(result, torch.Tensor) or result.shape != logits.shape:
                came = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
                raise Unusable(
                    "other shape",
                    f"logits of shape {list(logits.shape)} went in and {came} came back: every token keeps its place, "
                    "a removed one gets −∞.",
                    f"输入的 logits 形状为 {list(logits.shape)}，返回的却是 {came}："
                    "每个词元都留在原位，被去掉的取 −∞。",
                )
            seen.append(Seen(situation, result.double()))
        return seen

    return play


LOGITS = [1.0, 3.0, -0.5, 2.5, 0.2, 2.0, -2.0, 1.5]


def _temperature_and_top_k(logits, temperature, k):
    kth = logits.topk(k).values[..., -1:]
    return (logits / temperature).masked_fill(logits < kth, float("-inf"))


temperature_and_top_k = Exercise(
    "temperature_and_top_k",
    _temperature_and_top_k,
    _filtered(
        [
            (LOGITS, {"temperature": 0.5, "k": 3}),
            (LOGITS, {"temperature": 2.0, "k": 2}),
            ([LOGITS, LOGITS[::-1]], {"temperature": 1.0, "k": 4}),
        ]
    ),
    lambda logits, temperature, k: logits,
)


def _kept(logits, largest):
    """Which of the logits are among the `largest` ones."""
    return logits >= logits.topk(largest).values[..., -1:]


@temperature_and_top_k.misconception(
    "temperature multiplied",
    "the temperature multiplies: a high one would make the model surer. Divide by it.",
    "温度被乘上去了：温度越高模型反而越有把握。应除以温度。",
)
def _(logits, temperature, k):
    return (logits * temperature).masked_fill(~_kept(logits, k), float("-inf"))


@temperature_and_top_k.misconception(
    "one too few",
    "one token too few is left: the k-th largest stays, so drop what is smaller than it, with <.",
    "少留了一个：第 k 大的也要保留，只去掉比它小的，用 <。",
)
def _(logits, temperature, k):
    return (logits / temperature).masked_fill(~_kept(logits, k - 1), float("-inf"))


@temperature_and_top_k.misconception(
    "one too many",
    "one token too many is left: counting from 0, the k-th largest has the index k − 1.",
    "多留了一个：从 0 数起，第 k 大的下标是 k − 1。",
)
def _(logits, temperature, k):
    return (logits / temperature).masked_fill(~_kept(logits, k + 1), float("-inf"))


@temperature_and_top_k.misconception(
    "the best removed",
    "the k best tokens are removed and the rest is kept: turn the comparison round.",
    "去掉的恰好是最好的 k 个：请把比较反过来。",
)
def _(logits, temperature, k):
    return (logits / temperature).masked_fill(_kept(logits, k), float("-inf"))


@temperature_and_top_k.misconception(
    "zero instead of −∞",
    "removed tokens get the logit 0, and exp(0) = 1 still gives them a probability: use −∞.",
    "被去掉的词元 logit 成了 0，而 exp(0) = 1，仍有概率：应取 −∞。",
)
def _(logits, temperature, k):
    return (logits / temperature).masked_fill(~_kept(logits, k), 0.0)


@temperature_and_top_k.misconception(
    "no temperature",
    "the temperature is not used: divide the logits by it.",
    "没有用到温度：应把 logits 除以它。",
)
def _(logits, temperature, k):
    return logits.masked_fill(~_kept(logits, k), float("-inf"))


@temperature_and_top_k.misconception(
    "threshold at another temperature",
    "divided logits are compared with an undivided threshold: divide both, or neither.",
    "拿除过温度的 logits 与没除过的阈值相比：要么都除，要么都不除。",
)
def _(logits, temperature, k):
    kth = logits.topk(k).values[..., -1:]
    return (logits / temperature).masked_fill(logits / temperature < kth, float("-inf"))


@temperature_and_top_k.misconception(
    "probabilities",
    "these are probabilities already: give back logits, so that the next rule can go on with them.",
    "返回的已经是概率：请返回 logits，好让下一条规则接着处理。",
)
def _(logits, temperature, k):
    return _temperature_and_top_k(logits, temperature, k).softmax(dim=-1)


@temperature_and_top_k.misconception(
    "temperature after the softmax",
    "the temperature divides probabilities, which changes nothing once they are scaled to 1 again: divide the logits.",
    "温度除在了概率上，重新归一化后毫无作用：应除 logits。",
)
def _(logits, temperature, k):
    return (logits.softmax(dim=-1) / temperature).masked_fill(~_kept(logits, k), float("-inf"))


# --- top-p ------------------------------------------------------------------------------------------------


def _top_p(logits, p):
    probabilities, order = logits.softmax(dim=-1).sort(descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    drop = before >= p
    return logits.masked_fill(drop.scatter(-1, order, drop), float("-inf"))


top_p = Exercise(
    "top_p",
    _top_p,
    _filtered([(LOGITS, {"p": 0.8}), (LOGITS, {"p": 0.3}), ([LOGITS, LOGITS[::-1]], {"p": 0.9})]),
    lambda logits, p: logits,
)


def _sorted(logits):
    """Probabilities, largest first, the sum of those before each, and how to put a mask back into order."""
    probabilities, order = logits.softmax(dim=-1).sort(descending=True)
    return probabilities, probabilities.cumsum(dim=-1) - probabilities, order


@top_p.misconception(
    "the crossing token dropped",
    "the token that carries the sum over p is dropped, so what is left holds less than p (and for small p nothing): "
    "ask whether the tokens before it already reach p.",
    "让累积和越过 p 的那个词元被去掉了，剩下的总概率不到 p（p 很小时一个也不剩）：应看它前面的词元是否已达到 p。",
)
def _(logits, p):
    probabilities, before, order = _sorted(logits)
    drop = before + probabilities >= p
    return logits.masked_fill(drop.scatter(-1, order, drop), float("-inf"))


@top_p.misconception(
    "not put back into order",
    "the mask is in the order of the sorted tokens, the logits are not: scatter it back to their places.",
    "掩码是按排序后的次序，而 logits 不是：要用 scatter 放回原位。",
)
def _(logits, p):
    _, before, _ = _sorted(logits)
    return logits.masked_fill(before >= p, float("-inf"))


@top_p.misconception(
    "gather instead of scatter",
    "gather sorts the mask once more; scatter undoes the sorting.",
    "gather 把掩码又排了一次序；scatter 才能还原。",
)
def _(logits, p):
    _, before, order = _sorted(logits)
    return logits.masked_fill((before >= p).gather(-1, order), float("-inf"))


@top_p.misconception(
    "smallest first",
    "the sum begins with the least probable tokens, and these are kept: sort with descending=True.",
    "累积和从最不可能的词元开始，留下的正是它们：排序要用 descending=True。",
)
def _(logits, p):
    probabilities, order = logits.softmax(dim=-1).sort(descending=False)
    drop = probabilities.cumsum(dim=-1) - probabilities >= p
    return logits.masked_fill(drop.scatter(-1, order, drop), float("-inf"))


@top_p.misconception(
    "the best removed",
    "the likely tokens are removed and the tail is kept: turn the comparison round.",
    "去掉了可能的词元，留下了尾巴：请把比较反过来。",
)
def _(logits, p):
    _, before, order = _sorted(logits)
    drop = before < p
    return logits.masked_fill(drop.scatter(-1, order, drop), float("-inf"))


@top_p.misconception(
    "zero instead of −∞",
    "removed tokens get the logit 0, and exp(0) = 1 still gives them a probability: use −∞.",
    "被去掉的词元 logit 成了 0，而 exp(0) = 1，仍有概率：应取 −∞。",
)
def _(logits, p):
    _, before, order = _sorted(logits)
    drop = before >= p
    return logits.masked_fill(drop.scatter(-1, order, drop), 0.0)


@top_p.misconception(
    "no softmax",
    "the logits are added up as if they were probabilities: take their softmax first.",
    "把 logits 当成概率累加了：要先做 softmax。",
)
def _(logits, p):
    values, order = logits.sort(descending=True)
    drop = values.cumsum(dim=-1) - values >= p
    return logits.masked_fill(drop.scatter(-1, order, drop), float("-inf"))


@top_p.misconception(
    "each probability alone",
    "each token's own probability is compared with p: it is the sum over the more probable ones that counts.",
    "拿每个词元自己的概率与 p 比：应比较的是更可能的词元的概率之和。",
)
def _(logits, p):
    return logits.masked_fill(logits.softmax(dim=-1) < p, float("-inf"))


# --- one step with a KV cache -----------------------------------------------------------------------------


def _steps(function: Callable) -> list[Seen]:
    """Three tokens, then one, then two more through a GPT of two layers: the logits each time, [2, n, 11]."""
    import torch

    from course_utils.gpt import GPT, GPTConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        model = GPT(GPTConfig(vocab_size=11, context_length=8, hidden_size=8, num_layers=2, num_heads=2)).double()
        for parameter in model.parameters():
            # Far larger than at a real start, so that every slip changes the logits.
            torch.nn.init.normal_(parameter, std=0.7)
    model.eval()
    seen, caches = [], None
    for number, ids in enumerate([[[1, 5, 3], [2, 2, 7]], [[9], [4]], [[6, 5], [10, 0]]], 1):
        situation = f"call {number} of 3 (3, 1 and 2 new tokens; batch 2, two layers)"
        with torch.no_grad():
            result = attempt(situation, function, model, torch.tensor(ids), caches)
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise Unusable(
                "does not return two things",
                "return two things, the logits and the list of caches: `return logits, new_caches`.",
                "要返回两样东西：logits 和缓存的列表：`return logits, new_caches`。",
            )
        logits, caches = result
        if not isinstance(logits, torch.Tensor) or logits.shape != (2, len(ids[0]), 11):
            came = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise Unusable(
                "logits of another shape",
                f"the logits must have one row for each new token, [2, {len(ids[0])}, 11]; yours are {came}.",
                f"每个新词元应有一行 logits，即 [2, {len(ids[0])}, 11]；你返回的是 {came}。",
            )
        seen.append(Seen(situation, logits))
    return seen


def _cached_step(model, new_ids, caches):
    start = caches[0][0].shape[2] if caches else 0
    end = start + new_ids.shape[1]
    x = model.token_embedding(new_ids) + model.position_embedding.weight[start:end]
    new_caches = []
    for i, block in enumerate(model.blocks):
        x, _, cache = block(x, caches[i] if caches else None)
        new_caches.append(cache)
    return model.head(model.final_norm(x)), new_caches


def _not_written(model, new_ids, caches):
    return model.head(model.token_embedding(new_ids)), []


cached_step = Exercise("cached_step", _cached_step, _steps, _not_written)


def _hidden(model, new_ids, caches, start, given=lambda caches, i: caches[i]):
    """What the blocks make of the new tokens, from position `start` (None: no position), and the new caches."""
    x = model.token_embedding(new_ids)
    if start is not None:
        x = x + model.position_embedding.weight[start : start + new_ids.shape[1]]
    new_caches = []
    for i, block in enumerate(model.blocks):
        x, _, cache = block(x, given(caches, i) if caches else None)
        new_caches.append(cache)
    return x, new_caches


def _with_cache(model, new_ids, caches, start, given=lambda caches, i: caches[i]):
    x, new_caches = _hidden(model, new_ids, caches, start, given)
    return model.head(model.final_norm(x)), new_caches


def _cached(caches, axis=2):
    """How many tokens the caches hold, to go by an axis of their keys."""
    return caches[0][0].shape[axis] if caches else 0


@cached_step.misconception(
    "stale positions",
    "the positions begin at 0 again: a token after m cached ones stands at position m.",
    "位置又从 0 开始了：缓存里已有 m 个词元，新词元就在位置 m。",
)
def _(model, new_ids, caches):
    return _with_cache(model, new_ids, caches, 0)


@cached_step.misconception(
    "one position early",
    "the new token is given the position of the last one in the cache: with m rows cached, it stands at position m.",
    "新词元用了缓存里最后一个词元的位置：缓存有 m 行时，它在位置 m。",
)
def _(model, new_ids, caches):
    return _with_cache(model, new_ids, caches, max(_cached(caches) - 1, 0))


@cached_step.misconception(
    "positions from another axis",
    "the number of cached tokens is read from another axis: a key has the shape (batch, heads, tokens, head width), "
    "so it is shape[2].",
    "缓存的词元数取错了轴：键的形状是（批、头、词元、头宽），应取 shape[2]。",
)
def _(model, new_ids, caches):
    return _with_cache(model, new_ids, caches, _cached(caches, axis=3))


@cached_step.misconception(
    "cache not used",
    "the blocks never see the cache, so the new tokens do not know the old ones: hand caches[i] to block i.",
    "各层没有收到缓存，新词元不知道前面有什么：请把 caches[i] 交给第 i 层。",
)
def _(model, new_ids, caches):
    return _with_cache(model, new_ids, caches, _cached(caches), given=lambda caches, i: None)


@cached_step.misconception(
    "one cache for all layers",
    "every layer is given the first layer's cache: each has keys and values of its own, caches[i].",
    "每一层拿到的都是第一层的缓存：各层有自己的键和值，即 caches[i]。",
)
def _(model, new_ids, caches):
    return _with_cache(model, new_ids, caches, _cached(caches), given=lambda caches, i: caches[0])


@cached_step.misconception(
    "old cache kept",
    "the cache that came in goes out again, without the new rows: return the caches that the blocks gave back.",
    "返回的还是传入的旧缓存，没有新的行：应返回各层给出的新缓存。",
)
def _(model, new_ids, caches):
    logits, new_caches = _with_cache(model, new_ids, caches, _cached(caches))
    return logits, caches or new_caches


@cached_step.misconception(
    "no positions",
    "the token embedding alone goes in: add the position embedding of the new places.",
    "只用了词元嵌入：还要加上新位置的位置嵌入。",
)
def _(model, new_ids, caches):
    return _with_cache(model, new_ids, caches, None)


@cached_step.misconception(
    "no final norm",
    "the last LayerNorm is missing: the head reads model.final_norm(x).",
    "漏了最后的层归一化：输出头读的是 model.final_norm(x)。",
)
def _(model, new_ids, caches):
    x, new_caches = _hidden(model, new_ids, caches, _cached(caches))
    return model.head(x), new_caches
