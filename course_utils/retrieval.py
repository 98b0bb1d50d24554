"""Plumbing of notebook 12: a collection of passages with their vectors, kept in one file, and who answers.

The vectors are searched exactly (faiss). The file holds vectors and text, no index: an exact one is made again in
no time, and nothing in the file can run.
"""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from course_utils.files import written_whole
from course_utils.handbook_data import Document, Passage, load_handbook, readable_files
from course_utils.messages import CourseError
from course_utils.metrics import wilson_interval

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer
    from starlette.applications import Starlette
    from transformers import PreTrainedModel

    from course_utils.chatglm.tokenization import ChatGLMTokenizer

LONGEST_FILE = 20_000_000  # bytes
LONGEST_QUESTION = 2_000  # characters
PROBE = "text by which a model is known again, 认出模型用的文字"


def read_folder(folder: Path | None = None) -> list[Document]:
    """The documents of a folder, by default the handbook's; a file too large to be a page is named first."""
    for file in readable_files(folder) if folder else ():
        if (size := file.stat().st_size) > LONGEST_FILE:
            raise CourseError(
                f"{file} has {size / 1e6:.0f} MB, at most {LONGEST_FILE / 1e6:.0f} are read: split or move it.",
                f"{file} 有 {size / 1e6:.0f} MB，最多读取 {LONGEST_FILE / 1e6:.0f} MB：请拆分它，或移到别处。",
            )
    return load_handbook(folder)


# --- the collection


@dataclass(frozen=True)
class Hit:
    """A passage that was found, and how similar its vector is to the question's."""

    passage: Passage
    score: float


class Collection:
    """Passages, searched by the cosine of their vectors. Passages of a file come and go together."""

    def __init__(self, model: "SentenceTransformer"):
        import faiss

        self.model = model
        self.passages: dict[int, Passage] = {}  # number in the index → passage
        self.index = faiss.IndexIDMap2(faiss.IndexFlatIP(len(self.encode([PROBE])[0])))
        self.next = 0

    def encode(self, texts: list[str]) -> "np.ndarray":
        """Vectors of length 1, shape [texts, dimension]."""
        return self.model.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    def put(self, file: str, passages: list[Passage]) -> None:
        """Take in the passages of a file, in place of those that it had. Only these are encoded."""
        vectors = self.encode([passage.text for passage in passages]) if passages else None
        self.remove(file)
        if passages:
            self._add(passages, vectors)

    def _add(self, passages: list[Passage], vectors: "np.ndarray") -> None:
        import numpy as np

        numbers = np.arange(self.next, self.next + len(passages))
        self.index.add_with_ids(vectors, numbers)
        self.passages |= dict(zip(numbers.tolist(), passages, strict=True))
        self.next += len(passages)

    def remove(self, file: str) -> int:
        """Forget the passages of a file; how many there were."""
        import numpy as np

        gone = [number for number, passage in self.passages.items() if passage.file == file]
        self.index.remove_ids(np.array(gone, dtype=np.int64))
        for number in gone:
            del self.passages[number]
        return len(gone)

    def search(self, question: str, k: int = 5) -> list[Hit]:
        """The k passages nearest to the question, nearest first."""
        if not question.strip() or len(question) > LONGEST_QUESTION:
            raise CourseError(
                f"The question has {len(question)} characters; 1 to {LONGEST_QUESTION} can be searched for.",
                f"问题有 {len(question)} 个字符；可检索的长度是 1 到 {LONGEST_QUESTION} 个字符。",
            )
        if not self.passages:
            raise CourseError(
                "The collection is empty: put the passages of a document into it first.",
                "知识库是空的：请先放入文档的段落。",
            )
        scores, numbers = self.index.search(self.encode([question]), min(k, len(self.passages)))
        return [Hit(self.passages[n], s) for n, s in zip(numbers[0].tolist(), scores[0].tolist(), strict=True)]

    def save(self, path: Path) -> None:
        """Write one file, whole or not at all: until the last moment the old one stays as it is."""
        import numpy as np
        from safetensors.numpy import save_file

        numbers = list(self.passages)
        vectors = (
            np.stack([self.index.reconstruct(number) for number in numbers]) if numbers else np.zeros((0, 1), "f4")
        )
        tensors = {"vectors": vectors, "probe": self.encode([PROBE])}
        passages = json.dumps([asdict(self.passages[number]) for number in numbers], ensure_ascii=False)
        with written_whole(path) as part:
            part.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, part, metadata={"passages": passages})

    @classmethod
    def load(cls, path: Path, model: "SentenceTransformer") -> "Collection":
        """Read what `save` wrote. Vectors of another model are refused: they would find nonsense."""
        import numpy as np
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                vectors, probe = file.get_tensor("vectors"), file.get_tensor("probe")
                passages = [Passage(**fields) for fields in json.loads(file.metadata()["passages"])]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CourseError(
                f"{path} is no collection that can be read ({error}): build it again from the documents.",
                f"{path} 不是能读取的知识库（{error}）：请用文档重新建立。",
            ) from None
        found = cls(model)
        if probe.shape[1] != found.index.d:
            raise CourseError(
                f"{path} has vectors of {probe.shape[1]} numbers, the model makes {found.index.d}: "
                "load the model that it was built with, or build it again.",
                f"{path} 中的向量有 {probe.shape[1]} 维，而模型给出 {found.index.d} 维："
                "请加载建库时的模型，或重新建库。",
            )
        if not np.allclose(probe, found.encode([PROBE]), atol=0.01):
            raise CourseError(
                f"{path} was built with another model: its vectors mean something else. Build it again.",
                f"{path} 是用另一个模型建立的：向量的含义不同。请重新建库。",
            )
        if len(vectors) != len(passages):
            raise CourseError(
                f"{path} has {len(vectors)} vectors for {len(passages)} passages: build it again.",
                f"{path} 有 {len(vectors)} 个向量、{len(passages)} 个段落：请重新建库。",
            )
        if passages:
            found._add(passages, vectors)
        return found


