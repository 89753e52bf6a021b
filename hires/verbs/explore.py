"""`hires explore`."""

import asyncio
import os
from pathlib import Path
import socket
import sys
import webbrowser

from hires.config import ExploreConfig
from hires.errors import HiresError
from hires.explore.model import Explorer
from hires.explore.server import application, serve
from hires.sampling.seeds import open_bundle


def run(config: ExploreConfig) -> int:
    """Serve a page on this machine to draw from a bundle, move between its pictures and reconstruct others, until Ctrl-C."""
    if not 0 <= config.port <= 65535:
        raise HiresError(f"port={config.port}: wanted 0 (any free one) to 65535")
    if not config.host:
        raise HiresError("host=: empty; wanted 127.0.0.1, or an address of this machine")
    bundle = open_bundle(config.sampler, config.device)
    explorer = Explorer(bundle, Path(config.sampler).resolve().name)
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

    asyncio.run(serve(application(explorer, names), config.host, config.port, ready))
    print("ended")
    return 0
