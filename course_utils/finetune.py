"""Fine-tune a language model, by P-Tuning v2 or LoRA: in a notebook, or for hours from the command line.

    python -m course_utils.finetune ptuning --config data/finetune/ptuning_adgen.yaml
    python -m course_utils.finetune lora --config data/finetune/lora_magic_conch.yaml
    accelerate launch -m course_utils.finetune lora --config …          (several GPUs, or processes)

The same command again goes on from the last checkpoint. A notebook calls the functions behind it:

    settings = LoRASettings(lora_r=8, learning_rate=1e-3, max_steps=100)
    model = add_adapter(model, settings)
    examples = encode_examples(tokenizer, load_alpaca(file), settings)
    history = train(model, examples, settings)

The loop is written out, on accelerate, instead of taking transformers' Trainer. Trainer writes a checkpoint in
place, so a full disk leaves half of one that the next run takes for the last; it saves the whole model, 12 GB, with
a prefix; and it leaves a NaN out of its log and trains on.
"""

import argparse
import dataclasses
import difflib
import hashlib
import json
import math
import os
import random
import shutil
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import psutil
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from course_utils.chatglm.conversation import _readable
from course_utils.chatglm.loading import load_chatglm
from course_utils.chatglm.memory import pick_device
from course_utils.chatglm.modeling import ChatGLM1Config
from course_utils.chatglm.prefix import add_prefix, load_prefix
from course_utils.chatglm.prompts import as_messages
from course_utils.chatglm.published import PREFIX_NAMES
from course_utils.chatglm.tokenization import ChatGLMTokenizer, load_tokenizer
from course_utils.datasets import Instruction, Pair, load_alpaca, load_pairs
from course_utils.messages import CourseError, Text
from course_utils.models import CATALOGUE, find_model
from course_utils.runtime import choose, probe_gpu

IGNORED = -100
"""The label of a token that is not to be learned, as everywhere in transformers."""

Example = dict[str, list[int]]
"""`input_ids`, and `labels`: the same ids where the answer stands, IGNORED where the prompt does."""


# ----------------------------------------------------------------------------------------------------- settings


class Settings(BaseModel):
    """What both ways of training have in common, under the names of the published recipes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_name_or_path: str | None = None
    """A folder, or a name of the catalogue in models.py, such as chatglm3-6b."""
    quantization_bit: Literal[4, 8] | None = None

    train_file: Path | None = None
    validation_file: Path | None = None
    val_size: float = Field(0, ge=0)
    """Without a validation_file, what of train_file is kept for validation: a share below 1, or a number."""
    prompt_column: str | None = None
    response_column: str | None = None
    history_column: str | None = None
    """Without columns the files are in Alpaca format: instruction, input, output."""
    max_samples: int | None = Field(None, gt=0)
    max_source_length: int | None = Field(None, gt=0)
    max_target_length: int | None = Field(None, gt=0)
    cutoff_len: int | None = Field(None, gt=0)
    """Tokens of prompt and answer together."""

    learning_rate: float = Field(gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    per_device_train_batch_size: int = Field(1, gt=0)
    gradient_accumulation_steps: int = Field(1, gt=0)
    num_train_epochs: float = Field(3, gt=0)
    max_steps: int | None = Field(None, gt=0)
    """Goes before num_train_epochs."""
    max_grad_norm: float = Field(1.0, gt=0)
    fp16: bool = False
    bf16: bool = False
    """With neither, the number format that suits the machine: float32 on a CPU."""
    seed: int = Field(42, ge=0)

    logging_steps: int = Field(10, gt=0)
    eval_steps: int | None = Field(None, gt=0)
    """By default as often as a checkpoint is written."""
    early_stopping_patience: int | None = Field(None, gt=0)
    """Stop after so many validations without a better one, and keep the weights of the best."""
    save_steps: int = Field(500, gt=0)
    output_dir: Path | None = None
    """Where checkpoints go; without it nothing is written."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            raise _bad_setting(cls, error) from None


class PTuningSettings(Settings):
    """P-Tuning v2. The defaults are those of ChatGLM-6B's recipe for AdvertiseGen."""

    pre_seq_len: int = Field(128, gt=0)
    prefix_projection: bool = False
    learning_rate: float = Field(2e-2, gt=0)
    gradient_accumulation_steps: int = Field(16, gt=0)
    max_source_length: int | None = Field(64, gt=0)
    max_target_length: int | None = Field(64, gt=0)


