"""The collection of notebook 12 finds, changes and survives; bad input is named; servers are asked as they expect."""

import ast
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from course_utils import explorers, plots, retrieval
from course_utils.handbook_data import Passage
from course_utils.messages import CourseError

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "en" / "12_retrieval_augmented_generation.ipynb"
TEXTS = ["水泵 86 元", "年假 10 天", "the mascot is a hedgehog", "食堂在二楼", "班车 7:30 发车", "喷头 18 元"]


class Letters:
    """An embedding model without weights: how often each letter comes, in `size` heaps."""

    def __init__(self, size: int = 64, shift: int = 0):
        self.size, self.shift = size, shift

    def encode(self, texts, normalize_embeddings=False, show_progress_bar=False):
        vectors = np.zeros((len(texts), self.size), np.float32)
        for row, text in enumerate(texts):
            for letter in text:
                vectors[row, (ord(letter) + self.shift) % self.size] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalize_embeddings else vectors


def passages(file: str, texts: list[str]) -> list[Passage]:
    return [Passage(file, 0, len(text), text) for text in texts]


@pytest.fixture
def collection() -> retrieval.Collection:
    made = retrieval.Collection(Letters())
    made.put("a.md", passages("a.md", TEXTS[:3]))
    made.put("b.md", passages("b.md", TEXTS[3:]))
    return made


def found(collection: retrieval.Collection, question: str = "水泵多少元", k: int = 3) -> list[tuple[str, float]]:
    return [(hit.passage.text, round(hit.score, 4)) for hit in collection.search(question, k)]


# --- finding and changing


def test_search_is_the_cosine_best_first(collection):
    asked, vectors = Letters().encode(["水泵多少元"], True)[0], Letters().encode(TEXTS, True)
    best = np.argsort(-(vectors @ asked))[:3]
    assert found(collection) == [(TEXTS[i], round(float(vectors[i] @ asked), 4)) for i in best]
    assert len(collection.search("水泵", 100)) == len(TEXTS)


def test_a_changed_file_replaces_its_passages_and_no_others(collection):
    collection.put("a.md", passages("a.md", ["水泵 99 元"]))
    assert found(collection)[0][0] == "水泵 99 元"
    assert sorted(passage.text for passage in collection.passages.values()) == sorted(["水泵 99 元", *TEXTS[3:]])
    assert collection.remove("a.md") == 1 and collection.remove("a.md") == 0
    assert {hit.passage.file for hit in collection.search("水泵", 10)} == {"b.md"}
    collection.put("b.md", [])
    with pytest.raises(CourseError, match="collection is empty"):
        collection.search("水泵")


def test_a_saved_collection_finds_the_same(collection, tmp_path):
    collection.remove("b.md")
    collection.put("c.md", passages("c.md", TEXTS[3:]))
    collection.save(tmp_path / "deep" / "c.safetensors")
    again = retrieval.Collection.load(tmp_path / "deep" / "c.safetensors", Letters())
    assert found(again) == found(collection)
    again.put("d.md", passages("d.md", ["水泵多少元"]))  # numbers go on
    assert len(again.passages) == len(TEXTS) + 1 and found(again)[0][0] == "水泵多少元"


def test_an_empty_collection_can_be_kept(tmp_path):
    retrieval.Collection(Letters()).save(tmp_path / "c.safetensors")
    assert retrieval.Collection.load(tmp_path / "c.safetensors", Letters()).passages == {}


# --- an interrupted build


