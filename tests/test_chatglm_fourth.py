"""GLM-4-9B-chat end to end: its config.json with small numbers, random weights under the published names."""

import json
from pathlib import Path

import pytest
import torch
from chatglm_scripted import ScriptedGlm
from safetensors.torch import save_file
from test_chatglm_real_size import published_layout
from test_chatglm_tokenizer import fourth
from transformers import AutoModelForCausalLM, AutoTokenizer, GlmForCausalLM

from course_utils.chatglm.conversation import chat, finish, stream_chat
from course_utils.chatglm.loading import convert, load_chatglm
from course_utils.chatglm.prompts import as_messages, prompt_parts
from course_utils.chatglm.tokenization import GLM4Tokenizer, load_tokenizer

REAL_CONFIG = Path(__file__).parent / "fixtures" / "chatglm" / "configs" / "glm_4_9b_chat.json"
FIRST_CONTROL_TOKEN = 151329  # of the real vocabulary
HIDDEN, FFN, HEADS, GROUPS, DIM, LAYERS, VOCAB, CONTEXT = 32, 64, 4, 2, 8, 2, 288, 128
NEWLINE = 10  # in this vocabulary the first 256 tokens are the bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("glm-4-9b-chat")
    first = fourth(folder).convert_tokens_to_ids("<|endoftext|>")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ChatGLM4Tokenizer", "padding_side": "left"}')
    config = json.loads(REAL_CONFIG.read_text())
    ends = {
        "eos_token_id": [token - FIRST_CONTROL_TOKEN + first for token in config["eos_token_id"]],
        "pad_token_id": config["pad_token_id"] - FIRST_CONTROL_TOKEN + first,
    }
    small = {
        "hidden_size": HIDDEN,
        "ffn_hidden_size": FFN,
        "num_attention_heads": HEADS,
        "multi_query_group_num": GROUPS,
        "kv_channels": DIM,
        "num_layers": LAYERS,
        "num_hidden_layers": LAYERS,
        "padded_vocab_size": VOCAB,
        "seq_length": CONTEXT,
    }
    config |= small | ends
    (folder / "config.json").write_text(json.dumps(config))
    sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.8, "max_length": 128_000}
    (folder / "generation_config.json").write_text(json.dumps({**ends, **sampling}))
    torch.manual_seed(0)
    weights = {name: (torch.randn(shape) * 0.3).bfloat16() for name, shape in published_layout(config).items()}
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(folder) -> GlmForCausalLM:
    return load_chatglm(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def tokenizer(folder) -> GLM4Tokenizer:
    return load_tokenizer(folder)


@pytest.fixture
def speaker(folder) -> ScriptedGlm:
    """The loaded model, to be told what it says; behind its script it goes on by itself."""
    model = load_chatglm(folder, dtype="float32", device="cpu")
    model.__class__ = ScriptedGlm
    return model


def assert_close(logits: torch.Tensor, reference: torch.Tensor) -> None:
    torch.testing.assert_close(logits, reference, atol=1e-4, rtol=0)


# --- network


def test_it_just_loads(folder, model, tokenizer):
    assert type(model) is GlmForCausalLM and type(tokenizer) is GLM4Tokenizer
    assert load_chatglm(folder, device="cpu").dtype is torch.bfloat16
    assert model.config.rope_parameters["rope_theta"] == 5_000_000
    assert model.model.layers[0].input_layernorm.variance_epsilon == model.model.norm.variance_epsilon == 1.5625e-07
    frequencies = 5_000_000.0 ** (-torch.arange(0, DIM // 2, 2) / (DIM // 2))  # half of each head is rotated
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, frequencies)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.stop_ids
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.max_position_embeddings == CONTEXT


@torch.no_grad()
def test_prefill_cached_decoding_and_left_padding_agree(model, tokenizer):
    texts = ["hello, 你好, world", "再见"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert batch["attention_mask"][1, 0] == 0 and batch["attention_mask"][1, -1] == 1
    padded = model(**batch).logits
    for row, text in enumerate(texts):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        whole = model(ids).logits
        assert whole.std() > 0.1  # numbers that could differ
        assert_close(padded[row : row + 1, -ids.shape[1] :], whole)
        steps, cache = [], None
        for piece in (ids[:, :3], *ids[:, 3:].split(1, dim=1)):
            output = model(piece, past_key_values=cache, use_cache=True)
            steps.append(output.logits)
            cache = output.past_key_values
        assert_close(torch.cat(steps, dim=1), whole)


@torch.no_grad()
def test_converted_checkpoint_gives_equal_logits(folder, model, tokenizer, tmp_path):
    native = convert(folder, tmp_path / "native")
    again = AutoModelForCausalLM.from_pretrained(native, dtype=torch.float32)
    assert type(again) is GlmForCausalLM
    words = AutoTokenizer.from_pretrained(native)
    assert type(words) is type(load_tokenizer(native)) is GLM4Tokenizer
    ids = words("hello, 你好", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [tokenizer("hello, 你好")["input_ids"]]
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert torch.equal(load_chatglm(native, dtype="float32", device="cpu")(ids).logits, model(ids).logits)
    assert again.generation_config.eos_token_id == tokenizer.stop_ids


@torch.no_grad()
def test_eight_bits_change_little_in_bfloat16_files(folder, model):
    ids = torch.arange(40)[None]
    reference = model(ids).logits
    eight = load_chatglm(folder, dtype="float32", device="cpu", quantize="int8")(ids).logits
    assert 0 < (eight - reference).std() < 0.03 * reference.std()


# --- conversation


@pytest.mark.parametrize("text", ["晚上睡不着应该怎么办？", "a 再见🚀, b\n\n世界"])
def test_stream_of_single_bytes_is_the_answer_in_whole_characters(speaker, tokenizer, text):
    speaker.says([NEWLINE, *text.encode(), tokenizer.end_id])
    pieces = list(stream_chat(speaker, tokenizer, "你好"))
    assert chat(speaker, tokenizer, "你好")[0] == "".join(pieces) == text
    assert len(pieces) == len("".join(text.split()))  # as soon as a character is whole; white space waits for the next
    assert not any("\ufffd" in piece for piece in pieces)
    asked = prompt_parts(4, [{"role": "user", "content": "你好"}])
    assert speaker.prompts == [tokenizer.encode_prompt(asked)] * 2


@pytest.mark.parametrize("seed", range(5))
def test_stream_of_whatever_the_model_says_is_the_answer(speaker, tokenizer, seed):
    speaker.says([NEWLINE])
    # A second message in one answer could be a call, which is handed out as a dictionary.
    one_message = [tokenizer.convert_tokens_to_ids("<|assistant|>")]
    options = {"seed": seed, "max_new_tokens": 60, "suppress_tokens": one_message}
    pieces = list(stream_chat(speaker, tokenizer, "hello", **options))
    answer, history = chat(speaker, tokenizer, "hello", **options)
    assert "".join(pieces) == answer == history[-1]["content"]
    assert "" not in pieces and len(pieces) > 1


@pytest.mark.parametrize("name", ["<|endoftext|>", "<|user|>", "<|observation|>"])
def test_each_stop_token_ends_the_answer_and_is_not_shown(speaker, tokenizer, name):
    stop = tokenizer.convert_tokens_to_ids(name)
    assert stop in speaker.config.eos_token_id
    said = [NEWLINE, *tokenizer.encode_text("好"), stop]
    speaker.says([*said, *tokenizer.encode_text("never said")])
    assert list(stream_chat(speaker, tokenizer, "?")) == ["好"]
    assert speaker.steps == len(said)
    reply = finish(stream_chat(speaker, tokenizer, "?"))
    assert (reply.answer, reply.finish) == ("好", "stop")
    # The library's own way, by what the folder says.
    out = speaker.generate(tokenizer("?", return_tensors="pt")["input_ids"], do_sample=False, max_new_tokens=20)
    assert out[0, -len(said) :].tolist() == said


def test_long_history_is_cut_from_the_oldest_round_with_a_notice(speaker, tokenizer):
    speaker.says([NEWLINE, *tokenizer.encode_text("好"), tokenizer.end_id])
    history = [(f"问题 {i}", f"answer {i}") for i in range(30)]
    notices = []
    _, remembered = chat(speaker, tokenizer, "last", history, notice=notices.append)
    assert len(notices) == 1 and "oldest" in notices[0].en and "最早" in notices[0].zh
    kept = (len(remembered) - 2) // 2
    assert 0 < kept < 30
    assert remembered[:-2] == as_messages(history[-kept:])

    def prompt(rounds: int) -> list[int]:
        question = {"role": "user", "content": "last"}
        return tokenizer.encode_prompt(prompt_parts(4, [*as_messages(history[-rounds:]), question]))

    assert speaker.prompts == [prompt(kept)]
    assert len(prompt(kept)) <= CONTEXT * 3 / 4 < len(prompt(kept + 1))
