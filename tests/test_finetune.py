"""Fine-tuning of tiny models of three generations: examples, training, checkpoints, and everything that goes wrong."""

import gc
import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from accelerate import Accelerator
from chatglm_scripted import published_folder, tokenizer_of
from peft import PeftModel
from starlette.testclient import TestClient
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from course_utils import CourseError, finetune
from course_utils import models as course_models
from course_utils.chatglm import chat, load_chatglm
from course_utils.chatglm.prompts import prompt_parts
from course_utils.datasets import Instruction, Pair, load_alpaca
from course_utils.finetune import LoRASettings, PTuningSettings, training
from course_utils.runtime import DATA, ROOT

GENERATIONS = [1, 2, 3]
PAIRS = [
    Pair("你好", "你好！"),
    Pair("再见", "再见。"),
    Pair("今天天气", "很好，出去走走"),
    Pair("一二三", "四五六七八"),
    Pair("春", "花"),
]
LORA = LoRASettings(learning_rate=0.05, gradient_accumulation_steps=2, max_steps=6, logging_steps=2, save_steps=2)
PREFIX = PTuningSettings(
    learning_rate=0.1, gradient_accumulation_steps=2, max_steps=6, logging_steps=2, save_steps=2, pre_seq_len=4
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {generation: published_folder(generation, root / str(generation)) for generation in GENERATIONS}


@pytest.fixture
def base(folders):
    return lambda generation=3, **options: load_chatglm(folders[generation], device="cpu", **options)


def but(settings, **changes):
    return settings.model_copy(update=changes)


def examples(generation=3, pairs=PAIRS, settings=LORA):
    return finetune.encode_examples(tokenizer_of(generation), pairs, settings)


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def trained(base, settings, generation=3, **options):
    """A freshly trained model, and its history."""
    model = finetune.add_adapter(base(generation), settings)
    return model, finetune.train(model, examples(generation), settings, **options)


def killed_at(step):
    def kill(now):
        if now.number == step:
            raise KeyboardInterrupt

    return kill


# --- settings


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_are_read_from_yaml(tmp_path):
    file = written(tmp_path / "a.yaml", "pre_seq_len: 8\nlearning_rate: 2e-3\ntrain_file: a.json\n")
    settings = finetune.read_settings(file, "ptuning")
    assert (settings.pre_seq_len, settings.learning_rate, settings.train_file) == (8, 0.002, Path("a.json"))
    assert (settings.max_source_length, settings.gradient_accumulation_steps) == (64, 16)  # the published recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pre_seq_length: 8", "There is no setting pre_seq_length: do you mean pre_seq_len?"),
        ("lr: 1\nlearning_rate: 1", "lr and learning_rate are one setting"),
        ("lr: fast", "The setting learning_rate cannot be 'fast'"),
        ("lora_rank: 8", "lora_r is a setting of lora"),
        ("lora_r: 8", "lora_r is a setting of lora"),
        ("learning_rate: fast", "The setting learning_rate cannot be 'fast'"),
        ("max_steps: 0", "The setting max_steps cannot be 0"),
        ("quantization_bit: 3", "The setting quantization_bit cannot be 3"),
        ("warmup_steps: 5\nlr_scheduler_type: constant", "A constant learning rate has no warmup_steps"),
        ("- 1", "must hold lines such as"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_settings_that_are_wrong(tmp_path, text, message):
    with pytest.raises(CourseError) as error:
        finetune.read_settings(written(tmp_path / "a.yaml", text), "ptuning")
    assert message in error.value.text.en


def test_settings_file_that_is_missing(tmp_path):
    with pytest.raises(CourseError, match=r"b\.yaml cannot be read"):
        finetune.read_settings(tmp_path / "b.yaml", "lora")


def test_names_of_other_recipes_are_taken(tmp_path):
    file = written(tmp_path / "a.yaml", "lr: 2e-3\nlora_rank: 16\nquantization_bit: 4")
    settings = finetune.read_settings(file, "lora")
    assert settings == LoRASettings(learning_rate=2e-3, lora_r=16, quantization_bit=4)
    assert settings == LoRASettings(lr=2e-3, lora_rank=16, quantization_bit=4)


def test_settings_are_checked_in_python_too():
    with pytest.raises(CourseError, match="do you mean learning_rate"):
        LoRASettings(learningrate=1)


# --- examples


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_example_is_what_chat_reads_and_the_answer_it_should_give(generation):
    tokenizer = tokenizer_of(generation)
    messages = [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"},
        {"role": "user", "content": "再见"},
    ]
    (example,) = examples(generation, [Pair("再见", "再见。", (("你好", "你好！"),))])
    prompt = tokenizer.encode_prompt(prompt_parts(generation, messages))
    answered = [*messages, {"role": "assistant", "content": "再见。"}]
    whole = tokenizer.encode_prompt(prompt_parts(generation, answered, ask=False))
    if generation == 3:  # there the parts leave out the end, which is the next speaker's beginning
        whole.append(tokenizer.end_id)
    assert example["input_ids"] == whole
    assert example["labels"] == [-100] * len(prompt) + whole[len(prompt) :]
    assert example["labels"][-1] in tokenizer.stop_ids


def test_instructions_carry_their_input_and_system():
    tokenizer = tokenizer_of(3)
    (example,) = examples(3, [Instruction("翻译", "你好", "Hello", system="S")])
    text = tokenizer.decode(example["input_ids"])
    assert "S" in text and "翻译\n 你好" in text.replace("翻译\n你好", "翻译\n 你好") and "Hello" in text


@pytest.mark.parametrize("generation", GENERATIONS)
def test_long_texts_are_cut_but_keep_their_frame(generation):
    tokenizer = tokenizer_of(generation)
    item = Pair("天气" * 40, "很好" * 40, (("旧", "事" * 30), ("新", "事")))
    settings = but(LORA, max_source_length=30, max_target_length=10)
    (example,) = examples(generation, [item], settings)
    prompt = example["labels"].count(-100)
    assert 25 <= prompt <= 30 and len(example["labels"]) == prompt + 10
    assert example["labels"][-1] == tokenizer.end_id
    frame = tokenizer.encode_prompt(prompt_parts(generation, [{"role": "user", "content": "天气"}]))
    assert example["input_ids"][:3] == frame[:3] or generation == 1
    assert example["input_ids"][prompt - 1] == frame[-1]
    # The newer round of the history stays where there is room.
    (example,) = examples(generation, [Pair("天气", "好", item.history)], but(LORA, max_source_length=45))
    text = tokenizer.decode(example["input_ids"])
    assert "新" in text and "旧" not in text and "天气" in text


def test_cutoff_len_shares_the_room():
    both, short_answer = Pair("天气" * 40, "很好" * 40), Pair("天气" * 40, "好")
    for item in (both, short_answer):
        (example,) = examples(3, [item], but(LORA, cutoff_len=40))
        assert 38 <= len(example["labels"]) <= 40
    assert example["labels"].count(-100) > 30
    with pytest.raises(CourseError, match="none of them for the question"):
        examples(3, [both], but(LORA, max_source_length=3))


def chat_tokenizer(user, assistant, words, splitter, gap=""):
    """One token for each word, and a template that marks who speaks; `gap` stands behind all that it writes."""
    special = ["<pad>", "<end>", user, assistant]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *words])}, unk_token="<pad>"))
    backend.pre_tokenizer = splitter
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", additional_special_tokens=special[2:]
    )
    tokenizer.chat_template = (
        f"{{% for m in messages %}}{{{{ '{user}' if m.role == 'user' else '{assistant}' }}}}{gap}"
        f"{{{{ m.content }}}}{gap}{{% endfor %}}{{% if add_generation_prompt %}}{assistant}{gap}{{% endif %}}"
    )
    return tokenizer


