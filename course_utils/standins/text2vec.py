"""text2vec-tiny: a sentence-transformers model of Chinese and English words for retrieval on a CPU.

A text is cut into words, each word has a vector, and the text's vector is their mean. What the vectors know comes from
a lexicon of words that mean about the same (text2vec_words.txt), from questions written to passages of the handbook
(text2vec_questions.txt: page, words of the passage, question), from the texts of the course and from the questions of
the handbook's train split.
"""

import math
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import runtime
from course_utils.datasets import load_alpaca, load_labelled, load_pairs
from course_utils.files import writing
from course_utils.handbook_data import Evidence, Passage, Question, holds, load_handbook, load_questions, split_passages
from course_utils.messages import CourseError
from course_utils.standins.training import GO_ON, load_checkpoint, save_checkpoint

NAME = "text2vec-tiny"
DIM = 128
STEPS = 600
BATCH = 256
LEARNING_RATE = 0.01
TEMPERATURE = 0.05
SEED = 20241122
HANZI = "\u4e00-\u9fff"

# ---------------------------------------------------------------------------------------------- texts to learn from


@cache
def groups() -> list[list[str]]:
    """The lexicon: words that mean about the same, or that questions have for what their answers say."""
    found = []
    for line in Path(__file__).with_name("text2vec_words.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):  # a heading
            chinese, _, english = line.partition(" | ") if re.search(f"[{HANZI}]", line) else ("", "", line)
            words = dict.fromkeys([*chinese.lower().split(), *english.lower().split(", ")])
            words.pop("", None)
            found.append(list(words))
    return found


@cache
def groups_of() -> dict[str, list[list[str]]]:
    """For each word of the lexicon, the groups that have it."""
    table: dict[str, list[list[str]]] = {}
    for group in groups():
        for word in group:
            table.setdefault(word, []).append(group)
    return table


def handbook_passages() -> list[Passage]:
    """Every passage of the handbook: the collection that is searched."""
    return [passage for document in load_handbook() for passage in split_passages(document)]


def other_sentences() -> list[str]:
    """Sentences of the course's other texts, so that the words are not those of the handbook alone."""
    data = runtime.DATA
    texts = [(data / "corpus" / name).read_text(encoding="utf-8") for name in ("zh.txt", "en.txt")]
    texts += [item.text for item in load_labelled(data / "finance_texts.jsonl") if item.split == "train"]
    texts += [pair.response for pair in load_pairs(data / "adgen_mini" / "train.json")]
    texts += [item.instruction + item.output for item in load_alpaca(data / "magic_conch.json")]
    pieces = {piece.strip() for text in texts for piece in re.findall(r".+?(?:[。！？；]|[.!?](?=\s)|$)", text)}
    return sorted(piece for piece in pieces if 8 <= len(piece) <= 150)


# ------------------------------------------------------------------------------------------------------- tokenizer


def vocabulary(passages: list[str], others: list[str]) -> dict[str, int]:
    """Every piece that a text may be cut into, with how often the texts have it."""
    passages, others = ([line.lower() for line in lines] for lines in (passages, others))
    lexicon = [" ".join(group) for group in groups()]
    letters = Counter(letter for line in passages + others + lexicon for letter in re.findall(f"[{HANZI}a-z0-9]", line))
    # The 3,755 most frequent characters are the first part of GB 2312.
    common = bytes(byte for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF) for byte in (high, low))
    pieces = Counter(common.decode("gb2312", "ignore")) + letters
    pieces.update(word for word in groups_of() if re.fullmatch(f"[{HANZI}]{{2,6}}", word))
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
    """Cuts a text into as few pieces as can be, the more frequent ones where there is a choice; drops all marks."""
    most = max(pieces.values())
    scored = [(piece, -10 + math.log((1 + pieces[piece]) / (1 + most)) / 10) for piece in sorted(pieces)]
    tokenizer = Tokenizer(models.Unigram([("<unk>", -100.0), *scored], unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words = Regex(f"[{HANZI}]+|[a-z]+(?![a-z0-9])|[a-z0-9]+|%|°c")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "removed", invert=True)
    return tokenizer


# ------------------------------------------------------------------------------------------ questions to learn from

# What a passage holds, and how one asks for it; in an English way of asking a hyphen stands for a space.
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
    "请问 我 想 我想 要 得 该 能 会 的话 一下 公司 我们 咱们 拾芽 多少 什么 哪个 哪 几 吗 呢 的 了 是 在 有 给 把 被 "
    "这 那 这里 每 最 还 才 就 可以 需要 时候 里 上 对 到 从 自己 一个 人 东西 事 里面 有没有 要是 如果 万一 以后 后 "
    "去 来 拿 算 能得 大家"
).split()
FILLERS_EN = "what which how is are the a an of to in on for do does can must may i my we our you it at by from".split()
# Words that a generated question does not ask by: they say little.
LITTLE = set(
    "的了是在有和与及或把被给就也都还不没很再又并而其这那个一二三四五六七八九十上下里中为以可能会要得须等到由从对按及"
)
LITTLE |= {"项目", "数值", "说明"}


