"""How the stand-ins are trained: tokenizer, batches, optimiser, checkpoints and the published layout of the files."""

import io
import itertools
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import sentencepiece
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.files import written_whole
from course_utils.messages import CourseError, Text

IGNORED = -100
POINTING = 0.5  # how much the pointing of attention counts beside the answers
GO_ON = Text(
    "the last checkpoint is untouched. Free some disk space and start the same command again: it goes on from there.",
    "上一个检查点完好无损。请腾出磁盘空间，再运行同一条命令，训练会接着进行。",
)


def save_checkpoint(path: Path, tensors: dict[str, Tensor], notes: dict[str, object]) -> None:
    """Write tensors and notes into one safetensors file, whole or not at all."""
    with written_whole(path, GO_ON) as part:
        part.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata={"notes": json.dumps(notes)})


def save_published(folder: Path, tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    """The files of a published model: model.safetensors and config.json, each whole or not at all."""
    with written_whole(folder / "model.safetensors", GO_ON) as part:
        part.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata={"format": "pt"})
    with written_whole(folder / "config.json", GO_ON) as part:
        part.write_text(json.dumps(config, indent=2) + "\n")


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the notes of `save_checkpoint`."""
    with safe_open(path, "pt") as file:
        notes = json.loads(file.metadata()["notes"])
        return {name: file.get_tensor(name) for name in file.keys()}, notes


# ------------------------------------------------------------------------------------------------------ tokenizer


def train_tokenizer(texts: Iterator[str], path: Path, vocab_size: int, characters: str, **options: object) -> None:
    """A sentencepiece BPE model with byte fallback, as ChatGLM3's, whose pieces stay inside words.

    Single characters and frequent words only: a name is spelled in the same pieces in a fact, in a question and in the
    answer, which is what a model that copies needs. Words are found by jieba. `options` go to sentencepiece.
    """
    import jieba

    jieba.setLogLevel(60)
    mark = "\x1f"

    def lines() -> Iterator[str]:
        for text in texts:
            for line in text.splitlines():
                # A space goes with the Latin word behind it and stays apart from a Chinese one, so that an answer
                # (sentencepiece puts a space in front of every text) begins with the same pieces as inside a text.
                words = re.sub(rf" {mark}(?=[A-Za-z])", " ", mark.join(jieba.cut(line)))
                yield words if words[:1].isascii() else mark + words

    model = io.BytesIO()
    # From lines, not from a file: the model would hold its path.
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=1.0,
        required_chars="".join(sorted(set(characters))),
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        max_sentencepiece_length=8,
        pretokenization_delimiter=mark,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, GO_ON) as part:
        part.write_bytes(model.getvalue())


# -------------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Example:
    """One conversation as ids; `labels` repeats the ids that the model must say, and is IGNORED elsewhere.

    `pointers` are pairs of a position from which a token is said and the positions where that token stands already.
    """

    input_ids: list[int]
    labels: list[int]
    pointers: list[tuple[int, list[int]]] = field(default_factory=list)

    @property
    def weights(self) -> list[float]:
        """One over the root of the length of the answer: a sentence counts more than a number, not as its length."""
        found: list[float] = []
        for said, run in itertools.groupby(self.labels, key=lambda label: label != IGNORED):
            length = len(list(run))
            found += [length**-0.5 if said else 0.0] * length
        return found


@dataclass(frozen=True)
class Batch:
    """Ids, labels and weights, (batch, n) each, filled up on the right with 0, IGNORED and 0.

    `pointers` is (4, m): the number of a pointer, its example, its position, one of the positions it points to.
    """

    ids: Tensor
    labels: Tensor
    weights: Tensor
    pointers: Tensor

    @classmethod
    def of(cls, examples: list[Example], device: torch.device) -> "Batch":
        """The examples as one batch."""
        n = max(len(example.input_ids) for example in examples)

        def rows(lists: list[list], filler: float) -> Tensor:
            return torch.tensor([row + [filler] * (n - len(row)) for row in lists], device=device)

        pointers = [(i, at, to) for i, example in enumerate(examples) for at, to in example.pointers]
        flat = [(number, i, at, there) for number, (i, at, to) in enumerate(pointers) for there in to]
        return cls(
            rows([example.input_ids for example in examples], 0),
            rows([example.labels for example in examples], IGNORED),
            rows([example.weights for example in examples], 0.0),
            torch.tensor(flat, dtype=torch.long, device=device).reshape(-1, 4).T,
        )


def batches(examples: list[Example], tokens: int, rng: random.Random) -> list[list[Example]]:
    """Batches of about equal length inside and of at most `tokens` ids, in random order."""
    found: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda example: len(example.input_ids)):
        if found[-1] and (len(found[-1]) + 1) * len(example.input_ids) > tokens:
            found.append([])
        found[-1].append(example)
    rng.shuffle(found)
    return found


# ------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: learning rates rise over `warmup` steps, stay, and fall over a `decay` share of them."""

    steps: int
    tokens: int = 6144  # ids in a batch, and a third of that while `early`
    pool: int = 400  # conversations drawn at a time, then sorted by length
    early: float = 0.0
    muon_rate: float = 0.02
    muon_decay: float = 0.1  # against over-fitting; it also makes training quicker
    embedding_rate: float = 2e-2
    adam_rate: float = 2e-3
    warmup: int = 50
    decay: float = 0.5
    floor: float = 0.0  # what share of them is left at the end
    seed: int = 20240604
    checkpoint_every: int = 100

    def factor(self, step: int) -> float:
        """The share of the learning rate at a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = (self.steps - step) / max(1, self.decay * self.steps)
        return min(rise, 1.0, self.floor + (1 - self.floor) * fall)


def optimisers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers (Jordan et al. 2024), AdamW for embeddings, norms and biases."""
    inner = [p for name, p in model.named_parameters() if p.dim() == 2 and ".layers." in name]
    tokens = [model.get_input_embeddings().weight]
    chosen = {id(p) for p in inner + tokens}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": tokens, "rate": schedule.embedding_rate}, {"params": rest, "rate": schedule.adam_rate}]
    muon = [{"params": inner, "rate": schedule.muon_rate}]
    return [
        torch.optim.Muon(muon, momentum=0.95, weight_decay=schedule.muon_decay, adjust_lr_fn="original"),
        torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def losses(model: nn.Module, batch: Batch, pointing_heads: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """How badly the answers are said, and how badly the pointing heads (layer, head) look where the words stand.

    The first is the weighted mean of −log p over the labelled tokens; scores are computed there only, to save time.
    The second is the mean of −log of the attention that falls on the places that a pointer names.
    """
    out = model.base_model(batch.ids, use_cache=False, output_attentions=bool(pointing_heads))
    labels, weights = batch.labels[:, 1:], batch.weights[:, 1:]
    wanted = labels != IGNORED
    scores = model.lm_head(out.last_hidden_state[:, :-1][wanted]).float()
    said = F.cross_entropy(scores, labels[wanted], reduction="none")
    said = (said * weights[wanted]).sum() / weights[wanted].sum()
    if not pointing_heads or not batch.pointers.numel():
        return said, said.new_zeros(())
    number, example, at, there = batch.pointers
    pointed = said.new_zeros(())
    for layer, head in pointing_heads:
        attention = out.attentions[layer][example, head, at, there].float()
        found = attention.new_zeros(int(number[-1]) + 1).index_add(0, number, attention)
        pointed = pointed - torch.log(found + 1e-6).mean()
    return said, pointed / len(pointing_heads)


def train(
    model: nn.Module,
    draw: Callable[[random.Random, float], Example],
    schedule: Schedule,
    checkpoint: Path,
    report: Callable[[int], None] | None = None,
    pointing_heads: Sequence[tuple[int, int]] = (),
) -> None:
    """Train in place; with a checkpoint from before, go on where it stands.

    `draw(rng, progress)` makes an example; progress runs from 0 to 1, so that examples can grow harder. The examples
    of a step depend on the seed and the step alone: a run that was killed sees the same ones again.
    """
    optims = optimisers(model, schedule)
    step, spent = 0, 0.0
    if checkpoint.exists():
        tensors, notes = load_checkpoint(checkpoint)
        if notes["steps"] != schedule.steps or notes["seed"] != schedule.seed:
            raise CourseError(
                f"{checkpoint} belongs to a training of {notes['steps']} steps; delete it to begin anew.",
                f"{checkpoint} 属于一次共 {notes['steps']} 步的训练；要重新开始，请先删除它。",
            )
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, strict=False)
        for i, optim in enumerate(optims):
            state = optim.state_dict()
            for name, tensor in tensors.items():
                if name.startswith(f"optim.{i}."):
                    _, _, index, key = name.split(".")
                    state["state"].setdefault(int(index), {})[key] = tensor
            optim.load_state_dict(state)
        step, spent = notes["step"], notes["spent"]
        print(f"Going on from step {step} of {schedule.steps}.")
    bf16 = not torch.cuda.is_available() and torch.backends.mkldnn.is_available() and _computes_bf16()
    device = next(model.parameters()).device
    model.train()
    started, queue, shown = time.perf_counter() - spent, [], []
    while step < schedule.steps:
        rng = random.Random(f"{schedule.seed}-{step}")
        if not queue:
            progress = step / schedule.steps
            tokens = schedule.tokens // 3 if progress < schedule.early else schedule.tokens
            queue = batches([draw(rng, progress) for _ in range(schedule.pool)], tokens, rng)
        for optim in optims:
            for group in optim.param_groups:
                group["lr"] = group["rate"] * schedule.factor(step)
        batch = Batch.of(queue.pop(), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            said, pointed = losses(model, batch, pointing_heads)
        loss = said + POINTING * pointed
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not math.isfinite(loss.item()):
            raise CourseError(
                f"The loss became {loss.item()} at step {step}; the last checkpoint is untouched. "
                "Lower the learning rate.",
                f"第 {step} 步的损失变成了 {loss.item()}；上一个检查点完好无损。请把学习率调小。",
            )
        for optim in optims:
            optim.step()
            optim.zero_grad()
        shown.append((said.item(), pointed.item()))
        step += 1
        if step % 20 == 0:
            spent = time.perf_counter() - started
            print(
                f"step {step}/{schedule.steps}  loss {mean(s for s, _ in shown):.3f}  "
                f"pointing {mean(p for _, p in shown):.3f}  {spent / 60:.1f} min, "
                f"{spent / step * (schedule.steps - step) / 60:.0f} min left",
                flush=True,
            )
            shown = []
        # Only where the queue is empty does a resumed run draw the same examples as one that was never stopped.
        due = step - step % schedule.checkpoint_every > _last_saved(checkpoint)
        if (due and not queue) or step == schedule.steps:
            tensors = {f"model.{name}": tensor for name, tensor in _untied(model).items()}
            for i, optim in enumerate(optims):
                for index, state in optim.state_dict()["state"].items():
                    tensors |= {f"optim.{i}.{index}.{key}": value for key, value in state.items()}
            notes = {"step": step, "spent": spent, "steps": schedule.steps, "seed": schedule.seed}
            save_checkpoint(checkpoint, tensors, notes)
        if report is not None:
            report(step)
    model.eval()


def _last_saved(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, "pt") as file:
        return json.loads(file.metadata()["notes"])["step"]


def _computes_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices itself; elsewhere bf16 is emulated and slower than float32."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512_bf16" in flags.read_text()


def _untied(model: nn.Module) -> dict[str, Tensor]:
    """The parameters, a shared one once."""
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}


# ------------------------------------------------------------------------------------------ the published layout


def published_chatglm3(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a native `GlmForCausalLM` under the names and in the shapes of the published ChatGLM3, fp16."""
    state = model.state_dict()
    tensors = {
        "transformer.embedding.word_embeddings.weight": state["model.embed_tokens.weight"],
        "transformer.output_layer.weight": state["lm_head.weight"],
        "transformer.encoder.final_layernorm.weight": state["model.norm.weight"],
    }
    for i in range(model.config.num_hidden_layers):
        ours, theirs = f"model.layers.{i}.", f"transformer.encoder.layers.{i}."
        for kind in ("weight", "bias"):
            if ours + f"self_attn.q_proj.{kind}" in state:
                parts = [state[ours + f"self_attn.{part}_proj.{kind}"] for part in "qkv"]
                tensors[theirs + f"self_attention.query_key_value.{kind}"] = torch.cat(parts)
        tensors[theirs + "self_attention.dense.weight"] = state[ours + "self_attn.o_proj.weight"]
        tensors[theirs + "mlp.dense_h_to_4h.weight"] = state[ours + "mlp.gate_up_proj.weight"]
        tensors[theirs + "mlp.dense_4h_to_h.weight"] = state[ours + "mlp.down_proj.weight"]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[theirs + norm + ".weight"] = state[ours + norm + ".weight"]
    return {name: tensor.detach().half().clone().contiguous() for name, tensor in tensors.items()}
