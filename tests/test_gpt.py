"""What `course_utils.gpt` keeps computes what the notebooks that teach it compute."""

import inspect
import math
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils import gpt, runtime

NOTEBOOKS = Path(__file__).parent.parent / "notebooks" / "en"


def taught(number: str, *cell_ids: str, **names: object) -> dict[str, object]:
    """What the cells with these ids define, given the notebook's imports and `names`."""
    [path] = NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
    namespace = {"math": math, "torch": torch, "nn": nn, "F": F, **names}
    for cell_id in cell_ids:
        exec(compile(cells[cell_id], cell_id, "exec"), namespace)
    return namespace


def test_05_what_the_first_block_receives():
    config = gpt.GPTConfig(vocab_size=10, context_length=8, hidden_size=12, num_layers=1, num_heads=2)
    model = gpt.GPT(config).eval()
    lesson = taught("05", "together-define")["Embeddings"](config.vocab_size, config.context_length, config.hidden_size)
    lesson.load_state_dict({name: model.state_dict()[name] for name in lesson.state_dict()})
    received = []
    model.blocks[0].register_forward_pre_hook(lambda block, arguments: received.append(arguments[0]))
    input_ids = torch.randint(10, (2, 6))
    model(input_ids)
    assert torch.equal(received[0], lesson(input_ids))


def test_05_the_tokenizer_cuts_chinese_text_as_the_first_encode_does():
    lesson = taught("05", "cold-open-run", "ids-run", runtime=runtime)
    texts = lesson["zh"].splitlines()
    tokenizer = gpt.Tokenizer.of(texts, at_least=1)
    renumbered: dict[int, int] = {}  # notebook 05's id of each token → the tokenizer's
    for text in texts:
        ours, theirs = tokenizer.encode(text), lesson["encode"](text)
        assert [tokenizer.vocabulary[i] for i in ours] == [lesson["vocabulary"][i] for i in theirs]
        assert tokenizer.decode(ours) == lesson["decode"](theirs) == text
        assert all(renumbered.setdefault(other, i) == i for i, other in zip(ours, theirs, strict=True))
    assert len(set(renumbered.values())) == len(renumbered) == len(tokenizer.vocabulary) - 2  # [EOS], [UNK]


@pytest.fixture(autouse=True)
def exact():
    """The same random numbers for every test, in double precision."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_06_multi_head_attention():
    config = gpt.GPTConfig(vocab_size=10, hidden_size=24, num_heads=3, dropout=0.1)
    kept = gpt.MultiHeadAttention(config).eval()
    lesson = taught("06", "class-run")["MultiHeadAttention"](config).eval()
    lesson.load_state_dict(kept.state_dict())
    x = torch.randn(2, 6, 24)
    cache = kept(x[:, :2])[2]
    for arguments in [(x,), (x[:, 2:], cache)]:
        (y, weights, _), (wanted, wanted_weights, _) = lesson(*arguments), kept(*arguments)
        assert torch.equal(y, wanted) and torch.equal(weights, wanted_weights)
    torch.manual_seed(1)
    trained = kept.train()(x)[0]
    torch.manual_seed(1)
    assert torch.equal(lesson.train()(x)[0], trained)  # dropout stands in the same place


def twins(lesson: type[nn.Module], kept: type[nn.Module], config: gpt.GPTConfig) -> tuple[nn.Module, nn.Module]:
    """One of each, started from the same random numbers; then all weights and biases drawn anew, alike."""
    torch.manual_seed(3)
    theirs = lesson(config)
    torch.manual_seed(3)
    ours = kept(config)
    for (name, weight), (other_name, other) in zip(theirs.state_dict().items(), ours.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(weight, other), f"{name} starts differently"
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


@pytest.mark.parametrize("name", ["FeedForward", "Block", "GPT"])
@pytest.mark.parametrize("training", [False, True])
def test_07_feed_forward_block_and_stack(name, training):
    lesson = taught("07", "feed-forward", "block-code", "gpt-code", MultiHeadAttention=gpt.MultiHeadAttention)[name]
    config = gpt.GPTConfig(vocab_size=10, context_length=8, hidden_size=24, num_layers=2, num_heads=3, dropout=0.3)
    theirs, ours = (module.train(training) for module in twins(lesson, getattr(gpt, name), config))
    x = torch.randint(10, (2, 6)) if name == "GPT" else torch.randn(2, 6, 24)
    results = []
    for module in (theirs, ours):
        torch.manual_seed(1)  # dropout falls on the same numbers
        results.append(module(x))
    for result, wanted in zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True):
        for tensor, other in zip(*(r if isinstance(r, tuple) else (r,) for r in (result, wanted)), strict=True):
            assert torch.equal(tensor, other)


def test_07_the_block_goes_on_from_a_cache():
    lesson = taught("07", "feed-forward", "block-code", MultiHeadAttention=gpt.MultiHeadAttention)["Block"]
    config = gpt.GPTConfig(vocab_size=10, hidden_size=24, num_heads=3)
    theirs, ours = twins(lesson, gpt.Block, config)
    x = torch.randn(2, 6, 24)
    cache = theirs(x[:, :4])[2]
    assert torch.allclose(theirs(x[:, 4:], cache)[0], ours(x)[0][:, 4:])


def test_08_training_and_validation():
    lesson = taught("08", "windows-define", "train-define", "better-start-define", "surprise-define")
    ids = torch.randint(12, (500,))
    results = []
    for names in (vars(gpt), lesson):
        start_small, train, surprise = (names[name] for name in ("start_small", "train", "surprise"))
        torch.manual_seed(1)
        model = gpt.GPT(gpt.GPTConfig(vocab_size=12, context_length=16, hidden_size=8, num_layers=1, num_heads=2))
        start_small(model)
        losses = list(train(model, ids, steps=12, learning_rate=0.01, length=16, batch_size=3))
        results.append((losses, surprise(model, ids, length=16)))
    (losses, prices), (taught_losses, taught_prices) = results
    assert losses == taught_losses and torch.equal(prices, taught_prices)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["random_windows", "train", "start_small", "surprise"])
def test_08_arguments_and_defaults(name):
    lesson = taught("08", "windows-define", "train-define", "better-start-define", "surprise-define")
    theirs, ours = (
        [(argument.name, argument.default) for argument in inspect.signature(names[name]).parameters.values()]
        for names in (lesson, vars(gpt))
    )
    assert theirs == ours


def test_08_a_step_with_a_cache():
    from course_utils.checks import language_model

    cached_step = taught("08", "cache-solution", check=language_model)["cached_step"]
    model = gpt.GPT(gpt.GPTConfig(vocab_size=10, context_length=8, hidden_size=8, num_layers=2, num_heads=2)).eval()
    ids = torch.randint(10, (2, 7))
    caches, kept_caches = None, None
    for part in ids.split([4, 1, 2], dim=1):
        logits, caches = cached_step(model, part, caches)
        kept, _, kept_caches = model.step(part, kept_caches)
        assert torch.equal(logits, kept)
    assert torch.allclose(logits, model(ids)[:, -2:])
