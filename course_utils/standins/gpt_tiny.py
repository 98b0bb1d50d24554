"""`python -m course_utils.standins.gpt_tiny`: train the small GPT of data/models/gpt-tiny again, as notebook 08 does.

It takes one or two minutes on one core. The weights differ in their last digits from one kind of CPU to another.
"""

import torch

from course_utils import runtime
from course_utils.gpt import GPT, GPTConfig, Tokenizer, save_gpt, surprise, train

FOLDER = "models/gpt-tiny"
STEPS = 4000


def stories() -> tuple[list[str], list[str]]:
    """The Chinese stories of the corpus: those to train on, and the last twentieth, held out."""
    lines = (runtime.DATA / "corpus" / "zh.txt").read_text(encoding="utf-8").splitlines()
    cut = len(lines) * 19 // 20
    return lines[:cut], lines[cut:]


def ids_of(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """One long text; id 0 ends each story."""
    return torch.tensor([i for text in texts for i in [*tokenizer.encode(text), 0]])


def main() -> None:
    runtime.set_seed(8)
    to_train, held_out = stories()
    tokenizer = Tokenizer.of(to_train)
    model = GPT(GPTConfig(len(tokenizer.vocabulary), context_length=64, hidden_size=96, num_layers=3))
    for step, loss in enumerate(train(model, ids_of(tokenizer, to_train), STEPS), 1):
        if step % (STEPS // 20) == 0:
            print(f"step {step} of {STEPS}: loss {loss:.2f}", flush=True)
    perplexity = surprise(model, ids_of(tokenizer, held_out)).mean().exp().item()
    print(f"perplexity on the held-out stories: {perplexity:.2f}")
    save_gpt(runtime.DATA / FOLDER, model, tokenizer)


if __name__ == "__main__":
    main()