class LoRASettings(Settings):
    """LoRA. The defaults are those of ChatGLM3-6B's recipe."""

    lora_r: int = Field(8, gt=0)
    lora_alpha: int = Field(32, gt=0)
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    lora_target: str | list[str] = "all"
    """Names of linear layers, in a list or with commas between them, or "all"."""
    learning_rate: float = Field(1e-4, gt=0)


METHODS: dict[str, type[Settings]] = {"ptuning": PTuningSettings, "lora": LoRASettings}
# A run may be resumed with other values of these: they do not change what is learned.
FREE_TO_CHANGE = {"output_dir", "logging_steps", "save_steps"}


def read_settings(path: str | Path, method: Literal["ptuning", "lora"]) -> Settings:
    """Read the settings of a run from a YAML file."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(
            f"{path} cannot be read ({error.strerror}): check the path.",
            f"无法读取 {path}（{error.strerror}）：请检查路径。",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = str(error).replace("\n", " ")
        raise CourseError(f"{path} is not valid YAML: {where}", f"{path} 不是合法的 YAML：{where}") from None
    if not isinstance(values, dict):
        raise CourseError(
            f"{path} must hold lines such as 'learning_rate: 2e-2'.",
            f"{path} 应由形如 'learning_rate: 2e-2' 的行组成。",
        )
    return METHODS[method].model_validate(values)


def _bad_setting(cls: type[Settings], error: ValidationError) -> CourseError:
    problem = error.errors()[0]
    name = str(problem["loc"][0])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"]
        return CourseError(
            f"The setting {name} cannot be {problem['input']!r}: {message}.",
            f"设置 {name} 不能是 {problem['input']!r}：{message}。",
        )
    for method, other in METHODS.items():
        if name in other.model_fields:
            return CourseError(
                f"{name} is a setting of {method}: leave it out here.", f"{name} 是 {method} 的设置：请去掉。"
            )
    near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0)[0]
    return CourseError(
        f"There is no setting {name}: do you mean {near}?", f"没有名为 {name} 的设置：您是指 {near} 吗？"
    )


# ----------------------------------------------------------------------------------------------------- examples


def load_items(path: str | Path, settings: Settings) -> list[Pair] | list[Instruction]:
    """Read a data file as the settings describe it. Items without question or answer are left out."""
    if settings.prompt_column and settings.response_column:
        items = load_pairs(
            path, settings.prompt_column, settings.response_column, settings.history_column, skip_empty=True
        )
    elif settings.prompt_column or settings.response_column or settings.history_column:
        raise CourseError(
            "Name prompt_column and response_column, or neither for a file in Alpaca format.",
            "请同时写出 prompt_column 和 response_column；若文件是 Alpaca 格式，则都不写。",
        )
    else:
        items = load_alpaca(path, skip_empty=True)
    if not items:
        raise _no_examples()
    return items[: settings.max_samples]


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Pair | Instruction], settings: Settings
) -> list[Example]:
    """The token ids of each prompt with its answer, and labels that are the answer's ids alone.

    The prompt is written as the model's chat writes it, so what is learned shows there. Too long a question or
    answer is cut at its end, after the oldest rounds of its history went; the token that ends the answer stays.
    """
    examples = []
    for item in items:
        prompt = prompt_ids(tokenizer, item)
        answer, end = _answer_ids(tokenizer, item.output if isinstance(item, Instruction) else item.response)
        source, target = settings.max_source_length or math.inf, settings.max_target_length or math.inf
        if settings.cutoff_len:
            # The prompt may use what the answer leaves, and half where both are long.
            target = min(target, settings.cutoff_len - min(len(prompt), source, settings.cutoff_len // 2))
            source = min(source, settings.cutoff_len - min(len(answer) + 1, target))
        if len(prompt) > source:
            prompt = prompt_ids(tokenizer, item, int(source))
        answer = [*answer[: int(min(len(answer), target - 1))], end]
        examples.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return examples


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, item: Pair | Instruction, max_source_length: int | None = None
) -> list[int]:
    """The ids of an item's prompt, up to where the answer begins; shortened to max_source_length where that is given."""

    def encoded(messages: list) -> list[int]:
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    system = getattr(item, "system", "")
    opening = [{"role": "system", "content": system}] if system else []
    history, question = as_messages(item.history), {"role": "user", "content": item.prompt}
    ids = encoded([*opening, *history, question])
    if max_source_length is None:
        return ids
    while len(ids) > max_source_length and history:
        history = history[2:]
        ids = encoded([*opening, *history, question])
    if len(ids) <= max_source_length:
        return ids

    def first(characters: int) -> list[int]:
        return encoded([*opening, question | {"content": item.prompt[:characters]}])

    kept = bisect_right(range(len(item.prompt)), max_source_length, key=lambda n: len(first(n))) - 1
    if kept < 1:
        raise CourseError(
            f"max_source_length or cutoff_len leaves {max_source_length} tokens for a prompt, of which the question gets "
            "none: give more.",
            f"max_source_length 或 cutoff_len 只给提示留下 {max_source_length} 个 token，放不下问题：请调大。",
        )
    return first(kept)