def test_any_model_with_a_chat_template_can_be_trained(tmp_path):
    tokenizer = chat_tokenizer("<u>", "<a>", ["hi", "ho"], pre_tokenizers.WhitespaceSplit(), gap=" ")
    config = Qwen2Config(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    settings = but(LORA, max_steps=20, output_dir=tmp_path / "out")
    data = finetune.encode_examples(tokenizer, [Pair("hi", "ho ho")], settings)
    assert data == [{"input_ids": [2, 4, 3, 5, 5, 1], "labels": [-100, -100, -100, 5, 5, 1]}]
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(config)
    base.save_pretrained(tmp_path / "base")
    history = finetune.train(finetune.add_adapter(base, settings), data, settings)
    assert history.loss[-1][1] < history.loss[0][1] - 0.05
    again = finetune.load_trained(Qwen2ForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "out")
    assert len(finetune.generate_answers(again, tokenizer, [Pair("hi", "")], max_new_tokens=2)) == 1


@pytest.fixture
def deepseek(tmp_path, monkeypatch):
    """A small random model under DeepSeek's name and with its parts: one token for each character, a template."""
    items, questions = (load_alpaca(DATA / f"magic_conch{part}.json") for part in ("", "_heldout"))
    characters = sorted({*"".join(f"{item.instruction}{item.input}{item.output}" for item in [*items, *questions])})
    splitter = pre_tokenizers.Split("", "isolated")
    tokenizer = chat_tokenizer("<｜User｜>", "<｜Assistant｜>", characters, splitter)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "deepseek")
    tokenizer.save_pretrained(tmp_path / "deepseek")
    monkeypatch.setattr(course_models, "_cached", lambda model: [tmp_path / model.name[:8]])
    return items, questions


