"""The doctor: one line when all is well, else each problem with its cure; on simulated machines."""

import builtins
import importlib.metadata
import shutil
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import psutil
import pytest
from test_runtime import A100, BROKEN, P100_CU126, P100_PYPI, SMALL, T4

from course_utils import doctor, plots, runtime
from course_utils.doctor import Finding
from course_utils.messages import Text
from course_utils.runtime import GIB, GPU

REAL_PROBE = runtime.probe_gpu
READY = """\
✔ Ready: CPU, float32 (no CUDA GPU found; CPUs compute float32 fastest).
✔ 就绪：CPU，float32（未找到 CUDA GPU；CPU 计算 float32 最快）。
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine without a GPU, with room in memory and on disk, whatever the tests run on."""
    monkeypatch.setattr(runtime, "probe_gpu", lambda: None)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=50 * GIB))


@pytest.fixture
def installed(monkeypatch):
    """Installed versions that a test may change; None stands for a library that is missing."""
    real, versions = importlib.metadata.version, {}

    def version(name):
        found = versions.get(name, "")
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


def has(monkeypatch, gpu: GPU) -> None:
    monkeypatch.setattr(runtime, "probe_gpu", lambda: gpu)


def problems() -> dict[str, Finding]:
    _, findings = doctor.examine()
    return {finding.name.en: finding for finding in findings if finding.status != "ok"}


def test_all_is_well_in_one_line_per_language(capsys):
    assert doctor.start(seed=3) == runtime.choose(None)
    assert capsys.readouterr().out == READY


def test_the_line_does_not_depend_on_versions_within_the_ranges(capsys, installed):
    installed.update({"torch": "2.99.0", "transformers": "5.0.0"})
    doctor.start()
    assert capsys.readouterr().out == READY


def test_start_fixes_the_seed():
    import torch

    doctor.start(seed=5)
    first = torch.rand(3)
    doctor.start(seed=5)
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("gpu", [T4, P100_CU126, A100])
def test_a_good_gpu_is_used_and_named(monkeypatch, capsys, gpu):
    has(monkeypatch, gpu)
    assert doctor.start().device == "cuda"
    out = capsys.readouterr().out
    assert out.startswith("✔ Ready: GPU, ") and gpu.name in out
    assert out.count("\n") == 2


def test_a_p100_without_kernels_is_sent_to_the_cu126_wheels(monkeypatch, capsys):
    has(monkeypatch, P100_PYPI)
    assert doctor.start().device == "cpu"
    out = capsys.readouterr().out
    assert "sm_60" in out and "no kernels" in out
    # In English and in Chinese; pip leaves a torch that is already there as it is.
    assert out.count("`pip install torch --index-url https://download.pytorch.org/whl/cu126`") == 2
    assert out.count("`pip uninstall -y torch`") == 2
    assert "Going on with: CPU, float32" in out and "Ready" not in out


def test_a_gpu_newer_than_the_wheel_needs_a_newer_torch(monkeypatch):
    has(monkeypatch, GPU("RTX 5090", (12, 0), 31, 30, ("sm_80", "sm_90"), "no kernel image"))
    assert "pip install --upgrade torch" in problems()["GPU"].cure.en


def test_a_gpu_older_than_every_wheel_is_left_alone(monkeypatch):
    has(monkeypatch, GPU("Tesla K80", (3, 7), 11, 11, ("sm_75",), "no kernel image"))
    assert "The CPU is used" in problems()["GPU"].cure.en


def test_a_kernel_that_fails_although_the_list_looks_fine(monkeypatch, capsys):
    has(monkeypatch, BROKEN)
    assert doctor.start().device == "cpu"
    out = capsys.readouterr().out
    assert "unspecified launch failure" in out and "update the NVIDIA driver" in out