def _answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> tuple[list[int], int]:
    """The ids of an answer as the model would give it, and the one that ends it."""
    if not isinstance(tokenizer, ChatGLMTokenizer):
        return tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id
    # From the third generation on, an answer begins with a line for the name of a tool, here an empty one.
    parts = ["\n", answer] if tokenizer.generation >= 3 else [answer]
    return tokenizer.encode_prompt(parts), tokenizer.stop_ids[0]


def _collate(examples: Sequence[Example], device: torch.device) -> dict[str, Tensor]:
    """One batch, filled up on the right, where no position in the text is shifted."""
    length = max(len(example["input_ids"]) for example in examples)

    def rows(name: str, filler: int) -> Tensor:
        return torch.tensor(
            [example[name] + [filler] * (length - len(example[name])) for example in examples], device=device
        )

    mask = [[1] * len(example["labels"]) + [0] * (length - len(example["labels"])) for example in examples]
    return {
        "input_ids": rows("input_ids", 0),
        "labels": rows("labels", IGNORED),
        "attention_mask": torch.tensor(mask, device=device),
    }


def _answer_tokens(examples: Sequence[Example]) -> int:
    return sum(label != IGNORED for example in examples for label in example["labels"][1:])


def _no_examples() -> CourseError:
    return CourseError(
        "There is nothing to train on: the data set holds no item with both a question and an answer.",
        "没有可训练的数据：数据集中没有同时含提问与回答的条目。",
    )


# ------------------------------------------------------------------------------------------------------ adapter


def add_adapter(model: PreTrainedModel, settings: Settings) -> PreTrainedModel | PeftModel:
    """Freeze `model` and give it what is to be trained: a prefix or low-rank matrices, drawn with settings.seed.

    PEFT does it, except for the prefix of the first generation, which has a place in that network.
    """
    set_seed(settings.seed)
    if isinstance(settings, PTuningSettings):
        if isinstance(model.config, ChatGLM1Config):
            add_prefix(model, settings.pre_seq_len, settings.prefix_projection)
            return model
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=settings.pre_seq_len,
            prefix_projection=settings.prefix_projection,
            encoder_hidden_size=model.config.hidden_size,
        )
        return get_peft_model(model, config)
    targets = settings.lora_target.split(",") if isinstance(settings.lora_target, str) else settings.lora_target
    targets = [target.strip() for target in targets]
    linear = {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if unknown := sorted(set(targets) - linear - {"all"}):
        raise CourseError(
            f"lora_target names {', '.join(unknown)}, which this model does not have: choose 'all' or some of "
            f"{', '.join(sorted(linear))}.",
            f"lora_target 中的 {'、'.join(unknown)} 在本模型里不存在：请写 'all'，或从 {'、'.join(sorted(linear))} 中选择。",
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear" if "all" in targets else targets,
    )
    return get_peft_model(model, config)


def load_trained(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel | PeftModel:
    """Give the base model what a training run saved: `folder` is its output_dir, or one checkpoint in it.

    The result goes to `chat`, `generate` and `serve.Service` like any other model.
    """
    folder = Path(folder)
    if (folder / "adapter").is_dir():
        folder = folder / "adapter"
    elif checkpoints := _checkpoints(folder):
        folder = checkpoints[-1]
    record = _read_record(folder)
    _check_base(record["base"], model, folder)
    if (folder / "adapter_config.json").is_file():
        return PeftModel.from_pretrained(model, folder).eval()
    tensors = load_file(folder / "model.safetensors")
    if any(PREFIX_NAMES in name for name in tensors):
        load_prefix(model, folder)
    else:
        model.load_state_dict(tensors, strict=False)
    return model.eval()


def generate_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Pair | Instruction],
    max_source_length: int | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 16,
) -> list[str]:
    """What the model answers to each item, taking the likeliest token each time; many at once, for measuring."""
    stop = tokenizer.stop_ids if isinstance(tokenizer, ChatGLMTokenizer) else [tokenizer.eos_token_id]
    training = model.training
    model.eval()
    answers = []
    for start in range(0, len(items), batch_size):
        prompts = [prompt_ids(tokenizer, item, max_source_length) for item in items[start : start + batch_size]]
        batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
        with torch.inference_mode():
            output = model.generate(
                **batch,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=stop,
                pad_token_id=tokenizer.pad_token_id,
            )
        for ids in output[:, batch["input_ids"].shape[1] :].tolist():
            ids = ids[: next((i for i, token in enumerate(ids) if token in stop), None)]
            if isinstance(tokenizer, ChatGLMTokenizer):
                answers.append(_readable(tokenizer, ids, final=True))
            else:
                answers.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    model.train(training)
    return answers


