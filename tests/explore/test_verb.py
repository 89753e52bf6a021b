"""`hires explore` from the command line."""

import asyncio
import os
import signal
import socket

import pytest

from hires import cli
from hires.verbs import explore


@pytest.fixture
def fails(capsys):
    """fails(*overrides) -> the one line that `hires explore` ended with."""

    def run(*overrides: str) -> str:
        assert cli.main(["explore", "open=false", *map(str, overrides)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("hires explore: error: ")
        return line

    return run


def test_a_wrong_command_is_one_line(fails, folder, tmp_path):
    assert "sampler=… not given" in fails()
    assert "missing" in fails(f"sampler={tmp_path}")
    assert "port=70000: wanted 0" in fails(f"sampler={folder}", "port=70000")
    assert "host=: empty" in fails(f"sampler={folder}", "host=''")
    assert "host=192.0.2.1 port=0: " in fails(f"sampler={folder}", "host=192.0.2.1", "port=0")  # no address of this machine
    assert "device=tpu" in fails(f"sampler={folder}", "device=tpu")


def test_a_port_in_use_is_one_line(fails, folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"host=127.0.0.1 port={port}: in use; choose another" in fails(f"sampler={folder}", f"port={port}")


@pytest.fixture
def told(monkeypatch, capsys, folder):
    """told(*overrides) -> (stdout, stderr, the addresses that were opened) of a server that ends as soon as it is ready."""
    opened = []
    monkeypatch.setattr(explore.webbrowser, "open", opened.append)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")

    async def brief(app, host, port, ready):
        ready(host, 8123)

    def run(*overrides: str) -> tuple[str, str, list[str]]:
        opened.clear()
        monkeypatch.setattr(explore, "serve", brief)
        assert cli.main(["explore", f"sampler={folder}", *overrides]) == 0
        return *capsys.readouterr(), opened

    return run


def test_it_says_where_and_opens_it(told, folder, monkeypatch):
    out, err, opened = told()
    assert out.splitlines()[0] == f"http://127.0.0.1:8123/  {folder.name}, 32x32 on cpu; Ctrl-C ends it"
    assert (err, opened) == ("", ["http://127.0.0.1:8123/"])
    assert told("open=false")[2] == []
    assert told("host=::1")[0].startswith("http://[::1]:8123/")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert told()[2] == []  # no screen


def test_a_tunnel_is_told(told, monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "a b c d")
    out, _, opened = told()
    assert "ssh -L 8123:127.0.0.1:8123 " in out and opened == []


def test_another_host_is_warned_of(told):
    out, err, opened = told("host=0.0.0.0")
    assert out.startswith(f"http://{socket.gethostname()}:8123/")
    assert "warning: host=0.0.0.0: whoever reaches port 8123" in err and opened == []


def test_nothing_is_left_running(folder, capsys, monkeypatch):
    """The real server, stopped by a signal to this process as by Ctrl-C."""
    started = explore.serve

    async def interrupted(app, host, port, ready):
        def then(*found):
            ready(*found)
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)

        await started(app, host, port, then)

    monkeypatch.setattr(explore, "serve", interrupted)
    assert cli.main(["explore", f"sampler={folder}", "port=0", "open=false"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ended"
