"""Exercises of notebook 13: choosing examples, the score of a label, the confusion matrix, recall, calibration."""

from collections.abc import Callable

from course_utils.checks import Exercise, Seen, Unusable, attempt


def _numbers(function: Callable, situation: str, arguments: tuple, shape: tuple[int, ...]) -> Seen:
    """What the function makes of the arguments, as numbers of this shape."""
    import torch

    result = attempt(situation, function, *arguments)
    try:
        value = torch.as_tensor(result, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise _wrong_kind(result) from None
    if value.shape != shape:
        raise _wrong_kind(result)
    return Seen(situation, value)


def _wrong_kind(result: object) -> Unusable:
    shown = f"{result!r:.60}"
    return Unusable(
        "wrong kind of result",
        f"your function returned {shown}: return what the stub returns, in the same shape.",
        f"函数返回了 {shown}：请按原来的形式返回结果。",
    )


# --- the examples -----------------------------------------------------------------------------------------

_LABELS = ["甲类", "乙类", "丙类"]
_POOL = [
    ("苹果熟了", "甲类", "test"),
    ("这是甲类：梨", "甲类", "dev"),
    ("香蕉熟了", "甲类", "dev"),
    ("葡萄熟了", "甲类", "dev"),
    ("不是丙类，是桃", "甲类", "dev"),
    ("西瓜熟了", "甲类", "dev"),
    ("老虎来了", "乙类", "train"),
    ("狮子来了", "乙类", "dev"),
    ("乙类里的猫", "乙类", "dev"),
    ("大象来了", "乙类", "dev"),
    ("猴子来了", "乙类", "test"),
    ("不像乙类的雪", "丙类", "dev"),
    ("下雨了", "丙类", "dev"),
    ("刮风了", "丙类", "dev"),
    ("打雷了", "丙类", "test"),
    ("天晴了", "丙类", "test"),
    ("狐狸来了", "乙类", "test"),
    ("李子熟了", "甲类", "test"),
]


def _play_examples(function: Callable) -> list[Seen]:
    import torch

    places = {text: place for place, (text, _, _) in enumerate(_POOL)}
    seen = []
    for labels, per_class in ((_LABELS, 1), (_LABELS, 2), (_LABELS[::-1], 1)):
        situation = f"labels = {labels}, per_class = {per_class}"
        chosen = attempt(situation, function, list(_POOL), list(labels), per_class)
        try:
            pairs = [(places[text], _LABELS.index(label)) for text, label in chosen]
        except (TypeError, ValueError, KeyError):
            raise _wrong_kind(chosen) from None
        value = torch.full((len(_POOL) + 1, 2), -1.0, dtype=torch.float64)
        for row, pair in enumerate(pairs[: len(_POOL)]):
            value[row] = torch.tensor(pair, dtype=torch.float64)
        seen.append(Seen(situation, value, shown=repr([tuple(pair) for pair in chosen])))
    return seen


def _choose_examples(pool, labels, per_class=1):
    chosen = []
    for label in labels:
        fit = [(text, name) for text, name, split in pool if name == label and split == "dev"]
        fit = [(text, name) for text, name in fit if not any(word in text for word in labels)]
        chosen += fit[:per_class]
    return chosen


choose_examples = Exercise("choose_examples", _choose_examples, _play_examples, lambda pool, labels, per_class=1: [])


def _chosen(pool, labels, per_class, splits=("dev",), clean=lambda text, label, labels: True):
    chosen = []
    for label in labels:
        fit = [(text, name) for text, name, split in pool if name == label and split in splits]
        chosen += [pair for pair in fit if clean(pair[0], label, labels)][:per_class]
    return chosen


def _no_name(text, label, labels):
    return not any(word in text for word in labels)


@choose_examples.misconception(
    "one class only",
    "all your examples come from the class that stands first in the pool: take per_class from each class.",
    "例子都来自数据里排在最前的那一类：每一类都要取 per_class 个。",
)
def _(pool, labels, per_class=1):
    fit = [(text, name) for text, name, split in pool if split == "dev" and _no_name(text, name, labels)]
    return fit[: per_class * len(labels)]


@choose_examples.misconception(
    "label leaked",
    "an example names a class in its text: the model can copy it from there. Leave out texts that hold a class name.",
    "有的例子在正文里就写着类名，模型可以照抄：请去掉含有类名的文本。",
)
def _(pool, labels, per_class=1):
    return _chosen(pool, labels, per_class)


@choose_examples.misconception(
    "another class's name leaked",
    "you leave out texts with their own class name only; the name of another class misleads as well.",
    "你只去掉了含有自己类名的文本；含有别的类名同样会误导。",
)
def _(pool, labels, per_class=1):
    return _chosen(pool, labels, per_class, clean=lambda text, label, labels: label not in text)


@choose_examples.misconception(
    "from the test set",
    "your examples come from the texts that are to be tested: take the split dev.",
    "例子取自要测试的文本：应取 dev 部分。",
)
def _(pool, labels, per_class=1):
    return _chosen(pool, labels, per_class, ("test",), _no_name)


@choose_examples.misconception(
    "from anywhere",
    "you do not look at the split, so test texts become examples: take those of dev only.",
    "没有看 split，测试文本混进了例子：只取 dev 的。",
)
def _(pool, labels, per_class=1):
    return _chosen(pool, labels, per_class, ("train", "dev", "test"), _no_name)


@choose_examples.misconception(
    "always one",
    "per_class is ignored: you always take one of each class.",
    "没有用到 per_class：每一类总是只取一个。",
)
def _(pool, labels, per_class=1):
    return _chosen(pool, labels, 1, clean=_no_name)


# --- the score of a label ---------------------------------------------------------------------------------


def _play_score(function: Callable) -> list[Seen]:
    import torch

    seen = []
    for rows, ids in (
        ([[0.0, 2.0, 1.0, 0.0]], [1]),
        ([[0.0, 2.0, 1.0, 0.5], [1.0, 0.0, 0.0, 3.0], [2.0, 0.1, 0.0, 1.0]], [1, 3, 0]),
        ([[1.0, -1.0, 0.0, 0.5], [0.3, 0.2, 0.1, 0.0]], [2, 0]),
    ):
        logits = torch.tensor(rows, dtype=torch.float64)
        seen.append(_numbers(function, f"logits = {rows}, ids = {ids}", (logits, list(ids)), ()))
    return seen


def _label_score(logits, ids):
    logprobs = logits.log_softmax(dim=-1)
    return sum(logprobs[i, token] for i, token in enumerate(ids))


label_score = Exercise("label_score", _label_score, _play_score, lambda logits, ids: 0.0)


@label_score.misconception(
    "raw logits",
    "logits of different positions are not on one scale: take log_softmax of each row first.",
    "不同位置的 logits 尺度不同：先对每一行取 log_softmax。",
)
def _(logits, ids):
    return sum(logits[i, token] for i, token in enumerate(ids))


@label_score.misconception(
    "divided by the length",
    "you divided by the number of tokens. That is a rule of thumb for answers of different lengths, and no longer the "
    "probability of the answer: here the sum is asked for.",
    "你除以了 token 数。那是比较不同长度回答的经验做法，已不再是回答的概率：这里要的是和。",
)
def _(logits, ids):
    return _label_score(logits, ids) / len(ids)


@label_score.misconception(
    "probabilities added up",
    "probabilities in a row multiply, so their logarithms add up: use log_softmax, not softmax.",
    "接连出现的概率要相乘，对数才相加：应使用 log_softmax，而不是 softmax。",
)
def _(logits, ids):
    probabilities = logits.softmax(dim=-1)
    return sum(probabilities[i, token] for i, token in enumerate(ids))


@label_score.misconception(
    "first token only",
    "you score the first token only: two labels that begin alike would tie.",
    "只算了第一个 token：开头相同的两个类名会打平。",
)
def _(logits, ids):
    return _label_score(logits, ids[:1])


@label_score.misconception(
    "softmax over the positions",
    "your softmax runs over the positions: each row, dim=-1, is one distribution over the vocabulary.",
    "你的 softmax 沿着位置方向：每一行（dim=-1）才是词表上的一个分布。",
)
def _(logits, ids):
    logprobs = logits.log_softmax(dim=0)
    return sum(logprobs[i, token] for i, token in enumerate(ids))


@label_score.misconception(
    "one row off",
    "you read each token in the row of its neighbour: row i predicts token i.",
    "每个 token 都读到了相邻的行：第 i 行预测第 i 个 token。",
)
def _(logits, ids):
    logprobs = logits.log_softmax(dim=-1)
    return sum(logprobs[i - 1, token] for i, token in enumerate(ids))


# --- the confusion matrix ---------------------------------------------------------------------------------

_CLASSES = ["甲", "乙", "丙"]
_TRUTH = ["甲", "甲", "甲", "乙", "乙", "丙", "丙", "丙", "丙"]
_ANSWERS = ["甲", "乙", "甲", "乙", None, "甲", "丙", "不知道", "乙"]


def _play_confusion(function: Callable) -> list[Seen]:
    import torch

    situation = f"truth = {_TRUTH}, answers = {_ANSWERS}, classes = {_CLASSES}"
    counts = attempt(situation, function, list(_TRUTH), list(_ANSWERS), list(_CLASSES))
    # A matrix that lies on its side is to be named, so rows and columns are filled up to a square.
    value = torch.full((4, 4), -1.0, dtype=torch.float64)
    try:
        for i, row in enumerate(counts):
            for j, number in enumerate(row):
                value[i, j] = float(number)
    except (TypeError, ValueError, IndexError):
        raise _wrong_kind(counts) from None
    return [Seen(situation, value, shown=repr([list(row) for row in counts]))]


def _confusion(truth, answers, classes):
    counts = [[0] * (len(classes) + 1) for _ in classes]
    for true, answer in zip(truth, answers, strict=True):
        column = classes.index(answer) if answer in classes else len(classes)
        counts[classes.index(true)][column] += 1
    return counts


confusion = Exercise(
    "confusion",
    _confusion,
    _play_confusion,
    lambda truth, answers, classes: [[0] * (len(classes) + 1) for _ in classes],
)


@confusion.misconception(
    "transposed",
    "rows and columns are swapped: a row is a true class, a column an answer.",
    "行和列写反了：行是真实类别，列是回答。",
)
def _(truth, answers, classes):
    return [list(column) for column in zip(*_confusion(truth, answers, classes), strict=True)]


@confusion.misconception(
    "outside dropped",
    "answers outside the classes vanish: count them in the last column, or a model that never answers looks perfect.",
    "类别之外的回答消失了：应计入最后一列，否则从不作答的模型会显得完美。",
)
def _(truth, answers, classes):
    return [[*row[:-1], 0] for row in _confusion(truth, answers, classes)]


@confusion.misconception(
    "outside counted as the last class",
    "answers outside the classes land in the last class: their column is number len(classes).",
    "类别之外的回答算进了最后一类：它们的列号是 len(classes)。",
)
def _(truth, answers, classes):
    counts = _confusion(truth, answers, classes)
    return [[*row[:-2], row[-2] + row[-1], 0] for row in counts]


@confusion.misconception(
    "one row many times",
    "[[0, …]] * n is the same list n times: every count appears in every row. Make a new list for each class.",
    "[[0, …]] * n 是同一个列表重复 n 次：每次计数都出现在所有行里。请为每一类新建一个列表。",
)
def _(truth, answers, classes):
    counts = _confusion(truth, answers, classes)
    return [[sum(column) for column in zip(*counts, strict=True)] for _ in classes]


@confusion.misconception(
    "right ones only",
    "you count right answers only: the mistakes are what the matrix is for.",
    "只数了答对的：这张表正是为了看错误。",
)
def _(truth, answers, classes):
    counts = _confusion(truth, answers, classes)
    return [[number if i == j else 0 for j, number in enumerate(row)] for i, row in enumerate(counts)]


# --- recall -----------------------------------------------------------------------------------------------


def _play_recall(function: Callable) -> list[Seen]:
    counts = [[6, 1, 0, 3], [2, 5, 2, 0], [0, 4, 1, 3]]
    return [_numbers(function, f"counts = {counts}, i = {i}", ([list(row) for row in counts], i), ()) for i in range(3)]


def _recall(counts, i):
    return counts[i][i] / sum(counts[i])


recall = Exercise("recall", _recall, _play_recall, lambda counts, i: 0.0)


@recall.misconception(
    "over what was answered",
    "you divide by the column, by everything that was called i: that is precision. Recall divides by the row.",
    "你除以了那一列，即所有被称为 i 的文本：那是精确率。召回率除以行。",
)
def _(counts, i):
    return counts[i][i] / sum(row[i] for row in counts)


@recall.misconception(
    "outside left out",
    "you leave out the last column: a text that got no usable answer was still a text of this class.",
    "漏掉了最后一列：没有得到有效回答的文本仍然属于这一类。",
)
def _(counts, i):
    return counts[i][i] / sum(counts[i][:-1])


@recall.misconception(
    "over all texts",
    "you divide by all texts: divide by those of class i alone.",
    "你除以了全部文本：应只除以第 i 类的文本数。",
)
def _(counts, i):
    return counts[i][i] / sum(map(sum, counts))


@recall.misconception(
    "accuracy",
    "this is the accuracy over all classes: use row i alone.",
    "这是所有类别上的准确率：只用第 i 行。",
)
def _(counts, i):
    return sum(counts[j][j] for j in range(len(counts))) / sum(map(sum, counts))


# --- calibration ------------------------------------------------------------------------------------------


def _play_calibration(function: Callable) -> list[Seen]:
    import torch

    seen = []
    for text, free in (
        ([0.5, 0.3, 0.2], [[0.6, 0.3, 0.1]]),
        ([0.05, 0.03, 0.01], [[0.6, 0.1, 0.1], [0.2, 0.3, 0.1]]),
    ):
        arguments = torch.tensor(text, dtype=torch.float64).log(), torch.tensor(free, dtype=torch.float64).log()
        seen.append(_numbers(function, f"logprobs = log {text}, free = log {free}", arguments, (3,)))
    return seen


def _calibrated(logprobs, free):
    prior = free.softmax(dim=-1).mean(dim=0)
    weights = logprobs.softmax(dim=-1) / prior
    return weights / weights.sum()


calibrated = Exercise("calibrated", _calibrated, _play_calibration, lambda logprobs, free: logprobs.softmax(dim=-1))


@calibrated.misconception(
    "multiplied by the prior",
    "you multiply by the prior, which favours the favourite once more: divide by it.",
    "你乘以了先验，偏爱的类别反而更受偏爱：应除以它。",
)
def _(logprobs, free):
    weights = logprobs.softmax(dim=-1) * free.softmax(dim=-1).mean(dim=0)
    return weights / weights.sum()


@calibrated.misconception(
    "not normalised",
    "your numbers do not add up to 1: divide by their sum at the end.",
    "结果之和不为 1：最后要除以它们的和。",
)
def _(logprobs, free):
    return logprobs.softmax(dim=-1) / free.softmax(dim=-1).mean(dim=0)


@calibrated.misconception(
    "first content-free text only",
    "you use the first content-free text only: average over all of them, dim=0.",
    "只用了第一个无内容文本：应对全部取平均（dim=0）。",
)
def _(logprobs, free):
    weights = logprobs.softmax(dim=-1) / free[0].softmax(dim=-1)
    return weights / weights.sum()


@calibrated.misconception(
    "log-probabilities averaged",
    "you average the logarithms before the softmax: average the probabilities.",
    "你在 softmax 之前对对数取了平均：应对概率取平均。",
)
def _(logprobs, free):
    weights = logprobs.softmax(dim=-1) / free.mean(dim=0).softmax(dim=-1)
    return weights / weights.sum()


@calibrated.misconception(
    "logarithms divided",
    "you divide logarithms: turn both into probabilities first.",
    "你把对数相除了：先把两者都变成概率。",
)
def _(logprobs, free):
    weights = logprobs / free.mean(dim=0)
    return weights / weights.sum()