@pytest.mark.parametrize(
    ("total", "free", "instead", "cure"),
    [
        (3.9, 3.6, "the small stand-in model", "16 GB GPU"),
        (5.8, 5.6, "the 6B model in int4", "16 GB GPU"),
        (7.8, 7.6, "the 6B model in int8", "16 GB GPU"),
        (14.6, 6.0, "the 6B model in int4", "Shut down the kernels"),
        (3.9, 0.1, "the small stand-in model", "16 GB GPU"),
    ],
)
def test_too_little_gpu_memory_names_what_is_used_instead(monkeypatch, total, free, instead, cure):
    has(monkeypatch, GPU("a card", (7, 5), total, free, T4.arch_list))
    finding = problems()["GPU memory"]
    assert f"Used instead: {instead}." in finding.detail.en
    assert cure in finding.cure.en


def test_a_small_gpu_is_used_all_the_same(monkeypatch, capsys):
    has(monkeypatch, SMALL)
    assert doctor.start().device == "cuda"
    assert "Going on with: GPU, float16" in capsys.readouterr().out


def test_torch_missing(monkeypatch, capsys, installed):
    installed["torch"] = None

    def no_torch(name, *args, real=builtins.__import__, **kwargs):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(runtime, "probe_gpu", REAL_PROBE)
    monkeypatch.setattr(builtins, "__import__", no_torch)
    assert doctor.start().device == "cpu"
    out = capsys.readouterr().out
    assert out.count("✘") == 1
    assert '✘ torch: not installed.\n  → Run `pip install "torch<3,>=2.6"`' in out


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("libcudart.so.13: cannot open shared object file"), "torch: it does not load (libcudart"),
        (ImportError("DLL load failed"), "pip install --force-reinstall torch"),
        (RuntimeError("CUDA unknown error"), "GPU 显卡: torch cannot start CUDA (CUDA unknown error)"),
    ],
)
def test_a_torch_that_does_not_load(monkeypatch, capsys, error, expected):
    def probe():
        raise error

    monkeypatch.setattr(runtime, "probe_gpu", probe)
    assert doctor.start().device == "cpu"
    assert expected in capsys.readouterr().out
    # What was not found out is not claimed.
    assert not [finding for finding in doctor.examine()[1] if "no CUDA GPU; none" in finding.detail.en]


def test_a_library_outside_its_range(installed):
    installed["transformers"] = "4.57.1"
    finding = problems()["transformers"]
    assert finding.status == "fail"
    assert "4.57.1 is installed; the course works with <6,>=5.0" in finding.detail.en
    assert 'pip install "transformers<6,>=5.0"' in finding.cure.zh


def test_a_nightly_build_within_the_range_is_fine(installed):
    installed["torch"] = "2.14.0.dev20260101+cu126"
    assert problems() == {}


def test_libraries_for_maintainers_are_not_asked_for():
    names = {finding.name.en for finding in doctor.check_libraries()}
    assert "torch" in names and not names & {"nbval", "sphinx"}


def test_a_missing_library_is_named_once(monkeypatch, installed, capsys):
    installed["matplotlib"] = None
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    doctor.start()
    out = capsys.readouterr().out
    assert out.count("✘") == 1 and "✘ matplotlib: not installed." in out