# ----------------------------------------------------------------------------------------------------- training


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

    A step takes per_device_train_batch_size · gradient_accumulation_steps examples on each process, from an endless
    row of shuffled passes over the data, and its loss is the mean over all answer tokens in them. With
    `settings.output_dir`, checkpoints are written there, and with `resume` the run goes on from the last one as if
    it had never stopped. The model ends with the last weights, after early stopping with the best.
    """
    if not examples:
        raise _no_examples()
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
    recent: list[float] = field(default_factory=list)
    """The losses since the last point in the history."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The trained parameters at the best validation, where early stopping is on."""

    def __post_init__(self) -> None:
        settings = self.settings
        self.processes = self.accelerator.num_processes
        self.batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * self.processes
        self.total = settings.max_steps or math.ceil(settings.num_train_epochs * len(self.examples) / self.batch)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, weight_decay=0.0)
        self.scheduler = get_scheduler(settings.lr_scheduler_type, self.optimizer, 0, self.total)
        self.base = _base_signature(self.model)
        # Each process drops out other units.
        set_seed(settings.seed + self.accelerator.process_index)

    # --- the loop

    def to_the_end(self, callbacks: Sequence[Callback]) -> History:
        self.wrapped, self.prepared = self.accelerator.prepare(self.model, self.optimizer)
        if self.resumed_state:
            self.prepared.load_state_dict(self.resumed_state["optimizer"])
        if self.step == 0 and self.validation:
            self.validate()
        while self.step < self.total and not self.history.stopped_early:
            loss = self.one_step()
            self.note(loss)
            for callback in callbacks if self.accelerator.is_main_process else ():
                callback(Step(self.step, self.total, loss, self.history, self.accelerator.device))
            last = self.step == self.total or self.history.stopped_early
            if self.settings.output_dir and (last or self.step % self.settings.save_steps == 0):
                self.save_checkpoint()
        if self.best:
            self.put_back(self.best)
        if self.settings.output_dir:
            self.save_adapter()
        return self.history

    def one_step(self) -> float:
        settings, accelerator = self.settings, self.accelerator
        self.wrapped.train()
        examples = [
            self.examples[i] for i in _order(self.step * self.batch, self.batch, len(self.examples), settings.seed)
        ]
        tokens = _answer_tokens(examples)
        mine = examples[accelerator.process_index :: self.processes]
        loss = torch.zeros((), device=accelerator.device)
        for start in range(0, len(mine), settings.per_device_train_batch_size):
            batch = _collate(mine[start : start + settings.per_device_train_batch_size], accelerator.device)
            with accelerator.accumulate(self.wrapped):
                part = _answer_loss(self.wrapped, batch) / tokens
                # accelerate divides by the number of parts and takes the mean over processes; a sum is wanted.
                accelerator.backward(part * settings.gradient_accumulation_steps * self.processes)
                loss += part.detach()
                if accelerator.sync_gradients:
                    loss = accelerator.reduce(loss)
                    norm = accelerator.clip_grad_norm_(self.parameters, settings.max_grad_norm)
                    # In float16 a gradient may overflow: then the scaler leaves the step out and scales less.
                    if not loss.isfinite() or (accelerator.scaler is None and not torch.as_tensor(norm).isfinite()):
                        raise self.not_a_number()
                self.prepared.step()
                self.prepared.zero_grad()
        if not accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
        self.step += 1
        return loss.item()

    def note(self, loss: float) -> None:
        """Write the history, and validate where that is due."""
        settings = self.settings
        self.recent.append(loss)
        if self.step % settings.logging_steps == 0 or self.step == self.total:
            self.history.loss.append((self.step, sum(self.recent) / len(self.recent)))
            self.history.learning_rate.append((self.step, self.scheduler.get_last_lr()[0]))
            self.recent = []
        every = settings.eval_steps or settings.save_steps
        if self.validation and (self.step % every == 0 or self.step == self.total):
            self.validate()

    def validate(self) -> None:
        loss = evaluate(self.wrapped, self.validation, self.settings.per_device_train_batch_size, self.accelerator)
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
        kept = self.last_checkpoint()
        return CourseError(
            f"The loss or its gradient is no longer a number in step {self.step + 1}: take a smaller learning_rate "
            f"(now {self.settings.learning_rate:g}). {kept.en}",
            f"第 {self.step + 1} 步的损失或梯度已不是有效数值：请调小 learning_rate（现为 "
            f"{self.settings.learning_rate:g}）。{kept.zh}",
        )

    def last_checkpoint(self) -> Text:
        checkpoints = _checkpoints(self.settings.output_dir)
        if not checkpoints:
            return Text("No checkpoint had been written.", "尚未写出任何检查点。")
        return Text(f"The last checkpoint is kept: {checkpoints[-1]}", f"最后一个检查点仍在：{checkpoints[-1]}")

    # --- checkpoints

    def start_or_resume(self, resume: bool) -> None:
        """Go on from the last checkpoint in output_dir, where there is one."""
        folder = self.settings.output_dir
        checkpoints = _checkpoints(folder)
        if not checkpoints:
            return
        if not resume:
            raise CourseError(
                f"{folder} holds a training run already: go on with resume=True, or give another output_dir.",
                f"{folder} 中已有一次训练：请用 resume=True 继续，或另选 output_dir。",
            )
        last = checkpoints[-1]
        record = _read_record(last)
        _check_base(record["base"], self.model, last)
        self.check_unchanged(record, last)
        self.put_back(load_file(last / "resume" / "trained.safetensors"))
        if (best := last / "resume" / "best.safetensors").is_file():
            self.best = load_file(best)
        self.history = _history_from(record["history"])
        self.step, self.recent = record["step"], record["recent"]
        process = last / "resume" / f"process-{self.accelerator.process_index}.pt"
        state = torch.load(process, map_location="cpu", weights_only=True)
        self.resumed_state = state
        self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.accelerator.device)

    resumed_state: dict[str, Any] | None = None

    def check_unchanged(self, record: dict[str, Any], checkpoint: Path) -> None:
        now = self.record()["same"]
        changed = sorted(name for name in now if record["same"].get(name) != now[name])
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
        data = json.dumps([list(self.examples), list(self.validation)]).encode()
        same |= {"the data": hashlib.sha256(data).hexdigest()[:16], "the number of processes": self.processes}
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
        with self.written_whole(f"checkpoint-{self.step:06}") as folder:
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
                (unfinished / "resume").mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            yield unfinished
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                shutil.rmtree(target, ignore_errors=True)
                os.replace(unfinished, target)
            self.accelerator.wait_for_everyone()
        # torch and safetensors report a full disk by errors of their own.
        except Exception as error:
            shutil.rmtree(unfinished, ignore_errors=True)
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
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    device = next(model.parameters()).device
    mine = sorted(examples, key=lambda example: len(example["labels"]))[rank::processes]
    training = model.training
    model.eval()
    total = torch.zeros((), device=device)
    with torch.no_grad():
        for start in range(0, len(mine), batch_size):
            total += _answer_loss(model, _collate(mine[start : start + batch_size], device))
    model.train(training)
    return (accelerator.reduce(total) if accelerator else total).item() / _answer_tokens(examples)


