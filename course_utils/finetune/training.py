"""The training loop, with checkpoints from which it goes on as if it had never stopped.

It is written out, on accelerate, instead of taking transformers' Trainer. Trainer writes a checkpoint in place, so
a full disk leaves half of one that the next run takes for the last; it saves the whole model, 12 GB, with a prefix
of the first generation; and it leaves a NaN out of its log and trains on.
"""

import dataclasses
import hashlib
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import extract_model_from_parallel, set_seed
from packaging.version import Version
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, get_scheduler

from course_utils.finetune.adapters import base_signature, check_base, checkpoints_in, read_record
from course_utils.finetune.examples import IGNORED, Example, answer_tokens, collate, no_examples
from course_utils.finetune.settings import METHODS, Settings
from course_utils.messages import CourseError, Text

# A run may be resumed with other values of these: they do not change what is learned.
FREE_TO_CHANGE = {"output_dir", "logging_steps", "save_total_limit", "fsdp"}
# How often in a row the scaler of float16 may halve its 65,536: it has then long arrived below 1.
SMALLER_SCALES = 20
SORTED_STEPS = 8  # over how many steps examples are sorted by length


@dataclass
class History:
    """The curves of a run: `(step, value)` points."""

    loss: list[tuple[int, float]] = field(default_factory=list)
    """Mean over the answer tokens of the last `logging_steps` steps."""
    validation: list[tuple[int, float]] = field(default_factory=list)
    """Mean over the answer tokens of the validation examples; step 0 is before training."""
    learning_rate: list[tuple[int, float]] = field(default_factory=list)
    stopped_early: bool = False

    @property
    def best(self) -> tuple[int, float]:
        """The validation point with the lowest loss."""
        return min(self.validation, key=lambda point: point[1])


@dataclass(frozen=True)
class Step:
    """What a callback is told after each step of the optimiser."""

    number: int
    total: int
    loss: float
    history: History
    device: torch.device


Callback = Callable[[Step], object]


def train(
    model: PreTrainedModel | PeftModel,
    examples: Sequence[Example],
    settings: Settings,
    validation: Sequence[Example] | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
) -> History:
    """Train those parameters of `model` that require a gradient; they become float32, whatever the others are.

    A step takes per_device_train_batch_size · gradient_accumulation_steps examples on each process, about equally long
    ones from an endless row of shuffled passes over the data, and its loss is the mean over all answer tokens in them.
    With `settings.output_dir`, checkpoints are written there, and with `resume` the run goes on from the last one as
    if it had never stopped. The model ends with the last weights, after early stopping with the best, in eval mode;
    with `settings.fsdp` it also stays cut into parts.
    """
    check_processes(settings)
    if not examples:
        raise no_examples()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not names:
        raise CourseError(
            "No parameter of this model is to be trained: call add_adapter(model, settings) first.",
            "该模型没有可训练的参数：请先调用 add_adapter(model, settings)。",
        )
    _check_lengths(model, [*examples, *(validation or ())])
    with _accelerator(model, settings) as accelerator:
        run = _Run(model, examples, settings, validation or (), names, accelerator)
        if settings.output_dir:
            run.start_or_resume(resume)
        return run.to_the_end(callbacks)


