"""Files of an address, fetched whole, checked, and asked for again where the network or the server fails."""

from collections.abc import Iterator
from contextlib import contextmanager
import hashlib
import logging
import os
import re
import time
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from .errors import DataError

log = logging.getLogger(__name__)
CHUNK = 1 << 20  # bytes held in memory at a time
USER = re.compile(r"//[^\s/'\"]*@")
QUERY = re.compile(r"(\w://[^\s?#'\"]*)[?#][^\s'\")]*")
AGAIN = (408, 425, 429)  # the client's errors that pass; the server's do, 500 and up


class Missing(DataError):
    """The server answered, and there is no such file."""


class Origin:
    """An address that files lie under: http, https, or any other scheme that fsspec knows, with the credentials that it finds.

    A fetch that fails is tried `attempts` times in all, after `pause`, 2 `pause`, 4 `pause`, ... seconds, each failure being logged as a
    warning of this module's logger. User, password and query of the address are sent with each request and never shown.
    """

    timeout = 30.0  # seconds without a byte that end an attempt over http; the libraries of other schemes have their own
    attempts = 5
    pause = 1.0

    def __init__(self, root: str):
        self._address = root
        parts = urlsplit(root)
        self._http = parts.scheme in ("http", "https")
        secrets = {text for text in (parts.query, parts.username, parts.password) if text}
        self._secrets = sorted(secrets | {unquote(text) for text in secrets}, key=len, reverse=True)
        self.shown = _shown(root).rstrip("/")  # the address without what must not be shown
        self._system: tuple[int, Any, str, str] = (0, None, "", "")

    def fetch(self, name: str, target: BinaryIO, size: int | None = None, sha256: str = "") -> None:
        """Writes a file into `target`, from its beginning.

        Raises Missing if there is no such file, DataError if it cannot be had, is not of `size` bytes or has not that hash, or cannot be
        written: naming the address, what was found and how often it was tried.
        """
        for attempt in range(1, self.attempts + 1):
            problem, last = self._try(name, target, size, sha256)
            if not problem:
                return
            if last or attempt == self.attempts:
                break
            wait = self.pause * 2 ** (attempt - 1)
            text = "%s/%s: %s; trying again in %g s (%d of %d attempts failed)"
            log.warning(text, self.shown, name, problem, wait, attempt, self.attempts)
            time.sleep(wait)
        raise DataError(f"{self.shown}/{name}: {problem}; given up after {attempt} attempt(s)")

    def _try(self, name: str, target: BinaryIO, size: int | None, sha256: str) -> tuple[str, bool]:
        """What was wrong ("" if nothing), and whether that will not pass."""
        system, base, query = self._connect()
        found, digest = 0, hashlib.sha256()
        # Over http, block_size=0 streams one answer rather than asking for ranges, and size only spares a question before it.
        how = {"block_size": 0, "size": 1} if self._http else {}
        with _writing(target):
            target.seek(0)
            target.truncate(size or 0)
        try:
            with system.open(f"{base}/{name}{query}", "rb", **how) as source:
                while chunk := source.read(CHUNK):
                    found += len(chunk)
                    if size is not None and found > size:
                        return f"more bytes than the {size} that the manifest says", False
                    digest.update(chunk)
                    with _writing(target):
                        target.write(chunk)
        except (FileNotFoundError, IsADirectoryError):
            raise Missing(f"{self.shown}/{name}: there is no such file") from None
        except (DataError, MemoryError):
            raise
        except Exception as error:  # each scheme's library has its own
            if isinstance(error, RuntimeError) and "shutdown" in str(error):
                raise SystemExit from None  # the interpreter ends, and with it, in silence, the thread that fetches ahead
            status = getattr(error, "status", None)
            lasting = isinstance(status, int) and 400 <= status < 500 and status not in AGAIN
            return self._describe(error, status, found, size), lasting or isinstance(error, PermissionError)
        with _writing(target):
            target.flush()
        if size is not None and found != size:
            return f"{found} bytes; the manifest says {size}", False
        if sha256 and digest.hexdigest() != sha256:
            return f"sha256 {digest.hexdigest()[:12]}...; the manifest says {sha256[:12]}... (start again if the set was remade)", False
        return "", False

    def _describe(self, error: Exception, status: object, found: int, size: int | None) -> str:
        if isinstance(status, int):
            text = f"HTTP {status} {getattr(error, 'message', '')}".strip()
        elif isinstance(error, TimeoutError):
            text = f"not a byte for {self.timeout:g} s" if self._http else "timed out"
        else:
            text = f"{getattr(error, 'strerror', None) or error or type(error).__name__}"
        text = _shown(" ".join(text.split()))
        for secret in self._secrets:
            text = text.replace(secret, "...")
        return f"{text} (after {found} of {size} bytes)" if found and size is not None else text

    def _connect(self) -> tuple[Any, str, str]:
        """The filesystem, made anew in a forked process, where fsspec's thread is gone; the path of the root in it, and the query."""
        if self._system[0] != os.getpid():
            address, query, options = self._address, "", {}
            try:
                import fsspec

                if self._http:
                    import aiohttp

                    limit = aiohttp.ClientTimeout(total=None, sock_connect=self.timeout, sock_read=self.timeout)
                    options = {"client_kwargs": {"timeout": limit, "trust_env": True, "read_bufsize": CHUNK}}
                    address, mark, query = address.partition("?")
                    query = mark + query
                system, base = fsspec.url_to_fs(address, skip_instance_cache=True, **options)
            except ImportError as error:
                raise DataError(f"{self.shown}: a package is missing ({error}): pip install what its scheme needs, such as s3fs") from None
            except ValueError as error:
                raise DataError(f"{self.shown}: {self._describe(error, None, 0, None)}; wanted an address that fsspec knows") from None
            self._system = (os.getpid(), system, base.rstrip("/"), query)
        return self._system[1:]


@contextmanager
def _writing(target: BinaryIO) -> Iterator[None]:
    """Tells a full disk from a failure of the network."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{getattr(target, 'name', 'memory')}: cannot be written ({error.strerror or error})") from error


def _shown(text: str) -> str:
    """The text without user, password and query of the addresses in it."""
    return QUERY.sub(r"\1", USER.sub("//", text))