# --- who answers


@dataclass(frozen=True)
class LocalChat:
    """A ChatGLM on this machine: called with prompts, it returns their answers, each the likeliest."""

    model: "PreTrainedModel"
    tokenizer: "ChatGLMTokenizer"

    def __call__(self, prompts: list[str]) -> list[str]:
        from course_utils.standins.evaluation import answers

        return answers(self.model, self.tokenizer, [[(prompt, "")] for prompt in prompts])


@dataclass(frozen=True)
class ServerChat:
    """A model behind an OpenAI-compatible server, called in the same way."""

    address: str
    model: str
    key: str = ""

    def __call__(self, prompts: list[str]) -> list[str]:
        return [complete(self.address, self.model, prompt, self.key) for prompt in prompts]


def chat_model(where: str = "", model: str = "", key: str = "") -> LocalChat | ServerChat:
    """A language model to ask.

    Args:
        where: nothing for ChatGLM where a GPU has room for it and its stand-in elsewhere; a folder with a ChatGLM; or
            the address of any OpenAI-compatible server, such as "http://127.0.0.1:11434/v1".
        model: its name on that server.
        key: the server's key, if it wants one.
    """
    if where.startswith(("http://", "https://")):
        return ServerChat(where, model, key)
    from course_utils.chatglm import load_chatglm, load_tokenizer
    from course_utils.models import find_model

    folder = find_model("chatglm3-6b", folder=where or None).folder
    return LocalChat(load_chatglm(folder), load_tokenizer(folder))


def complete(address: str, model: str, prompt: str, key: str = "", seconds: float = 300) -> str:
    """One answer from `POST {address}/chat/completions`, without what a reasoning model thinks before it.

    Where the server's limit of length ends the thinking, there is no answer: the text is empty.
    """
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "stream": False}
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{address.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    # A proxy, common where the course is taken, knows nothing of servers on this machine.
    local = urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    try:
        with opener.open(request, timeout=seconds) as reply:
            text = json.load(reply)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        said = error.read().decode("utf-8", "replace")[:300]
        raise CourseError(
            f"{address} refused ({error.code}): {said} Check the model's name {model!r} and the key.",
            f"{address} 拒绝了请求（{error.code}）：{said} 请检查模型名 {model!r} 和密钥。",
        ) from None
    except OSError as error:
        reason = type(getattr(error, "reason", error)).__name__
        raise CourseError(
            f"No answer from {address} ({reason}): is the server running, and is the port right?",
            f"{address} 没有回应（{reason}）：服务器在运行吗？端口对吗？",
        ) from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise CourseError(
            f"{address} answers, but not as an OpenAI-compatible server does: the address mostly ends in /v1.",
            f"{address} 有回应，但不是 OpenAI 兼容的格式：地址通常以 /v1 结尾。",
        ) from None
    return re.sub(r"\A\s*<think>.*?(</think>|\Z)", "", text or "", flags=re.DOTALL).strip()


@contextmanager
def serving(app: "Starlette") -> Iterator[str]:
    """Run an app on a free port of this machine while the block runs; its address, with /v1."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise CourseError("The server did not start.", "服务器没有启动。")
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()


# --- how sure a share is


def share(right: int, total: int) -> str:
    """A share with the interval of 95 % in which it would lie for ever more questions, such as "91 % (85–95)"."""
    low, high = wilson_interval(right, total)
    return f"{right / total:.0%} ({low:.0%}–{high:.0%})".replace("%–", "–").replace("%", " %").replace(" %)", ")")
