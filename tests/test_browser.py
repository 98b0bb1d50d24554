"""A real browser opens JupyterLab, runs notebook 01, moves a slider, and sees the figure change."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "en" / "01_gradient_descent.ipynb"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Chromium's own talk with the outside is switched off: the tests run without a network.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="the browser test is left out: no Chromium found (Debian: apt install chromium)"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answer(url: str) -> object:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def wait_for(what: str, holds, seconds: float = 60):
    """Poll `holds` until it returns something true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if result := holds():
                return result
        except OSError:
            pass  # the server does not listen yet
        time.sleep(0.2)
    pytest.fail(f"waited {seconds} s in vain for: {what}")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab with a copy of notebook 01."""
    shutil.copy(NOTEBOOK, tmp_path)
    settings = {
        # Without windowing every cell is in the page, also those out of sight.
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false"},
    }
    for name, values in settings.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    command += [f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=", f"--notebook-dir={tmp_path}"]
    # Lab would ask PyPI for extensions and for a newer version of itself.
    command += ["--LabApp.extension_manager=readonly"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    environment = {**os.environ, "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for("JupyterLab", lambda: answer(f"{address}/api/status"))
            yield address
        finally:
            server.terminate()
            server.wait(timeout=20)


@pytest.mark.timeout(240)
def test_notebook_01_runs_and_its_slider_changes_the_figure(lab, tmp_path):
    from playwright.sync_api import sync_playwright

    def kernel_is_idle() -> bool:
        sessions = answer(f"{lab}/api/sessions")
        return bool(sessions) and sessions[0]["kernel"]["execution_state"] == "idle"

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            page = browser.new_page(viewport={"width": 1300, "height": 1000})
            page.goto(f"{lab}/lab/tree/{NOTEBOOK.name}", wait_until="load")
            wait_for("an idle kernel", kernel_is_idle)
            # Before the status bar says so, too, Lab swallows the command to run.
            page.locator("#jp-main-statusbar").get_by_text("Idle").wait_for(timeout=60_000)
            page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")

            explorer = page.locator(".jp-Notebook .jupyter-widgets", has=page.locator("img.widget-image")).first
            image = explorer.locator("img.widget-image")
            image.wait_for(timeout=120_000)
            wait_for(
                "all cells to end", lambda: kernel_is_idle() and not page.get_by_text("[*]:", exact=True).count(), 120
            )
            before = image.get_attribute("src")

            handle = explorer.locator(".widget-slider .noUi-handle").first
            handle.scroll_into_view_if_needed()
            handle.focus()
            for _ in range(3):
                page.keyboard.press("ArrowRight")
            wait_for("a new figure", lambda: image.get_attribute("src") != before)
            assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        finally:
            if len(browser.contexts) and browser.contexts[0].pages:
                browser.contexts[0].pages[0].screenshot(path=tmp_path / "last_seen.png")
            browser.close()
