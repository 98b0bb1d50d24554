"""The models of the course, and how one is found on this machine or fetched.

    found = find_model("chatglm3-6b")
    print(found)                         # which one, from where, and why
    model = load_chatglm(found.folder)

Looked for in this order: the folder you name → what is already on this machine → ModelScope → Hugging Face
(or the mirror in HF_ENDPOINT) → the small stand-in in data/models. The real model is taken where a GPU has
room for it, so that the same cell gives the same output on every machine without one.

Only weights, JSON and tokenizer files are ever fetched: no Python file, so nothing that a download brings can
run. HF_HUB_OFFLINE=1 keeps everything off the network.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, get_args

from course_utils.messages import CourseError, Text
from course_utils.runtime import gpu_obstacle, probe_gpu

STAND_INS = Path(__file__).resolve().parents[1] / "data" / "models"
ATTEMPTS = 5
PAUSE = 1.0  # seconds after the first attempt that brought nothing; each one more waits this much longer
TIMEOUT = 20  # seconds without a byte

Want = Literal["auto", "real", "stand-in"]


@dataclass(frozen=True)
class Model:
    """One entry of the catalogue."""

    name: str
    modelscope: str
    huggingface: str
    layout: Literal["chatglm", "transformers", "sentence-transformers"]
    licence: str
    parameters: float
    """In billions."""
    gib: dict[str, float]
    """What the weights take in memory, by number format."""
    stand_in: str
    """A folder in data/models."""


_CHATGLM_LICENCE = "code Apache-2.0; weights: the ChatGLM model licence, free for research and, registered, for trade"
CATALOGUE = {
    model.name: model
    for model in (
        Model(
            "chatglm-6b",
            "ZhipuAI/ChatGLM-6B",
            "zai-org/chatglm-6b",
            "chatglm",
            _CHATGLM_LICENCE,
            6.173,
            {"fp16": 11.50, "int8": 6.25, "nf4": 3.71},
            "chatglm-tiny",
        ),
        Model(
            "chatglm2-6b",
            "ZhipuAI/chatglm2-6b",
            "zai-org/chatglm2-6b",
            "chatglm",
            _CHATGLM_LICENCE,
            6.244,
            {"fp16": 11.63, "int8": 6.31, "nf4": 3.74},
            "chatglm3-tiny",
        ),
        Model(
            "chatglm3-6b",
            "ZhipuAI/chatglm3-6b",
            "zai-org/chatglm3-6b",
            "chatglm",
            _CHATGLM_LICENCE,
            6.244,
            {"fp16": 11.63, "int8": 6.31, "nf4": 3.74},
            "chatglm3-tiny",
        ),
        Model(
            "glm-4-9b-chat",
            "ZhipuAI/glm-4-9b-chat",
            "zai-org/glm-4-9b-chat",
            "chatglm",
            "code Apache-2.0; weights: the GLM-4 licence, free for research and, registered, for trade",
            9.400,
            {"fp16": 17.51, "int8": 9.91, "nf4": 6.23},
            "chatglm3-tiny",
        ),
        Model(
            "deepseek-r1-distill-qwen-1.5b",
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
            "transformers",
            "MIT",
            1.777,
            {"fp16": 3.31},
            "chatglm3-tiny",
        ),
        Model(
            "bge-small-zh-v1.5",
            "AI-ModelScope/bge-small-zh-v1.5",
            "BAAI/bge-small-zh-v1.5",
            "sentence-transformers",
            "MIT",
            0.024,
            {"fp32": 0.09},
            "text2vec-tiny",
        ),
    )
}


# The words that `load_chatglm` has for number formats.
_LOADER_WORDS = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "fp16",  # as large
    "bnb-int8": "int8",
    "int4": "nf4",
    "bnb-nf4": "nf4",
}


@dataclass(frozen=True)
class Found:
    """Where a model lies, and why this one."""

    folder: Path
    source: Literal["given", "cache", "ModelScope", "Hugging Face", "stand-in"]
    why: Text

    def __str__(self) -> str:
        return str(self.why)


def find_model(
    name: str,
    folder: str | Path | None = None,
    want: Want = "auto",
    number_format: str | None = None,
) -> Found:
    """Find a model of the catalogue, fetch it if need be, or fall back on its stand-in.

    `folder` is taken at its word. With `want="auto"` the real model is used where a GPU has room for it in
    `number_format` ("fp16", "int8", "nf4", or a word of `load_chatglm` for one of them; by default the largest that
    the catalogue names). `"real"` insists on it, on any machine; `"stand-in"` never looks further.
    """
    if name not in CATALOGUE:
        raise CourseError(
            f"there is no model {name!r}: choose one of {', '.join(CATALOGUE)}",
            f"没有名为 {name!r} 的模型：请从 {'、'.join(CATALOGUE)} 中选择",
        )
    model = CATALOGUE[name]
    known = [*model.gib, *(word for word, meant in _LOADER_WORDS.items() if meant in model.gib)]
    if number_format is not None and number_format not in known:
        raise CourseError(
            f"{name} has no number format {number_format!r}: choose one of {', '.join(known)}",
            f"{name} 没有名为 {number_format!r} 的数字格式：请从 {'、'.join(known)} 中选择",
        )
    if want not in get_args(Want):
        raise CourseError(
            f"want is {want!r:.40}: choose one of {', '.join(get_args(Want))}",
            f"want 为 {want!r:.40}：请从 {'、'.join(get_args(Want))} 中选择",
        )
    if folder is not None:
        if problem := incomplete(Path(folder)):
            raise CourseError(
                f"{folder} holds no whole model ({problem}): fetch the missing file, or leave the folder out",
                f"{folder} 中没有完整的模型（{problem}）：请补齐缺少的文件，或不指定该文件夹",
            )
        return Found(Path(folder), "given", Text(f"{name}: the folder you named.", f"{name}：您指定的文件夹。"))
    reasons: list[Text] = []
    if want == "stand-in":
        reasons.append(Text("you asked for it", "按您的要求"))
    elif want == "auto" and (no_room := _no_room(model, number_format)):
        reasons.append(no_room)
    else:
        for cached in _cached(model):
            if not incomplete(cached):
                return Found(cached, "cache", Text(f"{name}: already on this machine.", f"{name}：本机已有。"))
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
        if offline:
            reasons.append(Text("HF_HUB_OFFLINE forbids the network", "HF_HUB_OFFLINE 禁止联网"))
        for source, fetch in () if offline else SOURCES:
            try:
                fetched = fetch(model)
                if problem := incomplete(fetched):
                    raise Unreachable(f"its copy lacks {problem}")
                return Found(fetched, source, Text(f"{name}: fetched from {source}.", f"{name}：从 {source} 下载。"))
            except Unreachable as error:
                reasons.append(Text(f"{source}: {error}", f"{source}：{error}"))
    english = "; ".join(reason.en for reason in reasons)
    chinese = "；".join(reason.zh for reason in reasons)
    stand_in = STAND_INS / model.stand_in
    if want == "real" or incomplete(stand_in):
        raise CourseError(
            f"{name} cannot be had ({english}): give the folder of a copy, find_model({name!r}, folder=…)",
            f"无法获得 {name}（{chinese}）：请给出已有副本的文件夹，find_model({name!r}, folder=…)",
        )
    return Found(
        stand_in,
        "stand-in",
        Text(
            f"{name}: its small stand-in {model.stand_in} ({english}).",
            f"{name}：使用小型替身 {model.stand_in}（{chinese}）。",
        ),
    )


class Unreachable(Exception):
    """A source does not have the model, or cannot be reached now; another one may."""


# --- what is on this machine


def incomplete(folder: Path) -> str | None:
    """What a model folder lacks, or None if it is whole."""
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        return "config.json"
    # Where both formats of the weights were published, one of them is enough.
    lacking = []
    for index in sorted(folder.glob("*.index.json")):
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            shards = [index.name + " (damaged)"]
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if not missing:
            return None
        lacking.append(missing[0])
    whole = [*folder.rglob("*.safetensors"), *folder.rglob("pytorch_model*.bin")]
    if any("-of-" not in file.name for file in whole):
        return None
    return lacking[0] if lacking else "the weights"


def _cached(model: Model) -> list[Path]:
    """Where earlier downloads may lie, ours and those of the two libraries."""
    hub = _modelscope_cache()
    # ModelScope's library writes a dot as three underscores, and has put its models in several places.
    ids = dict.fromkeys((model.modelscope, model.modelscope.replace(".", "___")))
    folders = [root / name for root in (hub / "models", hub, hub / "hub" / "models", hub / "hub") for name in ids]
    from huggingface_hub import try_to_load_from_cache

    # Until 2025 the organisation's name was THUDM, and the cache goes by the name that was asked for.
    for name in dict.fromkeys((model.huggingface, model.huggingface.replace("zai-org/", "THUDM/"))):
        config = try_to_load_from_cache(name, "config.json")
        if isinstance(config, str):
            folders.append(Path(config).parent)
    return folders


def _modelscope_cache() -> Path:
    return Path(os.environ.get("MODELSCOPE_CACHE", Path.home() / ".cache" / "modelscope" / "hub"))


def _no_room(model: Model, number_format: str | None) -> Text | None:
    """Why no GPU here can hold the model, or None if one can."""
    need = model.gib[_LOADER_WORDS.get(number_format, number_format)] if number_format else max(model.gib.values())
    gpu = probe_gpu()
    if obstacle := gpu_obstacle(gpu):
        return obstacle
    if gpu.free_gib < need + 1:  # room for a conversation
        return Text(
            f"it takes {need:.1f} GiB and the GPU has {gpu.free_gib:.1f} GiB free",
            f"它需要 {need:.1f} GiB，而 GPU 只剩 {gpu.free_gib:.1f} GiB",
        )
    return None


# --- which files

_ALLOWED = re.compile(
    r"(1_Pooling/)?("
    r"[\w.-]+\.json|[\w.-]+\.safetensors|pytorch_model[\w.-]*\.bin|tokenizer\.model|ice_text\.model|vocab\.txt"
    r")"
)


def wanted(paths: Iterable[str]) -> list[str]:
    """The files of a repository to fetch: weights in one format, JSON and tokenizer files; config.json last.

    A folder without config.json is no model yet, so a download that was cut off is not mistaken for one.
    """
    allowed = [path for path in paths if _ALLOWED.fullmatch(path) and ".." not in path]
    if any(path.endswith(".safetensors") for path in allowed):
        allowed = [p for p in allowed if not p.endswith((".bin", ".bin.index.json"))]
    return sorted(allowed, key=lambda path: (path == "config.json", path))


# --- Hugging Face


def fetch_from_huggingface(model: Model) -> Path:
    """Fetch with Hugging Face's own library, which resumes, checks and keeps the files in its cache."""
    from huggingface_hub import HfApi, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT") or None  # also when set after the library was imported
    try:
        listed = HfApi(endpoint=endpoint).model_info(model.huggingface, timeout=TIMEOUT).siblings or []
        files = wanted(file.rfilename for file in listed)
        return Path(snapshot_download(model.huggingface, allow_patterns=files, endpoint=endpoint))
    except Exception as error:
        # No repository, no network, no mirror, no disk: the library and the HTTP client below it have an
        # error for each. Whichever it was is told to the reader as the reason.
        raise Unreachable(_first_line(error)) from None


