"""The set-up: pins and ranges do not drift, pip's settings reach uv, and every failure says what to do."""

import re
import runpy
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import setup_env
from course_utils.messages import CourseError

LINES = [line for line in setup_env.REQUIREMENTS.read_text("utf-8").splitlines() if not line.startswith("#")]
LOCKED = [Requirement(line) for line in LINES]
PINS = {
    canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
    for pin in LOCKED
    if not pin.marker or pin.marker.evaluate()
}


def direct_requirements() -> list[Requirement]:
    project = setup_env.tomllib.loads((setup_env.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for lines in lists for line in lines]


def needed_by(name: str, extras: set[str]) -> list[Requirement]:
    """What an installed distribution requires on this machine, with these extras."""
    requirements = map(Requirement, metadata.requires(name) or [])
    return [
        requirement
        for requirement in requirements
        if not requirement.marker or any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras})
    ]


# --- requirements.txt and pyproject.toml


def test_requirements_were_compiled_from_this_pyproject():
    text = setup_env.REQUIREMENTS.read_text("utf-8")
    assert text.startswith(setup_env.HEADER.format(hash=setup_env.dependency_hash())), (
        "pyproject.toml changed: run `python setup_env.py lock`"
    )


def test_every_pin_is_exact_and_good_for_every_build():
    for line in LINES:
        assert re.match(r"[a-z0-9.-]+==[0-9][0-9a-z.]*( ; .+)?$", line), line
        assert not setup_env.CUDA_PACKAGES.match(line), line
    assert setup_env.HELD in LINES


@pytest.mark.parametrize("requirement", direct_requirements(), ids=lambda requirement: requirement.name)
def test_a_direct_dependency_is_pinned_inside_its_range(requirement):
    versions = [pin for pin in LOCKED if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
    assert versions
    for pin in versions:
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("=="))


def test_whatever_the_course_needs_here_is_pinned_and_fits():
    waiting, seen = direct_requirements(), set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), requirement.extras
        if (name, *sorted(extras)) in seen or setup_env.CUDA_PACKAGES.match(name):
            continue
        seen.add((name, *sorted(extras)))
        assert name in PINS, f"{name} is needed but not pinned"
        if metadata.version(name).partition("+")[0] != PINS[name]:
            continue  # the newest or oldest versions are being tested, and need something else
        for needed in needed_by(name, extras):
            waiting.append(needed)
            if pin := PINS.get(canonicalize_name(needed.name)):
                assert needed.specifier.contains(pin, prereleases=True), f"{name} needs {needed}, not {pin}"


# --- pip's settings

LISTING = r"""
:env:.find-links='/opt/wheels'
:env:.no-index='true'
:env:.disable-pip-version-check='1'
global.cert='/etc/my certificates/ca.crt'
global.extra-index-url='\nhttps://a.example/simple\nhttps://b.example/simple'
global.find-links='/not/this'
global.index-url='https://weaker.example/simple'
global.trusted-host='a.example b.example'
install.index-url='https://mirror.example/simple?a=b'
freeze.index-url='https://other.example/simple'
"""


def test_uv_gets_what_pip_was_told():
    options, variables = setup_env.uv_options(setup_env.pip_settings(LISTING))
    assert " ".join(options) == (
        "--index-strategy unsafe-best-match --index-url https://mirror.example/simple?a=b "
        "--extra-index-url https://a.example/simple --extra-index-url https://b.example/simple "
        "--find-links /opt/wheels --allow-insecure-host a.example --allow-insecure-host b.example --no-index"
    )
    assert variables == {"SSL_CERT_FILE": "/etc/my certificates/ca.crt"}


@pytest.mark.parametrize("listing", ["", "global.no-index='false'\n", "global.timeout='60'\n"])
def test_uv_is_told_nothing_more(listing):
    assert setup_env.uv_options(setup_env.pip_settings(listing)) == (["--index-strategy", "unsafe-best-match"], {})


