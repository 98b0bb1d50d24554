"""`python -m course_utils.standins.gpt_tiny`: train the small GPT of data/models/gpt-tiny again.

It is trained as in notebook 08, in more steps of half as many windows, which takes about a minute and a half on one
core. The weights differ in their last digits from one kind of CPU to another. The stored ones were made when the
learning rate still fell along a cosine from 3e-3 (commit a194821).
"""

import torch

from course_utils import runtime
from course_utils.gpt import GPT, GPTConfig, Tokenizer, save_gpt, start_small, surprise, train

FOLDER = "models/gpt-tiny"
STEPS = 3000
WINDOWS = 4  # in a batch: the stored weights were made with these 256 tokens a step


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
    start_small(model)
    held_out_ids = ids_of(tokenizer, held_out)
    for step, loss in enumerate(train(model, ids_of(tokenizer, to_train), STEPS, batch_size=WINDOWS), 1):
        if step % 200 == 0:
            perplexity = surprise(model, held_out_ids).mean().exp().item()
            print(f"step {step} of {STEPS}: loss {loss:.2f}, held-out perplexity {perplexity:.2f}", flush=True)
    save_gpt(runtime.DATA / FOLDER, model, tokenizer)


if __name__ == "__main__":
    main()
