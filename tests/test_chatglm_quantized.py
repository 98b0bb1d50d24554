"""Weights in 8 and 4 bits: the arithmetic, the published files, loading, saving and training around them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from course_utils import CourseError, runtime
from course_utils.chatglm import add_prefix, chat, convert, load_chatglm, load_tokenizer, quantization
from course_utils.chatglm.published import StoredTensor, open_tensors
from course_utils.chatglm.quantization import BLOCK, QuantizedLinear, dequantize_rows, quantize_rows, quantized_tensors

FIXTURES = Path(__file__).parent / "fixtures" / "chatglm"
MODELS = ["v3_mqa2", "v3_mha", "v1_base"]


def expected(name: str) -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / name / "expected.safetensors")


def write_published_quantized(
    name: str, bits: int, folder: Path, dtype: torch.dtype = torch.float16
) -> dict[str, torch.Tensor]:
    """A folder as the published int8 and int4 ones are; returns the weights that they stand for."""
    config = json.loads((FIXTURES / name / "config.json").read_text())
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"quantization_bit": bits}))
    tensors, meant = {}, {}
    for key, weight in load_file(FIXTURES / name / "model.safetensors").items():
        weight = tensors[key] = meant[key] = weight.to(dtype)
        if ".layers." in key and weight.ndim == 2:
            # Number by number, from the description of the format.
            limit = 2 ** (bits - 1) - 1
            scale = weight.abs().max(dim=1).values / limit
            whole = (weight / scale[:, None]).round().long()
            meant[key] = whole * scale[:, None].float()
            if bits == 4:
                whole = torch.tensor([[(a % 16) * 16 + b % 16 for a, b in row.view(-1, 2)] for row in whole])
                whole = whole - 256 * (whole > 127)
            tensors[key], tensors[f"{key}_scale"] = whole.to(torch.int8), scale
    torch.save(tensors, folder / "pytorch_model.bin")
    return meant


def test_packing_by_hand():
    weight = torch.tensor([[7.0, -7.0, 1.0, -2.0], [0.0, 0.0, 0.0, 0.0]])
    whole, scale = quantize_rows(weight, 4)
    assert scale.tolist() == [1, 0]
    assert whole.tolist() == [[0x79, 0x1E], [0, 0]]  # -7 is 9 and -2 is 14 in four bits
    assert dequantize_rows(whole, scale, 4, torch.float32).tolist() == weight.tolist()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_error_is_at_most_about_half_a_step(bits, dtype):
    torch.manual_seed(0)
    weight = torch.randn(32, 64, dtype=dtype)
    whole, scale = quantize_rows(weight, bits)
    assert whole.dtype == torch.int8 and whole.shape == (32, 64 * bits // 8)
    error = (dequantize_rows(whole, scale, bits, torch.float32) - weight.float()).abs()
    # In half precision the quotient is rounded before it is rounded to a whole number, as published.
    assert bool((error <= scale[:, None].float() * 0.6).all()) and error.max() > 0


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 1), (torch.float16, 1e-5), (torch.float16, 1e-6)])
def test_no_weight_changes_its_sign_where_the_scale_is_rounded(bits, dtype, size):
    """bfloat16 has 8 bits for a scale, float16 even fewer near its smallest number: the largest of a row overshoots."""
    torch.manual_seed(0)
    weight = (torch.randn(256, 64) * size).to(dtype)
    again = dequantize_rows(*quantize_rows(weight, bits), bits, torch.float32)
    assert bool((again * weight.float() >= 0).all())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@torch.no_grad()
def test_published_quantised_files(name, bits, dtype, tmp_path):
    meant = write_published_quantized(name, bits, tmp_path / "quantised", dtype)
    original = load_file(FIXTURES / name / "model.safetensors")
    for folder, tensors in {"meant": meant, "plain": {key: w.to(dtype) for key, w in original.items()}}.items():
        (tmp_path / folder).mkdir()
        shutil.copy(FIXTURES / name / "config.json", tmp_path / folder)
        save_file(tensors, tmp_path / folder / "model.safetensors")
    exact = {"dtype": "float32", "device": "cpu"}
    model = load_chatglm(tmp_path / "quantised", **exact)
    ids = expected(name)["input_ids"]
    reference = load_chatglm(tmp_path / "meant", **exact)(ids).logits
    torch.testing.assert_close(model(ids).logits, reference, rtol=0, atol=1e-4)
    kinds = {type(module) for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert kinds == {QuantizedLinear, nn.Linear} and type(model.lm_head) is nn.Linear
    # Quantising here gives the same numbers as reading the quantised files.
    again = load_chatglm(tmp_path / "plain", quantize=f"int{bits}", **exact)
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > ids.shape[1]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_eight_bits_change_the_model_less_than_four(name):
    reference = expected(name)["prefill_logits"]
    ids = expected(name)["input_ids"]
    differences = [
        (load_chatglm(FIXTURES / name, device="cpu", quantize=kind)(ids).logits - reference).std() / reference.std()
        for kind in ("int8", "int4")
    ]
    assert 0 < differences[0] < differences[1] / 4


@pytest.mark.parametrize("name", ["v3_mqa2", "v1_prefixproj"])
@torch.no_grad()
def test_saved_reloaded_and_converted(name, tmp_path):
    ids = expected(name)["input_ids"]
    model = load_chatglm(FIXTURES / name, device="cpu", quantize="int4")
    logits = model(ids).logits
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(load_chatglm(tmp_path / "saved", device="cpu")(ids).logits, logits)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "saved")(ids).logits, logits)
    out = convert(tmp_path / "saved", tmp_path / "converted")
    assert torch.equal(load_chatglm(out, device="cpu")(ids).logits, logits)


@pytest.mark.parametrize("name", ["v3_mqa2", "v1_base"])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_prefix_trains_before_quantised_weights(name, kind):
    model = load_chatglm(FIXTURES / name, device="cpu", quantize=kind)
    prefix = add_prefix(model, 4)
    ids = expected(name)["input_ids"]
    model.train()
    prefix.eval()
    optimizer = torch.optim.Adam(prefix.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_matrix_is_quantised_in_slices_of_its_rows(bits):
    """What quantising needs beside the result stays small, also where query, key and value are interwoven."""
    torch.manual_seed(0)
    matrix, read = torch.randn(700, 16), []

    def read_rows(rows):
        read.append(len(matrix[rows]))
        return matrix[rows]

    stored = StoredTensor((700, 16), torch.float32, read_rows)
    interwoven = torch.arange(700).view(-1, 7, 10)[:, 0].flatten()
    for rows in (slice(None), slice(30, 680), interwoven):
        tensors = quantized_tensors({"model.layers.0.x.weight": stored.rows(rows)}, bits)
        whole, scale = (tensor.read() for tensor in tensors.values())
        expected_whole, expected_scale = quantize_rows(matrix[rows], bits)
        assert torch.equal(whole, expected_whole) and torch.equal(scale, expected_scale)
    assert max(read) == BLOCK


def test_rows_that_lie_apart_in_a_file(tmp_path):
    matrix = torch.randn(90, 4)
    save_file({"x": matrix}, tmp_path / "x.safetensors")
    interwoven = torch.arange(90).view(-1, 3, 10)[:, 1].flatten()
    rows = open_tensors([tmp_path / "x.safetensors"])["x"].rows(interwoven)
    assert torch.equal(rows.read(), matrix[interwoven])
    assert torch.equal(rows.rows(slice(5, 25)).read(), matrix[interwoven][5:25])


def test_gradient_is_that_of_the_expanded_weight():
    torch.manual_seed(0)
    layer = QuantizedLinear(8, 6, True, 4, torch.float32)
    whole, scale = quantize_rows(torch.randn(6, 8), 4)
    layer.weight, layer.weight_scale = nn.Parameter(whole, requires_grad=False), scale
    layer.bias = nn.Parameter(torch.randn(6))
    x = torch.randn(2, 3, 8, requires_grad=True)
    y = torch.nn.functional.linear(x, dequantize_rows(whole, scale, 4, torch.float32), layer.bias)
    torch.testing.assert_close(layer(x), y)
    upstream = torch.randn_like(y)
    ours = torch.autograd.grad(layer(x), [x, layer.bias], upstream)
    torch.testing.assert_close(ours, torch.autograd.grad(y, [x, layer.bias], upstream))


def message(action, *arguments, **options) -> str:
    with pytest.raises(CourseError) as caught:
        action(*arguments, **options)
    assert "\n" not in caught.value.text.en
    return caught.value.text.en


def test_quantised_twice(tmp_path):
    write_published_quantized("v3_mqa2", 4, tmp_path / "quantised")
    assert "quantised already (4 bits)" in message(load_chatglm, tmp_path / "quantised", quantize="int8", device="cpu")


@pytest.mark.parametrize(
    ("card", "capability", "cuda", "kind", "reason"),
    [
        ("Tesla P100", (6, 0), "12.6", "bnb-int8", "sm_75"),
        ("Tesla P100", (6, 0), "13.0", "bnb-nf4", "CUDA 12.6 build"),
        ("Tesla P100", (6, 0), "12.6", "bnb-nf4", None),
        ("Tesla T4", (7, 5), "13.0", "bnb-int8", None),
        ("Tesla T4", (7, 5), "13.0", "bnb-nf4", None),
    ],
)
def test_where_bitsandbytes_cannot_the_message_says_what_can(monkeypatch, card, capability, cuda, kind, reason):
    monkeypatch.setattr(quantization, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: card)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr("transformers.BitsAndBytesConfig.post_init", lambda self: None)
    ask = (kind, torch.device("cuda"), torch.float16)
    if reason is None:
        assert quantization.bitsandbytes_config(*ask).load_in_4bit == (kind == "bnb-nf4")
    else:
        text = message(quantization.bitsandbytes_config, *ask)
        assert reason in text and card in text and f"quantize='{quantization.BITSANDBYTES[kind]}'" in text


def test_bitsandbytes_is_not_installed(monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    ask = ("bnb-int8", torch.device("cpu"), torch.float16)
    assert "pip install bitsandbytes" in message(quantization.bitsandbytes_config, *ask)


@pytest.mark.parametrize(
    ("kind", "stored", "likeness"), [("bnb-nf4", torch.uint8, 0.97), ("bnb-int8", torch.int8, 0.999)]
)
@pytest.mark.parametrize(("name", "layer"), [("chatglm3-tiny", "q_proj"), ("chatglm-tiny", "query_key_value")])
def test_bitsandbytes_computes_on_a_cpu_as_well(name, layer, kind, stored, likeness):
    pytest.importorskip(
        "bitsandbytes",
        reason="not in the tested set: it logs a warning wherever peft is imported; versions.yml runs it",
    )
    folder = runtime.DATA / "models" / name
    tokenizer, plain = load_tokenizer(folder), load_chatglm(folder, dtype="float32", device="cpu")
    quantized = load_chatglm(folder, dtype="float32", device="cpu", quantize=kind)
    weights = [module.weight for path, module in quantized.named_modules() if path.endswith(layer)]
    assert weights and all(weight.dtype == stored for weight in weights)
    assert quantized.get_memory_footprint() < 0.75 * plain.get_memory_footprint()
    ids = torch.tensor([tokenizer.encode("星期一做什么？")])
    with torch.inference_mode():
        both = torch.stack([model(ids).logits.float().flatten() for model in (plain, quantized)])
    assert torch.corrcoef(both)[0, 1] > likeness
    assert chat(quantized, tokenizer, "你好", temperature=0) == chat(plain, tokenizer, "你好", temperature=0)
