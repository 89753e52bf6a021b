"""`hires explore`."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
import os
from pathlib import Path
import socket
import sys
import webbrowser

from omegaconf import MISSING

from hires.errors import HiresError
from hires.explore.model import Explorer
from hires.explore.server import application, serve
from hires.ground.ranges import setting
from hires.sampling.drawing import check
from hires.sampling.seeds import open_bundle
from hires.verbs import Result


@dataclass
class Config:
    """hires explore: a local page to draw from a bundle, move between pictures and reconstruct your own (docs/reference/explore.md).
      hires explore sampler=bundle                        # http://127.0.0.1:8000/, this machine alone
      hires explore sampler=bundle prior=standard         # seeds' latents from N(0, I)
      hires explore sampler=bundle port=0 open=false      # any free port, no browser opened
    """

    sampler: str = MISSING  # a bundle
    prior: str = ""  # of the seeds' latents: standard | aggregate, as for hires sample
    host: str = "127.0.0.1"  # this machine alone can reach it; 0.0.0.0: every machine that reaches this one
    port: int = setting(8000, at_least=0, at_most=65535)  # 0 = any free one
    open: bool = True  # the page in a browser, where there is a screen
    device: str = "auto"  # auto | cpu | cuda | cuda:N


def run(config: Config) -> Result:
    """Serve a page on this machine to draw from a bundle, move between its pictures and reconstruct others, until Ctrl-C."""
    if not config.host:
        raise HiresError("host=: empty; wanted 127.0.0.1, or an address of this machine")
    bundle = open_bundle(config.sampler, config.device)
    check(bundle, prior=config.prior)
    explorer = Explorer(bundle, Path(config.sampler).resolve().name, config.prior)
    private = config.host in ("localhost", "::1") or config.host.startswith("127.")
    # by these the page may be called; a tunnel's end is localhost too
    names = {"localhost"} if private else {"localhost", config.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    def ready(host: str, port: int) -> None:
        shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{port}/"
        print(f"{address}  {explorer.name}, {bundle.resolution}x{bundle.resolution} on {bundle.device}; Ctrl-C ends it", flush=True)
        if not private:
            print(
                f"warning: host={config.host}: whoever reaches port {port} of this machine can use the page, without a password",
                file=sys.stderr,
            )
        elif "SSH_CONNECTION" in os.environ:
            print(f"from your own machine: ssh -L {port}:{host}:{port} {socket.gethostname()}, then http://localhost:{port}/", flush=True)
        elif config.open and (sys.platform != "linux" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ):
            webbrowser.open(address)  # not without a screen: a text browser would take the terminal

    _until_stopped(serve(application(explorer, names), config.host, config.port, ready))
    print("ended")
    return Result()


def _until_stopped(serving: Coroutine) -> None:
    """Until Ctrl-C; where an event loop runs already, as in a notebook, in a thread of its own until the cell is interrupted."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(serving)
    loop = asyncio.new_event_loop()
    task = loop.create_task(serving)
    with closing(loop), ThreadPoolExecutor(1) as thread:
        ended = thread.submit(loop.run_until_complete, task)
        try:
            ended.result()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(task.cancel)
            with suppress(asyncio.CancelledError, CancelledError):
                ended.result()