@dataclass(frozen=True)
class Source:
    """A text as questions are made of it: the words of its title and heading, its own, and the ways to ask for it."""

    place: list[str]
    body: list[str]
    asked: list[list[str]]
    english: bool


def read(text: str, tokenizer: Tokenizer) -> Source:
    """Cut a passage or a sentence into words."""
    place, _, body = text.rpartition("：")
    words = [[word for word in tokenizer.encode(part).tokens if word not in LITTLE] for part in (place, body)]
    english = not re.search(f"[{HANZI}]", text)
    asked = [ways.split() for pattern, ways in ASKED.items() if re.search(pattern, body)]
    return Source(*words, asked, english)


def other_word(word: str, rng: random.Random, english: bool) -> str:
    """Another word of one of the word's groups, in the language if there is one."""
    mates = [mate for mate in rng.choice(groups_of()[word]) if mate != word]
    mates = [mate for mate in mates if _is_english(mate) == english] or mates
    return rng.choice(mates) if mates else word


@cache
def _is_english(word: str) -> bool:
    return re.search("[a-z]", word) is not None


def ask(source: Source, rng: random.Random) -> str:
    """A question about a text: some of its words, many replaced by others of their group, among those of a question."""
    words = []
    for part, least, most in ((source.place, 0, 3), (source.body, 2, 5)):
        # Numbers are what a question asks for, so it seldom has them.
        usable = [word for word in part if not word.isdecimal() or rng.random() < 0.15]
        chosen = sorted(rng.sample(range(len(usable)), min(len(usable), rng.randint(least, most))))
        words += [usable[index] for index in chosen]
    # One question in ten is put in the other language.
    english = source.english if rng.random() < 0.9 else not source.english
    share = rng.random()
    words = [other_word(w, rng, english) if rng.random() < share and w in groups_of() else w for w in words]
    if source.asked and rng.random() < 0.75:
        ways = [way for way in rng.choice(source.asked) if _is_english(way) == english]
        if ways:
            words.insert(rng.randint(0, len(words)), rng.choice(ways).replace("-", " "))
    for _ in range(rng.randint(0, 5)):
        words.insert(rng.randint(0, len(words)), rng.choice(FILLERS_EN if english else FILLERS))
    return (" " if english else "").join(words)


def word_pair(rng: random.Random) -> tuple[str, str]:
    """Two ways of saying the same one to three things."""
    pairs = [rng.sample(group, 2) for group in rng.sample(groups(), rng.randint(1, 3)) if len(group) > 1]
    return " ".join(first for first, _ in pairs), " ".join(second for _, second in pairs)


def reword(words: list[str], rng: random.Random) -> str:
    """A question of train with some words left out or replaced."""
    english = all(word.isascii() for word in words)
    kept = []
    for word in words:
        chance = rng.random()
        if chance >= 0.15:
            kept.append(other_word(word, rng, english) if chance < 0.35 and word in groups_of() else word)
    return (" " if english else "").join(kept)


