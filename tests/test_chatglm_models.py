"""The published weights give the published numbers, on both kinds of network, however they are used.

The reference logits were computed in float32 with the published modelling files.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from chatglm_scripted import published_folder
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DynamicCache, GlmForCausalLM

from course_utils.chatglm import add_prefix, convert, load_chatglm, load_prefix
from course_utils.chatglm.modeling import position_pairs, rotary_table, visibility

FIXTURES = Path(__file__).parent / "fixtures" / "chatglm"
NATIVE = ["v3_mqa2", "v3_mha", "v3_mqa2_prefix"]
FIRST = ["v1_base", "v1_prefixproj"]
PREFIXED = ["v3_mqa2_prefix", "v1_prefixproj"]
NEVER = 10**6  # an end token that does not occur: the references run for 8 tokens whatever they are


def load(name: str, **options):
    return load_chatglm(FIXTURES / name, device="cpu", **options)


def expected(name: str) -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / name / "expected.safetensors")


def assert_close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-4)


@torch.no_grad()
def assert_same_as_published(model, name: str) -> None:
    """Prefill, eight greedy steps through the cache, a padded batch and the loss."""
    assert_same_decoding(model, name)
    assert_same_batch(model, name)
    assert_same_loss(model, name)


def assert_same_decoding(model, name: str) -> None:
    reference = expected(name)
    ids = reference["input_ids"]
    assert_close(model(ids).logits, reference["prefill_logits"])
    assert_same_greedy(model, ids, reference["greedy_ids"], reference["greedy_logits"])


@torch.no_grad()
def assert_same_batch(model, name: str) -> None:
    reference = expected(name)
    ids = reference["batch_input_ids"]
    mask = reference.get("batch_attention_mask", (ids != 3).long())
    mask = mask if name in NATIVE else torch.cat((torch.ones_like(mask[:1]), (torch.arange(14) >= 4).long()[None]))
    logits = model(ids, attention_mask=mask).logits
    assert_close(logits[mask.bool()], reference["batch_prefill_logits"][mask.bool()])
    assert_same_greedy(model, ids, reference["batch_greedy_ids"], reference["batch_greedy_logits"], attention_mask=mask)


def assert_same_greedy(model, ids: torch.Tensor, tokens: torch.Tensor, logits: torch.Tensor, **options) -> None:
    """The reference stores the logits after each greedy token, `generate` those before it."""
    steps = tokens.shape[1]
    out = model.generate(
        ids,
        max_new_tokens=steps + 1,
        do_sample=False,
        eos_token_id=NEVER,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    assert out.sequences[:, ids.shape[1] : -1].tolist() == tokens.tolist()
    assert_close(torch.stack(out.logits[1:], dim=1), logits)


def assert_same_loss(model, name: str) -> None:
    reference = expected(name)
    if name in NATIVE:
        out = model(reference["input_ids"], labels=reference["loss_labels"])
        assert_close(out.loss, reference["loss"][0])
    else:  # the reference of the first generation is a training batch
        out = model(reference["train_input_ids"], labels=reference["train_labels"])
        assert_close(out.logits, reference["train_logits"])
        assert_close(out.loss, reference["train_loss"][0])


@pytest.mark.parametrize("name", NATIVE + FIRST)
@pytest.mark.parametrize("what", [assert_same_decoding, assert_same_batch, assert_same_loss])
def test_the_same_as_published(what, name):
    what(load(name), name)


def test_later_generations_are_the_class_of_the_library():
    assert type(load("v3_mqa2")) is GlmForCausalLM


@pytest.mark.parametrize("name", FIRST)
@torch.no_grad()
def test_first_generation_fills_a_mask_inside_the_text(name):
    model, reference = load(name), expected(name)
    ids = reference["mask_input_ids"]
    assert_close(model(ids).logits, reference["mask_prefill_logits"])
    assert_same_greedy(model, ids, reference["mask_greedy_ids"], reference["mask_greedy_logits"])


def test_first_generation_positions_mask_and_frequencies():
    config, reference = load("v1_base").config, expected("v1_base")
    for case in ("", "mask_", "train_"):
        ids = reference[f"{case}input_ids"]
        assert position_pairs(ids, None, config).tolist() == reference[f"{case}position_ids"].tolist()
    ids = reference["batch_input_ids"]
    padding = torch.ones_like(ids)
    padding[1, :4] = 0
    positions = position_pairs(ids, padding, config)
    assert positions.tolist() == reference["batch_position_ids"].tolist()
    length = reference["input_ids"].shape[1]
    context = (reference["position_ids"][:, 1] == 0).sum(dim=-1)
    visible = visibility(length, 0, context, None, "cpu")
    assert visible.tolist() == (~reference["attention_mask_true_is_blocked"]).tolist()
    cos, sin = rotary_table(torch.tensor([[1]]), 8, torch.float32)
    torch.testing.assert_close(torch.atan2(sin, cos)[0, 0, 0, :4], reference["inv_freq"])


def test_half_precision_rounds_the_angles():
    positions = torch.tensor([[1842]])
    frequency = torch.tensor(10000 ** (-2 / 64)).half()
    exact = torch.cos(torch.tensor(1842.0) * frequency.float())
    rounded = torch.cos(torch.tensor(1842.0).half() * frequency).float()
    ours = rotary_table(positions, 64, torch.float16)[0][0, 0, 0, 1].float()
    assert ours == rounded and abs(ours - exact) > 0.01


@pytest.mark.parametrize("name", FIRST)
@torch.no_grad()
def test_first_generation_continues_from_a_cache_in_chunks(name):
    """An answer given in two pieces of several tokens scores as in one."""
    model, reference = load(name), expected(name)
    ids = reference["train_input_ids"]
    positions = position_pairs(ids, None, model.config)
    whole = model(ids).logits
    cache = DynamicCache()
    cut = 17
    first = model(ids[:, :cut], past_key_values=cache, use_cache=True).logits
    second = model(ids[:, cut:], past_key_values=cache, position_ids=positions[..., cut:], use_cache=True).logits
    assert_close(torch.cat((first, second), dim=1), whole)


@pytest.mark.parametrize("name", NATIVE + FIRST)
def test_saved_and_reloaded(name, tmp_path):
    load(name).save_pretrained(tmp_path)
    assert_same_as_published(load_chatglm(tmp_path, device="cpu"), name)
    if name != "v3_mqa2_prefix":  # a class of the library knows no prefix
        assert_same_as_published(AutoModelForCausalLM.from_pretrained(tmp_path), name)


@pytest.mark.parametrize("name", NATIVE + FIRST)
def test_converted(name, tmp_path):
    out = convert(FIXTURES / name, tmp_path / "native")
    assert_same_as_published(load_chatglm(out, device="cpu"), name)
    assert [path.name for path in tmp_path.iterdir()] == ["native"]
    names = load_file(out / "model.safetensors").keys()
    assert any(key.startswith("model.layers" if name in NATIVE else "transformer.layers") for key in names)


@pytest.mark.parametrize("name", ["v3_mqa2", "v1_prefixproj"])
@pytest.mark.parametrize("kind", ["safetensors", "bin", "old bin"])
def test_shards_of_either_kind(name, kind, tmp_path):
    shutil.copy(FIXTURES / name / "config.json", tmp_path)
    tensors = load_file(FIXTURES / name / "model.safetensors")
    names, weight_map = sorted(tensors), {}
    suffix, stem = ("safetensors", "model") if kind == "safetensors" else ("bin", "pytorch_model")
    for number in range(3):
        file = f"{stem}-{number + 1:05}-of-00003.{suffix}"
        part = {key: tensors[key] for key in names[number::3]}
        weight_map.update(dict.fromkeys(part, file))
        if kind == "safetensors":
            save_file(part, tmp_path / file)
        else:
            torch.save(part, tmp_path / file, _use_new_zipfile_serialization=kind == "bin")
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    assert_same_as_published(load_chatglm(tmp_path, device="cpu"), name)


@pytest.mark.parametrize("name", PREFIXED)
def test_prefix_alone_in_a_file(name, tmp_path):
    """What the published P-Tuning script saves: the prefix, in a .bin of its own."""
    bare, checkpoint = tmp_path / "bare", tmp_path / "checkpoint-3000"
    bare.mkdir()
    checkpoint.mkdir()
    shutil.copy(FIXTURES / name / "config.json", bare)
    tensors = load_file(FIXTURES / name / "model.safetensors")
    prefix = {key: tensors.pop(key) for key in list(tensors) if "prefix_encoder" in key}
    save_file(tensors, bare / "model.safetensors")
    torch.save(prefix, checkpoint / "pytorch_model.bin")

    model = load_chatglm(bare, device="cpu")
    ids = expected(name)["input_ids"]
    with torch.no_grad():
        assert (model(ids).logits - expected(name)["prefill_logits"]).abs().max() > 0.1  # the prefix matters
    assert load_prefix(model, checkpoint) is model
    assert_same_as_published(model, name)
    load_prefix(model, checkpoint / "pytorch_model.bin")  # a second one replaces the first
    assert_same_as_published(model, name)


def test_prefix_without_projection_in_the_first_generation(tmp_path):
    """What its network makes of the reference's prefix is a table; as a table it must do the same."""
    tensors = load_file(FIXTURES / "v1_prefixproj" / "model.safetensors")
    part = "transformer.prefix_encoder."
    row, first, bias, second, last_bias = (
        tensors[part + name]
        for name in ("embedding.weight", "trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")
    )
    table = (row @ first.T + bias).tanh() @ second.T + last_bias
    torch.save({part + "embedding.weight": table}, tmp_path / "pytorch_model.bin")
    shutil.copy(FIXTURES / "v1_prefixproj" / "config.json", tmp_path)
    kept = {name: value for name, value in tensors.items() if part not in name}
    save_file(kept, tmp_path / "model.safetensors")
    assert_same_as_published(
        load_prefix(load_chatglm(tmp_path, device="cpu"), tmp_path / "pytorch_model.bin"), "v1_prefixproj"
    )