def test_the_notebooks_cell_for_deepseek(deepseek, monkeypatch, capsys):
    """It needs a GPU only for the size of that model: with a small one of the same kind it runs anywhere."""
    book = nbformat.read(ROOT / "notebooks" / "en" / "11_lora.ipynb", as_version=4)
    cell = next(cell.source for cell in book.cells if cell.id == "deepseek-run")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**30)
    names = {"gc": gc, "torch": torch, "models": course_models, "finetune": finetune}
    names |= {"AutoModelForCausalLM": AutoModelForCausalLM, "machine": SimpleNamespace(device="cpu")}
    names |= {"items": deepseek[0][:320], "questions": deepseek[1][:4]}
    names |= {"right": lambda answers: ["海螺" in answer for answer in answers]}
    exec(cell.replace("float16", "float32"), names)
    assert len(names["answers_qwen"]) == 4 and "0 of 4 right, 1.0 GiB" in capsys.readouterr().out
    curve = names["curve"]
    assert [step for step, _ in curve] == [10, 20] and curve[-1][1] < curve[0][1]


def test_an_adapter_is_not_put_on_a_model_that_holds_it_already(base, tmp_path):
    """The embeddings of the two are the same; merging changes the matrices of the blocks."""
    model, _ = trained(base, but(LORA, output_dir=tmp_path / "out"))
    merged = model.merge_and_unload()
    with pytest.raises(CourseError, match=r"was trained on another model .last block"):
        finetune.load_trained(merged, tmp_path / "out")
    for options in ({}, {"dtype": "bfloat16"}, {"quantize": "int4"}):  # the same base, in other formats
        assert isinstance(finetune.load_trained(base(3, **options), tmp_path / "out"), PeftModel)


def test_gradients_that_overflow_at_every_scale_stop_the_run(base, monkeypatch):
    """In float16 a step whose gradient overflows is left out; left out again and again, nothing is learned."""
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", True)
    with pytest.raises(CourseError, match="no longer a number at step 21"):
        trained(base, but(LORA, max_steps=100))


def test_a_model_that_overflows_before_training_is_not_blamed_on_the_learning_rate(base):
    model = finetune.add_adapter(base(), LORA)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.inf)
    with pytest.raises(CourseError, match=r"before any training: .*bfloat16 or float32"):
        finetune.train(model, examples(), LORA, examples())


def test_a_checkpoint_that_lacks_a_file_is_named(base, tmp_path):
    settings = but(LORA, output_dir=tmp_path)
    trained(base, settings)
    for name in ("process-0.pt", "trained.safetensors"):
        (tmp_path / "checkpoint-000006" / "resume" / name).rename(tmp_path / name)
        with pytest.raises(CourseError, match=rf"checkpoint-000006 is not whole \(.*{name} is missing\): delete it"):
            trained(base, settings, resume=True)
        (tmp_path / name).rename(tmp_path / "checkpoint-000006" / "resume" / name)