def relevant(questions: list[Question], passages: list[Passage]) -> list[list[list[int]]]:
    """For each question and each piece of its evidence, the passages that hold it."""
    documents = {document.file: document for document in load_handbook()}
    numbered: dict[str, list[tuple[int, Passage]]] = {}
    for number, passage in enumerate(passages):
        numbered.setdefault(passage.file, []).append((number, passage))
    return [
        [
            [i for i, one in numbered[evidence.file] if holds(one, evidence, documents[evidence.file], question.answer)]
            for evidence in question.evidence
        ]
        for question in questions
    ]


def written_questions() -> list[Question]:
    """The questions of text2vec_questions.txt, written to passages of the handbook without knowledge of the others."""
    documents = {document.file: document for document in load_handbook()}
    found = []
    for line in Path(__file__).with_name("text2vec_questions.txt").read_text(encoding="utf-8").splitlines():
        file, _, rest = line.partition("|")
        words, _, question = rest.rpartition("|")
        if words not in documents[file].text:
            raise ValueError(f"{file} does not say {words!r}")
        found.append(Question(line, question, words, (Evidence(file, words),), "paraphrase", "train"))
    return found


@dataclass(frozen=True)
class Batch:
    """Questions, the texts of other sentences or words that are searched besides the handbook, and what is right."""

    questions: list[str]
    texts: list[str]
    right: list[list[int]]


class Lessons:
    """The batches of training. Each depends on its number alone, so a run that goes on sees what it would have seen."""

    def __init__(self, tokenizer: Tokenizer, passages: list[str], others: list[str]):
        self.tokenizer, self.texts, self.others = tokenizer, passages, others
        self.passages = [read(text, tokenizer) for text in passages]
        self.sentences = [read(text, tokenizer) for text in others]
        questions = [question for question in load_questions() if question.split == "train" and question.evidence]
        questions += written_questions()
        self.questions = [
            (tokenizer.encode(question.question).tokens, sorted(set(chain(*right))))
            for question, right in zip(questions, relevant(questions, handbook_passages()), strict=True)
        ]

    def batch(self, step: int) -> Batch:
        """Of the questions 45 % are generated from the handbook, 30 % were written: those of train and our own."""
        rng = random.Random(f"{SEED}:{step}")
        batch = Batch([], [], [])
        for _ in range(BATCH):
            chance = rng.random()
            if chance < 0.45:
                index = rng.randrange(len(self.passages))
                question, right = ask(self.passages[index], rng), [index]
            elif chance < 0.75:
                words, right = rng.choice(self.questions)
                question = reword(words, rng)
            else:
                if chance < 0.88:
                    index = rng.randrange(len(self.sentences))
                    question, text = ask(self.sentences[index], rng), self.others[index]
                else:
                    question, text = word_pair(rng)
                right = [len(self.passages) + len(batch.texts)]
                batch.texts.append(text)
            batch.questions.append(question)
            batch.right.append(right)
        return batch


# ------------------------------------------------------------------------------------------------------- training


def composition(pieces: list[str]) -> Tensor:
    """The matrix that makes the pieces' vectors of what is learned: a word's own plus the mean of the words in it.

    So a word that is seldom seen resembles the characters and the shorter words that it is made of.
    """
    index = {piece: number for number, piece in enumerate(pieces)}
    rows, columns, values = [], [], []
    for number, piece in enumerate(pieces):
        inner = []
        if re.fullmatch(f"[{HANZI}]{{2,}}", piece):
            inner = [piece[a:b] for a in range(len(piece)) for b in range(a + 1, len(piece) + 1) if piece[a:b] != piece]
        elif re.fullmatch("[a-z]{4,}", piece):
            inner = [piece[:end] for end in range(3, len(piece))]
        inner = [index[part] for part in inner if part in index]
        rows += [number] * (1 + len(inner))
        columns += [number, *inner]
        values += [1.0, *(1 / len(inner) for _ in inner)]
    return torch.sparse_coo_tensor(
        torch.tensor([rows, columns]), torch.tensor(values), (len(pieces),) * 2, check_invariants=False
    ).coalesce()