@dataclass
class _Run:
    """One run of training and all that must survive when it is interrupted."""

    model: PreTrainedModel | PeftModel
    examples: Sequence[Example]
    settings: Settings
    validation: Sequence[Example]
    names: list[str]
    accelerator: Accelerator
    history: History = field(default_factory=History)
    step: int = 0
    skipped: int = 0
    """How many steps in a row were left out because a gradient overflowed in float16."""
    recent: list[tuple[float, int]] = field(default_factory=list)
    """The losses since the last point in the history, each with its number of answer tokens."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The trained parameters at the best validation, where early stopping is on."""

    def __post_init__(self) -> None:
        settings = self.settings
        self.processes = self.accelerator.num_processes
        self.batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * self.processes
        self.total = settings.max_steps or math.ceil(settings.num_train_epochs * len(self.examples) / self.batch)
        self.lengths = [len(example["labels"]) for example in self.examples]
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.to(self.accelerator.device, torch.float32)
        betas = 0.9, settings.adam_beta2
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, betas=betas, weight_decay=0.0)
        share = self.total if settings.warmup_steps < 1 else 1
        warmup = math.ceil(share * settings.warmup_steps)
        self.scheduler = get_scheduler(settings.lr_scheduler_type, self.optimizer, warmup, self.total)
        self.base = base_signature(self.model)
        data = json.dumps([list(self.examples), list(self.validation)]).encode()
        self.data = hashlib.sha256(data).hexdigest()[:16]
        # Each process drops out other units.
        set_seed(settings.seed + self.accelerator.process_index)

    # --- the loop

    def to_the_end(self, callbacks: Sequence[Callback]) -> History:
        if self.settings.fsdp:
            _cut_up(self.model, self.accelerator)
        # accelerate takes a model "for evaluation" as it is; any other is wrapped for data parallel training.
        self.wrapped = self.accelerator.prepare_model(self.model, evaluation_mode=self.settings.fsdp)
        self.prepared = self.accelerator.prepare(self.optimizer)
        if self.step == 0 and self.validation:
            self.validate()
        while not self.is_over:
            loss, tokens = self.one_step()
            self.note(loss, tokens)
            for callback in callbacks if self.accelerator.is_main_process else ():
                callback(Step(self.step, self.total, loss, self.history, self.accelerator.device))
            if self.settings.output_dir and (self.is_over or self.step % self.settings.save_steps == 0):
                self.save_checkpoint()
        if self.best:
            self.put_back(self.best)
        if self.settings.output_dir:
            self.save_adapter()
        return self.history

    def one_step(self) -> tuple[float, int]:
        settings, accelerator = self.settings, self.accelerator
        self.wrapped.train()
        examples = [self.examples[i] for i in _chosen(self.step, self.total, self.batch, self.lengths, settings.seed)]
        tokens = answer_tokens(examples)
        mine = examples[accelerator.process_index :: self.processes]
        loss = torch.zeros((), device=accelerator.device)
        for start in range(0, len(mine), settings.per_device_train_batch_size):
            batch = collate(mine[start : start + settings.per_device_train_batch_size], accelerator.device)
            with accelerator.accumulate(self.wrapped):
                part = _answer_loss(self.wrapped, batch) / tokens
                # accelerate divides by the number of parts and takes the mean over processes; a sum is wanted.
                accelerator.backward(part * settings.gradient_accumulation_steps * self.processes)
                loss += part.detach()
                if accelerator.sync_gradients:
                    if settings.fsdp:
                        for parameter in self.parameters:
                            parameter.grad = accelerator.reduce(parameter.grad, "mean")
                    self.step += 1
                    loss = accelerator.reduce(loss)
                    norm = accelerator.clip_grad_norm_(self.parameters, settings.max_grad_norm)
                    # In float16 a gradient may overflow: then the scaler leaves the step out and scales less.
                    if not loss.isfinite() or (accelerator.scaler is None and not torch.as_tensor(norm).isfinite()):
                        raise self.not_a_number()
                self.prepared.step()
                self.prepared.zero_grad()
        if accelerator.optimizer_step_was_skipped:
            self.skipped += 1
            if self.skipped > SMALLER_SCALES:
                raise self.not_a_number()
        else:
            self.skipped = 0
            self.scheduler.step()
        return loss.item(), tokens

    def note(self, loss: float, tokens: int) -> None:
        """Write the history, and validate where that is due."""
        settings = self.settings
        self.recent.append((loss, tokens))
        every = settings.eval_steps or settings.save_steps
        if self.validation and (self.step % every == 0 or self.step == self.total):
            self.validate()
        if self.step % settings.logging_steps == 0 or self.is_over:
            mean = sum(loss * tokens for loss, tokens in self.recent) / sum(tokens for _, tokens in self.recent)
            self.history.loss.append((self.step, mean))
            self.history.learning_rate.append((self.step, self.scheduler.get_last_lr()[0]))
            self.recent = []

    @property
    def is_over(self) -> bool:
        return self.step == self.total or self.history.stopped_early

    def validate(self) -> None:
        loss = evaluate(self.wrapped, self.validation, self.settings.per_device_train_batch_size, self.accelerator)
        if not math.isfinite(loss):
            raise self.not_a_number()
        self.history.validation.append((self.step, loss))
        patience = self.settings.early_stopping_patience
        if patience is None:
            return
        if self.history.best[0] == self.step:
            self.best = {name: value.cpu().clone() for name, value in self.trained().items()}
        since = sum(step > self.history.best[0] for step, _ in self.history.validation)
        self.history.stopped_early = since >= patience

    def trained(self) -> dict[str, Tensor]:
        """The parameters that are trained, by name."""
        state = self.accelerator.get_state_dict(self.wrapped)
        return {name: state[name].detach() for name in self.names}

    def put_back(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the trained parameters."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in tensors:
                    parameter.copy_(tensors[name])

    def not_a_number(self) -> CourseError:
        if self.step == 0:
            return CourseError(
                "The loss is not a number before any training: in this number format the model overflows. Load it in "
                "bfloat16 or float32.",
                "训练还没开始，损失就已不是有效数值：模型在这种数字格式下溢出了。请用 bfloat16 或 float32 加载。",
            )
        kept = self.last_checkpoint()
        return CourseError(
            f"The loss or its gradient is no longer a number at step {self.step}: take a smaller learning_rate "
            f"(now {self.settings.learning_rate:g}). {kept.en}",
            f"第 {self.step} 步的损失或梯度已不是有效数值：请调小 learning_rate（现为 "
            f"{self.settings.learning_rate:g}）。{kept.zh}",
        )

    def last_checkpoint(self) -> Text:
        checkpoints = checkpoints_in(self.settings.output_dir)
        if not checkpoints:
            return Text("No checkpoint had been written.", "尚未写出任何检查点。")
        return Text(f"The last checkpoint is kept: {checkpoints[-1]}", f"最后一个检查点仍在：{checkpoints[-1]}")

    # --- checkpoints

    def start_or_resume(self, resume: bool) -> None:
        """Go on from the last checkpoint in output_dir, where there is one."""
        folder = self.settings.output_dir
        checkpoints = checkpoints_in(folder)
        if not checkpoints:
            return
        if not resume:
            raise CourseError(
                f"{folder} holds a training run already: go on with resume=True, or give another output_dir.",
                f"{folder} 中已有一次训练：请用 resume=True 继续，或另选 output_dir。",
            )
        last = checkpoints[-1]
        record = read_record(last)
        check_base(record["base"], self.model, last)
        self.check_unchanged(record, last)
        process = last / "resume" / f"process-{self.accelerator.process_index}.pt"
        try:
            trained = load_file(last / "resume" / "trained.safetensors")
            state = torch.load(process, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            missing = error.filename or "trained.safetensors"
            raise CourseError(
                f"{last} is not whole ({missing} is missing): delete it, and the run goes on from the one before.",
                f"{last} 不完整（缺少 {missing}）：请删除它，训练会从前一个检查点继续。",
            ) from None
        self.put_back(trained)
        if (best := last / "resume" / "best.safetensors").is_file():
            self.best = load_file(best)
        self.history = _history_from(record["history"])
        self.step, self.recent = record["step"], record["recent"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.accelerator.device)

    def check_unchanged(self, record: dict[str, Any], checkpoint: Path) -> None:
        now = self.record()["same"]
        # A setting that is newer than the checkpoint had what is now its default.
        before = {name: option.default for name, option in type(self.settings).model_fields.items()} | record["same"]
        changed = sorted(name for name in now if before.get(name) != now[name])
        if changed:
            raise CourseError(
                f"{checkpoint} was written with other values of {', '.join(changed)}: go on with the old ones, or give "
                "another output_dir.",
                f"{checkpoint} 写出时 {'、'.join(changed)} 与现在不同：请用原来的值继续，或另选 output_dir。",
            )

    def record(self) -> dict[str, Any]:
        """What is written down with the weights. `same` must not change when a run is resumed."""
        settings = self.settings.model_dump(mode="json")
        same = {name: value for name, value in settings.items() if name not in FREE_TO_CHANGE}
        same |= {"the data": self.data, "the number of processes": self.processes}
        return {
            "method": next((name for name, cls in METHODS.items() if type(self.settings) is cls), None),
            "settings": settings,
            "same": same,
            "base": self.base,
            "step": self.step,
            "recent": self.recent,
            "history": dataclasses.asdict(self.history),
        }

    def save_checkpoint(self) -> None:
        """The adapter for use, and under resume/ all that is needed to go on."""
        # A step may ruin weights that were good when its loss was computed.
        loss = evaluate(self.wrapped, self.examples[: self.processes], accelerator=self.accelerator)
        if not math.isfinite(loss):
            raise self.not_a_number()
        with self.written_whole(f"checkpoint-{self.step:06}") as folder:
            (folder / "resume").mkdir(exist_ok=True)
            state = {"optimizer": self.prepared.state_dict(), "scheduler": self.scheduler.state_dict()}
            state["rng"] = torch.get_rng_state()
            if self.accelerator.device.type == "cuda":
                state["cuda_rng"] = torch.cuda.get_rng_state(self.accelerator.device)
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            torch.save(state, folder / "resume" / f"process-{self.accelerator.process_index}.pt")
            trained = self.trained()
            if self.accelerator.is_main_process:
                _save_tensors(trained, folder / "resume" / "trained.safetensors")
                if self.best:
                    _save_tensors(self.best, folder / "resume" / "best.safetensors")
                self.save_for_use(trained, folder)
        # The new one is whole before an old one goes.
        if self.settings.save_total_limit and self.accelerator.is_main_process:
            for old in checkpoints_in(self.settings.output_dir)[: -self.settings.save_total_limit]:
                shutil.rmtree(old, ignore_errors=True)  # one that is in use goes next time

    def save_adapter(self) -> None:
        """The result, in output_dir/adapter."""
        with self.written_whole("adapter") as folder:
            trained = self.trained()
            if self.accelerator.is_main_process:
                self.save_for_use(trained, folder)

    def save_for_use(self, trained: dict[str, Tensor], folder: Path) -> None:
        if isinstance(self.model, PeftModel):
            self.model.save_pretrained(folder)
        else:
            _save_tensors(trained, folder / "model.safetensors")
        (folder / "training.json").write_text(json.dumps(self.record(), ensure_ascii=False, indent=1), encoding="utf-8")

    @contextmanager
    def written_whole(self, name: str) -> Iterator[Path]:
        """A folder to fill, which gets its name when all processes have filled it."""
        target = self.settings.output_dir / name
        unfinished = target.with_name(f".{name}.unfinished")
        try:
            if self.accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            yield unfinished
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                shutil.rmtree(target, ignore_errors=True)
                os.replace(unfinished, target)
            self.accelerator.wait_for_everyone()
        # torch and safetensors report a full disk by errors of their own.
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise  # not from the writer of torch: a GPU without memory, a process that is gone
            kept = self.last_checkpoint()
            reason = str(error).split("\n")[0]
            raise CourseError(
                f"{target} could not be written ({reason}): make room on its disk, then resume. {kept.en}",
                f"无法写出 {target}（{reason}）：请清理其所在磁盘，再继续训练。{kept.zh}",
            ) from error


def evaluate(
    model: torch.nn.Module, examples: Sequence[Example], batch_size: int = 8, accelerator: Accelerator | None = None
) -> float:
    """The mean loss over the answer tokens of `examples`."""
    if not examples:
        raise no_examples()
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    device = accelerator.device if accelerator else next(model.parameters()).device
    ordered = sorted(examples, key=lambda example: len(example["labels"]))
    training = model.training
    model.eval()
    total = torch.zeros((), device=device)
    with torch.no_grad():
        for start in range(0, len(ordered), batch_size * processes):
            mine = ordered[start : start + batch_size * processes][rank::processes]
            # Processes compute together: one that has no example left takes part with another's.
            loss = _answer_loss(model, collate(mine or ordered[:1], device))
            total += loss if mine else 0 * loss
    model.train(training)
    return (accelerator.reduce(total) if accelerator else total).item() / answer_tokens(examples)


def check_processes(settings: Settings) -> None:
    """Refuse what this loop does not do with several processes, before accelerate asks for libraries."""
    for way in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if os.environ.get(f"ACCELERATE_USE_{way}", "false").lower() == "true":
            raise CourseError(
                f"accelerate is set up for {way}, and here the model is cut up by a setting: give --multi_gpu to "
                "accelerate launch, and write fsdp: true into the YAML file.",
                f"accelerate 设成了 {way}，而在这里切分模型靠设置：请给 accelerate launch 加上 --multi_gpu，"
                "并在 YAML 文件中写上 fsdp: true。",
            )
    if settings.fsdp and Version(torch.__version__) < Version("2.7"):  # fully_shard without ignored_params
        raise CourseError(
            f"fsdp needs torch 2.7 or newer, and here is {torch.__version__}: update torch, or leave fsdp out.",
            f"fsdp 需要 torch 2.7 或更高版本，这里是 {torch.__version__}：请升级 torch，或去掉 fsdp。",
        )
    if settings.fsdp and int(os.environ.get("WORLD_SIZE", 1)) < 2:
        raise CourseError(
            "fsdp cuts the model into parts for several processes, and here is one: start the command with "
            "accelerate launch --multi_gpu --num_processes 2 -m, or leave fsdp out.",
            "fsdp 把模型切分给多个进程，而这里只有一个：请用 accelerate launch --multi_gpu --num_processes 2 -m 启动，"
            "或去掉 fsdp。",
        )


def _cut_up(model: PreTrainedModel | PeftModel, accelerator: Accelerator) -> None:
    """Leave each process its part of the frozen weights; a block is put together while it computes, and then let go.

    Fully sharded data parallel, Zhao et al. 2023, arXiv:2304.11277. The few weights that are trained stay whole.
    """
    from torch.distributed.device_mesh import init_device_mesh  # not every torch has them
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    kinds = model._no_split_modules or ()
    blocks = [module for module in model.modules() if type(module).__name__ in kinds]
    for module in [*blocks, model]:
        fully_shard(module, mesh=mesh, ignored_params=trained)


def _answer_loss(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The cross-entropy of each answer token after all before it, summed up."""
    following = batch["labels"][:, 1:]
    asked = F.pad(following != IGNORED, (0, 1))  # [b, s], True where the next token belongs to an answer
    # Scores for the whole vocabulary are dear, so the output layer gets to see no other places. The model's own
    # argument logits_to_keep takes such a mask only in the latest versions of transformers.
    head = extract_model_from_parallel(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][asked],))
    try:
        logits = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits  # [answer tokens, vocab_size]
    finally:
        hook.remove()
    return F.cross_entropy(logits.float(), following[asked[:, :-1]], reduction="sum")


def _chosen(step: int, total: int, batch: int, lengths: Sequence[int], seed: int) -> list[int]:
    """Which examples a step takes from an endless row of shuffled passes. Depends on nothing but its arguments.

    The examples of a few steps are sorted by length and dealt out again, so that little is computed for padding.
    """
    examples = len(lengths)
    steps = max(1, min(SORTED_STEPS, examples // batch))
    first = step - step % steps
    steps = min(steps, total - first)
    places = range(first * batch, (first + steps) * batch)
    pool = sorted((_shuffled(examples, seed, at // examples)[at % examples] for at in places), key=lengths.__getitem__)
    turns = random.Random(f"{seed} {first}").sample(range(steps), steps)
    start = turns[step - first] * batch
    return pool[start : start + batch]


@lru_cache(maxsize=2)
def _shuffled(examples: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed} {epoch}").sample(range(examples), examples)


@contextmanager
def _accelerator(model: torch.nn.Module, settings: Settings) -> Iterator[Accelerator]:
    """accelerate for this model, where it lies and in its number format; what it wraps around the model goes again."""
    on_cpu = next(model.parameters()).device.type == "cpu" and not (settings.fsdp and torch.cuda.is_available())
    dtype = model.get_input_embeddings().weight.dtype
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "no")
    if precision == "fp16" and on_cpu:
        precision = "no"  # all of it in float16, without a scaler: for trying things out
    # accelerate remembers the precision of the first run in this Python.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
    )
    try:
        yield accelerator
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()
        accelerator.free_memory()


def _check_lengths(model: PreTrainedModel | PeftModel, examples: Sequence[Example]) -> None:
    longest = max(len(example["input_ids"]) for example in examples)
    context = model.config.max_position_embeddings
    if longest > context:
        raise CourseError(
            f"An example has {longest} tokens and the model's context holds {context}: set max_source_length and "
            "max_target_length, or cutoff_len.",
            f"有样本长达 {longest} 个 token，而模型的上下文只有 {context}：请设置 max_source_length 与 "
            "max_target_length，或 cutoff_len。",
        )


def _history_from(values: dict[str, Any]) -> History:
    points = {
        name: [(step, value) for step, value in curve] for name, curve in values.items() if isinstance(curve, list)
    }
    return History(**values | points)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, path)