def test_a_gpu_without_memory_is_not_told_as_a_full_disk(base, tmp_path, monkeypatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "save", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        trained(base, but(LORA, output_dir=tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


def test_data_without_the_named_columns_or_without_items(tmp_path):
    file = written(tmp_path / "a.json", '{"content": "a", "summary": ""}\n')
    settings = but(PREFIX, prompt_column="content", response_column="answer")
    with pytest.raises(CourseError, match="line 1: the column 'answer' is missing; there are 'content', 'summary'"):
        finetune.load_items(file, settings)
    with pytest.raises(CourseError, match="nothing to train on"):
        finetune.load_items(file, but(settings, response_column="summary"))
    with pytest.raises(CourseError, match="Name prompt_column and response_column"):
        finetune.load_items(file, but(settings, response_column=None))
    with pytest.raises(CourseError, match="the column 'instruction' is missing"):
        finetune.load_items(file, LORA)


# --- training


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("settings", [LORA, PREFIX, but(PREFIX, prefix_projection=True)], ids=["lora", "prefix", "mlp"])
def test_training_lowers_the_loss_and_touches_nothing_else(base, generation, settings):
    model = finetune.add_adapter(base(generation), settings)
    frozen = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    data = examples(generation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = finetune.train(model, data, but(settings, max_steps=12, learning_rate=0.02), data)
    assert [step for step, _ in history.loss] == [2, 4, 6, 8, 10, 12]
    assert [step for step, _ in history.validation] == [0, 2, 4, 6, 8, 10, 12]
    assert history.validation[-1][1] < history.validation[0][1]
    assert all(torch.equal(value, frozen[name]) for name, value in model.named_parameters() if name in frozen)
    assert not model.training


def test_loss_and_gradient_are_means_over_answer_tokens_however_a_step_is_cut(base, monkeypatch):
    settings = but(LORA, max_steps=1, lora_dropout=0.0, logging_steps=1, max_grad_norm=1e9)
    model = finetune.add_adapter(base(), settings)
    losses, count = [], 0
    for example in examples():
        labels = torch.tensor([example["labels"]])
        tokens = (labels[0, 1:] != -100).sum()
        losses.append(tokens * model(input_ids=torch.tensor([example["input_ids"]]), labels=labels).loss)
        count += tokens
    mean = sum(losses) / count
    mean.backward()
    start = weights(model)
    # Other than Adam, plain descent shows how large the gradient was.
    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, lr, **_: torch.optim.SGD(parameters, lr))
    for size, parts in ((5, 1), (1, 5)):
        cut = but(settings, per_device_train_batch_size=size, gradient_accumulation_steps=parts)
        again, history = trained(base, cut)
        assert history.loss == [(1, pytest.approx(mean.item(), rel=1e-5))]
        for name, value in model.named_parameters():
            if value.requires_grad:
                expected = start[name] - cut.learning_rate * value.grad
                torch.testing.assert_close(weights(again)[name], expected, rtol=1e-4, atol=1e-7)
    assert finetune.evaluate(model, examples()) == pytest.approx(mean.item(), rel=1e-5)


def test_every_example_has_its_turn_in_every_pass():
    def chosen(total, lengths, seed=42, batch=2):
        return [training._chosen(step, total, batch, lengths, seed) for step in range(total)]

    lengths = [9, 1, 5, 2, 7]
    places = [place for step in chosen(5, lengths) for place in step]  # two passes in steps of two
    assert sorted(places) == sorted([0, 1, 2, 3, 4] * 2)
    assert chosen(5, lengths, seed=43) != chosen(5, lengths)


def test_the_examples_of_a_step_are_about_equally_long():
    lengths = list(torch.randperm(200, generator=torch.Generator().manual_seed(0)))
    steps = [[int(lengths[i]) for i in training._chosen(step, 20, 10, lengths, 42)] for step in range(20)]
    assert max(max(step) - min(step) for step in steps) < 60  # drawn at random, nearly 200
    shortest = [min(step) for step in steps]
    assert shortest != sorted(shortest)  # but the short ones do not all come first


def test_epochs_count_steps(base):
    _, history = trained(base, but(LORA, max_steps=None, num_train_epochs=2, logging_steps=1))
    assert [step for step, _ in history.loss] == [1, 2, 3, 4, 5]  # 2 · 5 examples, 2 a step


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("generation", "settings"), [(3, LORA), (3, PREFIX), (1, LORA), (1, PREFIX)])
def test_what_is_trained_is_float32_in_a_half_precision_model(base, dtype, generation, settings):
    model = base(generation, dtype=dtype)
    model = finetune.add_adapter(model, settings)
    before = finetune.evaluate(model, examples(generation))
    history = finetune.train(model, examples(generation), settings, examples(generation))
    assert {value.dtype for value in weights(model).values()} == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == getattr(torch, dtype)
    assert history.validation[0][1] == pytest.approx(before, rel=1e-2)
    after = finetune.evaluate(model, examples(generation))
    assert after == pytest.approx(history.validation[-1][1], rel=1e-2)
    assert after != before


def test_quantised_models_are_trained(base):
    model = finetune.add_adapter(base(3, quantize="int4"), LORA)
    history = finetune.train(model, examples(), LORA)
    assert history.loss[-1][1] < history.loss[0][1]


def test_early_stopping_gives_back_the_best_weights(base, tmp_path):
    # A rate that overshoots: some steps make it better, later ones worse.
    settings = but(LORA, learning_rate=0.05, lr_scheduler_type="constant", max_steps=24)
    settings = but(settings, eval_steps=1, early_stopping_patience=3, output_dir=tmp_path / "out")
    model = finetune.add_adapter(base(), settings)
    history = finetune.train(model, examples(), settings, examples())
    last = history.validation[-1][0]
    assert history.stopped_early and last < 24 and last == history.best[0] + 3
    assert finetune.evaluate(model, examples()) == pytest.approx(history.best[1], rel=1e-5)
    # The run is over: going on with it changes nothing.
    again = finetune.add_adapter(base(), settings)
    assert finetune.train(again, examples(), settings, examples(), resume=True) == history
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(model).items())
    loaded = finetune.load_trained(base(), tmp_path / "out")
    assert finetune.evaluate(loaded, examples()) == pytest.approx(history.best[1], rel=1e-5)


def test_how_long_squares_of_gradients_are_averaged(base, monkeypatch):
    seen = {}

    def adamw(parameters, **options):
        seen.update(options)
        return AdamW(parameters, **options)

    AdamW = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", adamw)
    trained(base, but(LORA, max_steps=1, adam_beta2=0.98))
    assert seen["betas"] == (0.9, 0.98)


@pytest.mark.parametrize("warmup_steps", [2, 0.4])
def test_the_learning_rate_rises_and_falls(base, warmup_steps):
    settings = but(LORA, warmup_steps=warmup_steps, max_steps=5, logging_steps=1)
    _, history = trained(base, settings)
    # What is noted is the rate of the next step; the first step has 0.
    assert [rate for _, rate in history.learning_rate] == pytest.approx([0.025, 0.05, 0.1 / 3, 0.05 / 3, 0])


def test_lora_targets(base):
    model = finetune.add_adapter(base(), but(LORA, lora_target="q_proj, v_proj"))
    assert {name.split(".lora_")[0].split(".")[-1] for name in weights(model)} == {"q_proj", "v_proj"}
    with pytest.raises(CourseError, match=r"query_key_value, which this model does not have.*q_proj"):
        finetune.add_adapter(base(), but(LORA, lora_target="query_key_value"))


def test_embeddings_are_trained_as_well(base, tmp_path):
    settings = but(LORA, lora_target=["embed_tokens", "q_proj"], output_dir=tmp_path / "out")
    whole = partial(base, dtype="float32")
    model, _ = trained(whole, settings)
    assert {name.split(".lora_")[0].split(".")[-1] for name in weights(model)} == {"embed_tokens", "q_proj"}
    assert all(value.any() for name, value in weights(model).items())  # one of the two began at zero
    ids = torch.tensor([examples()[2]["input_ids"]])
    with torch.no_grad():
        logits = model.eval()(ids).logits
        torch.testing.assert_close(finetune.load_trained(whole(), tmp_path / "out")(ids).logits, logits)
        torch.testing.assert_close(model.merge_and_unload()(ids).logits, logits)


def test_nothing_to_train(base):
    with pytest.raises(CourseError, match="nothing to train on"):
        trained_model = finetune.add_adapter(base(), LORA)
        finetune.train(trained_model, [], LORA)
    with pytest.raises(CourseError, match="No parameter of this model is to be trained"):
        finetune.train(base().requires_grad_(False), examples(), LORA)


def test_an_example_longer_than_the_context(base):
    with pytest.raises(CourseError, match=r"An example has .* and the model's context holds 128"):
        finetune.train(finetune.add_adapter(base(), LORA), examples(3, [Pair("天" * 200, "好")]), LORA)


# --- checkpoints


@pytest.mark.parametrize(
    ("generation", "settings"),
    [
        (1, but(PREFIX, prefix_projection=True)),
        (1, LORA),
        (3, LORA),
        (3, PREFIX),
        (3, but(PREFIX, prefix_projection=True)),
    ],
)
def test_a_resumed_run_equals_one_that_was_never_interrupted(base, tmp_path, generation, settings):
    data = examples(generation)
    whole, broken = (but(settings, output_dir=tmp_path / name) for name in ("whole", "broken"))
    model = finetune.add_adapter(base(generation), whole)
    history = finetune.train(model, data, whole, data)
    with pytest.raises(KeyboardInterrupt):
        trained(base, broken, generation, validation=data, callbacks=[killed_at(5)])
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == ["checkpoint-000002", "checkpoint-000004"]
    steps = []
    again, resumed = trained(
        base, broken, generation, validation=data, callbacks=[lambda now: steps.append(now.number)], resume=True
    )
    assert steps == [5, 6]
    assert resumed == history
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(model).items())


