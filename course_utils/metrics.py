"""How good answers are: BLEU and ROUGE by ChatGLM's published protocol, the share that is right and its uncertainty."""

import logging
import warnings
from collections.abc import Sequence

from course_utils.messages import CourseError

ADGEN_SCORES = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")


def adgen_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The scores that ChatGLM-6B's P-Tuning code reports for AdvertiseGen, in percent, averaged over the texts.

    ROUGE-1, -2 and -L are F-scores over jieba's words, counted by rouge-chinese. BLEU-4 is counted over single
    characters, for each text alone, with NLTK's smoothing method 3 where a length of n-gram has no match.
    """
    pairs = _pairs(predictions, references)
    every = [_adgen_scores_of_one(prediction, reference) for prediction, reference in pairs]
    return {name: sum(scores[name] for scores in every) / len(every) for name in ADGEN_SCORES}


def _adgen_scores_of_one(prediction: str, reference: str) -> dict[str, float]:
    with warnings.catch_warnings():
        # How two of them write regular expressions displeases newer Pythons when they are compiled.
        warnings.simplefilter("ignore", SyntaxWarning)
        import jieba
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
        from rouge_chinese import Rouge

    jieba.setLogLevel(logging.WARNING)
    if not prediction.strip() or not reference.strip():
        return dict.fromkeys(ADGEN_SCORES, 0.0)  # the libraries refuse a text without words
    rouge = Rouge().get_scores(" ".join(jieba.cut(prediction)), " ".join(jieba.cut(reference)))[0]
    bleu = sentence_bleu([list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3)
    return {name: 100 * score["f"] for name, score in rouge.items()} | {"bleu-4": 100 * bleu}


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """The share of predictions that equal their reference; white space at either end does not count."""
    pairs = _pairs(predictions, references)
    return sum(prediction.strip() == reference.strip() for prediction, reference in pairs) / len(pairs)


def wilson_interval(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Where the true share lies, with this confidence, when `right` of `total` were right (Wilson 1927)."""
    if not 0 <= right <= total or total == 0:
        raise CourseError(
            f"{right} right out of {total}: give 0 ≤ right ≤ total and at least one answer.",
            f"{total} 个中有 {right} 个正确：应满足 0 ≤ right ≤ total，且至少有一个回答。",
        )
    from scipy.stats import binomtest

    low, high = binomtest(right, total).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def _pairs(predictions: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    if len(predictions) != len(references) or not len(predictions):
        raise CourseError(
            f"{len(predictions)} predictions and {len(references)} references: give one reference for each, at least "
            "one.",
            f"预测有 {len(predictions)} 个，参考答案有 {len(references)} 个：两者应一一对应，且至少各有一个。",
        )
    return list(zip(predictions, references, strict=True))
