"""Fine-tune a language model by P-Tuning v2 or LoRA.

    from course_utils import finetune

    settings = finetune.LoRASettings(lora_r=8, learning_rate=1e-3, max_steps=100)
    model = finetune.add_adapter(model, settings)
    examples = finetune.encode_examples(tokenizer, load_alpaca(file), settings)
    history = finetune.train(model, examples, settings)

`python -m course_utils.finetune` does the same for hours, from a YAML file.
"""

from importlib import import_module

_HOME = {
    "Settings": "settings",
    "PTuningSettings": "settings",
    "LoRASettings": "settings",
    "read_settings": "settings",
    "load_items": "examples",
    "hold_out": "examples",
    "encode_examples": "examples",
    "prompt_ids": "examples",
    "generate_answers": "examples",
    "add_adapter": "adapters",
    "load_trained": "adapters",
    "train": "training",
    "evaluate": "training",
    "History": "training",
    "Step": "training",
    "ProgressBar": "progress",
    "TensorBoard": "progress",
    "memory_line": "progress",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Bring the heavy libraries only when something of this package is used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