def _answer_loss(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The cross-entropy of each answer token after all before it, summed up."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def _order(start: int, count: int, examples: int, seed: int) -> list[int]:
    """Which examples stand at these places of the endless row. Depends on nothing but its arguments."""
    return [_shuffled(examples, seed, place // examples)[place % examples] for place in range(start, start + count)]


@lru_cache(maxsize=2)
def _shuffled(examples: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed} {epoch}").sample(range(examples), examples)


@contextmanager
def _accelerator(model: torch.nn.Module, settings: Settings) -> Iterator[Accelerator]:
    """accelerate for this model, where it lies and in its number format; afterwards the model is as it was."""
    device = next(model.parameters()).device
    dtype = model.get_input_embeddings().weight.dtype
    if settings.fp16 and device.type == "cpu":
        raise CourseError(
            "fp16 training needs a GPU: leave fp16 out, or use bf16.", "fp16 训练需要 GPU：请去掉 fp16，或改用 bf16。"
        )
    precision = "no"
    if settings.bf16 or dtype is torch.bfloat16:
        precision = "bf16"
    elif device.type != "cpu" and (settings.fp16 or dtype is torch.float16):
        precision = "fp16"
    # accelerate remembers the precision of the first run in this Python.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
    )
    try:
        yield accelerator
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
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


# -------------------------------------------------------------------------------------------------- checkpoints


def _checkpoints(folder: Path | None) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("checkpoint-*")) if folder else []


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CourseError(
            f"{folder} holds nothing that was trained here (no training.json): give the output_dir of a run.",
            f"{folder} 中没有训练结果（缺少 training.json）：请给出某次训练的 output_dir。",
        ) from None


def _history_from(values: dict[str, Any]) -> History:
    points = {
        name: [(step, value) for step, value in curve] for name, curve in values.items() if isinstance(curve, list)
    }
    return History(**values | points)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, path)