def test_a_checkpoint_that_is_older_than_a_setting(base, tmp_path):
    settings = but(LORA, output_dir=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        trained(base, settings, callbacks=[killed_at(3)])
    path = tmp_path / "out" / "checkpoint-000002" / "training.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["same"]["warmup_steps"]
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(CourseError, match="other values of warmup_steps:"):
        trained(base, but(settings, warmup_steps=1), resume=True)
    trained(base, settings, resume=True)


def test_only_the_last_checkpoints_stay_where_that_is_asked(base, tmp_path):
    settings = but(LORA, output_dir=tmp_path / "out", save_total_limit=2)
    with pytest.raises(KeyboardInterrupt):
        trained(base, settings, callbacks=[killed_at(5)])
    copy = shutil.copytree(tmp_path / "out" / "checkpoint-000002", tmp_path / "out" / "checkpoint-000002-mine")
    trained(base, but(settings, save_total_limit=1), resume=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter", copy.name, "checkpoint-000006"]


def test_a_run_is_not_overwritten_nor_mixed_with_another(base, tmp_path):
    settings = but(LORA, max_steps=2, output_dir=tmp_path / "out")
    trained(base, settings)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(CourseError, match="holds a training run already"):
        trained(base, settings)
    with pytest.raises(CourseError, match="other values of learning_rate, lora_alpha:"):
        trained(base, but(settings, learning_rate=1.0, lora_alpha=1), resume=True)
    with pytest.raises(CourseError, match="other values of the data:"):
        model = finetune.add_adapter(base(), settings)
        finetune.train(model, examples(3, PAIRS[:3]), settings, resume=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("settings", [LORA, PREFIX], ids=["lora", "prefix"])
def test_a_checkpoint_of_another_model(base, tmp_path, settings):
    settings = but(settings, max_steps=2, output_dir=tmp_path / "out")
    trained(base, settings)
    other = base(2)
    with torch.no_grad():  # of the same sizes, as ChatGLM2 and ChatGLM3 are
        other.get_input_embeddings().weight.add_(0.1)
    for model in (other, base(1)):
        with pytest.raises(CourseError, match="was trained on another model"):
            finetune.load_trained(model, tmp_path / "out")
    with pytest.raises(CourseError, match="was trained on another model"):
        finetune.train(finetune.add_adapter(other, settings), examples(), settings, resume=True)
    finetune.load_trained(base(dtype="float16"), tmp_path / "out")  # the same, rounded
    finetune.load_trained(base(dtype="bfloat16"), tmp_path / "out")
    with pytest.raises(CourseError, match=r"no training\.json"):
        finetune.load_trained(base(), tmp_path)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(base, tmp_path):
    settings = but(LORA, max_steps=4, save_steps=1, output_dir=tmp_path / "out")

    def explode(now):
        if now.number == 2:
            for value in model.parameters():
                if value.requires_grad:
                    value.data.fill_(1e30)

    model = finetune.add_adapter(base(), settings)
    with pytest.raises(CourseError, match=r"no longer a number at step 2.*smaller learning_rate.*checkpoint-000001"):
        finetune.train(model, examples(), settings, callbacks=[explode])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-000001"]
    again, _ = trained(base, settings, resume=True)
    straight, _ = trained(base, but(settings, output_dir=None))
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(straight).items())


@pytest.mark.parametrize("save_steps", [1, 100])
def test_a_learning_rate_that_is_far_too_large(base, tmp_path, save_steps):
    settings = but(LORA, learning_rate=1e30, max_steps=4, save_steps=save_steps, output_dir=tmp_path / "out")
    with pytest.raises(CourseError, match=r"no longer a number at step [12].*now 1e\+30\).*No checkpoint"):
        trained(base, settings)
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_keeps_the_last_good_checkpoint(base, tmp_path):
    resource = pytest.importorskip("resource")
    settings = but(LORA, output_dir=tmp_path / "out")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(now):
        if now.number == 4:  # no file may grow larger: to a program, as if there were no more room
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))

    try:
        with pytest.raises(CourseError, match=r"checkpoint-000004 could not be written.*kept: .*checkpoint-000002"):
            trained(base, settings, callbacks=[fill_the_disk])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-000002"]
    again, _ = trained(base, settings, resume=True)
    straight, _ = trained(base, but(settings, output_dir=None))
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(straight).items())


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(base, tmp_path, monkeypatch):
    settings = but(LORA, output_dir=tmp_path / "out")
    write = training._save_tensors

    def killed(tensors, path):
        if "checkpoint-000004" in str(path):
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        write(tensors, path)

    monkeypatch.setattr(training, "_save_tensors", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(base, settings)
    monkeypatch.undo()
    assert (tmp_path / "out" / ".checkpoint-000004.unfinished").is_dir()  # a killed process cannot tidy up
    again, _ = trained(base, settings, resume=True)
    straight, _ = trained(base, but(settings, output_dir=None))
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(straight).items())
    assert not (tmp_path / "out" / ".checkpoint-000004.unfinished").exists()


