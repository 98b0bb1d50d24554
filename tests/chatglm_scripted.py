"""Tiny models that say what they are told to say, so that tests know the answer."""

from pathlib import Path
from typing import Any

import torch
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