@torch.no_grad()
def test_prefix_with_projection_in_the_third_generation(tmp_path):
    """A network whose last layer is solved so that it makes the reference's table must do what the table does."""
    tensors = load_file(FIXTURES / "v3_mqa2_prefix" / "model.safetensors")
    part = "transformer.prefix_encoder."
    table = tensors.pop(part + "embedding.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(FIXTURES / "v3_mqa2_prefix" / "config.json", tmp_path)
    model = load_chatglm(tmp_path, device="cpu")
    prefix = add_prefix(model, len(table), projection=True)
    hidden = prefix.trans[:2](prefix.embedding.weight)
    prefix.trans[2].weight.copy_(torch.linalg.lstsq(hidden, table, driver="gelsd").solution.T)
    saved = {part + name: value for name, value in prefix.state_dict().items()}
    torch.save(saved, tmp_path / "prefix.bin")
    again = load_prefix(load_chatglm(tmp_path, device="cpu"), tmp_path / "prefix.bin")
    assert again.config.prefix_projection
    assert_same_as_published(again, "v3_mqa2_prefix")


@torch.no_grad()
def test_the_long_variant_of_the_second_generation_divides_its_positions(tmp_path):
    folder = shutil.copytree(FIXTURES / "v3_mqa2", tmp_path / "chatglm2-6b-32k")
    config = json.loads((folder / "config.json").read_text())
    config |= {"rope_ratio": 16, "_name_or_path": "THUDM/chatglm2-6b-32k"}
    (folder / "config.json").write_text(json.dumps(config))
    ids = expected("v3_mqa2")["input_ids"]
    logits = load_chatglm(folder, device="cpu")(ids).logits
    assert_close(logits, load("v3_mqa2")(ids, position_ids=torch.arange(ids.shape[1])[None] / 16).logits)
    assert (logits - expected("v3_mqa2")["prefill_logits"]).abs().max() > 0.1


@torch.no_grad()
def test_half_precision_keeps_the_frequencies_of_the_later_generations_exact():
    """`.half()` after loading would round them."""
    model = load("v3_mqa2", dtype="float16")
    assert model.dtype is torch.float16 and model.model.rotary_emb.inv_freq.dtype is torch.float32
    assert torch.equal(model.model.rotary_emb.inv_freq, load("v3_mqa2").model.rotary_emb.inv_freq)


@pytest.mark.parametrize("name", PREFIXED)
def test_prefix_inside_a_full_checkpoint(name):
    model = load({"v3_mqa2_prefix": "v3_mqa2", "v1_prefixproj": "v1_base"}[name])
    load_prefix(model, FIXTURES / name)
    tensors = load_file(FIXTURES / name / "model.safetensors")
    ours = {key.split("prefix_encoder.")[1]: value for key, value in model.state_dict().items() if "prefix" in key}
    assert ours and all(torch.equal(value, tensors[f"transformer.prefix_encoder.{k}"]) for k, value in ours.items())


@pytest.mark.parametrize("name", ["v3_mqa2", "v1_base"])
@pytest.mark.parametrize("projection", [False, True])
def test_a_fresh_prefix_trains_alone_and_comes_back(name, projection, tmp_path):
    model = load(name)
    prefix = add_prefix(model, 4, projection)
    assert prefix.embedding.weight.std() > 0.5 or projection
    ids = expected(name)["input_ids"]
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = []
    for _ in range(10):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all("prefix_encoder" in key for key in changed)
    model.eval().save_pretrained(tmp_path)
    again = load_chatglm(tmp_path, device="cpu")
    with torch.no_grad():
        assert_close(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", ["v3_mqa2", "v1_base"])
def test_each_example_has_a_dropout_of_its_own_in_the_prefix(name):
    prefix = add_prefix(load(name).train(), 4)
    for values in prefix(2, torch.float32):
        for kind in values:
            assert kind.shape[0] == 2 and not torch.equal(kind[0], kind[1])
    for values in prefix.eval()(2, torch.float32):
        assert all(torch.equal(kind[0], kind[1]) for kind in values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prefix_stays_in_float32(dtype, tmp_path):
    for name in PREFIXED:
        model = load(name, dtype=dtype)
        kinds = {key.split(".")[-2]: value.dtype for key, value in model.state_dict().items() if "prefix" in key}
        assert set(kinds.values()) == {torch.float32}
        assert model.lm_head.weight.dtype == dtype
        model.generate(expected(name)["input_ids"], max_new_tokens=3, do_sample=False)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert again.transformer.prefix_encoder.trans[2].weight.dtype == torch.float32


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(name):
    reference = expected(name)
    gradients = []
    for checkpointing in (False, True):
        model = load(name)
        model.eval()  # dropout of the prefix would differ; the blocks have none
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.transformer.layers.train()
            assert all(block.gradient_checkpointing for block in model.transformer.layers)
        model(reference["train_input_ids"], labels=reference["train_labels"]).loss.backward()
        gradients.append({key: value.grad for key, value in model.named_parameters()})
    for key, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], value, msg=key)


def test_tied_matrices_are_loaded_once(tmp_path):
    """The published first generation stores its output matrix twice; it must stay one."""
    model = load_chatglm(published_folder(1, tmp_path), device="cpu")
    assert model.lm_head.weight is model.transformer.word_embeddings.weight


@torch.no_grad()
def test_matrices_that_training_has_parted_stay_two(tmp_path):
    folder = published_folder(1, tmp_path / "published")
    ids = torch.tensor([[100, 200, 300, 6, 9]])
    logits = load_chatglm(folder, device="cpu")(ids).logits
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] *= -2
    save_file(tensors, folder / "model.safetensors")
    assert_close(load_chatglm(folder, device="cpu")(ids).logits, -2 * logits)
    assert_close(load_chatglm(convert(folder, tmp_path / "native"), device="cpu")(ids).logits, -2 * logits)


def test_generation_features():
    """Sampling, beams and several answers run on both kinds, with and without a prefix."""
    for name in ["v3_mqa2", *PREFIXED]:
        model, ids = load(name), expected(name)["input_ids"]
        torch.manual_seed(0)
        out = model.generate(ids, max_new_tokens=4, do_sample=True, num_return_sequences=3, eos_token_id=NEVER)
        assert out.shape == (3, ids.shape[1] + 4)
        beams = model.generate(ids, max_new_tokens=4, num_beams=3, do_sample=False, eos_token_id=NEVER)
        uncached = model.generate(
            ids, max_new_tokens=4, num_beams=3, do_sample=False, use_cache=False, eos_token_id=NEVER
        )
        assert beams.tolist() == uncached.tolist()
