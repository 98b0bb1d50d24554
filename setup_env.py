"""From a fresh clone to a running course, with Python alone.

    python setup_env.py lab [OPTIONS OF jupyter lab]   open the notebooks
    python setup_env.py test [OPTIONS OF pytest]       run every notebook and all tests

and for those who write the course: notebooks, slides, student, runsheets, site,
install (only set up), lock (compile requirements.txt from pyproject.toml; `lock --upgrade` for the newest).

Every command first makes .venv hold exactly what requirements.txt says, with uv where it is found, else
with pip. pip's own settings (mirrors, local wheels, certificates) count for both.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an old Python must get this far to say so
    sys.exit(
        "✘ This Python is {0}.{1}: the course needs 3.11 or newer. Install one from https://www.python.org, then "
        "run this again with it, for example `make lab PYTHON=python3.12`.\n"
        "✘ 当前 Python 版本是 {0}.{1}，本课程需要 3.11 或更高版本。请从 https://www.python.org 安装，"
        "再用它重新运行，例如 `make lab PYTHON=python3.12`。".format(*sys.version_info)
    )

import argparse
import ast
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import tomllib
from pathlib import Path

from course_utils.messages import CourseError

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements.txt"
VENV = ROOT / ".venv"
VENV_BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
VENV_PYTHON = VENV_BIN / ("python.exe" if os.name == "nt" else "python")
# Says what .venv holds. Written last, so an interrupted installation has none and starts over.
STAMP = VENV / "course-setup"

# torch's threads wait for one another by trying again and again, and on busy cores take the time from those that they
# wait for. Two trainings with two threads each took 0.65 s a step when a thread lies down after so many tries, 3.4 s
# with the library's own number.
SPINS = "1000"

# What each command runs in .venv: `python -m …`, in which folder.
COMMANDS = {
    "lab": (["jupyterlab"], ROOT / "notebooks"),
    "test": (["pytest"], ROOT),
    "notebooks": (["tools.notebooks", "run"], ROOT),
    "slides": (["tools.publish", "slides"], ROOT),
    "student": (["tools.publish", "student"], ROOT),
    "site": (["tools.publish", "site"], ROOT),
    "runsheets": (["tools.publish", "runsheets"], ROOT),
}

# torch moves by hand: its wheels come from several places (CPU, CUDA), and all must have the version.
HELD = "torch==2.13.0"
# torch's Linux wheel pins these itself, and its CPU-only wheels need none of them.
CUDA_PACKAGES = re.compile(r"(nvidia-|cuda-|triton\b)")
HEADER = """\
# The exact set that is tested, for Python 3.11 upwards on Linux, macOS and Windows.
# Compiled from pyproject.toml by `python setup_env.py lock`; do not edit by hand.
# CUDA packages (nvidia-*, cuda-*, triton) are not listed: torch's Linux wheel brings exactly those that it
# needs, and its CPU-only wheels need none.
# pyproject.toml: {hash}
"""
RESOLUTIONS = {"newest": "highest", "oldest": "lowest-direct"}

# What in the output of venv, pip or uv betrays which cause. The first that fits counts: without a network pip
# ends with "No matching distribution", and a full disk may look like anything.
CAUSES = [
    (
        r"No space left on device|Errno 28|WinError 112|not enough space",
        "The disk is full: the course needs about 3 GB, and several GB more where torch brings CUDA. Make room, then "
        "run the same command again.",
        "磁盘已满：本课程约需 3 GB，torch 带 CUDA 时还要再多几 GB。请清理空间后重新运行同一命令。",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|invalid peer certificate|UnknownIssuer|SSLError",
        "The package index's certificate is not trusted here: give your network's own with "
        "`pip config set global.cert FILE`, then run the same command again.",
        "软件源的证书不受信任：请用 `pip config set global.cert 证书文件` 指定所在网络的证书，再重新运行同一命令。",
    ),
    (
        r"name resolution|Name or service not known|getaddrinfo failed|nodename nor servname|lookup address|"
        r"dns error|Could not connect|Connection refused|Connection reset|Network is unreachable|"
        r"[Ff]ailed to establish a new connection|tcp connect error|error sending request|timed out|"
        r"[Cc]annot connect to proxy",
        "The package index does not answer: check the network, or choose a nearby mirror, for example "
        "`pip config set global.index-url https://pypi.tuna.tsinghua.edu.cn/simple`, then run the same command "
        "again.",
        "无法连接软件源：请检查网络，或改用国内镜像，例如 "
        "`pip config set global.index-url https://pypi.tuna.tsinghua.edu.cn/simple`，再重新运行同一命令。",
    ),
    (
        r"No matching distribution|No solution found|has no wheels|no usable wheels|[Ff]ailed to build|"
        r"[Ff]ailed building|metadata-generation-failed",
        "A package (named above) has no ready-made file for this Python or machine: use 64-bit Python 3.11 to "
        "3.13; on a Mac with an Intel processor, use a hosted notebook (see README.md).",
        "某个软件包（见上文）没有适合当前 Python 或机器的安装文件：请使用 64 位 Python 3.11 至 3.13；"
        "Intel 芯片的 Mac 请改用云端 Notebook（见 README.zh-CN.md）。",
    ),
    (
        r"Long Path",
        "The path of this folder is too long for Windows: move it to a short one such as C:\\course, then run "
        "the same command again.",
        "当前文件夹的路径对 Windows 来说太长：请移到较短的路径（如 C:\\course），再重新运行同一命令。",
    ),
    (
        r"Permission denied|Access is denied|Errno 13|WinError (5|32)\b|Read-only file system",
        "A file may not be written: close JupyterLab and whatever else uses .venv, and check that this folder is "
        "yours, then run the same command again.",
        "文件无法写入：请关闭 JupyterLab 等正在使用 .venv 的程序，确认您对该文件夹有写权限，再重新运行同一命令。",
    ),
]


def explain(output: str) -> CourseError:
    """The cause and cure of a failed installation, told from what it printed."""
    for pattern, en, zh in CAUSES:
        if re.search(pattern, output):
            return CourseError(en, zh)
    return CourseError(
        "The set-up failed; the lines above say why. Running the same command again starts it over.",
        "环境安装失败，原因见上文。重新运行同一命令会从头开始安装。",
    )


def environment() -> dict[str, str]:
    """The environment variables of an activated .venv, in which two notebooks that compute do not block each other."""
    variables = os.environ | {
        "GOMP_SPINCOUNT": SPINS,
        "VIRTUAL_ENV": str(VENV),
        "PATH": f"{VENV_BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    variables.pop("PYTHONHOME", None)
    return variables


def find_uv() -> str | None:
    """uv in .venv or on the path."""
    return shutil.which("uv", path=environment()["PATH"])


def require_uv() -> str:
    """uv, for what pip cannot do."""
    uv = find_uv()
    if uv is None:
        raise CourseError(
            "This needs uv: `pip install uv`, then run the same command again.",
            "此命令需要 uv：请先运行 `pip install uv`，再重新运行同一命令。",
        )
    return uv


def pip_settings(listing: str) -> dict[str, list[str]]:
    """pip's settings as `pip config list` prints them: files and PIP_* variables, the stronger one kept."""
    found: dict[str, dict[str, list[str]]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        section, _, setting = line.partition(".")
        name, _, value = setting.partition("=")
        if section in found:
            found[section][name] = ast.literal_eval(value).split()
    return found["global"] | found["install"] | found[":env:"]


def uv_options(settings: dict[str, list[str]]) -> tuple[list[str], dict[str, str]]:
    """uv's options and variables for pip's settings, which uv does not read by itself."""
    # pip takes the best version from all its indexes; uv by itself stops at the first that knows a package.
    options = ["--index-strategy", "unsafe-best-match"]
    for name in ("index-url", "extra-index-url", "find-links", "trusted-host"):
        for value in settings.get(name, []):
            options += ["--allow-insecure-host" if name == "trusted-host" else f"--{name}", value]
    if settings.get("no-index", ["false"])[0].lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    # No option of older uv says this. A path may hold blanks.
    variables = {"SSL_CERT_FILE": " ".join(settings["cert"])} if "cert" in settings else {}
    return options, variables


def read_pip_settings(python: Path | str) -> dict[str, list[str]]:
    """pip's settings where the given Python runs; none where it has no pip."""
    command = [python, "-m", "pip", "config", "list"]
    return pip_settings(subprocess.run(command, capture_output=True, text=True, encoding="utf-8").stdout)


def run_step(command: list[str], variables: dict[str, str] | None = None) -> None:
    """Run one step of the set-up, showing what it prints; raise cause and cure where it fails."""
    output = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment() | (variables or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            output.append(line)
    if process.returncode:
        raise explain("".join(output))


def dependency_hash() -> str:
    """A hash of what pyproject.toml says of dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    part = {key: project[key] for key in ("requires-python", "dependencies", "optional-dependencies")}
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]


def expected_stamp(resolution: str | None) -> str:
    """What the stamp in .venv says when nothing needs to be done. A moved .venv does not work either."""
    requirements = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{ROOT} python={python} set={resolution or requirements} pyproject={dependency_hash()}\n"


def is_ready(stamp: str) -> bool:
    """Whether .venv holds what the stamp says and its Python still runs."""
    try:
        if STAMP.read_text(encoding="utf-8") != stamp:
            return False
        return subprocess.run([VENV_PYTHON, "-c", ""]).returncode == 0
    except OSError:
        return False


def install(resolution: str | None = None) -> None:
    """Make .venv hold exactly requirements.txt and this package; return at once where it does.

    With a resolution, the newest or oldest versions that pyproject.toml allows are taken instead.
    """
    stamp = expected_stamp(resolution)
    if is_ready(stamp):
        return
    if Path(sys.prefix).resolve() == VENV:
        raise CourseError(
            "This .venv must be made anew, but is in use: run `deactivate`, then the same command again.",
            "需要重建 .venv，但它正在使用中：请先运行 `deactivate`，再重新运行同一命令。",
        )
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise CourseError(
            f"This Python cannot make environments: on Debian or Ubuntu run `sudo apt install {package}`, then the "
            "same command again.",
            f"当前 Python 无法创建虚拟环境：在 Debian 或 Ubuntu 上请运行 `sudo apt install {package}`，"
            "再重新运行同一命令。",
        )
    if VENV.exists():
        shutil.rmtree(VENV)
    uv = require_uv() if resolution else find_uv()
    print(f"Setting up .venv with {'uv' if uv else 'pip'}; this happens once.", flush=True)
    run_step([sys.executable, "-m", "venv", str(VENV)])
    if uv:
        options, variables = uv_options(read_pip_settings(VENV_PYTHON))
        pip = [uv, "pip", "install", "--python", str(VENV_PYTHON), *options]
    else:
        variables = {}
        pip = [str(VENV_PYTHON), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    if resolution:
        run_step([*pip, "--resolution", RESOLUTIONS[resolution], "-e", ".[test,publish]"], variables)
    else:
        run_step([*pip, "-r", str(REQUIREMENTS)], variables)
        run_step([*pip, "--no-deps", "-e", "."], variables)
    # matplotlib looks through all fonts once, and would say so in the first cell of somebody's first notebook.
    run_step([str(VENV_PYTHON), "-c", "import matplotlib.font_manager"])
    STAMP.write_text(stamp, encoding="utf-8")


def lock(arguments: list[str]) -> None:
    """Compile requirements.txt from pyproject.toml: the pins it has are kept where they still fit."""
    # Only the index (or its mirror) counts here: the set must not depend on wheels that one machine has.
    settings = read_pip_settings(sys.executable)
    shared = {name: settings[name] for name in ("index-url", "trusted-host", "cert") if name in settings}
    options, variables = uv_options(shared)
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        constraints, compiled = Path(folder, "constraints.txt"), Path(folder, "requirements.txt")
        constraints.write_text(HELD, encoding="utf-8")
        if REQUIREMENTS.exists():
            shutil.copy(REQUIREMENTS, compiled)
        command = [require_uv(), "pip", "compile", "pyproject.toml", "--quiet", "--no-header", "--no-annotate"]
        command += ["--all-extras", "--universal", "--python-version", "3.11", "--constraints", str(constraints)]
        run_step([*command, *options, "--output-file", str(compiled), *arguments], variables)
        lines = compiled.read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if not CUDA_PACKAGES.match(line)]
        text = HEADER.format(hash=dependency_hash()) + "\n".join(pins) + "\n"
        compiled.write_text(text, encoding="utf-8", newline="\n")
        os.replace(compiled, REQUIREMENTS)


def run_in_venv(module: list[str], folder: Path) -> int:
    """Run a module in .venv until it ends; the exit code is its own."""
    process = subprocess.Popen([VENV_PYTHON, "-m", *module], cwd=folder, env=environment())
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # The program got it too, and may want to ask before it stops.


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # not every console can show Chinese
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument(
        "--resolution",
        choices=RESOLUTIONS,
        help="instead of the tested set, install the newest or oldest versions that pyproject.toml allows",
    )
    parser.add_argument("command", choices=[*COMMANDS, "install", "lock"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to the command")
    options = parser.parse_args(arguments)
    try:
        if options.command == "lock":
            lock(options.arguments)
            return 0
        install(options.resolution)
    except (CourseError, OSError) as error:
        text = (error if isinstance(error, CourseError) else explain(str(error))).text
        print(f"✘ {text.en}\n✘ {text.zh}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.command == "install":
        return 0
    module, folder = COMMANDS[options.command]
    if options.command == "lab" and hasattr(os, "geteuid") and os.geteuid() == 0:
        module = [*module, "--allow-root"]  # hosted notebooks are root
    return run_in_venv([*module, *options.arguments], folder)


if __name__ == "__main__":
    sys.exit(main())