def test_the_settings_of_this_pip_are_read(monkeypatch, tmp_path):
    (tmp_path / "pip.conf").write_text("[global]\nextra-index-url =\n  https://a.example\n  https://b.example\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", "one two")
    settings = setup_env.read_pip_settings(sys.executable)
    if metadata.packages_distributions().get("pip"):
        assert settings["extra-index-url"] == ["https://a.example", "https://b.example"]
        assert settings["find-links"] == ["one", "two"]


# --- when to install


@pytest.fixture
def machine(monkeypatch, tmp_path) -> list[list[str]]:
    """A course folder of its own, where the steps of the set-up are noted and not run."""
    steps = []

    def run_step(command, variables=None):
        steps.append(command)
        if command[1:3] == ["-m", "venv"]:
            setup_env.VENV_BIN.mkdir(parents=True)
            setup_env.VENV_PYTHON.symlink_to(sys.executable)

    for name in ("pyproject.toml", "requirements.txt"):
        (tmp_path / name).write_bytes((setup_env.ROOT / name).read_bytes())
    here = setup_env.ROOT
    for name in ("ROOT", "REQUIREMENTS", "VENV", "VENV_BIN", "VENV_PYTHON", "STAMP"):
        monkeypatch.setattr(setup_env, name, tmp_path / getattr(setup_env, name).relative_to(here))
    monkeypatch.setattr(setup_env, "run_step", run_step)
    monkeypatch.setattr(setup_env, "read_pip_settings", lambda python: {})
    monkeypatch.setattr(setup_env, "find_uv", lambda: None)
    return steps


def test_the_second_call_installs_nothing(machine):
    setup_env.install()
    assert [command[1:3] for command in machine] == [
        ["-m", "venv"],
        ["-m", "pip"],
        ["-m", "pip"],
        ["-c", "import matplotlib.font_manager"],
    ]
    assert machine[1][-2:] == ["-r", str(setup_env.REQUIREMENTS)]
    assert machine[2][-3:] == ["--no-deps", "-e", "."]
    machine.clear()
    setup_env.install()
    assert machine == []


def test_uv_is_taken_where_it_is_found(machine, monkeypatch):
    monkeypatch.setattr(setup_env, "find_uv", lambda: "uv")
    setup_env.install()
    assert machine[1][:5] == ["uv", "pip", "install", "--python", str(setup_env.VENV_PYTHON)]


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text("utf-8") + text, "utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda: append(setup_env.REQUIREMENTS, "\nsix==1.17.0\n"),
        lambda: append(setup_env.ROOT / "pyproject.toml", '\n[project.optional-dependencies.more]\na = "b"\n'),
        lambda: setup_env.STAMP.unlink(),
        lambda: (setup_env.VENV_PYTHON.unlink(), setup_env.VENV_PYTHON.symlink_to("/no/python")),
    ],
    ids=["requirements", "pyproject", "interrupted", "python-gone"],
)
def test_a_changed_or_broken_venv_is_made_anew(machine, change):
    setup_env.install()
    (setup_env.VENV / "old").touch()
    change()
    machine.clear()
    setup_env.install()
    assert machine
    assert not (setup_env.VENV / "old").exists()


def test_another_python_gets_a_venv_of_its_own(machine, monkeypatch):
    setup_env.install()
    before = setup_env.STAMP.read_text("utf-8")
    Version = namedtuple("Version", "major minor micro")
    monkeypatch.setattr(sys, "version_info", Version(3, 99, 0))
    setup_env.install()
    assert setup_env.STAMP.read_text("utf-8") != before


def test_an_interrupted_installation_leaves_no_stamp(machine, monkeypatch):
    run_step = setup_env.run_step

    def interrupt_at_the_packages(command, variables=None):
        run_step(command, variables)
        if "--no-deps" in command:
            raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, "run_step", interrupt_at_the_packages)
    assert setup_env.main(["install"]) == 130
    assert setup_env.VENV_PYTHON.exists() and not setup_env.STAMP.exists()


def test_the_oldest_allowed_versions_bypass_the_pins(machine, monkeypatch):
    monkeypatch.setattr(setup_env, "find_uv", lambda: "uv")
    setup_env.install("oldest")
    assert machine[1][-4:] == ["--resolution", "lowest-direct", "-e", ".[test,publish]"]
    assert not any("-r" in command for command in machine)
    machine.clear()
    setup_env.install()
    assert any("-r" in command for command in machine)