def test_a_crash_while_saving_leaves_the_old_file(collection, tmp_path, monkeypatch):
    file = tmp_path / "c.safetensors"
    collection.save(file)
    before = file.read_bytes()
    collection.remove("a.md")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            collection.save(file)
    with monkeypatch.context() as patched:
        patched.setattr("safetensors.numpy.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space")))
        with pytest.raises(CourseError, match="what was there before is untouched"):
            collection.save(file)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_a_killed_process_leaves_the_old_file(collection, tmp_path):
    file = tmp_path / "c.safetensors"
    collection.save(file)
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_retrieval import Letters, passages, retrieval
collection = retrieval.Collection(Letters())
collection.put("z.md", passages("z.md", ["new"]))
os.replace = lambda *paths: os._exit(9)  # the power fails before the new file gets its name
collection.save(Path({str(file)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert found(retrieval.Collection.load(file, Letters())) == found(collection)


# --- bad input


def test_vectors_of_another_model_are_refused(collection, tmp_path):
    file = tmp_path / "c.safetensors"
    collection.save(file)
    with pytest.raises(CourseError, match="has vectors of 64 numbers, the model makes 32"):
        retrieval.Collection.load(file, Letters(32))
    with pytest.raises(CourseError, match="built with another model"):
        retrieval.Collection.load(file, Letters(shift=1))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CourseError, match="no collection that can be read"):
        retrieval.Collection.load(file, Letters())
    with pytest.raises(CourseError, match="no collection that can be read"):
        retrieval.Collection.load(tmp_path / "none", Letters())


@pytest.mark.parametrize("question, size", [("", 0), ("  ", 2), ("问" * 10_000, 10_000)])
def test_a_question_that_is_none_is_named(collection, question, size):
    with pytest.raises(CourseError, match=f"has {size} characters"):
        collection.search(question)


def test_folders_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(CourseError, match=r"holds no \.md, \.pdf or \.csv file"):
        retrieval.read_folder(tmp_path)
    with (tmp_path / "large.md").open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(CourseError, match=r"large\.md has 100 MB"):
        retrieval.read_folder(tmp_path)
    (tmp_path / "large.md").rename(tmp_path / "film.mp4")  # nobody would read it
    (tmp_path / "page.md").write_text("# 保修\n", encoding="utf-8")
    assert [document.title for document in retrieval.read_folder(tmp_path)] == ["保修"]
    (tmp_path / "large.md").write_bytes("---\ntitle: 保修\n".encode("gb18030"))
    with pytest.raises(CourseError, match=r"large\.md, line 2: not UTF-8"):
        retrieval.read_folder(tmp_path)
    assert len(retrieval.read_folder()) > 70


# --- servers


def server(answer: str = "60 元", status: int = 200, seen: list | None = None) -> Starlette:
    async def completions(request: Request):
        if seen is not None:
            seen.append((await request.json(), request.headers.get("authorization")))
        if status == 200:
            return JSONResponse({"choices": [{"message": {"role": "assistant", "content": answer}}]})
        return JSONResponse({"error": {"message": "no such model"}}, status_code=status)

    async def page(request: Request):
        return PlainTextResponse("<html>")

    return Starlette(
        routes=[
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/chat/completions", page, methods=["POST"]),
        ]
    )


def test_a_server_is_asked_as_it_expects():
    seen: list = []
    with retrieval.serving(server(seen=seen)) as address:
        ask = retrieval.chat_model(address, "deepseek-r1:1.5b", key="secret")
        assert ask(["一", "二"]) == ["60 元", "60 元"]
    (body, key), _ = seen
    assert key == "Bearer secret"
    assert body["messages"] == [{"role": "user", "content": "一"}] and body["model"] == "deepseek-r1:1.5b"
    assert body["temperature"] == 0 and body["stream"] is False


def test_what_a_model_thinks_is_cut_away():
    with retrieval.serving(server("<think>\n也许 75？\n</think>\n\n60 元")) as address:
        assert retrieval.complete(address + "/", "m", "?") == "60 元"
    with retrieval.serving(server("<think>\n也许 75？还是")) as address:  # the limit of length came first
        assert retrieval.complete(address, "m", "?") == ""


def test_a_server_on_this_machine_is_reached_past_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with retrieval.serving(server()) as address:
        assert retrieval.complete(address, "m", "?") == "60 元"


def test_what_is_wrong_with_a_server_is_named():
    with retrieval.serving(server(status=404)) as address:
        with pytest.raises(CourseError, match=r"refused \(404\).*no such model"):
            retrieval.complete(address, "m", "?")
        with pytest.raises(CourseError, match=r"mostly ends in /v1"):
            retrieval.complete(address.removesuffix("/v1"), "m", "?")
    with pytest.raises(CourseError, match="is the server running"):
        retrieval.complete(address, "m", "?")


def small_model(folder: Path) -> list[str]:
    """A random model of transformers with a chat template, in a folder; what it says to "a b", greedily."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<s>", "</s>", "user", "assistant", *(chr(ord("a") + i) for i in range(26))]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ' ' + m.content + ' ' }}{% endfor %}assistant"
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1, **shape)
    )
    model.generation_config.max_new_tokens = 8
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = tokenizer("user a b assistant", return_tensors="pt")
    answer = model.generate(**ids, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return tokenizer.decode(answer, skip_special_tokens=True).split()


def test_another_real_server_is_asked_in_the_same_way(tmp_path):
    """`transformers serve`, which is not ours, with a model of its own."""
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi, which the course does not install")
    pytest.importorskip("openai", reason="transformers serve needs openai")
    expected = small_model(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    options = ["serve", str(tmp_path), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, *options], stderr=subprocess.PIPE, text=True, env=offline)
    try:
        for _ in range(600):
            try:
                answer = retrieval.complete(f"http://127.0.0.1:{port}/v1", str(tmp_path), "a b")
                break
            except CourseError as error:
                assert process.poll() is None, process.stderr.read()
                if "is the server running" not in str(error):
                    raise
                time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert answer.split()[: len(expected)] == expected and expected  # the server sets no limit of 8


# --- shares, figures, explorer


def test_a_share_is_written_with_its_interval():
    assert retrieval.share(11, 12) == "92 % (65–99)"
    with pytest.raises(TypeError):
        retrieval.share(9.5, 12)  # half a question is no answer


@pytest.fixture
def explorer() -> explorers.Explorer:
    plots.use_course_style()
    made = passages("a.md", TEXTS)

    def scores(search: str, question: str) -> np.ndarray:
        return Letters().encode(TEXTS, True) @ Letters().encode([question], True)[0]

    return explorers.retrieval(
        made,
        scores,
        lambda question, found: "\n".join([passage.text for passage in found] + [question]),
        lambda prompt: prompt[:6],
        lambda text: re.findall(r"\w", text.lower()),
        ["by meaning", "by letters"],
        question="水泵多少元？",
        k=2,
    )


def test_the_explorer_follows_question_search_and_k(explorer):
    for control, value in [
        ("question", "the hedgehog costs $3 🦔"),
        ("k", 4),
        ("question", "问" * 10_000),
        ("question", ""),
    ]:
        before = explorer.image.value
        explorer.controls[control].value = value
        assert explorer.image.value != before


def test_shared_terms_are_marked():
    assert plots._marked("水泵 86 元", {"水泵", "6"}) == [("水泵", True), (" 86 元", False)]
    lines = plots._lines_of_parts([("水泵" * 3, False), ("ab", True)], width=8)
    assert lines == [[("水泵水泵", False)], [("水泵", False), ("ab", True)]]
    assert plots.drawable("水泵 $5 \U0001f994") == r"水泵 \$5 □"


# --- optional extras, where they are installed


def cell(id: str) -> str:
    return next(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.id == id)


def small_world() -> dict[str, object]:
    """What the cells of the notebook find when they run, in small."""
    model, made = Letters(), passages("a.md", TEXTS)
    unit = model.encode(TEXTS, True)

    class Embedder:
        def encode(self, texts, **options):
            return model.encode([texts], **options)[0] if isinstance(texts, str) else model.encode(texts, **options)

    def look_up(question, k=2):
        return [made[i] for i in np.argsort(-(unit @ model.encode([question], True)[0]))[:k]]

    from course_utils.standins.tasks import known_information

    return {
        "embedder": Embedder(), "passages": made, "unit": unit, "d": 64, "K": 2, "question": "水泵多少元",
        "look_up": look_up, "known_information": known_information, "ask": lambda prompts: list(prompts),
        "prompt_for": lambda question, found: known_information([passage.text for passage in found], question),
    }  # fmt: skip


@pytest.mark.parametrize(
    "package, id, said",
    [
        ("qdrant_client", "database-run", "Qdrant finds the same passages"),
        ("langchain_core", "langchain-run", "LangChain's chain gives the same answer"),
    ],
)
def test_optional_cells_where_the_package_is(package, id, said, capsys):
    pytest.importorskip(package, reason=f"{package} is an optional extra of notebook 12 and is not installed here")
    exec(compile(cell(id), id, "exec"), small_world())
    assert said in capsys.readouterr().out


def test_optional_cells_say_how_to_get_the_package(monkeypatch, capsys):
    for package, id in [("qdrant_client", "database-run"), ("langchain_core", "langchain-run")]:
        monkeypatch.setitem(sys.modules, package, None)
        if package == "langchain_core":
            monkeypatch.setitem(sys.modules, "langchain_core.documents", None)
        exec(compile(cell(id), id, "exec"), small_world())
        assert "pip install" in capsys.readouterr().out


def test_bm25_of_the_notebook_ranks_as_a_library_does():
    bm25s = pytest.importorskip("bm25s", reason="bm25s is only used to check the notebook's BM25; not installed here")
    taught = next(node for node in ast.parse(cell("bm25-run")).body if getattr(node, "name", "") == "bm25_weights")
    space: dict = {"np": np}
    exec(compile(ast.Module([taught], []), "bm25-run", "exec"), space)
    rng = np.random.default_rng(1)
    counts = rng.poisson(0.4, size=(30, 20))
    counts[:, 0] += 1  # nobody is empty
    words = [[f"w{i}" for i, n in enumerate(row) for _ in range(n)] for row in counts]
    library = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    library.index(words, show_progress=False)
    # "lucene" leaves out the constant factor k1 + 1.
    ours = space["bm25_weights"](counts) / 2.5
    for terms in [[1], [2, 5], [0, 3, 19]]:
        assert np.allclose(library.get_scores([f"w{i}" for i in terms]), ours[:, terms].sum(axis=1), atol=1e-5)
