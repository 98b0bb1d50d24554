"""text2vec-tiny: a sentence-transformers model of Chinese and English words for retrieval on a CPU."""

import json
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import nn

from course_utils import runtime
from course_utils.handbook_data import Passage, Question, holds, load_handbook, load_questions, split_passages
from course_utils.messages import CourseError

DIM = 192
STEPS = 3000
BATCH = 256
LEARNING_RATE = 0.01
TEMPERATURE = 0.05
HANZI = "\u4e00-\u9fff"


@cache
def groups() -> list[list[str]]:
    """The synonym lexicon: words that mean about the same, or that questions have for what answers say."""
    found = []
    # Lines that begin with # are headings.
    for line in (Path(__file__).with_name("text2vec_words.txt")).read_text(encoding="utf-8").split("\n"):
        if line and not line.startswith("#"):
            chinese, _, english = line.partition(" | ") if re.search(f"[{HANZI}]", line) else ("", "", line)
            found.append(list(dict.fromkeys(chinese.lower().split() + english.lower().split(", ")) - {"": 0}.keys()))
    return found


@cache
def by_word() -> dict[str, list[int]]:
    table = {}
    for number, group in enumerate(groups()):
        for word in group:
            table.setdefault(word, []).append(number)
    return table


# Text to learn from


def handbook_passages() -> list[Passage]:
    """Every passage of the handbook."""
    return [passage for document in load_handbook() for passage in split_passages(document)]


@cache
def other_sentences() -> list[str]:
    """Sentences of the course's other texts, so that the words are not those of the handbook alone."""
    texts = [(runtime.DATA / "corpus" / name).read_text(encoding="utf-8") for name in ("zh.txt", "en.txt")]
    for line in (runtime.DATA / "finance_texts.jsonl").read_text(encoding="utf-8").splitlines():
        texts.append(json.loads(line)["text"])
    for line in (runtime.DATA / "adgen_mini" / "train.json").read_text(encoding="utf-8").splitlines():
        texts.append(json.loads(line)["summary"])
    for item in json.loads((runtime.DATA / "magic_conch.json").read_text(encoding="utf-8")):
        texts.append(item["instruction"] + item["output"])
    pieces = [piece.strip() for text in texts for piece in re.findall(r".+?(?:[。！？；]|[.!?](?=\s)|$)", text)]
    return sorted({piece for piece in pieces if 8 <= len(piece) <= 150})


# Words to count


def vocabulary(passages: list[str], others: list[str]) -> dict[str, int]:
    """Every piece that a text may be cut into, with how often the texts have it."""
    passages, others = ([line.lower() for line in lines] for lines in (passages, others))
    lexicon = [" ".join(group) for group in groups()]
    letters = Counter(letter for line in passages + others + lexicon for letter in re.findall(f"[{HANZI}a-z0-9]", line))
    # The 3,755 most frequent characters are the first part of GB 2312.
    common = bytes(byte for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF) for byte in (high, low))
    pieces = Counter(common.decode("gb2312", "ignore")) + letters
    pieces.update(word for word in by_word() if re.fullmatch(f"[{HANZI}]{{2,6}}", word))
    # Chinese words that the lexicon lacks: letters that stay together while their neighbours change.
    runs = [run for line in passages for run in re.findall(f"[{HANZI}]+", line)]
    total = sum(map(len, runs))
    grams, before, after = Counter(), {}, {}
    for run in runs:
        for size in (2, 3, 4):
            for start in range(len(run) - size + 1):
                gram = run[start : start + size]
                grams[gram] += 1
                before.setdefault(gram, set()).add(run[start - 1 : start] or start)
                after.setdefault(gram, set()).add(run[start + size : start + size + 1] or start)
    for gram, count in grams.items():
        chance = math.prod(letters[letter] / total for letter in gram) * total
        if gram in pieces or (
            count >= 3 and len(before[gram]) > 1 and len(after[gram]) > 1 and count > chance * 20 ** (len(gram) - 1)
        ):
            pieces[gram] += count
    words = Counter(word for line in passages + others + lexicon for word in re.findall("[a-z]{2,}", line))
    known = {word for line in passages + lexicon for word in re.findall("[a-z]{2,}", line)}
    words = {word: count for word, count in words.items() if word in known or count > 2}
    # So that moving and moved share a piece with move.
    pieces.update(Counter({word[:-1]: 1 for word in words if word.endswith("e") and len(word) > 4}))
    pieces.update(words)
    pieces.update(["s", "es", "ed", "ing", "er", "ly", *(f"{number:02}" for number in range(100))])
    pieces.update(code for line in passages for code in re.findall(r"[a-z]*[0-9]+[a-z]*", line) if len(code) > 1)
    return dict(pieces)


