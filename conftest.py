"""Every test and every notebook runs without network; whoever tries fails, even where the error is swallowed."""

import os
import runpy
import signal
from collections.abc import Generator
from functools import cache

import pytest

from tools import ROOT, network_attempts, seal

# A shell lets what it starts in the background ignore Ctrl-C, which children inherit; some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
NO_NETWORK = ROOT / "tests" / "no_network"
started_open = str(NO_NETWORK) not in os.environ.get("PYTHONPATH", "").split(os.pathsep)
seal()
if started_open:  # the children of this process import the file by themselves
    runpy.run_path(str(NO_NETWORK / "sitecustomize.py"))


def _fail_on_attempts() -> None:
    if attempts := network_attempts():
        pytest.fail(
            f"The network was used:\n{attempts}Put what is needed into data/ and register it in data/DATA.md.",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a test or a cell that tried to reach the network."""
    yield
    _fail_on_attempts()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """The same for what threads and ending kernels did after it."""
    yield
    _fail_on_attempts()


@cache
def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out cells tagged `gpu` where there is none, with the reason that the cell gives."""
    for item in items:
        metadata = item.cell.metadata if hasattr(item, "cell") else {}
        if "gpu" in metadata.get("tags", []) and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason=f"no GPU here: {metadata.get('reason')}"))
