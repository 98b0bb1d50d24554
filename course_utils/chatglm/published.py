"""A folder with a ChatGLM checkpoint: what its config.json means, and its tensors, each read when asked for.

The second generation and GLM-4 are the network that transformers calls Glm, under other tensor names and with
query, key and value in one matrix. `native_config` and `native_tensors` translate; nothing is copied.
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GlmConfig

from course_utils.chatglm.modeling import ChatGLM1Config
from course_utils.messages import CourseError

# ------------------------------------------------------------------------------------------------ config.json

NATIVE_TYPES = ("glm", ChatGLM1Config.model_type)

# What these entries can be, where they are there; anything else would fail much later and far away.
_SIZES = (
    "hidden_size",
    "num_layers",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "multi_query_group_num",
    "kv_channels",
    "ffn_hidden_size",
    "inner_hidden_size",
    "intermediate_size",
    "vocab_size",
    "padded_vocab_size",
    "seq_length",
    "max_sequence_length",
)
_ALLOWED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_SIZES, lambda value: type(value) is int and value > 0),
    **dict.fromkeys(("layernorm_epsilon", "rope_ratio"), lambda value: type(value) in (int, float) and value > 0),
    **dict.fromkeys(("torch_dtype", "dtype"), lambda value: value is None or isinstance(value, str)),
    "quantization_bit": lambda value: value in (None, 0, 4, 8),
}


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a ChatGLM folder, published or converted."""
    try:
        path = Path(folder) / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, TypeError):  # TypeError: `folder` is no path at all
        raise CourseError(
            f"There is no config.json in {folder}: give the folder that holds the downloaded model files.",
            f"{folder} 中没有 config.json：请给出存放已下载模型文件的文件夹。",
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise CourseError(
            f"{path} is not readable JSON: download this file again.",
            f"{path} 不是可读的 JSON：请重新下载该文件。",
        ) from None
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "chatglm" and model_type not in NATIVE_TYPES:
        raise CourseError(
            f"{path} describes a model of type {model_type!r}, not a ChatGLM: load it with transformers' "
            "AutoModelForCausalLM, or give the folder of a ChatGLM-6B, ChatGLM2-6B, ChatGLM3-6B or GLM-4-9B-chat.",
            f"{path} 描述的是 {model_type!r} 类型的模型，不是 ChatGLM：请用 transformers 的 AutoModelForCausalLM "
            "加载它，或给出 ChatGLM-6B、ChatGLM2-6B、ChatGLM3-6B、GLM-4-9B-chat 的文件夹。",
        )
    for name, is_allowed in _ALLOWED.items():
        if name in config and not is_allowed(config[name]):
            raise CourseError(
                f"{path} says {name} = {config[name]!r}, which no ChatGLM has: download this file again.",
                f"{path} 中 {name} = {config[name]!r}，没有这样的 ChatGLM：请重新下载该文件。",
            )
    return config


def generation_of(config: dict[str, Any]) -> int:
    """1 for ChatGLM-6B, 2 and 3 for ChatGLM2-6B and ChatGLM3-6B, 4 for GLM-4-9B-chat.

    Second and third generation share their network and most of config.json; the prompts differ.
    """
    if "chatglm_generation" in config:  # written by this loader into what it saves
        return config["chatglm_generation"]
    if "padded_vocab_size" not in config and config["model_type"] != "glm":
        return 1
    if config.get("padded_vocab_size", config.get("vocab_size")) > 100_000:
        return 4
    name = str(config.get("_name_or_path", "")).lower()
    if "chatglm2" in name or (
        "chatglm3" not in name and str(config.get("transformers_version", "")).startswith("4.27")
    ):
        return 2
    return 3


def quantization_bits(config: dict[str, Any]) -> int | None:
    """8 or 4 where the published files hold quantised weights."""
    if config.get("quantization_embeddings"):
        raise CourseError(
            "This checkpoint also quantises its embeddings, which is not supported: take the plain int4 files.",
            "该检查点连词嵌入也量化了，这里不支持：请改用普通的 int4 文件。",
        )
    return config.get("quantization_bit") or None


def native_config(config: dict[str, Any]) -> GlmConfig:
    """A published config.json of the second generation or later, in transformers' words."""
    if config.get("apply_residual_connection_post_layernorm") or not config.get("original_rope", True):
        raise CourseError(
            "This config.json changes the network (apply_residual_connection_post_layernorm or original_rope); the "
            "four published models do not. Compare it with the published file.",
            "该 config.json 改动了网络结构（apply_residual_connection_post_layernorm 或 original_rope），"
            "四个公开模型都没有这样的改动，请与公开的文件对照。",
        )
    generation = generation_of(config)
    ratio = config.get("rope_ratio", 1)
    rope = {"rope_type": "default", "rope_theta": 10000.0 * ratio, "partial_rotary_factor": 0.5}
    if generation == 2 and ratio != 1:  # the 32k variant of the second divides the positions instead
        rope = {
            "rope_type": "linear",
            "factor": float(ratio),
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        }
    eos = config.get("eos_token_id", 2)
    if generation == 3 and eos == 2 and config["padded_vocab_size"] > 64797:
        eos = [2, 64795, 64797]  # an answer also ends where the user or a tool is to speak
    heads = config["num_attention_heads"]
    return GlmConfig(
        vocab_size=config["padded_vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["ffn_hidden_size"],
        num_hidden_layers=config["num_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config["multi_query_group_num"] if config.get("multi_query_attention") else heads,
        head_dim=config["kv_channels"],
        max_position_embeddings=config["seq_length"],
        rms_norm_eps=config["layernorm_epsilon"],
        attention_bias=config.get("add_qkv_bias", False) or config.get("add_bias_linear", False),
        rope_parameters=rope,
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        pad_token_id=config.get("pad_token_id", 0),
        bos_token_id=config.get("bos_token_id", 1),
        eos_token_id=eos,
        architectures=["GlmForCausalLM"],
        chatglm_generation=generation,
    )


def first_generation_config(config: dict[str, Any]) -> ChatGLM1Config:
    """The published config.json of the first generation keeps its words; what pointed at remote code goes."""
    if not config.get("position_encoding_2d", True):
        raise CourseError(
            "This ChatGLM-6B was made with position_encoding_2d = false, which no published model uses.",
            "该 ChatGLM-6B 设置了 position_encoding_2d = false，公开模型都不是这样。",
        )
    known = ChatGLM1Config().to_dict().keys() - {
        "model_type",
        "architectures",
        "transformers_version",
        "dtype",
    }
    kept = {name: value for name, value in config.items() if name in known and value is not None}
    return ChatGLM1Config(**kept, architectures=["ChatGLM1ForCausalLM"], chatglm_generation=1)


# ---------------------------------------------------------------------------------------------------- tensors


Rows = slice | Tensor
ALL = slice(None)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its shape and type are known, its numbers are read by `tensor[...]`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read_rows: Callable[[Rows], Tensor]

    def read(self) -> Tensor:
        return self.read_rows(ALL)

    def __getitem__(self, _) -> Tensor:
        return self.read()

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def rows(self, rows: Rows) -> "StoredTensor":
        """Some rows of this tensor, still unread."""
        places = range(self.shape[0])[rows] if isinstance(rows, slice) else rows

        def read_rows(part: Rows) -> Tensor:
            chosen = places[part]
            return self.read_rows(slice(chosen.start, chosen.stop) if isinstance(chosen, range) else chosen)

        return StoredTensor((len(places), *self.shape[1:]), self.dtype, read_rows)


Tensors = dict[str, StoredTensor]

_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold the weights: one, or the shards that an index names. All of them are there."""
    folder = Path(folder)
    problems = []  # what one format lacks matters only where the other is not whole either
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
                missing = [shard for shard in shards if not (folder / shard).is_file()]
            except (ValueError, KeyError, TypeError, AttributeError):
                problems.append(damaged(index))
            else:
                if not missing:
                    return [folder / shard for shard in shards]
                problems.append(
                    CourseError(
                        f"{len(missing)} of {len(shards)} weight files are missing from {folder} ({missing[0]} first): "
                        "download the folder again, finished files are kept.",
                        f"{folder} 缺少 {len(shards)} 个权重文件中的 {len(missing)} 个（首先是 {missing[0]}）："
                        "请重新下载，已完成的文件会保留。",
                    )
                )
        if (folder / name).is_file():
            return [folder / name]
    if problems:
        raise problems[0]
    raise CourseError(
        f"There are no weights in {folder} (model.safetensors or pytorch_model.bin, or their index): download the "
        "folder again.",
        f"{folder} 中没有权重（model.safetensors、pytorch_model.bin 或其索引）：请重新下载。",
    )


def open_tensors(files: list[Path]) -> Tensors:
    """Every tensor of these files, none of them read yet."""
    tensors: Tensors = {}
    for file in files:
        for name, tensor in (open_safetensors if file.suffix == ".safetensors" else open_bin)(file).items():
            if name in tensors:
                raise damaged(file)
            tensors[name] = tensor
    return tensors


def damaged(file: Path) -> CourseError:
    """The error for a file that was cut short or is not what its name says."""
    return CourseError(
        f"{file} is damaged or was not downloaded to its end: delete this file and download it again.",
        f"{file} 已损坏或没有下载完整：请删除该文件后重新下载。",
    )


def open_safetensors(file: Path) -> Tensors:
    """The tensors of a .safetensors file, read one by one into memory of their own.

    The library would map the whole file: then the load would seem to take a second, the first answer minutes,
    and the pages of weights that went to a GPU would stay in the host's memory.
    """
    try:
        with safe_open(file, framework="pt"):  # compares the length of the file with what its header promises
            pass
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(length))
        header.pop("__metadata__", None)
        if unknown := sorted({entry["dtype"] for entry in header.values()} - _SAFETENSORS_DTYPES.keys()):
            raise CourseError(
                f"{file} holds numbers in the format {unknown[0]}, which is not read here: take the files in float16 "
                "or bfloat16.",
                f"{file} 中有 {unknown[0]} 格式的数，这里不支持读取：请改用 float16 或 bfloat16 的文件。",
            )
        return {name: _stored(file, 8 + length, entry) for name, entry in header.items()}
    except (SafetensorError, KeyError, OSError):
        raise damaged(file) from None


def _stored(file: Path, data: int, entry: dict[str, Any]) -> StoredTensor:
    """One tensor, from its entry in the header of a file whose numbers begin at byte `data`."""
    shape, dtype = tuple(entry["shape"]), _SAFETENSORS_DTYPES[entry["dtype"]]
    begin = data + entry["data_offsets"][0]

    def read_rows(rows: Rows) -> Tensor:
        if not shape:
            return _read(file, begin, shape, dtype)
        if isinstance(rows, slice):
            first, last, _ = rows.indices(shape[0])
        else:  # from the first to the last of them; what lies between is little
            first, last = int(rows.min()), int(rows.max()) + 1
        row_bytes = torch.Size(shape[1:]).numel() * dtype.itemsize
        between = _read(file, begin + first * row_bytes, (last - first, *shape[1:]), dtype)
        return between if isinstance(rows, slice) else between[rows - first]

    return StoredTensor(shape, dtype, read_rows)


def _read(file: Path, begin: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    memory = tensor.view(-1).view(torch.uint8).numpy()
    with file.open("rb") as content:
        content.seek(begin)
        if content.readinto(memory) != memory.size:
            raise damaged(file)
    return tensor


@lru_cache(maxsize=2)
def _load_bin(file: Path, changed: int) -> dict[str, Tensor]:
    """A .bin file, mapped rather than read. Only tensors are accepted: a pickle can hold programs.

    The two last used files stay mapped: tensors are asked for in the order of the layers, as the files hold
    them.
    """
    mapped = zipfile.is_zipfile(file)  # files of the oldest format cannot be mapped
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)


@contextmanager
def closing_files() -> Iterator[None]:
    """Leave no .bin file mapped behind, other than for the weights that are used in place."""
    try:
        yield
    finally:
        _load_bin.cache_clear()


def open_bin(file: Path) -> Tensors:
    """The tensors of a pytorch_model.bin or one of its shards."""
    changed = file.stat().st_mtime_ns
    try:
        content = _load_bin(file, changed)
    except Exception:  # what unpickling damaged bytes raises can be anything
        raise damaged(file) from None
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CourseError(
            f"{file} is not a dict of named tensors, as a pytorch_model.bin is: give such a file; where the weights "
            "are one entry of this one, save that entry alone.",
            f"{file} 不是由名称和张量组成的字典（pytorch_model.bin 是这样的）：请给出这样的文件；"
            "如果权重只是其中一项，请把这一项单独保存。",
        )

    def read_rows(name: str, rows: Rows) -> Tensor:
        part = _load_bin(file, changed)[name][rows]
        part.reshape(-1)[::1024].count_nonzero()  # fetches every page of it now, while the progress bar shows
        return part

    return {
        name: StoredTensor(tuple(tensor.shape), tensor.dtype, partial(read_rows, name))
        for name, tensor in content.items()
    }


# ----------------------------------------------------------------------------------- published names → native

PREFIX_NAMES = "prefix_encoder."
_ROTARY_TABLES = (".rotary_emb.inv_freq", ".rotary_pos_emb.inv_freq")  # computed, not loaded
_NATIVE_NAMES = {
    "transformer.embedding.word_embeddings.": "model.embed_tokens.",
    "transformer.output_layer.": "lm_head.",
    "transformer.encoder.final_layernorm.": "model.norm.",
    "transformer.encoder.layers.": "model.layers.",
    ".self_attention.dense.": ".self_attn.o_proj.",
    ".mlp.dense_h_to_4h.": ".mlp.gate_up_proj.",
    ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
}
_FUSED = ".self_attention.query_key_value."


def native_tensors(published: Tensors, config: dict[str, Any]) -> Tensors:
    """A published checkpoint, second generation or later, under the names of GlmForCausalLM."""
    rows = _fused_rows(config)
    native: Tensors = {}
    for name, tensor in published.items():
        if name.endswith(_ROTARY_TABLES):
            continue
        for theirs, ours in _NATIVE_NAMES.items():
            name = name.replace(theirs, ours)
        if _FUSED in name:  # weight, bias and, in quantised files, the scale of each row
            for part, selection in rows.items():
                native[name.replace(_FUSED, f".self_attn.{part}_proj.")] = tensor.rows(selection)
        else:
            native[name] = tensor
    return native


def _fused_rows(config: dict[str, Any]) -> dict[str, Rows]:
    """Which rows of the fused matrix are query, key and value."""
    heads, dim = config["num_attention_heads"], config["kv_channels"]
    if config.get("multi_query_attention"):  # all queries, then all keys, then all values
        q, kv = heads * dim, config["multi_query_group_num"] * dim
        return {"q": slice(0, q), "k": slice(q, q + kv), "v": slice(q + kv, q + 2 * kv)}
    per_head = torch.arange(3 * heads * dim).view(heads, 3, dim)  # query, key and value of one head after the other
    return {part: per_head[:, i].flatten() for i, part in enumerate("qkv")}


def first_generation_tensors(published: Tensors, config: ChatGLM1Config) -> Tensors:
    """The first generation keeps its names. Its files hold the tied output matrix a second time."""
    dropped = (*_ROTARY_TABLES, "lm_head.weight") if config.tie_word_embeddings else _ROTARY_TABLES
    return {name: tensor for name, tensor in published.items() if not name.endswith(dropped)}


def output_is_embedding(published: Tensors) -> bool:
    """Whether the output matrix in these files is the embedding again, by 32 rows spread over both."""
    matrices = [published.get(name) for name in ("transformer.word_embeddings.weight", "lm_head.weight")]
    if None in matrices:
        return True
    places = range(0, matrices[0].shape[0], max(1, matrices[0].shape[0] // 32))
    return all(torch.equal(*(matrix.rows(slice(row, row + 1)).read() for matrix in matrices)) for row in places)