def _bag(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Tensor, Tensor]:
    ids = [encoding.ids or [0] for encoding in tokenizer.encode_batch_fast(list(texts))]
    return torch.tensor(list(chain(*ids))), torch.tensor([0, *map(len, ids[:-1])]).cumsum(0)


def _encode(vectors: Tensor, bag: tuple[Tensor, Tensor]) -> Tensor:
    return F.normalize(F.embedding_bag(bag[0], vectors, bag[1], mode="mean"), dim=-1)


def loss_of(scores: Tensor, right: list[list[int]]) -> Tensor:
    """Mean −log p of the right texts together, p from the scores of every text."""
    rows = torch.tensor([row for row, columns in enumerate(right) for _ in columns])
    wanted = torch.full_like(scores, -torch.inf)
    wanted[rows, torch.tensor(list(chain(*right)))] = 0.0
    return (scores.logsumexp(1) - (scores + wanted).logsumexp(1)).mean()


def train(folder: Path, *, resume: bool = True, steps: int = STEPS, checkpoint_every: int = 100) -> None:
    """Train and write the model into the folder; with a checkpoint from before, go on where it stands."""
    torch.set_num_threads(1)  # sums in the same order everywhere, and no slower at this size
    torch.manual_seed(SEED)
    passages, others = [passage.text for passage in handbook_passages()], other_sentences()
    tokenizer = make_tokenizer(vocabulary(passages, others))
    lessons = Lessons(tokenizer, passages, others)
    pieces = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    compose = composition(pieces)
    searched = _bag(tokenizer, passages)
    own = nn.Parameter(torch.randn(len(pieces), DIM) * 0.1)
    optimiser = torch.optim.Adam([own], fused=True)
    checkpoint, step, spent = folder / ".checkpoint.safetensors", 0, 0.0
    if resume and checkpoint.exists():
        tensors, notes = load_checkpoint(checkpoint)
        if notes["steps"] != steps or tensors["own"].shape != own.shape:
            raise CourseError(
                f"{checkpoint} belongs to another training; delete it to begin anew.",
                f"{checkpoint} 属于另一次训练；要重新开始，请先删除它。",
            )
        own.data = tensors.pop("own")
        optimiser.load_state_dict(optimiser.state_dict() | {"state": {0: tensors}})
        step, spent = notes["step"], notes["spent"]
        print(f"Going on from step {step} of {steps}.")
    started = time.perf_counter() - spent
    while step < steps:
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * (1 - step / steps)
        batch = lessons.batch(step)
        vectors = torch.sparse.mm(compose, own)
        texts = torch.cat([_encode(vectors, searched), _encode(vectors, _bag(tokenizer, batch.texts))])
        scores = _encode(vectors, _bag(tokenizer, batch.questions)) @ texts.T
        loss = loss_of(scores / TEMPERATURE, batch.right)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        spent = time.perf_counter() - started
        if step % 20 == 0:
            left = spent / step * (steps - step)
            print(f"step {step}/{steps}  loss {loss:.3f}  {spent / 60:.1f} min, {left / 60:.1f} min left", flush=True)
        if step % checkpoint_every == 0 and step < steps:
            tensors = {"own": own.detach(), **optimiser.state[own]}
            save_checkpoint(checkpoint, tensors, {"step": step, "steps": steps, "spent": spent})
    write(torch.sparse.mm(compose, own.detach()), tokenizer, folder)
    checkpoint.unlink(missing_ok=True)