def make_tokenizer(pieces: dict[str, int]) -> Tokenizer:
    """Cuts a text into as few pieces as can be, the more frequent ones where there is a choice."""
    most = max(pieces.values())
    scored = [(piece, -10 + math.log((1 + pieces[piece]) / (1 + most)) / 10) for piece in sorted(pieces)]
    tokenizer = Tokenizer(models.Unigram([("<unk>", -100.0), *scored], unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"[{HANZI}]+|[a-z]+(?![a-z0-9])|[a-z0-9]+|%|℃"), "removed", invert=True)
    return tokenizer


# Questions to learn from

ASKED = {
    r"元|块|欧元|euro": "多少钱 什么价 几块钱 花多少 要付多少 价格 费用 how-much what-price cost",
    r"\d 天|半天|days?\b": "几天 多久 多少天 多长时间 几日 how-many-days how-long",
    r"分钟|minutes": "几分钟 多久 多长时间 how-many-minutes how-long",
    r"小时|hours": "几个小时 几小时 多久 多长时间 how-many-hours how-long",
    r"秒|seconds": "几秒 多久 多快",
    r"\d 周|weeks": "几周 几个星期 多久 多长时间 how-long",
    r"个月|months": "几个月 多久 多长时间 how-many-months how-long",
    r"\d 年|years": "几年 多久 哪一年 什么时候 when",
    r"\d 月|周[一二三四五六日]|星期": "什么时候 哪天 几月 哪一天 几号 星期几",
    r"\d:\d\d": "几点 什么时候 什么时间 when what-time",
    r"公斤|克|kg": "多重 几公斤 几斤 how-heavy",
    r"升": "多大 装多少 容量",
    r"厘米|毫米|米": "多高 多长 多深 多宽 多大",
    r"平方米": "多大 面积 多大面积",
    r"公里": "多快 多远 几公里",
    r"分贝|dB": "多吵 多大声 几分贝 how-loud",
    r"\d 人|\d 名|people|位": "几个人 多少人 几位 how-many-people",
    r"\d 次|times": "几次 几回 多少次 how-many-times",
    r"每|every": "多久一次 隔多久 how-often",
    r"%|成": "百分之几 几成 多大比例",
    r"\d 折|discount": "打几折 便宜多少 优惠多少",
    r"\d 倍": "几倍",
    r"\d 台": "几台 多少台",
    r"\d 楼|\d 层|floor": "几楼 哪层 在哪 which-floor",
    r"分机|extension|电话|Phone|拨": "哪个号 打哪个电话 分机是多少 拨几号 找谁 which-number extension",
    r"负责|专员|主管|经理|总监|主任|looks after|leads": "谁 找谁 哪位 谁负责 who",
    r"在|位于|address|Lane|路": "在哪 哪里 什么地方 哪儿 where",
    r"E\d\d|[A-Z]{2}-\d{4}|代码": "什么代码 编号 什么意思 怎么办 code",
    r"色|绿|红|蓝|橙|白|黄": "什么颜色 哪种颜色 which-colour",
    r"因为|because|as ": "为什么 why",
    r"可以|不能|不得|不要|禁止|must|may": "可以吗 能不能 行不行 能 不能 may can",
    r"Shiya|“|\"": "叫什么 什么名字 name",
}
FILLERS = (
    "请问 我 想 我想 要 得 该 能 会 的话 一下 公司 我们 咱们 拾芽 多少 什么 哪个 哪 几 吗 呢 的 了 是 在 有 给 把 被 这 那 这里 每 最 还 才 就 "
    "可以 需要 时候 里 上 对 到 从 自己 一个 人 东西 事 里面 有没有 要是 如果 万一 以后 后 去 来 拿 算 能得 大家"
).split()
FILLERS_EN = "what which how is are the a an of to in on for do does can must may i my we our you it at by from".split()
STOP = set("的了是在有和与及或把被给就也都还不没很再又并而其这那个一二三四五六七八九十上下里中为以可能会要得须等到由从对按及项目数值说明")


