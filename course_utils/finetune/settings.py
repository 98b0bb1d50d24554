"""What a training run is told, under the names of the published recipes, and how it is read from a YAML file."""

import difflib
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from course_utils.messages import CourseError

OTHER_NAMES = {"lr": "learning_rate", "lora_rank": "lora_r"}
"""How other recipes call what has a name here; both are taken."""


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
    warmup_steps: float = Field(0, ge=0)
    """Over so many steps, below 1 over such a share of them all, the learning rate rises from zero."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW averages the squares of a gradient over about 1 / (1 - adam_beta2) steps: 1,000, or 50 with 0.98."""
    per_device_train_batch_size: int = Field(1, gt=0)
    gradient_accumulation_steps: int = Field(1, gt=0)
    num_train_epochs: float = Field(3, gt=0)
    max_steps: int | None = Field(None, gt=0)
    """Goes before num_train_epochs."""
    max_grad_norm: float = Field(1.0, gt=0)
    fp16: bool = False
    bf16: bool = False
    """How the command loads the model. With neither, as it suits the machine: float32 on a CPU, float16 on a T4."""
    fsdp: bool = False
    """Several processes share one copy of the frozen weights, instead of holding one each."""
    seed: int = Field(42, ge=0)

    logging_steps: int = Field(10, gt=0)
    eval_steps: int | None = Field(None, gt=0)
    """By default as often as a checkpoint is written."""
    early_stopping_patience: int | None = Field(None, gt=0)
    """Stop after so many validations without a better one, and keep the weights of the best."""
    save_steps: int = Field(500, gt=0)
    save_total_limit: int | None = Field(None, gt=0)
    """How many checkpoints stay, the last ones; by default all of them."""
    output_dir: Path | None = None
    """Where checkpoints go; without it nothing is written."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(values, dict):
            values = _by_our_names(values)
        try:
            settings = handler(values)
        except ValidationError as error:
            raise _bad_setting(cls, error) from None
        if settings.fsdp and settings.quantization_bit:
            raise CourseError(
                "fsdp cuts up weights that are not quantised: leave fsdp or quantization_bit out.",
                "fsdp 只切分未量化的权重：请去掉 fsdp 或 quantization_bit。",
            )
        if settings.warmup_steps and settings.lr_scheduler_type == "constant":
            raise CourseError(
                "A constant learning rate has no warmup_steps: leave them out, or take linear or cosine.",
                "学习率恒定（constant）时没有 warmup_steps：请去掉它，或改用 linear 或 cosine。",
            )
        if settings.validation_file and settings.val_size:
            raise CourseError(
                "val_size takes examples for validation from train_file, and validation_file names others: give one "
                "of them.",
                "val_size 从 train_file 中留出验证样本，validation_file 则另给验证样本：请只写其中一个。",
            )
        return settings


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
    """Names of linear layers or embeddings, in a list or with commas between; or "all", linear ones but the last."""
    learning_rate: float = Field(1e-4, gt=0)


METHODS: dict[str, type[Settings]] = {"ptuning": PTuningSettings, "lora": LoRASettings}


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


def _by_our_names(values: dict[str, Any]) -> dict[str, Any]:
    for other, name in OTHER_NAMES.items():
        if other in values and name in values:
            raise CourseError(
                f"{other} and {name} are one setting: give one of them.",
                f"{other} 与 {name} 是同一项设置：请只写一个。",
            )
    return {OTHER_NAMES.get(name, name): value for name, value in values.items()}


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
