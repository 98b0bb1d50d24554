"""The same weights through an independent implementation: does it choose the same tokens?

    python benchmarks/chatglm_independent.py /tmp/other/bin/python

The other implementation is chatglm.cpp, written in C++ on GGML by other people. It is not a dependency of the
course: the argument is a Python that has it. PyPI holds its source, which is compiled when it is installed (a
C++ compiler is needed, and minutes):

    python3 -m venv /tmp/other
    CMAKE_POLICY_VERSION_MINIMUM=3.5 /tmp/other/bin/pip install chatglm-cpp==0.4.2

A small ChatGLM3 with random float32 weights is written in the published layout and in chatglm.cpp's own file
format, each side reads its own, turns the same questions into a prompt and decodes greedily. Prompts and
tokens must be equal; the exit status says so too. Next to the verdict stands how far the chosen token was
ahead of the second in the closest decision: chatglm.cpp rounds its cache to float16, so a far smaller lead
than that of these weights could fall either way.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from chatglm_real_size import ROOT, published_shapes
from safetensors.torch import save_file

from course_utils.chatglm import load_chatglm
from course_utils.chatglm.prompts import prompt_parts
from course_utils.chatglm.tokenization import ChatGLM3Tokenizer

TOKENIZER = ROOT / "tests" / "fixtures" / "tokenizers" / "v3_bpe.model"
CONFIG = {
    "model_type": "chatglm",
    "_name_or_path": "THUDM/chatglm3-6b",
    "num_layers": 3,
    "hidden_size": 128,
    "ffn_hidden_size": 256,
    "kv_channels": 32,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "padded_vocab_size": 1824,
    "seq_length": 512,
    "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True,
    "torch_dtype": "float32",
}
QUESTIONS = ("你好", "Why is the sky blue?", "晚上睡不着应该怎么办\n请列出三点。")
TOKENS = 96

# What the other Python runs. Its stop tokens are passed over, as on our side: these weights mean nothing.
THEIRS = """
import json, sys
from chatglm_cpp import ChatMessage, Pipeline
from chatglm_cpp._C import GenerationConfig

path, questions, tokens = json.load(sys.stdin)
pipeline, greedy, answers = Pipeline(path), GenerationConfig(do_sample=False), []
for question in questions:
    prompt = pipeline.tokenizer.apply_chat_template([ChatMessage(role="user", content=question)], 512)
    ids, past = list(prompt), 0
    for _ in range(tokens):
        chosen = pipeline.model.generate_next_token(ids, None, greedy, past, len(prompt))
        past = len(ids)
        ids.append(chosen)
    answers.append([prompt, ids[len(prompt):]])
print(json.dumps(answers))
"""


def random_weights() -> dict[str, torch.Tensor]:
    """Weights that keep the size of what goes through them, so that every part has its say."""
    torch.manual_seed(0)
    weights = {}
    for name, shape in published_shapes(CONFIG).items():
        numbers = torch.randn(shape)
        if "layernorm" in name:
            numbers = 1 + 0.1 * numbers
        elif name.endswith("bias"):
            numbers *= 0.1  # a large one would say the same in every place, and the answer run in circles
        elif len(shape) == 2 and "word_embeddings" not in name:
            numbers *= shape[1] ** -0.5
        weights[name] = numbers
    return weights


def write_ggml(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """chatglm.cpp's format: a head, the vocabulary, then name, shape, type and numbers of each tensor."""
    float32, chatglm3, version = 0, 3, 2
    sizes = ("padded_vocab_size", "hidden_size", "num_attention_heads", "multi_query_group_num", "num_layers")
    head = [chatglm3, version, float32, *(CONFIG[size] for size in sizes), CONFIG["ffn_hidden_size"]]
    head += [CONFIG["layernorm_epsilon"], 0, 10000.0, CONFIG["seq_length"], 2, 0]  # no prefix; eos and pad
    vocabulary = TOKENIZER.read_bytes()
    with path.open("wb") as file:
        file.write(b"ggml" + struct.pack("<9ififiii", *head))
        file.write(struct.pack("<i", len(vocabulary)) + vocabulary)
        for name, tensor in weights.items():
            if name.endswith("inv_freq"):
                continue  # computed, on both sides
            encoded = name.encode()
            file.write(struct.pack("<i", len(encoded)) + encoded)
            file.write(struct.pack(f"<{tensor.ndim + 2}i", tensor.ndim, *tensor.shape, float32))
            file.write(bytes(-file.tell() % 16))
            file.write(tensor.numpy().tobytes())


def ours(folder: Path, question: str) -> tuple[list[int], list[int], float]:
    """Prompt, tokens and the smallest lead of a chosen token over the second, in logits."""
    tokenizer = ChatGLM3Tokenizer(str(TOKENIZER))
    prompt = tokenizer.encode_prompt(prompt_parts(3, [{"role": "user", "content": question}]))
    model = load_chatglm(folder, device="cpu")
    model.generation_config.eos_token_id = None
    result = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=TOKENS,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    first, second = torch.cat(result.logits).topk(2).values.T
    return prompt, result.sequences[0, len(prompt) :].tolist(), float((first - second).min())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="a Python that has chatglm_cpp")
    python = parser.parse_args().python
    weights = random_weights()
    with tempfile.TemporaryDirectory() as temporary:
        folder, ggml = Path(temporary), Path(temporary) / "model-ggml.bin"
        (folder / "config.json").write_text(json.dumps(CONFIG))
        save_file(weights, folder / "model.safetensors")
        write_ggml(ggml, weights)
        request = json.dumps([str(ggml), QUESTIONS, TOKENS])
        answer = subprocess.run([python, "-c", THEIRS], input=request, stdout=subprocess.PIPE, text=True, check=True)
        theirs = json.loads(answer.stdout.splitlines()[-1])
        mine = [ours(folder, question) for question in QUESTIONS]
    differing = 0
    for question, (prompt, tokens, lead), (their_prompt, their_tokens) in zip(QUESTIONS, mine, theirs, strict=True):
        same = sum(a == b for a, b in zip(tokens, their_tokens, strict=True))
        print(
            f"{question!r}: prompts of {len(prompt)} tokens {'equal' if prompt == their_prompt else 'DIFFER'}, "
            f"{same} of {TOKENS} tokens equal ({len(set(tokens))} kinds), smallest lead {lead:.4f}"
        )
        differing += (prompt, tokens) != (their_prompt, their_tokens)
    print(f"{differing} of {len(QUESTIONS)} answers differ" if differing else "both choose the same tokens")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
