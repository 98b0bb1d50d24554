"""Finding and fetching models, against servers on this machine that cut downloads in the middle."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from course_utils import CourseError, models
from course_utils.models import CATALOGUE, download, find_model, incomplete, wanted
from course_utils.runtime import GPU

T4 = GPU("Tesla T4", (7, 5), 16, 15, ("sm_75",))
BIG = bytes(range(256)) * 8000  # 2 MB
REPOSITORY = {
    "config.json": b'{"model_type": "chatglm"}',
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "model-00001-of-00002.safetensors": BIG,
    "model-00002-of-00002.safetensors": b"small",
    "pytorch_model-00001-of-00001.bin": b"the same weights once more",
    "pytorch_model.bin.index.json": b"{}",
    "tokenizer.model": b"words",
    "modeling_chatglm.py": b"raise SystemExit('never run me')",
    "README.md": b"hello",
    "examples/notes.json": b"{}",
}
COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Both hubs at once. `cuts` are the lengths after which it drops the connection, one for each request."""

    files: dict[str, bytes]
    cuts: list[int]
    asked: list[tuple[str, str | None]]
    refusals: list[int]
    unlisted = ()
    ranges = True
    lie = False

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urlparse(self.path)
        query = parse_qs(url.query)
        if url.path.endswith("/repo/files"):  # ModelScope
            listing = [
                {"Path": path, "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
                for path, data in self.files.items()
            ]
            for entry in listing:
                for key in self.unlisted:
                    del entry[key]
            self.send_json({"Code": 200, "Data": {"Files": listing}})
        elif url.path.endswith("/repo"):
            self.send_file(query["FilePath"][0])
        elif "/resolve/" in url.path:  # Hugging Face
            self.send_file(url.path.split("/resolve/")[1].split("/", 1)[1])
        elif "/tree/" in url.path:
            self.send_json([{"type": "file", "path": p, "size": len(d), "oid": p} for p, d in self.files.items()])
        elif url.path.startswith("/api/models/"):
            siblings = [{"rfilename": path} for path in self.files]
            self.send_json({"id": "x/y", "sha": COMMIT, "siblings": siblings, "tags": []})
        else:
            self.send_error(404)

    def send_json(self, data):
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, path):
        if path not in self.files:
            return self.send_error(404)
        data = self.files[path]
        start = 0
        if self.ranges and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").split("-")[0])
        if self.command == "GET":
            self.asked.append((path, self.headers.get("Range")))
            if self.refusals:
                return self.send_error(self.refusals.pop(0))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        body = data[start:]
        if self.lie:
            body = b"?" * len(body)
        if len(body) > 1000 and self.cuts:
            body = body[: self.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        return None


@contextmanager
def hub(cuts=(), files=REPOSITORY, refusals=(), **behaviour):
    lists = {"cuts": list(cuts), "refusals": list(refusals), "asked": []}
    handler = type("ThisHub", (Hub,), {"files": dict(files), **lists, **behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield handler
    finally:
        server.shutdown()
        server.server_close()


NOWHERE = "http://127.0.0.1:1"  # nothing listens there


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Empty caches, no hub in reach, a stand-in, and a GPU with room."""
    from huggingface_hub import constants

    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    # For its telemetry the library asks huggingface.co for a list, whatever the endpoint.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", NOWHERE)
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(models, "STAND_INS", tmp_path / "stand-ins")
    write(tmp_path / "stand-ins" / "chatglm3-tiny", {"config.json": b"{}", "model.safetensors": b"x"})
    monkeypatch.setattr(models, "probe_gpu", lambda: T4)
    monkeypatch.setattr(models, "PAUSE", 0)
    return tmp_path


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


FETCHED = {
    "config.json",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "tokenizer.model",
}


# --- the order of the search


def test_a_given_folder_is_taken_at_its_word(tmp_path):
    folder = write(tmp_path / "mine", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    found = find_model("chatglm3-6b", folder)
    assert (found.folder, found.source) == (folder, "given")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CourseError, match="the weights"):
        find_model("chatglm3-6b", folder)


@pytest.mark.parametrize("place", ["models/ZhipuAI/chatglm3-6b", "ZhipuAI/chatglm3-6b"])
def test_a_copy_in_the_cache_is_used(tmp_path, place):
    folder = write(tmp_path / "modelscope" / place, {"config.json": b"{}", "model.safetensors": b"x"})
    found = find_model("chatglm3-6b")
    assert (found.folder, found.source) == (folder, "cache")


def test_modelscope_comes_before_hugging_face(monkeypatch, tmp_path):
    with hub() as here, hub() as there:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", here.url)
        monkeypatch.setenv("HF_ENDPOINT", there.url)
        found = find_model("chatglm3-6b")
        assert found.source == "ModelScope" and not there.asked
    assert names(found.folder) == FETCHED
    assert (found.folder / "model-00001-of-00002.safetensors").read_bytes() == BIG
    assert here.asked[-1][0] == "config.json"
    assert find_model("chatglm3-6b").source == "cache"


def test_hugging_face_or_its_mirror_comes_next(monkeypatch):
    with hub() as mirror:
        monkeypatch.setenv("HF_ENDPOINT", mirror.url)
        found = find_model("chatglm3-6b")
        assert found.source == "Hugging Face"
        assert names(found.folder) == FETCHED
        assert {path for path, _ in mirror.asked} == FETCHED
        assert find_model("chatglm3-6b").source == "cache"


def test_the_stand_in_comes_last_and_says_why(tmp_path):
    found = find_model("chatglm3-6b")
    assert (found.folder, found.source) == (tmp_path / "stand-ins" / "chatglm3-tiny", "stand-in")
    assert "ModelScope: " in found.why.en and "Hugging Face: " in found.why.en
    with pytest.raises(CourseError, match="cannot be had"):
        find_model("chatglm3-6b", want="real")
    with pytest.raises(CourseError, match="cannot be had"):
        find_model("chatglm-6b")  # its stand-in is not there either


def test_without_room_nothing_is_fetched(monkeypatch):
    with hub() as here:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", here.url)
        found = find_model("glm-4-9b-chat")
        assert found.source == "stand-in" and "takes 17.5 GiB and the GPU has 15.0" in str(found)
        assert find_model("chatglm3-6b", want="stand-in").source == "stand-in"
        monkeypatch.setattr(models, "probe_gpu", lambda: None)
        assert "no GPU" in str(find_model("chatglm3-6b"))
        assert not here.asked
        assert find_model("glm-4-9b-chat", want="real").source == "ModelScope"
    monkeypatch.setattr(models, "probe_gpu", lambda: T4)
    assert find_model("glm-4-9b-chat", number_format="int8").source == "cache"


def test_offline_is_offline(monkeypatch):
    with hub() as here:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", here.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert "HF_HUB_OFFLINE" in find_model("chatglm3-6b").why.en
        assert not here.asked


def test_unknown_names_are_answered_with_the_known():
    with pytest.raises(CourseError, match="chatglm3-6b"):
        find_model("chatglm9")
    with pytest.raises(CourseError, match=r"'int3'.* fp16, int8, nf4, float16, bfloat16, bnb-int8, int4, bnb-nf4"):
        find_model("chatglm3-6b", number_format="int3")
    with pytest.raises(CourseError, match="choose one of fp32, float32"):
        find_model("bge-small-zh-v1.5", number_format="int8")
    for want in ("stand_in", None):
        with pytest.raises(CourseError, match="choose one of auto, real, stand-in"):
            find_model("chatglm3-6b", want=want)


def test_number_formats_go_by_the_words_of_the_loader_too(monkeypatch):
    monkeypatch.setattr(models, "probe_gpu", lambda: GPU("small", (7, 5), 6, 5, ("sm_75",)))
    for word in ("nf4", "int4", "bnb-nf4"):
        assert "ModelScope: " in str(find_model("chatglm3-6b", number_format=word))  # there is room, but no hub
    for word in ("float16", "bfloat16", "bnb-int8"):
        assert "5.0 GiB free" in str(find_model("chatglm3-6b", number_format=word))


# --- what is fetched


def test_only_weights_json_and_tokenizer_files():
    nasty = [
        "../config.json",
        "/etc/x.json",
        "a/../b.json",
        "x.py",
        "model.pt",
        "model.safetensors.py",
        "x.sh",
    ]
    assert set(wanted([*REPOSITORY, *nasty])) == FETCHED
    assert wanted(["ice_text.model", "pytorch_model.bin", "config.json"]) == [
        "ice_text.model",
        "pytorch_model.bin",
        "config.json",
    ]
    assert wanted(["1_Pooling/config.json", "vocab.txt"]) == ["1_Pooling/config.json", "vocab.txt"]


def test_a_folder_is_whole_with_all_its_shards(tmp_path):
    folder = write(tmp_path / "m", {k: v for k, v in REPOSITORY.items() if "/" not in k and ".bin" not in k})
    assert incomplete(folder) is None
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert incomplete(folder) == "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").unlink()
    assert incomplete(folder) == "the weights"  # shards without an index say nothing
    (folder / "config.json").unlink()
    assert incomplete(folder) == "config.json"


# --- downloads that go wrong


@pytest.mark.parametrize("endpoint", ["MODELSCOPE_ENDPOINT", "HF_ENDPOINT"])
@pytest.mark.parametrize(
    ("listed", "lacking"),
    [
        ({"README.md": b"hello"}, "config.json"),
        ({"config.json": b"{}"}, "the weights"),
        (
            {name: data for name, data in REPOSITORY.items() if name != "model-00002-of-00002.safetensors"},
            "model-00002-of-00002.safetensors",
        ),
    ],
)
def test_a_source_without_the_whole_model_does_not_have_it(monkeypatch, endpoint, listed, lacking):
    with hub(files=listed) as there:
        monkeypatch.setenv(endpoint, there.url)
        found = find_model("chatglm3-6b")
    assert found.source == "stand-in" and f"its copy lacks {lacking}" in found.why.en


def test_a_list_without_sizes_is_no_list(monkeypatch):
    with hub(unlisted=["Size"]) as here:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", here.url)
        found = find_model("chatglm3-6b")
    assert found.source == "stand-in" and "ModelScope: its list of files is not understood ('Size')" in found.why.en


@pytest.mark.parametrize("code", [408, 429, 503])
def test_a_busy_server_is_asked_again_after_a_while(tmp_path, monkeypatch, code):
    slept = []
    monkeypatch.setattr(models, "PAUSE", 1)
    monkeypatch.setattr(models.time, "sleep", slept.append)
    target = tmp_path / "weights.safetensors"
    with hub(files={"weights.safetensors": BIG}, refusals=[code] * 3) as here:
        download(f"{here.url}/x/resolve/main/weights.safetensors", target, len(BIG), None)
    assert target.read_bytes() == BIG
    assert [pause for pause in slept if pause] == [1, 2, 3]


def test_a_server_that_refuses_is_not_asked_again(tmp_path):
    with hub(files={"weights.safetensors": BIG}, refusals=[403] * 3) as here:
        with pytest.raises(models.Unreachable, match="403"):
            download(f"{here.url}/x/resolve/main/weights.safetensors", tmp_path / "w", len(BIG), None)
    assert len(here.asked) == 1


def test_what_is_already_there_is_checked_before_it_is_believed(monkeypatch):
    name = "model-00001-of-00002.safetensors"
    folder = write(models._modelscope_cache() / "models" / "ZhipuAI" / "chatglm3-6b", {name: bytes(len(BIG))})
    with hub() as here:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", here.url)
        assert find_model("chatglm3-6b").folder == folder
        assert (folder / name).read_bytes() == BIG
        (folder / "config.json").unlink()  # as a download that was cut off leaves it
        here.asked.clear()
        assert find_model("chatglm3-6b").source == "ModelScope"
        assert here.asked == [("config.json", None)]


def test_a_cut_download_goes_on_where_it_stopped(monkeypatch):
    with hub(cuts=[500_000, 700_000]) as here:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", here.url)
        found = find_model("chatglm3-6b")
    assert (found.folder / "model-00001-of-00002.safetensors").read_bytes() == BIG
    ranges = [asked for path, asked in here.asked if path == "model-00001-of-00002.safetensors"]
    assert ranges == [None, "bytes=500000-", "bytes=1200000-"]


def test_a_later_run_goes_on_too(tmp_path, monkeypatch):
    target = tmp_path / "weights.safetensors"
    with hub(files={"weights.safetensors": BIG}, cuts=[900_000, *[0] * 5]) as here:
        url = f"{here.url}/x/resolve/main/weights.safetensors"
        with pytest.raises(models.Unreachable):
            download(url, target, len(BIG), None)
        assert names(tmp_path) >= {"weights.safetensors.part"} and not target.exists()
        download(url, target, len(BIG), hashlib.sha256(BIG).hexdigest())
    assert target.read_bytes() == BIG
    assert here.asked[-1][1] == "bytes=900000-"
    assert "weights.safetensors.part" not in names(tmp_path)


def test_a_server_without_ranges_starts_over(tmp_path):
    target = tmp_path / "weights.safetensors"
    with hub(files={"weights.safetensors": BIG}, cuts=[900_000], ranges=False) as here:
        download(f"{here.url}/x/resolve/main/weights.safetensors", target, len(BIG), None)
    assert target.read_bytes() == BIG
    assert len(here.asked) == 2


def test_a_damaged_file_is_thrown_away(monkeypatch):
    with hub(lie=True) as here:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", here.url)
        with pytest.raises(CourseError, match="damaged"):
            find_model("chatglm3-6b")
    assert names(models._modelscope_cache()) == set()


def test_a_cut_off_model_is_not_taken_for_one(monkeypatch):
    with hub(cuts=[900_000, *[0] * 5]) as here:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", here.url)
        assert find_model("chatglm3-6b").source == "stand-in"
        assert find_model("chatglm3-6b").source == "ModelScope"  # the next try finishes it


def test_where_the_modelscope_cache_is_read_only_hugging_face_is_asked(monkeypatch):
    mkdir = Path.mkdir

    def refuse(path, *args, **options):
        if "modelscope" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with hub() as here:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", here.url)
        assert "ModelScope: [Errno 13] Permission denied" in find_model("chatglm3-6b").why.en
        monkeypatch.setenv("HF_ENDPOINT", here.url)
        assert find_model("chatglm3-6b").source == "Hugging Face"


def test_a_full_disk_is_said_before_the_first_byte(monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    with hub() as here:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", here.url)
        with pytest.raises(CourseError, match="do not fit on the disk"):
            find_model("chatglm3-6b")
        assert not here.asked


def test_a_hugging_face_download_goes_on(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    with hub(cuts=[500_000]) as mirror:
        monkeypatch.setenv("HF_ENDPOINT", mirror.url)
        found = find_model("chatglm3-6b")
    assert (found.folder / "model-00001-of-00002.safetensors").read_bytes() == BIG
    ranges = [asked for path, asked in mirror.asked if path == "model-00001-of-00002.safetensors"]
    assert ranges == [None, "bytes=500000-"]


# --- the catalogue


def test_catalogue_is_consistent():
    for name, model in CATALOGUE.items():
        assert model.name == name and model.licence and model.stand_in
        assert model.modelscope.count("/") == model.huggingface.count("/") == 1
        if "fp16" in model.gib:  # two bytes for each parameter
            assert model.gib["fp16"] == pytest.approx(model.parameters * 2e9 / 2**30, rel=0.002)
        if model.layout == "chatglm":
            assert model.gib["fp16"] > model.gib["int8"] > model.gib["nf4"]
