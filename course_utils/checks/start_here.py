"""The one exercise of notebook 00, which shows how exercises work: the average of some numbers."""

from collections.abc import Callable

from course_utils.checks import Exercise, Seen, Unusable, attempt


def _averages(function: Callable) -> list[Seen]:
    import torch

    seen = []
    for numbers in ([1, 2, 6], [4, -1, 0, 10], [2.5, 0.5], [7]):
        situation = f"numbers = {numbers}"
        result = attempt(situation, function, list(numbers))
        if not isinstance(result, int | float):
            raise Unusable(
                "not a number",
                f"return one number; this is a {type(result).__name__}.",
                f"应返回一个数；现在返回的是 {type(result).__name__}。",
            )
        seen.append(Seen(situation, torch.tensor(float(result), dtype=torch.float64)))
    return seen


average = Exercise("average", lambda numbers: sum(numbers) / len(numbers), _averages, lambda numbers: 0)


@average.misconception(
    "not divided",
    "this is the sum: divide it by how many numbers there are.",
    "这是总和：还要除以数的个数。",
)
def _(numbers):
    return sum(numbers)


@average.misconception(
    "rounded down",
    "the decimals are lost: // divides whole numbers, / divides exactly.",
    "小数部分丢了：// 是整除，/ 才是精确的除法。",
)
def _(numbers):
    return sum(numbers) // len(numbers)


@average.misconception(
    "one too few",
    "you divide by one too few: that belongs to the variance of a sample, not to the average.",
    "除数少了一个：那是样本方差的做法，平均数要除以全部个数。",
)
def _(numbers):
    return sum(numbers) / max(len(numbers) - 1, 1)


@average.misconception(
    "middle of the range",
    "this is halfway between the smallest and the largest: the numbers in between count as well.",
    "这是最小与最大的中点：中间的数也要算进去。",
)
def _(numbers):
    return (min(numbers) + max(numbers)) / 2


@average.misconception(
    "middle number",
    "this is the median, the number in the middle: the average adds all up and divides.",
    "这是中位数，即排在中间的数：平均数是全部相加再相除。",
)
def _(numbers):
    import statistics

    return statistics.median(numbers)