# --- what is said when it fails


@pytest.mark.parametrize(
    "output, cure",
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "Make room"),
        ("  cause: invalid peer certificate: UnknownIssuer", "global.cert"),
        ("[Errno -3] Temporary failure in name resolution\nERROR: No matching distribution found for x", "mirror"),
        ("  cause: dns error\n  cause: failed to lookup address information", "mirror"),
        ("ERROR: No matching distribution found for torch==2.13.0", "3.11 to 3.13"),
        ("error: No solution found when resolving dependencies", "3.11 to 3.13"),
        ("HINT: This system does not have Windows Long Path support enabled.", "short one"),
        ("[WinError 5] Access is denied: '.venv'", "close JupyterLab"),
        ("something nobody has seen", "lines above"),
    ],
)
def test_a_failed_step_ends_with_cause_and_cure(output, cure, capsys):
    code = f"import sys; print({output!r}); sys.exit(2)"
    with pytest.raises(CourseError) as error:
        setup_env.run_step([sys.executable, "-c", code])
    assert output in capsys.readouterr().out
    assert cure in error.value.text.en
    assert re.search("[一-鿿]", error.value.text.zh)
    assert "\n" not in error.value.text.en + error.value.text.zh


def test_python_without_venv_names_the_package(machine, monkeypatch, capsys):
    monkeypatch.setattr(setup_env.importlib.util, "find_spec", lambda name: None)
    assert setup_env.main(["test"]) == 1
    said = capsys.readouterr().err
    assert f"python3.{sys.version_info.minor}-venv" in said
    assert said.count("\n") == 2 and "Traceback" not in said


def test_a_full_disk_before_the_first_step(machine, monkeypatch, capsys):
    def full(command):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(setup_env, "run_step", full)
    assert setup_env.main(["lab"]) == 1
    assert "Make room" in capsys.readouterr().err


def test_a_venv_in_use_is_left_alone(machine, monkeypatch, capsys):
    setup_env.install()
    setup_env.STAMP.unlink()
    monkeypatch.setattr(setup_env.sys, "prefix", str(setup_env.VENV))
    assert setup_env.main(["install"]) == 1
    assert "deactivate" in capsys.readouterr().err
    assert setup_env.VENV_PYTHON.exists()


def test_newest_and_oldest_need_uv(machine, capsys):
    assert setup_env.main(["--resolution", "newest", "install"]) == 1
    assert "pip install uv" in capsys.readouterr().err
    assert not setup_env.STAMP.exists()


def test_an_old_python_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    with pytest.raises(SystemExit, match=r"This Python is 3\.9: the course needs 3\.11 or newer"):
        runpy.run_path(setup_env.__file__)


# --- the commands


def test_it_starts_with_the_standard_library_alone():
    command = [sys.executable, "-S", "setup_env.py", "--help"]
    run = subprocess.run(command, cwd=setup_env.ROOT, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    assert "setup_env.py lab" in run.stdout


@pytest.mark.parametrize("user, added", [(0, ["--allow-root"]), (1000, [])])
def test_lab_passes_options_on(monkeypatch, user, added):
    started = []
    monkeypatch.setattr(setup_env, "install", lambda resolution: None)
    monkeypatch.setattr(setup_env, "run_in_venv", lambda *call: started.append(call) or 7)
    monkeypatch.setattr(setup_env.os, "geteuid", lambda: user, raising=False)
    assert setup_env.main(["lab", "--no-browser", "--port", "8899"]) == 7
    assert started == [(["jupyterlab", *added, "--no-browser", "--port", "8899"], setup_env.ROOT / "notebooks")]


def test_the_exit_code_is_the_programs_own(monkeypatch):
    monkeypatch.setattr(setup_env, "VENV_PYTHON", Path(sys.executable))
    assert setup_env.run_in_venv(["pytest", "--no-such-option"], setup_env.ROOT) == pytest.ExitCode.USAGE_ERROR
