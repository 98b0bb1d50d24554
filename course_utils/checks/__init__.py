"""Exercise checks that name the misconception instead of saying "wrong".

A check plays the student's function and the course's solution through the same situation and compares what
comes out. Where they differ, it looks for a known misconception that gives exactly the student's values.
"""

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from course_utils.messages import Text

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Misconception:
    """What a student with this misconception writes, and what to tell them."""

    name: str
    wrong: Callable
    text: Text


@dataclass(frozen=True)
class Seen:
    """One observation of a function at work.

    `situation` says what went in, so that a student can do it by hand; `memory` is what the function remembers,
    compared only to tell an attempt from the untouched stub; `shown` is how the value reads where it stands for text.
    """

    situation: str
    value: "Tensor"
    memory: str = ""
    shown: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on one attempt: `kind` is "right", "unfinished", "misconception", "different" or "unusable"."""

    kind: str
    name: str
    text: Text


class Unusable(Exception):
    """The student's function cannot be compared: it stops, or returns the wrong kind of thing."""

    def __init__(self, name: str, en: str, zh: str):
        self.name, self.text = name, Text(en, zh)
        super().__init__(en)


@dataclass(frozen=True)
class Exercise:
    """One exercise. Calling it with the student's function prints a verdict and gives back a function to go on with.

    Args:
        name: what the student calls it by.
        solution: the course's own function; its signature is the one the student must keep.
        play: runs a function through the situation of the exercise and returns what can be observed, in order.
            It calls `attempt` for each use of the function, so that mistakes are reported and not raised.
        unfinished: what the stub computes.
        misconceptions: those that give exactly the student's values are named.
    """

    name: str
    solution: Callable
    play: Callable[[Callable], list[Seen]]
    unfinished: Callable
    misconceptions: list[Misconception] = field(default_factory=list)

    def misconception(self, name: str, en: str, zh: str) -> Callable[[Callable], Callable]:
        """Decorator: registers a wrong answer, written as a student would write it, with what to tell them."""

        def register(wrong: Callable) -> Callable:
            self.misconceptions.append(Misconception(name, wrong, Text(en, zh)))
            return wrong

        return register

    def __call__(self, student: Callable) -> Callable:
        """Print the verdict. Returns `student` if it is right, else the course's solution."""
        verdict = self.diagnose(student)
        mark = {"right": "✔", "unfinished": "✎"}.get(verdict.kind, "✘")
        print(f"{mark} {self.name}: {verdict.text.en}\n{mark} {self.name}：{verdict.text.zh}")
        return student if verdict.kind == "right" else self.solution

    def diagnose(self, student: Callable) -> Diagnosis:
        """Compare `student` with the solution and name what is wrong, if anything."""
        try:
            self._check_signature(student)
            found = self.play(student)
        except Unusable as problem:
            return Diagnosis("unusable", problem.name, problem.text)
        right = self.play(self.solution)
        if same(found, right):
            return Diagnosis("right", "right", Text("right.", "正确。"))
        stub = self.play(self.unfinished)
        if same(found, stub) and [seen.memory for seen in found] == [seen.memory for seen in stub]:
            text = Text(
                "not written yet. Until it is, the notebook goes on with the course's own version.",
                "还没有写。在写好之前，笔记本先用课程自带的版本继续。",
            )
            return Diagnosis("unfinished", "unfinished", text)
        # More than one can fit, where several slips end in the same nan.
        if fitting := [slip for slip in self.misconceptions if same(found, self.play(slip.wrong))]:
            text = Text(" Or: ".join(slip.text.en for slip in fitting), "或者：".join(slip.text.zh for slip in fitting))
            return Diagnosis("misconception", " or ".join(slip.name for slip in fitting), text)
        number = next(i for i in range(len(right)) if not same(found[i : i + 1], right[i : i + 1]))
        situation, wanted, got = right[number].situation, _short(right[number]), _short(found[number])
        text = Text(
            f"with {situation} the result should be {wanted}; yours is {got}. Do this one by hand.",
            f"当 {situation} 时，结果应为 {wanted}，你得到 {got}。请手算这一步对照。",
        )
        return Diagnosis("different", "different", text)

    def _check_signature(self, student: Callable) -> None:
        if not callable(student):
            raise Unusable(
                "not a function",
                f"pass the function itself, check.{self.name}(my_function), not its result.",
                f"请传入函数本身：check.{self.name}(my_function)，而不是它的返回值。",
            )
        wanted = list(inspect.signature(self.solution).parameters.values())
        try:
            given = list(inspect.signature(student).parameters.values())
        except ValueError:  # some built-in functions have no signature
            given = []
        if given != wanted:
            keep, yours = ", ".join(map(str, wanted)), ", ".join(map(str, given))
            raise Unusable(
                "other arguments",
                f"keep the arguments of the stub, ({keep}); yours are ({yours}).",
                f"请保留原来的参数 ({keep})；你写的是 ({yours})。",
            )


# What the error of a library means here, by a part of its message.
CURES = {
    "bitwise_xor": Text("In Python a power is written **, not ^.", "Python 的乘方写作 **，不是 ^。"),
    "converted to Python scalars": Text(
        "math functions take single numbers; for a vector write r**0.5.", "math 中的函数只接受单个数；向量请写 r**0.5。"
    ),
    "'float' object is not subscriptable": Text(
        "What is remembered starts as the number 0.0: compute with it, without [ ].",
        "记住的量一开始是数 0.0：直接用它计算，不要加 [ ]。",
    ),
}


def attempt(situation: str, function: Callable, *arguments: object) -> object:
    """Call the student's function; turn an exception inside it into one line with its place.

    Raises:
        Unusable: the function raised, or returned None.
    """
    try:
        result = function(*arguments)
    except Unusable:
        raise
    except Exception as error:
        line = _line_of(function, error)
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        cure = next((text for part, text in CURES.items() if part in str(error)), Text("", ""))
        raise Unusable(
            "exception",
            f"your function stops in line {line} of its cell with {what} (for {situation}). {cure.en}".rstrip(),
            f"函数在单元格第 {line} 行中断：{what}（此时 {situation}）。{cure.zh}",
        ) from None
    if result is None:
        raise Unusable(
            "returns None",
            "your function returns nothing: end it with a `return` line.",
            "函数没有返回值：请在最后写上 `return`。",
        )
    return result


def same(found: list[Seen], right: list[Seen]) -> bool:
    """Whether two lists of observations have the same shapes and values, to a relative 1e-6; nan equals nan."""
    import torch

    return len(found) == len(right) and all(
        a.value.shape == b.value.shape and torch.allclose(a.value, b.value, rtol=1e-6, atol=1e-9, equal_nan=True)
        for a, b in zip(found, right, strict=True)
    )


def _line_of(function: Callable, error: Exception) -> int:
    """The last line of the student's own code on the way to the error; in a notebook it counts from the cell's top."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == function.__code__.co_filename]
    return (own or frames)[-1].lineno


def _short(seen: Seen) -> str:
    if seen.shown:
        return seen.shown
    numbers = [f"{number:.4g}" for number in seen.value.flatten().tolist()]
    return numbers[0] if seen.value.ndim == 0 else f"[{', '.join(numbers)}]"
