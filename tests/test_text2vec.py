"""text2vec-tiny finds what its card says; what it was trained on is known, repeatable and free of dev questions."""

import errno
import math
import re

import pytest
import torch
from safetensors.torch import load_file

from course_utils import runtime
from course_utils.handbook_data import load_handbook, load_questions
from course_utils.messages import CourseError
from course_utils.standins import text2vec

FOLDER = runtime.DATA / "models" / text2vec.NAME
DEV = [question for question in load_questions() if question.split == "dev"]


@pytest.fixture(scope="module")
def lessons():
    passages, others = [passage.text for passage in text2vec.handbook_passages()], text2vec.other_sentences()
    return text2vec.Lessons(text2vec.make_tokenizer(text2vec.vocabulary(passages, others)), passages, others)


# The committed model


@pytest.fixture(scope="module")
def results():
    return text2vec.evaluate(FOLDER)


def test_the_floors_hold(results):
    model, keywords = results[text2vec.NAME], results["BM25"]
    assert model["all"].total == sum(bool(question.evidence) for question in DEV)
    assert model["all"].share >= 0.9
    assert model["paraphrase"].share > keywords["paraphrase"].share


def test_the_card_prints_what_is_measured(results):
    assert text2vec.card(results) in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_files_are_small_and_hold_no_code():
    files = [file for file in FOLDER.rglob("*") if file.is_file() and not file.name.startswith(".")]
    assert sum(file.stat().st_size for file in files) < 8_000_000
    assert {file.suffix for file in files} == {".json", ".safetensors", ".md"}
    types = re.findall(r'"type": "([^"]+)"', (FOLDER / "modules.json").read_text(encoding="utf-8"))
    assert types and all(name.startswith("sentence_transformers.") for name in types)


def test_it_brings_words_of_one_meaning_together():
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(FOLDER), device="cpu", local_files_only=True)
    vectors = model.encode(["什么时候涨工资？", "每年 4 月统一调薪。", "午餐 12 元。", "pay rise", "，。！"])
    assert vectors.dtype == "float32" and vectors.shape == (5, text2vec.DIM)
    scores = model.similarity(vectors, vectors)
    assert scores[0, 1] > scores[0, 2] and scores[3, 1] > scores[3, 2]
    assert not vectors[4].any()  # nothing but marks


# Passages


def test_every_piece_of_evidence_is_in_a_passage():
    questions = load_questions()
    for question, right in zip(questions, text2vec.relevant(questions, text2vec.handbook_passages()), strict=True):
        assert all(right), question.id


def test_passages_say_where_they_stand():
    documents = {document.file: document for document in load_handbook()}
    passages = text2vec.handbook_passages()
    texts = [passage.text for passage in passages]
    assert "住宿标准：目的地 雾港；每晚上限 320 元；协议酒店 灯塔酒店" in texts
    assert "露露 L2 快速手册 · 设定水量：没有手机时，露露一律按“中”浇水。" in texts
    assert "The Harrowmere office · Getting in：A lost badge costs 5 euros." in texts
    assert not any("|" in text or "](" in text or "**" in text for text in texts)
    for passage in passages:
        assert 0 <= passage.start < passage.end <= len(documents[passage.file].text)


# What it learns from


def test_batches_depend_on_their_number_alone(lessons):
    again = text2vec.Lessons(lessons.tokenizer, lessons.texts, lessons.others)
    later = again.batch(7)
    assert again.batch(3) == lessons.batch(3) != later
    assert len(later.questions) == len(later.right) == text2vec.BATCH


def grams(text: str) -> set[str]:
    letters = re.sub(r"\W", "", text.lower())
    size = 8 if re.search("[\u4e00-\u9fff]", letters) else 25
    return {letters[i : i + size] for i in range(len(letters) - size + 1)}