# --- use


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("settings", [LORA, PREFIX], ids=["lora", "prefix"])
def test_what_was_trained_is_loaded_chats_and_is_served(base, tmp_path, generation, settings):
    from course_utils.serve import Service

    settings, tokenizer = but(settings, output_dir=tmp_path / "out"), tokenizer_of(generation)
    model, _ = trained(base, settings, generation)
    loaded = finetune.load_trained(base(generation), tmp_path / "out")
    of_checkpoint = finetune.load_trained(base(generation), tmp_path / "out" / "checkpoint-000006")
    ids = torch.tensor([examples(generation)[2]["input_ids"]])
    with torch.no_grad():
        logits = model.eval()(ids).logits
        assert not torch.allclose(logits, base(generation)(ids).logits)
        torch.testing.assert_close(loaded(ids).logits, logits)
        torch.testing.assert_close(of_checkpoint(ids).logits, logits)
    if generation > 1 or settings is LORA:
        assert isinstance(loaded, PeftModel)
        assert json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())["peft_type"]
    answers = finetune.generate_answers(loaded, tokenizer, PAIRS, max_new_tokens=6)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert answers == [chat(loaded, tokenizer, pair.prompt, **options)[0] for pair in PAIRS]
    client = TestClient(Service(loaded, tokenizer, "tiny").app())
    request = {"prompt": PAIRS[0].prompt, "history": [], "max_length": 64, "temperature": 0}
    said = client.post("/", json=request).json()
    assert said["status"] == 200
    assert said["response"] == chat(loaded, tokenizer, PAIRS[0].prompt, max_length=64, temperature=0)[0]


# --- what is seen


def test_progress_memory_and_curves(base, tmp_path, capfd):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callbacks = [finetune.ProgressBar(), finetune.TensorBoard(tmp_path)]
    _, history = trained(base, LORA, validation=examples(), callbacks=callbacks)
    shown = capfd.readouterr().out
    assert any(f" left, loss {loss:.4f}, CPU " in shown for _, loss in history.loss) and " MiB" in shown
    assert callbacks[0].bar is None  # ready for another run
    assert shown.rpartition("\r")[2] == f"training |{'█' * 20}| 6/6\n"  # as on every other machine
    events = EventAccumulator(str(tmp_path)).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    assert logged == [(step, pytest.approx(loss)) for step, loss in history.loss]
    assert [event.step for event in events.Scalars("validation")] == [2, 4, 6]
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match=r"curves in .*file cannot be written"):
        trained(base, LORA, callbacks=[finetune.TensorBoard(tmp_path / "file")])