# --- ModelScope


def fetch_from_modelscope(model: Model) -> Path:
    """Fetch over ModelScope's plain HTTP interface, into the cache of its own library."""
    site = os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn").rstrip("/")
    base = f"{site}/api/v1/models/{model.modelscope}/repo"
    try:
        with urllib.request.urlopen(f"{base}/files?Revision=master&Recursive=true", timeout=TIMEOUT) as answer:
            listed = {file["Path"]: file for file in json.load(answer)["Data"]["Files"]}
        files = [(path, int(listed[path]["Size"]), listed[path].get("Sha256") or None) for path in wanted(listed)]
    except (OSError, HTTPException) as error:
        raise Unreachable(_first_line(error)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise Unreachable(f"its list of files is not understood ({_first_line(error)})") from None
    folder = _modelscope_cache() / "models" / model.modelscope
    try:
        _check_disk(folder, sum(size for _, size, _ in files))
        for path, size, sha256 in files:
            query = urllib.parse.urlencode({"Revision": "master", "FilePath": path})
            download(f"{base}?{query}", folder / path, size, sha256)
    except OSError as error:  # a cache that is read-only, for one; the next source has a cache of its own
        raise Unreachable(_first_line(error)) from None
    return folder


def download(url: str, target: Path, size: int, sha256: str | None) -> None:
    """Fetch one file, going on where an earlier attempt stopped; it gets its name only when it is whole.

    What already has the name is hashed too: another program may have put it there. Only a download that was cut off
    comes here again, so a model that is whole is not read through each time it is found.
    """
    from tqdm.auto import tqdm

    def is_whole(path: Path) -> bool:
        return path.stat().st_size == size and (not sha256 or _sha256(path) == sha256.lower())

    if target.is_file() and is_whole(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.touch()
    idle = 0
    with tqdm(total=size, unit="B", unit_scale=True, desc=target.name, leave=False) as bar:
        while (have := part.stat().st_size) != size:
            failure: Exception = EOFError("the connection ended early")
            try:
                _append(url, part, have, size, lambda position: bar.update(position - bar.n))
            except (OSError, HTTPException) as error:
                if getattr(error, "errno", None) == errno.ENOSPC:
                    raise _disk_full(target.parent, size - have) from None
                failure = error
            if part.stat().st_size > size:  # that is another file
                part.write_bytes(b"")
            # As long as something arrives, it goes on.
            idle = 0 if part.stat().st_size > have else idle + 1
            status = failure.code if isinstance(failure, urllib.error.HTTPError) else 500
            # 408 is too slow and 429 too often: these pass, as the server's own faults do.
            if (status < 500 and status not in (408, 429)) or idle == ATTEMPTS:
                raise Unreachable(f"{target.name}: {_first_line(failure)}")
            time.sleep(PAUSE * idle)
    if not is_whole(part):
        part.unlink()
        raise CourseError(
            f"{target.name} was damaged on its way (its SHA-256 is another): run this again to fetch it anew",
            f"{target.name} 在传输中损坏（SHA-256 不符）：请重新运行以再次下载",
        )
    os.replace(part, target)


def _append(url: str, part: Path, have: int, size: int, progress: Callable[[int], Any]) -> None:
    """Fetch what is missing of a file behind what there is."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        # A server that does not know ranges answers 200 and sends everything.
        with part.open("ab" if answer.status == 206 else "wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
                progress(file.tell())
                if file.tell() > size:
                    break


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_disk(folder: Path, need: int) -> None:
    """Fail before the first byte where the disk cannot hold the model."""
    there = folder
    while not there.exists():
        there = there.parent
    have = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if shutil.disk_usage(there).free < need - have:
        raise _disk_full(there, need - have)


def _disk_full(folder: Path, need: int) -> CourseError:
    return CourseError(
        f"{need / 1e9:.1f} GB do not fit on the disk of {folder}: make room, or set MODELSCOPE_CACHE",
        f"{folder} 所在磁盘放不下 {need / 1e9:.1f} GB：请腾出空间，或用 MODELSCOPE_CACHE 指定别处",
    )


# Asked in this order.
SOURCES = (("ModelScope", fetch_from_modelscope), ("Hugging Face", fetch_from_huggingface))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
