"""What notebook 08 brings along: tokens, the files of the small GPT, its figures and its explorer."""

import os

import pytest
import torch

from course_utils import CourseError, explorers, gpt, plots, runtime


@pytest.fixture(scope="module")
def stored() -> tuple[gpt.GPT, gpt.Tokenizer]:
    return gpt.load_gpt(runtime.DATA / "models" / "gpt-tiny")


def test_tokens_go_to_ids_and_back():
    texts = ["小猫在沙发上。", "The kitten sleeps. The kitten", "小猫"]
    tokenizer = gpt.Tokenizer.of(texts, at_least=1)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode("小狗")) == "小[UNK]"
    assert gpt.Tokenizer.of(texts).vocabulary == ["[EOS]", "[UNK]", " kitten", "小", "猫"]
    assert gpt.Tokenizer.of(reversed(texts)).vocabulary == gpt.Tokenizer.of(texts).vocabulary


def test_a_saved_model_comes_back_whole(tmp_path):
    torch.manual_seed(0)
    tokenizer = gpt.Tokenizer(["[EOS]", "[UNK]", "小", "猫"])
    model = gpt.GPT(gpt.GPTConfig(vocab_size=4, context_length=8, hidden_size=8, num_layers=2, num_heads=2))
    gpt.save_gpt(tmp_path / "new" / "model", model, tokenizer)
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocab.json",
    ]
    loaded, same_tokenizer = gpt.load_gpt(tmp_path / "new" / "model")
    assert loaded.config == model.config and same_tokenizer.vocabulary == tokenizer.vocabulary
    assert loaded.head.weight is loaded.token_embedding.weight
    ids = torch.tensor([[2, 3, 2]])
    assert torch.allclose(loaded(ids), model(ids), atol=1e-3)  # the file holds half precision


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "model.safetensors"])
def test_a_missing_file_is_named_with_its_cure(tmp_path, name):
    model = gpt.GPT(gpt.GPTConfig(vocab_size=2, context_length=4, hidden_size=4, num_layers=1, num_heads=1))
    gpt.save_gpt(tmp_path, model, gpt.Tokenizer(["[EOS]", "[UNK]"]))
    os.remove(tmp_path / name)
    with pytest.raises(CourseError, match=f"has no {name}; restore it with `git checkout"):
        gpt.load_gpt(tmp_path)


def test_the_stored_model_guesses_held_out_stories_better_than_chance(stored):
    from course_utils.standins import gpt_tiny

    model, tokenizer = stored
    _, held_out = gpt_tiny.stories()
    perplexity = gpt.surprise(model, gpt_tiny.ids_of(tokenizer, held_out[:10])).mean().exp().item()
    assert perplexity < 3.5  # 2.4 on all of them; before training it is one of hundreds


def test_surprise_asks_for_each_token_once():
    class Echo(torch.nn.Module):
        """Is sure that the next id is one higher."""

        def forward(self, ids):
            return 50.0 * torch.nn.functional.one_hot((ids + 1) % 40, 40)

    ids = torch.arange(40)
    assert len(gpt.surprise(Echo(), ids, length=8)) == 36  # whole half windows of 4
    assert gpt.surprise(Echo(), ids, length=8).max() < 1e-6
    ids[10] = 0
    assert (gpt.surprise(Echo(), ids, length=8) > 1).nonzero().flatten().tolist() == [9, 10]


def test_figures_of_notebook_08_draw():
    plots.use_course_style()
    vocabulary = ["[EOS]", "[UNK]", "小", " kitten", "猫"]
    probabilities = torch.tensor([0.1, 0.0, 0.5, 0.3, 0.1])
    figure = plots.next_tokens({"a": probabilities, "b": probabilities**2}, vocabulary, top=4)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["小", "␣kitten", "[EOS]", "猫"]
    figure = plots.cuts({"sure": probabilities}, {"top-k 2": lambda p: 2}, most=5)
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "top-k 2: 2 stay"


def rule(logits, temperature, k, p, min_p):
    kth = logits.topk(k).values[..., -1:]
    return (logits / temperature).masked_fill(logits < kth, float("-inf"))


def test_the_explorer_draws_every_corner_and_leaves_the_random_numbers_alone():
    plots.use_course_style()
    vocabulary = ["[EOS]", "[UNK]", *"小猫在沙发上玩耍睡觉", " kitten"]
    logits = torch.linspace(3, -3, len(vocabulary))

    def samples(prompt, change):
        ids = torch.multinomial(change(logits).softmax(dim=-1), 30, replacement=True)
        return [prompt + "".join(vocabulary[i] for i in ids)]

    state = torch.get_rng_state()
    shown = explorers.sampling(["小猫", "The"], lambda prompt: logits, rule, samples, vocabulary)
    before = bytes(shown.image.value)
    for name, value in {"k": 1, "temperature": 3.0, "p": 0.05, "min_p": 1.0, "prompt": "The", "seed": 20}.items():
        shown.controls[name].value = value
        assert bytes(shown.image.value).startswith(b"\x89PNG")
    assert bytes(shown.image.value) != before
    assert torch.equal(torch.get_rng_state(), state)