def write(vectors: Tensor, tokenizer: Tokenizer, folder: Path) -> None:
    """The files of a sentence-transformers model; of the README.md nothing is touched."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu")
    with writing(folder, GO_ON):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            model.save_pretrained(part, create_model_card=False)
            for file in sorted(file for file in Path(part).rglob("*") if file.is_file()):
                target = folder / file.relative_to(part)
                target.parent.mkdir(exist_ok=True)
                os.replace(file, target)


# ------------------------------------------------------------------------------------------------------ evaluation


@dataclass(frozen=True)
class Recall:
    """How much of the evidence is among the first five passages: the mean over the questions, with its interval."""

    right: float
    total: int

    @property
    def share(self) -> float:
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, of 95 %."""
        z = 1.96
        middle = (self.share + z * z / (2 * self.total)) / (1 + z * z / self.total)
        half = z * math.sqrt(self.share * (1 - self.share) / self.total + (z / (2 * self.total)) ** 2)
        half /= 1 + z * z / self.total
        return middle - half, middle + half

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.share:.1%} ({low:.0%}–{high:.0%})"


def bm25(texts: list[str], questions: list[str]) -> Tensor:
    """Scores of keyword search by characters, pairs of characters and English words."""

    def terms(text: str) -> Counter[str]:
        runs = re.findall(f"[a-z0-9]+|[{HANZI}]+", text.lower())
        chinese = [run for run in runs if run[0] > "z"]
        pairs = [run[i : i + 2] for run in chinese for i in range(len(run) - 1)]
        return Counter([*(run for run in runs if run[0] <= "z"), *"".join(chinese), *pairs])

    counted = [terms(text) for text in texts]
    having = Counter(term for one in counted for term in one)
    mean = sum(one.total() for one in counted) / len(counted)
    scores = torch.zeros(len(questions), len(texts))
    for row, question in enumerate(questions):
        weights = {t: math.log(1 + (len(texts) - having[t] + 0.5) / (having[t] + 0.5)) for t in terms(question)}
        for column, one in enumerate(counted):
            norm = 1.5 * (0.25 + 0.75 * one.total() / mean)
            scores[row, column] = sum(w * one[t] * 2.5 / (one[t] + norm) for t, w in weights.items() if t in one)
    return scores


def recalls(scores: Tensor, questions: list[Question], right: list[list[list[int]]]) -> dict[str, Recall]:
    """Recall@5 of all the questions and of every kind."""
    found: dict[str, list[float]] = {"all": []}
    for row, question, sets in zip(scores, questions, right, strict=True):
        best = set(row.topk(5).indices.tolist())
        hits = [not best.isdisjoint(one) for one in sets]
        # Two passages are both needed; otherwise each is enough.
        share = sum(hits) / len(hits) if question.kind == "two_passages" else float(any(hits))
        found["all"].append(share)
        found.setdefault(question.kind, []).append(share)
    return {kind: Recall(sum(shares), len(shares)) for kind, shares in found.items()}


def evaluate(folder: Path, split: str = "dev") -> dict[str, dict[str, Recall]]:
    """Recall@5 on the answerable questions of a split, of the model and of keyword search, by kind of question."""
    from sentence_transformers import SentenceTransformer

    passages = handbook_passages()
    questions = [question for question in load_questions() if question.split == split and question.evidence]
    texts, asked = [passage.text for passage in passages], [question.question for question in questions]
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    vectors = model.encode([*texts, *asked], normalize_embeddings=True, convert_to_tensor=True)
    right = relevant(questions, passages)
    return {
        NAME: recalls(vectors[len(texts) :] @ vectors[: len(texts)].T, questions, right),
        "BM25": recalls(bm25(texts, asked), questions, right),
    }


def card(results: dict[str, dict[str, Recall]]) -> str:
    """The table of the model's README.md."""
    lines = [f"| recall@5 | questions | {' | '.join(results)} |", "|---|---|" + "---|" * len(results)]
    for kind, recall in results[NAME].items():
        lines.append(f"| {kind} | {recall.total} | {' | '.join(str(one[kind]) for one in results.values())} |")
    return "\n".join(lines)
