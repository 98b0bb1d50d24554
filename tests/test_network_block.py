"""A download fails the cell that tries it, whatever the cell does with the error; loopback stays open."""

import re
import runpy
from pathlib import Path

import pytest
from small_course import code, notebook, run_pytest, write_house

from tools import ROOT, write

# 192.0.2.1 is reserved for documentation. Each cell's outcome stands before it.
CELLS = [
    ("FAILED", "import socket\n\nsocket.socket().connect(('192.0.2.1', 80))"),
    ("FAILED", "socket.getaddrinfo('example.org', 443)"),
    ("FAILED", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'?', ('192.0.2.1', 53))"),
    ("FAILED", "try:\n    socket.getaddrinfo('swallowed.example.org', 443)\nexcept Exception:\n    pass"),
    (
        "FAILED",
        "import subprocess\nimport sys\n\n"
        "child = 'import socket; socket.create_connection((\"192.0.2.2\", 80))'\n"
        "done = subprocess.run([sys.executable, '-c', child], capture_output=True)",
    ),
    (
        "FAILED",
        "from urllib.request import urlopen\n\n"
        "try:\n    urlopen('https://example.org', timeout=1)\nexcept Exception:\n    pass",
    ),
    (
        "PASSED",
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(('localhost', server.getsockname()[1]))\n"
        "client.close()\nserver.close()",
    ),
]


def test_a_cell_that_uses_the_network_fails(tmp_path: Path):
    en, _ = write_house(tmp_path)
    write(en, notebook([code(f"cell-{i}", source, i + 1) for i, (_, source) in enumerate(CELLS)]))
    done = run_pytest(tmp_path, "notebooks/en")
    assert re.findall(r"Cell \d (PASSED|FAILED)", done.stdout) == [outcome for outcome, _ in CELLS], done.stdout
    assert done.returncode == 1
    for target in (
        "The network is closed while notebooks and tests run (socket.connect: 192.0.2.1:80)",
        "example.org",
        "192.0.2.1:53",
        "getaddrinfo: 192.0.2.2",
        "a download through the proxy",
    ):
        assert target in done.stdout
    assert "The network was used:\nsocket.getaddrinfo: swallowed.example.org" in done.stdout


def test_a_test_that_uses_the_network_fails(tmp_path: Path):
    write_house(tmp_path)
    swallow = "    try:\n        socket.gethostbyname('example.org')\n    except RuntimeError:\n        pass\n"
    body = f"import socket\n\n\ndef test_it():\n{swallow}"
    (tmp_path / "tests" / "test_hidden.py").write_text(body)
    done = run_pytest(tmp_path, "tests/test_hidden.py")
    assert done.returncode == 1 and "socket.gethostbyname: example.org" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("", True),
        ("10.0.0.1", False),
        ("huggingface.co", False),
        ("2001:db8::1", False),
        ("localhost.example.org", False),
    ],
)
def test_only_this_machine_is_local(host: str, local: bool):
    is_local = runpy.run_path(str(ROOT / "tests" / "no_network" / "sitecustomize.py"))["is_local"]
    assert is_local(host) is local
