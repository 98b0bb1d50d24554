"""The four real models without their weights: the published configs give the right networks, and every tensor
of the published layout lands in exactly one place.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from course_utils.chatglm.loading import model_class
from course_utils.chatglm.memory import needed_bytes, needed_bytes_by_bitsandbytes
from course_utils.chatglm.published import (
    StoredTensor,
    first_generation_config,
    first_generation_tensors,
    generation_of,
    native_config,
    native_tensors,
)

FIXTURES = Path(__file__).parent / "fixtures" / "chatglm"
PARAMETERS = {"chatglm_6b": 6.173, "chatglm2_6b": 6.244, "chatglm3_6b": 6.244, "glm_4_9b_chat": 9.400}
PUBLISHED_INDEX = {"chatglm2_6b": (200, 12_487_168_064), "chatglm3_6b": (200, 12_487_168_064)}
# GiB in float16, int8 and NF4
MEMORY = {
    "chatglm_6b": (11.50, 6.25, 3.71),
    "chatglm2_6b": (11.63, 6.31, 3.74),
    "chatglm3_6b": (11.63, 6.31, 3.74),
    "glm_4_9b_chat": (17.51, 9.91, 6.23),
}
TINY = ["v1_base", "v1_prefixproj", "v3_mqa2", "v3_mha", "v3_mqa2_prefix"]


def real_config(name: str) -> dict:
    return json.loads((FIXTURES / "configs" / f"{name}.json").read_text())


def tiny_config(name: str) -> dict:
    return json.loads((FIXTURES / name / "config.json").read_text())


def published_layout(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint, written down from the published networks."""
    h, layers = config["hidden_size"], config["num_layers"]
    if "padded_vocab_size" not in config:
        v, f, d = config["vocab_size"], config["inner_hidden_size"], h // config["num_attention_heads"]
        layout = {"transformer.word_embeddings.weight": (v, h), "lm_head.weight": (v, h)}
        for i in range(layers):
            block = f"transformer.layers.{i}"
            layout[f"{block}.attention.rotary_emb.inv_freq"] = (d // 4,)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                layout |= {f"{block}.{norm}.weight": (h,), f"{block}.{norm}.bias": (h,)}
            for linear, rows, columns in [
                ("attention.query_key_value", 3 * h, h),
                ("attention.dense", h, h),
                ("mlp.dense_h_to_4h", f, h),
                ("mlp.dense_4h_to_h", h, f),
            ]:
                layout |= {f"{block}.{linear}.weight": (rows, columns), f"{block}.{linear}.bias": (rows,)}
        return layout | dict.fromkeys(("transformer.final_layernorm.weight", "transformer.final_layernorm.bias"), (h,))

    v, f, d, n = (config[k] for k in ("padded_vocab_size", "ffn_hidden_size", "kv_channels", "num_attention_heads"))
    groups = config["multi_query_group_num"] if config["multi_query_attention"] else n
    fused = (n + 2 * groups) * d
    layout = {
        "transformer.embedding.word_embeddings.weight": (v, h),
        "transformer.rotary_pos_emb.inv_freq": (d // 4,),
        "transformer.encoder.final_layernorm.weight": (h,),
        "transformer.output_layer.weight": (v, h),
    }
    for i in range(layers):
        block = f"transformer.encoder.layers.{i}"
        layout |= {
            f"{block}.input_layernorm.weight": (h,),
            f"{block}.post_attention_layernorm.weight": (h,),
            f"{block}.self_attention.query_key_value.weight": (fused, h),
            f"{block}.self_attention.query_key_value.bias": (fused,),
            f"{block}.self_attention.dense.weight": (h, n * d),
            f"{block}.mlp.dense_h_to_4h.weight": (2 * f, h),
            f"{block}.mlp.dense_4h_to_h.weight": (h, f),
        }
    return layout


@pytest.mark.parametrize("name", TINY)
def test_layout_written_here_is_that_of_the_published_files(name):
    with safe_open(FIXTURES / name / "model.safetensors", framework="pt") as file:
        names = [key for key in file.keys() if "prefix_encoder" not in key]
        stored = {key: tuple(file.get_slice(key).get_shape()) for key in names}
    assert stored == published_layout(tiny_config(name))


@pytest.mark.parametrize("name", PUBLISHED_INDEX)
def test_layout_is_that_of_the_published_index(name):
    """Number of tensors and bytes, rotary table included, as the published list of the shards gives them."""
    layout = published_layout(real_config(name))
    assert (len(layout), 2 * sum(map(math.prod, layout.values()))) == PUBLISHED_INDEX[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    raw = real_config(name)
    config = first_generation_config(raw) if name == "chatglm_6b" else native_config(raw)
    with torch.device("meta"):
        model = model_class(config)(config)
    assert round(sum(p.numel() for p in model.parameters()) / 1e9, 3) == PARAMETERS[name]


@pytest.mark.parametrize("name", MEMORY)
def test_memory_before_anything_is_loaded(name):
    raw = real_config(name)
    stored = {key: StoredTensor(shape, torch.float16, None) for key, shape in published_layout(raw).items()}
    if generation_of(raw) == 1:
        ours = first_generation_tensors(stored, first_generation_config(raw))
    else:
        ours = native_tensors(stored, raw)
    half, eight, four = (2**30 * gib for gib in MEMORY[name])
    assert needed_bytes(ours, torch.float16) == pytest.approx(half, rel=0.003)
    assert needed_bytes_by_bitsandbytes(ours, torch.float16, 8) == pytest.approx(eight, rel=0.003)
    assert needed_bytes_by_bitsandbytes(ours, torch.float16, 4) == pytest.approx(four, rel=0.003)


@pytest.mark.parametrize("name", [*PARAMETERS, *TINY])
def test_every_published_tensor_is_used_exactly_once(name):
    raw = real_config(name) if name in PARAMETERS else tiny_config(name)
    raw.pop("pre_seq_len", None)
    layout = published_layout(raw)
    # Every row of every published tensor has a number of its own, and is read as that number.
    published, numbered = {}, 0
    for key, shape in layout.items():
        numbers = torch.arange(numbered, numbered + shape[0])
        published[key] = StoredTensor(shape, torch.float16, lambda rows, numbers=numbers: numbers[rows])
        numbered += shape[0]
    if generation_of(raw) == 1:
        config = first_generation_config(raw)
        ours = first_generation_tensors(published, config)
    else:
        config = native_config(raw)
        ours = native_tensors(published, raw)

    with torch.device("meta"):
        model = model_class(config)(config)
    needed = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    dropped = {key for key in layout if key.endswith("inv_freq")}
    if config.tie_word_embeddings:
        needed.pop("lm_head.weight")
        dropped.add("lm_head.weight")
    assert {key: tensor.shape for key, tensor in ours.items()} == needed

    used = torch.cat([tensor.read() for tensor in ours.values()])
    assert len(used.unique()) == len(used) == numbered - sum(layout[key][0] for key in dropped)
    kept = sum(math.prod(shape) for key, shape in layout.items() if key not in dropped)
    assert kept == sum(parameter.numel() for parameter in model.parameters())


def test_generations_and_what_depends_on_them():
    assert [generation_of(real_config(name)) for name in PARAMETERS] == [1, 2, 3, 4]
    assert native_config(real_config("chatglm2_6b")).eos_token_id == 2
    assert native_config(real_config("chatglm3_6b")).eos_token_id == [2, 64795, 64797]
    glm4 = native_config(real_config("glm_4_9b_chat"))
    assert glm4.rope_parameters["rope_theta"] == 5_000_000 and glm4.rms_norm_eps == 1.5625e-07
    assert glm4.eos_token_id == [151329, 151336, 151338] and glm4.pad_token_id == 151329


def test_long_variants_turn_or_divide():
    """chatglm2-6b-32k divides its positions, chatglm3-6b-32k turns more slowly."""
    second = native_config(real_config("chatglm2_6b") | {"rope_ratio": 16}).rope_parameters
    assert (second["rope_type"], second["factor"], second["rope_theta"]) == ("linear", 16, 10000)
    third = native_config(real_config("chatglm3_6b") | {"rope_ratio": 50}).rope_parameters
    assert (third["rope_type"], third["rope_theta"]) == ("default", 500_000)


def test_first_generation_of_the_early_revision():
    """It had 20,000 image tokens in front and named only <sop>."""
    raw = real_config("chatglm_6b") | {"vocab_size": 150528, "bos_token_id": 150004, "eos_token_id": 150005}
    del raw["mask_token_id"], raw["gmask_token_id"]
    config = first_generation_config(raw)
    assert (config.mask_token_id, config.gmask_token_id) == (150000, 150001)
    assert "auto_map" not in config.to_dict()
