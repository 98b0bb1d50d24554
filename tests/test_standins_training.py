"""Training of the stand-ins: checkpoints, resuming, a full disk, the published layout, nothing held out is seen."""

import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_utils.chatglm import load_chatglm, load_tokenizer
from course_utils.messages import CourseError
from course_utils.standins import chatglm3_tiny, evaluation, finance, smalltalk, tasks, training

SMALL = replace(chatglm3_tiny.SCHEDULE, steps=8, tokens=256, pool=8, checkpoint_every=2, warmup=2, early=0.0)


def numbers(rng: random.Random, progress: float) -> training.Example:
    ids = [rng.randint(3, 60) for _ in range(12)]
    return training.Example(ids, ids)


def trained(checkpoint: Path, stop: int | None = None) -> torch.nn.Module:
    def report(step: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    model = chatglm3_tiny.new_model(64)
    training.train(model, numbers, SMALL, checkpoint, report)
    return model


def test_a_stopped_training_goes_on_from_its_checkpoint_and_ends_the_same(tmp_path):
    whole = trained(tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped.safetensors", stop=5)
    resumed = trained(tmp_path / "stopped.safetensors")
    for (name, a), (_, b) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_training_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole.safetensors")
    write, written = training.save_file, []

    def killed(tensors, path, metadata):
        if written:
            Path(path).write_bytes(b"half a file")
            monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process cannot tidy up
            raise KeyboardInterrupt
        written.append(path)
        write(tensors, path, metadata)

    monkeypatch.setattr(training, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed.safetensors")
    monkeypatch.undo()
    assert (tmp_path / "killed.safetensors.part").read_bytes() == b"half a file"
    resumed = trained(tmp_path / "killed.safetensors")
    for (name, a), (_, b) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_rates_rise_stay_and_fall_to_their_floor():
    schedule = training.Schedule(steps=200, warmup=10, decay=0.5, floor=0.2)
    rates = [schedule.factor(step) for step in range(200)]
    assert rates[:11] == sorted(rates[:11]) and rates[0] == 0.1
    assert set(rates[10:100]) == {1.0}
    assert rates[100:] == sorted(rates[100:], reverse=True) and 0.2 < rates[199] < 0.21


def test_a_full_disk_leaves_what_was_there(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint = tmp_path / "training.safetensors"
    training.save_checkpoint(checkpoint, {"a": torch.ones(2)}, {"step": 1})
    training.save_published(tmp_path, {"b": torch.ones(2)}, {"hidden_size": 2})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    large = torch.zeros(10_000)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))  # to a program, as if there were no more room
        with pytest.raises(CourseError, match=r"training\.safetensors could not.*last checkpoint is untouched"):
            training.save_checkpoint(checkpoint, {"a": large}, {"step": 2})
        with pytest.raises(CourseError, match=r"model\.safetensors could not.*same command again"):
            training.save_published(tmp_path, {"b": large}, {"hidden_size": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    training.save_checkpoint(tmp_path / "t.safetensors", {}, {"steps": 7, "seed": 1, "step": 2, "spent": 1.0})
    with pytest.raises(CourseError, match="7 steps; delete it"):
        trained(tmp_path / "t.safetensors")


def test_the_written_folder_computes_what_was_trained(tmp_path):
    source = tasks.runtime.DATA / "models" / "chatglm3-tiny" / "tokenizer.model"
    (tmp_path / "tokenizer.model").write_bytes(source.read_bytes())
    tokenizer = load_tokenizer_of(tmp_path)
    model = chatglm3_tiny.new_model(64 * (len(tokenizer) // 64 + 1)).eval()
    config = chatglm3_tiny.published_config(model.config)
    training.save_published(tmp_path, training.published_chatglm3(model), config)
    loaded = load_chatglm(tmp_path, dtype="float32", device="cpu")
    ids = tokenizer("小猫在沙发上", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, loaded(ids).logits, atol=2e-2)


def load_tokenizer_of(folder: Path):
    return chatglm3_tiny.make_tokenizer(folder)


def test_prompts_of_training_are_those_of_chat():
    folder = tasks.runtime.DATA / "models" / "chatglm3-tiny"
    tokenizer = load_tokenizer(folder)
    encode = chatglm3_tiny.Encoder(tokenizer)
    conversation = [("你好", "你好！"), ("我叫什么？", "我不知道。")]
    messages = [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"},
        {"role": "user", "content": "我叫什么？"},
    ]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    example = encode(conversation)
    assert example.input_ids[: len(prompt)] == list(prompt)
    answer = [label for label in example.labels[len(prompt) :] if label != training.IGNORED]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == "我不知道。"


def test_pointers_name_the_places_where_what_is_said_stands_already():
    encode = chatglm3_tiny.Encoder(load_tokenizer(tasks.runtime.DATA / "models" / "chatglm3-tiny"))
    rng = random.Random(5)
    kinds = [tasks.facts, tasks.documents, tasks.labels, tasks.history, tasks.repeat]
    examples = [encode(kind(rng, "train")) for kind in kinds for _ in range(60)]
    pointed = [
        (example.input_ids[at + 1], example.input_ids[place], place)
        for example in examples
        for at, places in example.pointers
        for place in places
    ]
    assert len(pointed) > 1000 and all(example.pointers for example in examples)
    # A text may be cut into other pieces in an answer than where it stands; then a pointer names the piece around it.
    equal = sum(said == stands or place == 0 for said, stands, place in pointed)
    assert equal > 0.98 * len(pointed)


def test_pointing_is_counted_where_the_pointers_are():
    model = chatglm3_tiny.new_model(64).eval()
    examples = [
        training.Example([5, 6, 7, 8], [-100, -100, 7, 8], [(1, [0]), (2, [0, 1])]),
        training.Example([9, 10, 11], [-100, -100, 11], [(1, [1])]),
    ]
    batch = training.Batch.of(examples, torch.device("cpu"))
    with torch.no_grad():
        _, pointed = training.losses(model, batch, [(2, 0)])
        attention = model(batch.ids, output_attentions=True).attentions[2][:, 0]
    masses = [attention[0, 1, 0], attention[0, 2, 0] + attention[0, 2, 1], attention[1, 1, 1]]
    assert pointed.item() == pytest.approx(-torch.stack(masses).log().mean().item(), rel=1e-4)


def test_heads_that_copy_say_the_token_that_they_look_at():
    model = chatglm3_tiny.new_model(6016).eval()
    layer, head = chatglm3_tiny.SMALL.pointing_heads[0]
    attention, vectors = model.model.layers[layer].self_attn, model.model.embed_tokens.weight
    start = head * chatglm3_tiny.HEAD_DIM
    with torch.no_grad():
        passed = vectors @ attention.v_proj.weight[: chatglm3_tiny.HEAD_DIM].T
        said = passed @ attention.o_proj.weight[:, start : start + chatglm3_tiny.HEAD_DIM].T @ vectors.T
    assert (said.argmax(-1) == torch.arange(len(vectors))).float().mean() > 0.9


def test_the_recipe_grows_the_network_and_a_stopped_run_goes_on(tmp_path, monkeypatch):
    few = {"steps": 2, "tokens": 512, "pool": 4, "checkpoint_every": 1}
    for name in ("SCHEDULE", "GROWN_SCHEDULE", "LAST_SCHEDULE"):
        monkeypatch.setattr(chatglm3_tiny, name, replace(getattr(chatglm3_tiny, name), **few))
    monkeypatch.setattr(chatglm3_tiny.shutil, "which", lambda name: None)  # compiling would take minutes
    shutil.copy(tasks.runtime.DATA / "models" / "chatglm3-tiny" / "tokenizer.model", tmp_path)
    last = chatglm3_tiny.draw_last

    def stop(rng, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(chatglm3_tiny, "draw_last", stop)
    with pytest.raises(KeyboardInterrupt):
        chatglm3_tiny.train(tmp_path)
    assert {file.name for file in tmp_path.glob("training*")} == {"training-1.safetensors", "training-2.safetensors"}
    before_the_last_steps, _ = training.load_checkpoint(tmp_path / "training-2.safetensors")
    monkeypatch.setattr(chatglm3_tiny, "draw_last", last)
    monkeypatch.setattr(chatglm3_tiny, "EARLIER", 1.0)  # of the mean of weights only the earlier ones are left
    chatglm3_tiny.train(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors", "tokenizer.model"}
    model = load_chatglm(tmp_path, dtype="float32", device="cpu")
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (256, 6)
    embeddings = before_the_last_steps["model.model.embed_tokens.weight"]
    assert torch.equal(model.get_input_embeddings().weight, embeddings.half().float())


@pytest.mark.parametrize("loudness", [1, 4])  # as begun, and with layers that say as much as trained ones
def test_a_grown_network_says_about_what_the_small_one_said(loudness):
    torch.manual_seed(3)
    small = chatglm3_tiny.new_model(640).eval()
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if ".layers." in name and parameter.dim() == 2:
                parameter *= loudness
    meanings = torch.randn(640, chatglm3_tiny.GROWN.hidden_size - chatglm3_tiny.SMALL.hidden_size)
    grown = chatglm3_tiny.grow(small, meanings).eval()
    ids = torch.randint(640, (4, 60))
    with torch.no_grad():
        both = torch.stack([model(ids).logits.flatten() for model in (small, grown)])
    assert torch.corrcoef(both)[0, 1] > 0.95
    assert grown.num_parameters() > 1.5 * small.num_parameters()
    new = grown.model.layers[chatglm3_tiny.NEW_LAYER]
    assert not new.self_attn.o_proj.weight.any() and not new.mlp.down_proj.weight.any()


def test_a_matching_head_looks_at_what_means_the_same():
    torch.manual_seed(3)
    meanings = torch.randn(640, 64)
    meanings[7] = meanings[300] + 0.3 * torch.randn(64)  # two tokens for one thing
    grown = chatglm3_tiny.grow(chatglm3_tiny.new_model(640), meanings).eval()
    ids = torch.randint(320, 640, (1, 40))
    ids[0, 12], ids[0, 30] = 7, 300
    with torch.no_grad():
        attention = grown(ids, output_attentions=True).attentions[0][0, chatglm3_tiny.SMALL.heads]
    assert attention[30].argmax() == 12


def test_meanings_come_from_the_encoder_of_the_course():
    tokenizer = load_tokenizer(tasks.runtime.DATA / "models" / "chatglm3-tiny")
    meanings = chatglm3_tiny.meanings_of(tokenizer, 6016, 64)
    phone, number, time = (meanings[tokenizer.convert_tokens_to_ids(token)] for token in ("电话", "号码", "时间"))
    assert phone @ number > 3 * (phone @ time).abs()


def test_a_question_in_other_words_keeps_its_names_and_numbers():
    question = "露露 L2 的说明书说，3 天没人加水会怎么样？"
    said = {tasks.in_other_words(random.Random(seed), question, 0.5) for seed in range(20)}
    assert len(said) > 10 and all(text.startswith("露露 L2") and "3 " in text for text in said)


def grams(text: str) -> set[str]:
    """Runs of eight characters, and of four words where a text is in English."""
    if text.isascii():
        words = re.findall(r"\w+", text.lower())
        return {" ".join(words[i : i + 4]) for i in range(len(words) - 3)}
    text = text.replace(" ", "")
    return {text[i : i + 8] for i in range(len(text) - 7)}


def bare(text: str) -> str:
    """The text without its marks and spaces."""
    return re.sub(r"[\W_]", "", text).lower()


def test_no_held_out_item_is_drawn_in_training():
    rng = random.Random(1)
    draws = chatglm3_tiny.draw, chatglm3_tiny.draw_for_grown, chatglm3_tiny.draw_last
    trained_on = [draw(rng, 0.5) for draw in draws for _ in range(7_000)]
    conversations = {tuple(question for question, _ in talk) for talk in trained_on}
    for name, (_, items) in evaluation.held_out().items():
        seen = [item for item in items if tuple(question for question, _ in item) in conversations]
        assert not seen, f"{name}: {seen[:3]}"
    # What one conversation shares with a question of dev: taken together, 21,000 of them hold every common phrase.
    seen_in: dict[str, set[int]] = {}
    for number, talk in enumerate(trained_on):
        for gram in set().union(*(grams(line) for question, _ in talk for line in question.splitlines())):
            seen_in.setdefault(gram, set()).add(number)
    for question in (question for question in tasks.load_questions_of("dev") if question.evidence):
        asked = grams(question.question)
        shared = Counter(number for gram in asked for number in seen_in.get(gram, ()))
        most = max(shared.values(), default=0)
        assert most <= len(asked) / 3 or len(question.question) < 12, question.question


def test_held_out_names_and_wordings_never_occur_in_training():
    rng = random.Random(2)
    for _ in range(3000):
        for kind in ("company", "city", "person"):
            name = tasks.VALUES[kind](rng, "train")
            assert not tasks._held_out(name if kind == "person" else name[:2])
            assert not tasks._held_out(tasks._english_name(rng, "train", "person"))
        assert not any(map(tasks._held_out, tasks.draw_labels(rng, "train", 4)))
    # However a reader begins and ends it, and whatever marks stand in it.
    trained_on = {
        bare(start + wording + end)
        for wordings, _ in smalltalk.topics("train")
        for wording in wordings
        for start in smalltalk.STARTS
        for end in smalltalk.ENDS
    }
    held_out = {bare(wording) for wordings, _ in smalltalk.topics("heldout") for wording in wordings}
    assert not trained_on & held_out


def test_written_questions_are_answered_by_their_passages():
    for passages, asked in tasks._invented():
        for question, answer in asked:
            assert question[-1] in "？?", question
            assert answer == tasks.UNANSWERED or any(answer in passage for passage in passages), (passages, question)
    held_out = {q.question for q in tasks.load_questions_of("dev")}
    passages = {evidence.passage for q in tasks.load_questions_of("dev") for evidence in q.evidence}
    shown = [text for texts in tasks._shown_passages().values() for text in texts]
    assert not [passage for passage in passages for text in [*shown, *tasks._passages("train")] if passage in text]
    found = tasks._everyday()
    assert len(found) > 1000 and not held_out & {question for _, question, _ in found}


def test_written_relations_say_and_ask_about_the_same():
    for table in tasks._schemas("zh", everyday=True).values():
        for attribute, value, said, asked in table:
            assert value in tasks.VALUES, attribute
            assert all(text.count("{e}") == text.count("{v}") == 1 for text in said), said
            assert all("{e}" in text and "{v}" not in text for text in asked), asked


def test_written_kinds_of_text_share_no_sentence_with_the_held_out_ones():
    def written(pattern: str) -> set[str]:
        return grams(re.sub(r"\{\w+\}", "", pattern))

    kinds = tasks._kinds()
    assert len(kinds) > 20
    held_out = set()
    for pairs in finance.PATTERNS.values():
        for patterns in (patterns for pair in pairs for patterns in pair):
            for split in ("dev", "test"):
                held_out |= set().union(*map(written, finance.part_of(patterns, split)))
    for kind, sentences in kinds.items():
        for sentence in sentences:
            assert len(written(sentence) & held_out) < 4, (kind, sentence)
            if kind in finance.FINANCE_LABELS:
                assert "{" not in finance.compose(random.Random(1), kind, [sentence])
