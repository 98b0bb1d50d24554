"""Tiny models that say what they are told to say, so that tests know the answer."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GlmConfig, GlmForCausalLM

from course_utils.chatglm.modeling import ChatGLM1Config, ChatGLM1ForCausalLM
from course_utils.chatglm.tokenization import (
    ChatGLM1Tokenizer,
    ChatGLM2Tokenizer,
    ChatGLM3Tokenizer,
    ChatGLMTokenizer,
)

# Networks this small lose more time to handing out the work than to the work.
torch.set_num_threads(1)

TOKENIZERS = Path(__file__).parent / "fixtures" / "tokenizers"


class Scripted:
    """Mixed into a real model: whatever it computes, the next token of the script is far ahead."""

    script: list[int]
    prompts: list[list[int]]
    steps: int

    def says(self, *answers: list[int]) -> "Scripted":
        """The answers to give, one each time `generate` is called; the last one again and again."""
        self.answers, self.prompts, self.steps = list(answers), [], 0
        return self

    def generate(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        self.script = list(self.answers[min(len(self.prompts), len(self.answers) - 1)])
        self.prompts.append(input_ids[0].tolist())
        return super().generate(input_ids=input_ids, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        self.steps += 1
        if self.script:
            output.logits[:, -1] = 0
            output.logits[:, -1, self.script.pop(0)] = 1e4
        return output


class ScriptedGlm(Scripted, GlmForCausalLM):
    pass


class ScriptedChatGLM1(Scripted, ChatGLM1ForCausalLM):
    pass


def tokenizer_of(generation: int) -> ChatGLMTokenizer:
    if generation == 1:
        return ChatGLM1Tokenizer(str(TOKENIZERS / "v1_bpe.model"))
    return {2: ChatGLM2Tokenizer, 3: ChatGLM3Tokenizer}[generation](str(TOKENIZERS / "v3_bpe.model"))


def tiny_model(generation: int, context: int = 256) -> Scripted:
    torch.manual_seed(0)
    if generation == 1:
        tokenizer = tokenizer_of(1)
        config = ChatGLM1Config(
            vocab_size=1910,
            hidden_size=32,
            num_layers=1,
            num_attention_heads=2,
            inner_hidden_size=32,
            max_sequence_length=context,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            mask_token_id=tokenizer.mask_token_id,
            gmask_token_id=tokenizer.convert_tokens_to_ids("[gMASK]"),
        )
        return ScriptedChatGLM1(config).eval()
    config = GlmConfig(
        vocab_size=1820,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=context,
        pad_token_id=0,
        eos_token_id=2,
    )
    return ScriptedGlm(config).eval()


def answer_ids(tokenizer: ChatGLMTokenizer, text: str) -> list[int]:
    """The tokens with which a model of this generation would give an answer and end it."""
    newline = tokenizer.encode_text("\n") if tokenizer.generation == 3 else []
    return [*newline, *tokenizer.encode_text(text), tokenizer.stop_ids[0]]


def published_folder(generation: int, folder: Path) -> Path:
    """A folder as it is published: random weights under the original names, config.json, vocabulary."""
    hidden, vocab, ffn = 32, 1910, 64
    torch.manual_seed(0)
    if generation == 1:
        sizes = {"inner_hidden_size": ffn, "vocab_size": vocab, "max_sequence_length": 128}
        ids = {"bos_token_id": 9, "eos_token_id": 10, "mask_token_id": 5, "gmask_token_id": 6}
        config = {**sizes, **ids, "pad_token_id": 3, "position_encoding_2d": True}
        layer = "transformer.layers.0."
        shapes = {
            "transformer.word_embeddings.weight": (vocab, hidden),
            "lm_head.weight": (vocab, hidden),
            f"{layer}attention.query_key_value.weight": (3 * hidden, hidden),
            f"{layer}attention.query_key_value.bias": (3 * hidden,),
            f"{layer}attention.dense.weight": (hidden, hidden),
            f"{layer}attention.dense.bias": (hidden,),
            f"{layer}mlp.dense_h_to_4h.weight": (ffn, hidden),
            f"{layer}mlp.dense_h_to_4h.bias": (ffn,),
            f"{layer}mlp.dense_4h_to_h.weight": (hidden, ffn),
            f"{layer}mlp.dense_4h_to_h.bias": (hidden,),
        }
        for norm in (
            f"{layer}input_layernorm",
            f"{layer}post_attention_layernorm",
            "transformer.final_layernorm",
        ):
            shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    else:
        sizes = {"ffn_hidden_size": ffn, "padded_vocab_size": vocab, "seq_length": 128, "kv_channels": 16}
        config = {
            **sizes,
            "_name_or_path": f"THUDM/chatglm{generation}-6b",
            "multi_query_attention": True,
            "multi_query_group_num": 1,
            "add_qkv_bias": True,
            "add_bias_linear": False,
            "original_rope": True,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
        layer = "transformer.encoder.layers.0."
        shapes = {
            "transformer.embedding.word_embeddings.weight": (vocab, hidden),
            "transformer.rotary_pos_emb.inv_freq": (4,),
            "transformer.encoder.final_layernorm.weight": (hidden,),
            "transformer.output_layer.weight": (vocab, hidden),
            f"{layer}input_layernorm.weight": (hidden,),
            f"{layer}post_attention_layernorm.weight": (hidden,),
            f"{layer}self_attention.query_key_value.weight": (hidden + 2 * 16, hidden),
            f"{layer}self_attention.query_key_value.bias": (hidden + 2 * 16,),
            f"{layer}self_attention.dense.weight": (hidden, hidden),
            f"{layer}mlp.dense_h_to_4h.weight": (2 * ffn, hidden),
            f"{layer}mlp.dense_4h_to_h.weight": (hidden, ffn),
        }
    common = {"model_type": "chatglm", "num_layers": 1, "hidden_size": hidden, "num_attention_heads": 2}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**common, "layernorm_epsilon": 1e-5, **config}))
    tensors = {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()}
    if generation == 1:  # the same matrix twice, as published
        tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    vocabulary = ("v1_bpe.model", "ice_text.model") if generation == 1 else ("v3_bpe.model", "tokenizer.model")
    shutil.copyfile(TOKENIZERS / vocabulary[0], folder / vocabulary[1])
    return folder