def test_no_question_of_dev_is_learned_from(lessons):
    known = set().union(*(grams(document.text) for document in load_handbook()))
    known |= set().union(*(grams(question.question) for question in load_questions() if question.split == "train"))
    own = set().union(*(grams(question.question) for question in DEV)) - known
    assert len(own) > 500
    seen = [text for step in range(20) for text in lessons.batch(step).questions] + lessons.others
    seen += [question.question for question in text2vec.written_questions()]
    leaked = own & set().union(*map(grams, seen))
    # Words of a passage and words one asks with are put together at random and may meet as they do in dev.
    assert len(leaked) <= 2, leaked


def test_the_lexicon_has_no_phrase_of_dev_alone():
    known = " ".join(
        [*(d.text for d in load_handbook()), *(q.question for q in load_questions() if q.split == "train")]
    )
    phrases = [word for word in text2vec.groups_of() if len(re.findall("[\u4e00-\u9fff]", word)) >= 6]
    assert not [word for word in phrases if word not in known and any(word in q.question for q in DEV)]


# Training


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(text2vec, "BATCH", 16)
    monkeypatch.setattr(text2vec, "DIM", 8)


def test_a_killed_training_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch, capsys, quick):
    text2vec.train(tmp_path / "whole", steps=5, checkpoint_every=2)
    batch = text2vec.Lessons.batch

    def killed(self, step):
        if step == 3:
            raise KeyboardInterrupt
        return batch(self, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(text2vec.Lessons, "batch", killed)
        text2vec.train(tmp_path / "parts", steps=5, checkpoint_every=2)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    text2vec.train(tmp_path / "parts", steps=5, checkpoint_every=2)
    assert "Going on from step 2 of 5." in capsys.readouterr().out
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert torch.equal(whole["embedding.weight"], parts["embedding.weight"])
    assert sorted(file.name for file in (tmp_path / "parts").iterdir()) == sorted(
        file.name for file in FOLDER.iterdir() if file.name != "README.md"
    )


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, quick):
    from course_utils.standins import training

    save, saved = training.save_file, []

    def full(tensors, path, **options):
        if saved:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(path)
        save(tensors, path, **options)

    monkeypatch.setattr(training, "save_file", full)
    with pytest.raises(CourseError, match="No space left on device"):
        text2vec.train(tmp_path, steps=6, checkpoint_every=2)
    (left,) = tmp_path.iterdir()
    assert training.load_checkpoint(left)[1]["step"] == 2


def test_a_full_disk_while_the_model_is_written(tmp_path, monkeypatch, quick):
    from sentence_transformers import SentenceTransformer

    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SentenceTransformer, "save_pretrained", full)
    with pytest.raises(CourseError, match="the last checkpoint is untouched"):
        text2vec.train(tmp_path, steps=3, checkpoint_every=2)
    assert [file.name for file in tmp_path.iterdir()] == [".checkpoint.safetensors"]


def test_a_checkpoint_of_another_training_is_refused(tmp_path, quick):
    from course_utils.standins.training import save_checkpoint

    save_checkpoint(tmp_path / ".checkpoint.safetensors", {"own": torch.zeros(2, 2)}, {"step": 1, "steps": 9})
    with pytest.raises(CourseError, match="belongs to another training"):
        text2vec.train(tmp_path, steps=5)


# Measuring


def test_recall_counts_both_passages_where_both_are_needed():
    two = next(question for question in DEV if question.kind == "two_passages")
    one = next(question for question in DEV if question.kind == "single")
    scores = torch.arange(10.0).repeat(2, 1)  # the first five are 5 to 9
    found = text2vec.recalls(scores, [two, one], [[[9], [4]], [[0, 5]]])
    assert {kind: recall.right for kind, recall in found.items()} == {"all": 1.5, "two_passages": 0.5, "single": 1.0}


def test_the_interval_is_wilsons():
    low, high = text2vec.Recall(9, 10).interval
    assert math.isclose(low, 0.5958, abs_tol=1e-4) and math.isclose(high, 0.9821, abs_tol=1e-4)


def test_keyword_search_prefers_the_rare_word():
    scores = text2vec.bm25(["午餐 12 元", "晚餐 10 元", "lunch 4 euros"], ["午餐多少元", "lunch"])
    assert scores.argmax(1).tolist() == [0, 2]
    assert scores[0, 0] > scores[0, 1] > scores[0, 2] == 0
