"""A bundle, `hires explore` on it in a process of its own, and a headless browser."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import http.client
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
import pytest
import torch

from hires import networks as nets
from hires.bundle import hires_bundle
from hires.bundle.writing import PLAYERS, write_files
from hires.networks import NetworkConfig
from tests.explore import chromium
from tests.explore.browser import Browser, Page
from tests.explore.looking import DRAWN

NAME = "faces & <b>more"  # shown as text, never as markup


@dataclass(frozen=True)
class Server:
    """`hires explore`, running."""

    url: str
    process: subprocess.Popen

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str | None] | None = None) -> tuple[int, Any, dict]:
        """One request, sent as it stands -> status, the answer (JSON, or bytes), its headers; a header of None is left out."""
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
        send = {"Host": where.netloc, "Content-Length": str(len(body or b""))} | (headers or {})
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in send.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        kind = answer.headers.get_content_type()
        return answer.status, json.loads(data) if kind == "application/json" else data, dict(answer.headers)

    def post(self, path: str, /, **given: Any) -> dict:
        """A question that is right, and its answer."""
        status, answer, _ = self.ask("POST", path, json.dumps(given).encode(), {"Content-Type": "application/json"})
        assert status == 200, answer
        return answer


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A bundle of random 32x32 colour networks, d = 16."""
    config = NetworkConfig(kind="growing", latent=16, channels_base=256, channels_max=16, convs=1, image_channels=3)
    networks = {}
    for player in PLAYERS:
        networks[player] = nets.build(config, player, 32).eval()
        streams = iter(range(10_000))
        nets.initialise(networks[player], lambda _, streams=streams: torch.Generator().manual_seed(next(streams)))
        noise = torch.Generator().manual_seed(3)
        for name, tensor in networks[player].named_parameters():  # without biases a latent's length would not be seen: pixel norm
            if name.endswith("bias"):
                tensor.data.copy_(torch.randn(tensor.shape, generator=noise) * 0.2)
    out = tmp_path_factory.mktemp("explore") / NAME
    write_files(out, config, 32, networks, {"data": "none", "images_seen": 123_000}, NAME)
    return out


@pytest.fixture(scope="session")
def bundle(folder) -> hires_bundle.Bundle:
    """The same, loaded here."""
    return hires_bundle.load(folder)


@pytest.fixture(scope="session")
def server(folder, clean_env, tmp_path_factory) -> Iterator[Server]:
    """The page's server; whatever was sent to it, it has written no file."""
    here, temporary = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "hires", "explore", f"sampler={folder}", "port=0", "open=false", "device=cpu"]
    env = clean_env | {"TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(command, cwd=here, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line + process.stderr.read()
        yield Server(line.split()[0], process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.splitlines()[-1:], err) == (0, ["ended"], "")  # Ctrl-C ends it, cleanly
        assert [*here.rglob("*"), *temporary.rglob("*")] == []
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One headless browser; skips, with the reason, where there can be none."""
    try:
        command, env = chromium.get()
    except chromium.CannotBeHad as reason:
        pytest.skip(str(reason))
    running = Browser(command, env)
    yield running
    running.close()


@pytest.fixture
def shots(tmp_path) -> Path:
    """Where screenshots go, for a person to look at: $HIRES_SCREENSHOTS where it is set."""
    kept = os.environ.get("HIRES_SCREENSHOTS")
    out = Path(kept) if kept else tmp_path
    out.mkdir(parents=True, exist_ok=True)
    return out


@pytest.fixture
def visit(browser, server) -> Iterator[Callable[..., Page]]:
    """visit(fragment, …) -> the page, drawn; at its end it has complained of nothing and asked nobody else for anything."""
    pages: list[Page] = []

    def go(fragment: str = "", **how) -> Page:
        pages.append(browser.page(server.url + fragment, **how))
        pages[-1].until(DRAWN)
        return pages[-1]

    yield go
    for page in pages:
        assert page.complaints() == []
        assert {url.split(":")[0] for url in page.requests() if not url.startswith(server.url)} <= {"data", "blob"}
        page.close()


@pytest.fixture
def photo(tmp_path) -> Path:
    """A picture to drop, under a name that is no markup either."""
    file = tmp_path / "me & <i>you.png"
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128), axis=-1).astype(np.uint8)).save(file)
    return file


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """The tests that cannot have a browser are one line together."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and "no browser is installed" in report.longrepr[2]:
        report.longrepr = (chromium.__file__, 1, report.longrepr[2])
    return report
