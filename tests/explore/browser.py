"""A headless Chromium driven through its DevTools protocol over a pipe: real mouse, touch, keys, dropped files and downloads."""

import base64
import json
import os
from pathlib import Path
import select
import subprocess
import tempfile
import time
from typing import Any

WAIT = 30  # seconds that a condition may take before the test fails
KEYS = {"Enter": ("\r", 13), "Tab": ("", 9), "Space": (" ", 32)}
KEYS |= {"ArrowRight": ("", 39), "ArrowLeft": ("", 37), "ArrowDown": ("", 40), "ArrowUp": ("", 38)}


class Browser:
    """One browser process; `page` opens a tab."""

    def __init__(self, command: list[str], env: dict[str, str]):
        self.folder = tempfile.TemporaryDirectory(prefix="hires-browser-")
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        flags = ["--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        flags += ["--no-first-run", f"--user-data-dir={self.folder.name}/profile", "about:blank"]
        # the protocol's pipe is file descriptors 3 and 4
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command, *flags]
        self.log = Path(self.folder.name) / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                shell, pass_fds=(theirs_in, theirs_out), env=os.environ | env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.buffer = 0, b""
        self.events: list[dict] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict:
        """One command of the protocol and its result; raises AssertionError where the browser refuses it."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method} {parameters}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.into], [], [], WAIT)
            part = os.read(self.into, 1 << 20) if ready else b""
            assert part, f"the browser says nothing; its log: {self.log.read_text(errors='replace')[-2000:]}"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def page(self, url: str, **size: int) -> "Page":
        """A new tab, with `width` and `height` as its viewport, when it has loaded."""
        return Page(self, url, **size)

    def close(self) -> None:
        """Ends the browser and removes what it wrote."""
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.into)
        self.folder.cleanup()


class Page:
    """A tab, and what a person does in it."""

    def __init__(self, browser: Browser, url: str, width: int = 1280, height: int = 800, phone: bool = False, dark: bool = False):
        self.browser = browser
        context = browser.call("Target.createBrowserContext")["browserContextId"]  # storage and downloads of its own
        self.target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.downloads = Path(tempfile.mkdtemp(dir=browser.folder.name))
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads), browserContextId=context)
        browser.events.clear()
        self.call("Page.navigate", url=url)
        self.until("document.readyState == 'complete' && location.href != 'about:blank'")

    def call(self, method: str, **parameters: Any) -> dict:
        """One command of the protocol to this tab."""
        return self.browser.call(method, self.session, **parameters)

    def js(self, expression: str) -> Any:
        """The value of an expression, awaited."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, f"{expression}: {done['exceptionDetails']}"
        return done["result"].get("value")

    def until(self, expression: str) -> Any:
        """Waits until an expression is true, and returns it."""
        deadline = time.monotonic() + WAIT
        while not (value := self.js(expression)):
            assert time.monotonic() < deadline, f"not within {WAIT} s: {expression}\n{self.js('document.body.innerText')}"
            time.sleep(0.02)
        return value

    def centre(self, selector: str) -> tuple[float, float]:
        """The middle of what a selector finds, scrolled into view, in the viewport's pixels; nothing may lie over it."""
        code = """(async () => {
            const e = document.querySelector(%s);
            if (!e) return null;
            e.scrollIntoView({block: 'nearest', inline: 'nearest', behavior: 'instant'});
            await new Promise(requestAnimationFrame);
            const r = e.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;
            const hit = document.elementFromPoint(x, y);
            return [x, y, e === hit || e.contains(hit) || hit?.closest('label')?.control === e, hit?.outerHTML.slice(0, 200)];
        })()"""
        found = self.js(code % json.dumps(selector))
        assert found, f"{selector}: not on the page"
        assert found[2], f"{selector}: under {found[3]}"
        return found[0], found[1]

    def click(self, selector: str) -> None:
        """The left button, or a tap where the page is a phone's."""
        self.press(*self.centre(selector))

    def press(self, x: float, y: float) -> None:
        """The left button down and up."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def mouse(self, kind: str, x: float, y: float, held: bool = False) -> None:
        """mouseMoved, mousePressed or mouseReleased, the left button."""
        button = "none" if kind == "mouseMoved" and not held else "left"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=int(button == "left"), clickCount=1)

    def drag(self, points: list[tuple[float, float]]) -> None:
        """From the first point through the others with the left button held."""
        self.mouse("mouseMoved", *points[0])
        self.mouse("mousePressed", *points[0])
        for point in points[1:]:
            self.mouse("mouseMoved", *point, held=True)
        self.mouse("mouseReleased", *points[-1])

    def swipe(self, points: list[tuple[float, float]]) -> None:
        """From the first point through the others with a finger."""
        for i, (x, y) in enumerate(points):
            self.call("Input.dispatchTouchEvent", type="touchMove" if i else "touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, name: str) -> None:
        """A key down and up, where the focus is."""
        text, code = KEYS[name]
        named = {"key": " " if name == "Space" else name, "code": name, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def drop(self, x: float, y: float, *files: Path) -> None:
        """Files from the desktop, let go at a point."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, selector: str, *files: Path) -> None:
        """Files in a file chooser's input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def downloaded(self, name: str) -> Path:
        """A download's file, when it is whole."""
        path, deadline = self.downloads / name, time.monotonic() + WAIT
        while not path.exists() or list(self.downloads.glob("*.crdownload")):
            assert time.monotonic() < deadline, f"no {name} among {[p.name for p in self.downloads.iterdir()]}"
            time.sleep(0.02)
        return path

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """The viewport, or the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """What the console holds: errors of scripts, breaches of the content policy, refused requests."""
        self.js("1")  # what was sent before it has arrived now
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        said = [event["params"]["exceptionDetails"] for event in mine if event["method"] == "Runtime.exceptionThrown"]
        said += [event["params"]["entry"] for event in mine if event["method"] == "Log.entryAdded"]
        return [json.dumps(one)[:500] for one in said]

    def requests(self) -> list[str]:
        """Every address that the page asked for."""
        self.js("1")
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"]["request"]["url"] for event in mine if event["method"] == "Network.requestWillBeSent"]

    def close(self) -> None:
        """Closes the tab."""
        self.browser.call("Target.closeTarget", targetId=self.target)