def test_a_library_that_is_installed_but_does_not_load(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    finding = problems()["matplotlib"]
    assert finding.status == "fail" and "--force-reinstall matplotlib" in finding.cure.en


def test_without_packaging_the_other_checks_still_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert set(problems()) == {"packaging"}


def test_a_version_that_differs_from_the_tested_one_is_a_note(monkeypatch, tmp_path, installed):
    pins = "# compiled\n-e .\nnumpy==1.26.4 ; python_version < '3'\nnumpy==2.0.0  # why\ntorch==2.6.0\n    # via x\n"
    (tmp_path / "requirements.txt").write_text(pins, encoding="utf-8")
    monkeypatch.setattr(runtime, "ROOT", tmp_path, raising=False)
    installed.update({"numpy": "2.1.0", "torch": "2.6.0+cu124"})
    found = {finding.name.en: finding for finding in doctor.check_libraries()}
    assert found["numpy"].detail.en == "2.1.0 (in range; tested: 2.0.0)"
    assert found["torch"].detail.en == "2.6.0+cu124"
    assert found["matplotlib"].status == "ok"


def test_a_course_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-course")
    assert "pip install -e ." in problems()["no-such-course"].cure.en


@pytest.mark.parametrize(("version", "status"), [((3, 10, 4), "fail"), ((3, 13, 0), "ok"), ((3, 15, 1), "ok")])
def test_python(version, status):
    (finding,) = doctor.check_python(version)
    assert finding.status == status


def test_little_memory_and_little_disk(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1.5 * GIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0.4 * GIB))
    found = problems()
    assert found["Memory"].status == found["Disk"].status == "warn"
    assert "only 1.5 GiB" in found["Memory"].detail.en and "only 0.4 GiB" in found["Disk"].detail.en


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_without_the_chinese_font_the_doctor_says_so(monkeypatch, tmp_path, capsys, damage):
    if damage == "damaged":
        (tmp_path / "fonts").mkdir()
        (tmp_path / plots.CHINESE_FONT_FILE).write_text("version https://git-lfs.github.com/spec/v1")
    monkeypatch.setattr(runtime, "DATA", tmp_path, raising=False)
    assert doctor.start().device == "cpu"
    out = capsys.readouterr().out
    assert (
        "✘ Figures 图形: Chinese cannot be shown." in out
        and "missing or damaged" in out
        and "git checkout -- data/fonts" in out
    )


def draw(text: str) -> bytes:
    import io

    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0.1, 0.5, text)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_chinese_and_signs_are_really_drawn():
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("error")
        plots.use_course_style()
        draw("梯度下降：学习率 η，“损失” L(θ₀) → −1.5 × 10⁻³ ∂L/∂w ∇ ≤ ∞ ✔ ✘")
        # Two characters drawn as the same box would make the same picture.
        assert draw("梯") != draw("度")


def test_a_glyph_that_no_font_has_stops_the_cell():
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context():
        plots.use_course_style()
        with pytest.raises(UserWarning, match="missing from"):
            draw("\ue000")


def test_the_style_may_be_set_again_without_adding_the_font_again():
    from matplotlib.font_manager import fontManager

    plots.use_course_style()
    before = len(fontManager.ttflist)
    plots.use_course_style()
    assert len(fontManager.ttflist) == before


class Answer(BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self):
        if self.status is None:
            time.sleep(1)
        else:
            self.send_response(self.status)
            self.end_headers()

    def log_message(self, *args):
        pass


@pytest.mark.parametrize(("status", "said"), [(200, "answers"), (404, "answers"), (None, "does not answer")])
def test_the_network_is_asked_and_never_blamed(monkeypatch, status, said):
    monkeypatch.setattr(Answer, "status", status)
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.3 if status is None else 5)
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr(doctor, "MODELSCOPE", "http://127.0.0.1:1")  # nothing listens there
    modelscope, hugging_face = doctor.check_network()
    server.shutdown()
    server.server_close()
    assert modelscope.status == hugging_face.status == "ok"
    assert "does not answer" in modelscope.detail.en
    assert hugging_face.detail.en.startswith(f"{url} {said}")


def test_start_asks_nobody(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "check_network", lambda: pytest.fail("a notebook's first cell used the network"))
    doctor.start()


def test_the_report_tells_everything(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "check_network", lambda: iter(()))
    doctor.report()
    out = capsys.readouterr().out
    for name in ("Python", "torch", "GPU", "Device", "Memory", "Disk", "Figures"):
        assert f"✔ {name}" in out


@pytest.mark.parametrize(("gpu", "code"), [(None, 0), (SMALL, 0), (P100_PYPI, 1)])
def test_the_command_exits_with_1_only_if_something_must_be_mended(monkeypatch, capsys, gpu, code):
    has(monkeypatch, gpu)
    monkeypatch.setattr(doctor, "check_network", lambda: iter(()))
    with pytest.raises(SystemExit) as caught:
        doctor.main()
    assert caught.value.code == code


def test_no_blame_without_a_cure():
    with pytest.raises(ValueError, match="a cure goes with"):
        Finding(Text("x", "x"), "fail", Text("bad", "bad"))
