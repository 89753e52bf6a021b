"""The page and its four questions over HTTP; the model answers them one at a time, in a thread beside the server."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import errno
import json
import logging
from pathlib import Path
import signal
import threading
from typing import Any

from aiohttp import web

from hires.errors import HiresError
from hires.explore.guards import NAMES, UPLOAD, answers
from hires.explore.model import Explorer

FILES = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def application(explorer: Explorer, names: set[str]) -> web.Application:
    """The page at /, its files, and /api/info, sample, decode and reconstruct (docs/reference/explore.md), for these host names."""
    app = web.Application(middlewares=[answers], client_max_size=UPLOAD)
    app[NAMES] = frozenset(names)
    model = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def ask(question: Callable[..., Any], **given: Any) -> Any:
        """One question at a time; a request whose browser has gone while it waited is never computed."""
        return await asyncio.get_running_loop().run_in_executor(model, lambda: question(**given))

    async def info(_: web.Request) -> web.Response:
        return web.json_response(explorer.info())

    async def sample(request: web.Request) -> web.Response:
        given = await _object(request, "seeds", "truncation")
        return web.json_response({"pictures": await ask(explorer.sample, **given)})

    async def decode(request: web.Request) -> web.Response:
        given = await _object(request, "points", "weights", "path", "truncation")
        return web.json_response(await ask(explorer.decode, **given))

    async def reconstruct(request: web.Request) -> web.Response:
        data = await request.read()
        if not data:
            raise HiresError("an empty body; wanted the bytes of a picture")
        try:
            return web.json_response(await ask(explorer.reconstruct, data=data))
        except HiresError as error:
            raise web.HTTPUnsupportedMediaType(text=str(error)) from error

    async def close(_: web.Application) -> None:
        model.shutdown(wait=False, cancel_futures=True)

    app.add_routes([web.get("/api/info", info), web.post("/api/sample", sample)])
    app.add_routes([web.post("/api/decode", decode), web.post("/api/reconstruct", reconstruct)])
    for file in sorted(FILES.iterdir()):  # these and no other: no path of a request ever becomes a file's name
        if file.suffix in TYPES:
            app.router.add_get("/" if file.name == "index.html" else f"/{file.name}", _file(file))
    app.on_cleanup.append(close)
    return app


def _file(file: Path) -> Callable:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=file.read_bytes(), content_type=TYPES[file.suffix], charset="utf-8")

    return answer


async def _object(request: web.Request, *keys: str) -> dict:
    """The request's JSON object, with at most these keys, the first one among them."""
    if request.content_type != "application/json":  # which no page of another site can send without being asked first
        raise web.HTTPUnsupportedMediaType(text=f"Content-Type {request.content_type}: wanted application/json")
    try:
        given = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise HiresError(f"not JSON ({' '.join(str(error).split())})") from error
    if not isinstance(given, dict) or keys[0] not in given or not given.keys() <= set(keys):
        raise HiresError(f"wanted a JSON object with {keys[0]} and, if need be, {', '.join(keys[1:])}")
    return given


async def serve(app: web.Application, host: str, port: int, ready: Callable[[str, int], None]) -> None:
    """Serves until SIGINT or SIGTERM, or cancelled; calls `ready` with host and port when the page can be opened (port 0: any free one).

    Raises HiresError where the address cannot be had.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    main = threading.current_thread() is threading.main_thread()  # Python takes no signals in others
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    quiet = logging.getLogger("hires.explore.protocol")
    quiet.setLevel(logging.CRITICAL)  # a request that is no HTTP is answered with 400; the terminal need not know
    runner = web.AppRunner(app, access_log=None, logger=quiet, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, UnicodeError) as error:  # the latter from an invalid name
            taken = getattr(error, "errno", None) == errno.EADDRINUSE
            reason = "in use; choose another port, or port=0 for any free one" if taken else getattr(error, "strerror", "no such address")
            raise HiresError(f"host={host} port={port}: {reason}") from error
        for number in heard:
            loop.add_signal_handler(number, stop.set)
        ready(*runner.addresses[0][:2])
        await stop.wait()
    finally:
        for number, handler in heard.items():  # a second Ctrl-C does not wait for the model
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
        await runner.cleanup()