def _base_signature(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    """What tells one base model from another: its sizes, and some of its numbers."""
    config, embeddings = model.config, model.get_input_embeddings().weight
    return {
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "embedding": [round(value, 6) for value in embeddings[min(100, len(embeddings) - 1), :8].float().tolist()],
    }


def _check_base(saved: dict[str, Any], model: PreTrainedModel | PeftModel, folder: Path) -> None:
    here = _base_signature(model)
    for name, value in here.items():
        same = saved[name] == value
        if name == "embedding":
            # Number formats round; bfloat16 to three digits.
            same = all(math.isclose(a, b, rel_tol=1e-2, abs_tol=1e-4) for a, b in zip(saved[name], value, strict=True))
        if not same:
            raise CourseError(
                f"{folder} was trained on another model ({name}: {saved[name]} there, {value} here): load that model.",
                f"{folder} 是在另一个模型上训练的（{name}：那里是 {saved[name]}，这里是 {value}）：请加载训练它的模型。",
            )


# --------------------------------------------------------------------------------------------------- seen by you


def memory_line(device: torch.device) -> str:
    """How full the memory is, as `nvidia-smi` counts it: all programs together, in MiB."""
    if device.type == "cuda":
        free, total = (number // 2**20 for number in torch.cuda.mem_get_info(device))
        peak = torch.cuda.max_memory_allocated(device) // 2**20
        return f"{torch.cuda.get_device_name(device)} {total - free} / {total} MiB, tensors at most {peak} MiB"
    memory = psutil.virtual_memory()
    used = (memory.total - memory.available) // 2**20
    return f"CPU {used} / {memory.total // 2**20} MiB, this program {psutil.Process().memory_info().rss // 2**20} MiB"


class ProgressBar:
    """A callback that draws a bar with the loss and the memory."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def __call__(self, step: Step) -> None:
        if self.bar is None:
            self.bar = tqdm(total=step.total, initial=step.number - 1)
        if step.history.loss and step.history.loss[-1][0] == step.number:
            self.bar.set_postfix_str(f"loss {step.history.loss[-1][1]:.4f}, {memory_line(step.device)}", refresh=False)
        self.bar.update()
        if step.number == step.total or step.history.stopped_early:
            self.bar.close()


class TensorBoard:
    """A callback that writes the curves for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        self.writer = None

    def __call__(self, step: Step) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed run had logged after its last checkpoint is logged again.
            self.writer = SummaryWriter(self.folder, purge_step=step.number)
        for name in ("loss", "validation", "learning_rate"):
            curve = getattr(step.history, name)
            if curve and curve[-1][0] == step.number:
                self.writer.add_scalar(name, curve[-1][1], step.number)
                self.writer.flush()


# -------------------------------------------------------------------------------------------------- the command


def run(settings: Settings) -> History:
    """Load data and model, train, and save to output_dir; go on from the last checkpoint where there is one."""
    for name in ("model_name_or_path", "train_file", "output_dir"):
        if getattr(settings, name) is None:
            raise CourseError(f"The setting {name} is missing.", f"缺少设置 {name}。")
    items, validation = load_items(settings.train_file, settings), []  # first: it fails at once
    if settings.validation_file:
        validation = load_items(settings.validation_file, settings)
    elif settings.val_size:
        number = round(settings.val_size if settings.val_size >= 1 else settings.val_size * len(items))
        items, validation = _split(items, number, settings.seed)

    use_cpu = pick_device("auto").type == "cpu"
    state = PartialState(cpu=use_cpu)
    say = print if state.is_main_process else lambda *_: None
    model, tokenizer = _load_base(settings, torch.device("cpu") if use_cpu else state.device, say)
    model = add_adapter(model, settings)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in model.parameters())
    say(
        Text(
            f"{trained:,} of {every:,} parameters are trained, on {len(items)} examples ({len(validation)} to validate).",
            f"在 {len(items)} 个样本上训练 {every:,} 个参数中的 {trained:,} 个（另有 {len(validation)} 个样本用于验证）。",
        )
    )
    callbacks = [ProgressBar(), TensorBoard(settings.output_dir / "tensorboard")]
    encoded = (encode_examples(tokenizer, part, settings) for part in (items, validation))
    history = train(model, next(encoded), settings, next(encoded), callbacks, resume=True)
    say(
        Text(
            f"Trained; the adapter is in {settings.output_dir / 'adapter'}. {memory_line(model.device)}",
            f"训练完成；适配器在 {settings.output_dir / 'adapter'}。{memory_line(model.device)}",
        )
    )
    return history


def _split(items: Sequence, number: int, seed: int) -> tuple[list, list]:
    """Training and validation items: `number` of them, drawn with `seed`, are kept for validation."""
    if number >= len(items):
        raise CourseError(
            f"val_size keeps {number} of {len(items)} examples for validation, so none is left: make it smaller.",
            f"val_size 要从 {len(items)} 个样本中留出 {number} 个做验证，已无样本可训练：请调小。",
        )
    order = random.Random(seed).sample(range(len(items)), len(items))
    return [items[i] for i in order[number:]], [items[i] for i in order[:number]]


def _load_base(
    settings: Settings, device: torch.device, say: Callable[..., object]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = Path(settings.model_name_or_path)
    if not folder.is_dir():
        if settings.model_name_or_path not in CATALOGUE:
            raise CourseError(
                f"model_name_or_path {folder} is neither a folder nor one of {', '.join(CATALOGUE)}.",
                f"model_name_or_path {folder} 既不是文件夹，也不是 {'、'.join(CATALOGUE)} 之一。",
            )
        found = find_model(settings.model_name_or_path)
        say(found)
        folder = found.folder
    dtype = "float16" if settings.fp16 else "bfloat16" if settings.bf16 else choose(probe_gpu()).dtype
    if device.type == "cpu" and settings.fp16:
        dtype = "float32"  # train says what is wrong
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") in ("chatglm", "chatglm1", "glm"):
        quantize = f"int{settings.quantization_bit}" if settings.quantization_bit else None
        tokenizer = load_tokenizer(folder)
        return load_chatglm(folder, dtype=dtype, device=device, quantize=quantize), tokenizer
    if settings.quantization_bit:
        raise CourseError(
            "quantization_bit is there for ChatGLM models only: leave it out.",
            "quantization_bit 只用于 ChatGLM 模型：请去掉。",
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device), tokenizer


def main(arguments: list[str] | None = None) -> int:
    """Train as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a YAML file with settings")
    given = parser.parse_args(arguments)
    try:
        run(read_settings(given.config, given.method))
    except CourseError as error:
        print(f"\n✘ {error.text.en}\n✘ {error.text.zh}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(Text("Interrupted: the same command goes on.", "已中断：重新运行同一命令即可继续。"), file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
