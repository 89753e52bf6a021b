"""Who may ask: the page itself, under this machine's own names; and what every answer says to the browser."""

from collections.abc import Awaitable, Callable
import ipaddress
import logging
from urllib.parse import urlsplit

from aiohttp import web

from hires.errors import HiresError

log = logging.getLogger(__name__)
NAMES = web.AppKey("names", frozenset)  # host names by which the page may be called
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

UPLOAD = 10 * 2**20  # bytes of a request's body
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@web.middleware
async def answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as {"error": "one line"} with its status, every answer with the headers above."""
    try:
        check_host(request)
        check_origin(request)
        response = await handler(request)
    except HiresError as error:
        response = web.json_response({"error": str(error)}, status=400)
    except web.HTTPRequestEntityTooLarge:
        response = web.json_response({"error": f"more than {UPLOAD // 2**20} MB; wanted a smaller picture"}, status=413)
    except web.HTTPException as error:
        response = web.json_response({"error": error.text or error.reason}, status=error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except Exception as error:  # the page gets a line, the terminal the traceback
        log.exception("%s %s", request.method, request.path)
        response = web.json_response({"error": f"{type(error).__name__}: {error}".splitlines()[0]}, status=500)
    response.headers.update(HEADERS)
    return response


def check_host(request: web.Request) -> None:
    """Refuses names that are not this machine's: a stranger's domain that was made to point here (DNS rebinding) carries its own name.

    An IP address is no such name. Any port is right: it may come through a tunnel.
    """
    name = _host_name(request.headers.get("Host", ""))
    if name in request.app[NAMES]:
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise web.HTTPForbidden(text=f"Host {name or 'missing'}: not a name of this machine; open the address that was printed") from None


def check_origin(request: web.Request) -> None:
    """Refuses what another site's page sends; a browser says of every such request where it comes from."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
    foreign = origin is not None and origin.partition("://")[2] != request.headers.get("Host")
    if foreign or (request.path.startswith("/api/") and site not in ("same-origin", "none")):
        raise web.HTTPForbidden(text="asked by another site's page; only this page may")


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