@cache
def asked(text: str) -> list[str]:
    return [words for pattern, words in ASKED.items() if re.search(pattern, text)]


def _mate(word: str, rng: random.Random, english: bool | None = None) -> str:
    """Another word of one of the word's groups."""
    group = groups()[rng.choice(by_word()[word])]
    mates = [mate for mate in group if mate != word]
    if english is not None:
        same = [mate for mate in mates if bool(re.search("[a-z]", mate)) == english]
        mates = same or mates
    return rng.choice(mates) if mates else word


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


def question_about(text: str, tokenizer: Tokenizer, rng: random.Random) -> str:
    """Some of the text's words, many of them replaced by others of their group, among the words of a question."""
    place, _, body = text.rpartition("：")
    english = not re.search(f"[{HANZI}]", text)

    def some(part: str, least: int, most: int) -> list[str]:
        words = [w for w in _words(tokenizer, part) if w not in STOP and (not w.isdecimal() or rng.random() < 0.15)]
        keep = sorted(rng.sample(range(len(words)), min(len(words), rng.randint(least, most))))
        return [words[index] for index in keep]

    chosen = some(place, 0, 3) + some(body, 2, 5)
    swap = rng.random()
    other = english if rng.random() < 0.9 else not english
    words = [
        _mate(word, rng, other) if word in by_word() and (rng.random() < swap) else word for word in chosen
    ]
    ways_to_ask = asked(body)
    if ways_to_ask and rng.random() < 0.75:
        ways = [way.replace("-", " ") for way in rng.choice(ways_to_ask).split() if bool(re.search("[a-z]", way)) == other]
        if ways:
            words.insert(rng.randint(0, len(words)), rng.choice(ways))
    for _ in range(rng.randint(0, 5)):
        words.insert(rng.randint(0, len(words)), rng.choice(FILLERS_EN if other else FILLERS))
    return (" " if other else "").join(words)


def word_pair(rng: random.Random) -> tuple[str, str]:
    """Two ways of saying the same one to three things."""
    chosen = [rng.choice(groups()) for _ in range(rng.randint(1, 3))]
    pairs = [rng.sample(group, 2) for group in chosen if len(group) > 1]
    return " ".join(first for first, _ in pairs), " ".join(second for _, second in pairs)


def reworded(question: str, tokenizer: Tokenizer, rng: random.Random) -> str:
    """A question of train with some words left out or replaced."""
    english = not re.search(f"[{HANZI}]", question)
    words = []
    for word in _words(tokenizer, question):
        chance = rng.random()
        if chance < 0.15:
            continue
        words.append(_mate(word, rng, english) if chance < 0.35 and word in by_word() else word)
    return (" " if english else "").join(words)


# The network: a vector for each piece, made of its own and those of the smaller pieces in it


def parts(pieces: list[str]) -> torch.Tensor:
    """The matrix that adds to each piece's own vector the mean of the vectors of the pieces that it is made of."""
    index = {piece: number for number, piece in enumerate(pieces)}
    rows, columns, values = [], [], []
    for number, piece in enumerate(pieces):
        if re.fullmatch(f"[{HANZI}]{{2,}}", piece):
            inner = [piece[a:b] for a in range(len(piece)) for b in range(a + 1, len(piece) + 1) if b - a < len(piece)]
        elif re.fullmatch("[a-z]{4,}", piece):
            inner = [piece[:end] for end in range(3, len(piece))]
        else:
            inner = []
        inner = [index[part] for part in inner if part in index]
        rows += [number] + [number] * len(inner)
        columns += [number, *inner]
        values += [1.0] + [1 / max(1, len(inner))] * len(inner)
    return torch.sparse_coo_tensor(torch.tensor([rows, columns]), torch.tensor(values), (len(pieces),) * 2).coalesce()


def _bag(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = [encoding.ids or [0] for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    offsets = torch.tensor([0, *(len(one) for one in ids[:-1])]).cumsum(0)
    return torch.tensor([i for one in ids for i in one]), offsets


def encode(weights: torch.Tensor, bag) -> torch.Tensor:
    return nn.functional.normalize(nn.functional.embedding_bag(bag[0], weights, bag[1], mode="mean"), dim=-1)
