"""Headless Chromium, spoken to over a pipe: the DevTools protocol with no driver and no port in between."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
).split()
_TIMEOUT = 60.0  # seconds


@contextmanager
def browser(profile: Path) -> Iterator["Browser"]:
    """A browser with the empty folder `profile` for its user data; where there is none, the test is skipped."""
    if CHROMIUM is None:
        pytest.skip("There is no `chromium` on the PATH; install Debian's chromium to have pages looked at.")
    one = Browser(profile)
    try:
        yield one
    finally:
        one.close()


class Browser:
    """One process of the browser."""

    def __init__(self, profile: Path):
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # The browser reads commands from descriptor 3 and writes answers to 4. Copies far from these, since none may
        # be overwritten before it was moved there.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (commands, answers)]
        self._pid = os.posix_spawn(
            CHROMIUM,
            [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, ends[0], 3),
                (os.POSIX_SPAWN_DUP2, ends[1], 4),
            ],
            setpgroup=0,
        )
        for end in (commands, answers, *ends):
            os.close(end)
        self._unread = b""
        self._number = 0
        self.events: list[dict] = []

    def call(self, method: str, session: str | None = None, **params) -> dict:
        """Sends one command of the protocol and gives its result; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        os.write(self._commands, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._read(_TIMEOUT)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method: str, session: str) -> None:
        """Waits until an event came, which it takes from the events."""
        while True:
            for event in self.events:
                if event.get("method") == method and event.get("sessionId") == session:
                    self.events.remove(event)
                    return
            self.events.append(self._read(_TIMEOUT))

    def _read(self, seconds: float) -> dict:
        end = time.monotonic() + seconds
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the browser said nothing for {seconds} s"
            some = os.read(self._answers, 1 << 16)
            assert some, "the browser ended"
            self._unread += some
        message, self._unread = self._unread.split(b"\0", 1)
        return json.loads(message)

    def close(self) -> None:
        """Ends the process and all that it started."""
        os.close(self._commands)
        os.close(self._answers)
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


class Page:
    """One page in the browser, as a device of a certain size shows it.

    Attributes:
        requests: the addresses of everything that was asked for, the page itself first.
        complaints: what the console and the log said, and what was thrown.
    """

    def __init__(
        self, browser: Browser, url: str, *, width: int, height: int, scheme: str = "light", scripts: bool = True
    ):
        self._browser = browser
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.emulate(scheme)
        if not scripts:
            self.call("Emulation.setScriptExecutionDisabled", value=True)
        self.call("Page.navigate", url=url)
        browser.wait_for("Page.loadEventFired", self._session)

    def call(self, method: str, **params) -> dict:
        """Sends one command to this page."""
        return self._browser.call(method, self._session, **params)

    def emulate(self, scheme: str, media: str = "") -> None:
        """Shows the page in the colour scheme `"light"` or `"dark"`, and for the medium `"print"` if that is given."""
        self.call(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def evaluate(self, expression: str):
        """The value of an expression of JavaScript, as JSON has it."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_until(self, expression: str) -> None:
        """Waits until an expression of JavaScript is true."""
        end = time.monotonic() + _TIMEOUT
        while not self.evaluate(expression):
            assert time.monotonic() < end, (
                f"after {_TIMEOUT} s not {expression}: {self.evaluate('document.body.innerText')}"
            )
            time.sleep(0.05)

    def write(self, text: str) -> None:
        """Writes a text into the first box of the page, in place of what is there."""
        self.evaluate("(box => { box.focus(); box.select(); })(document.querySelector('textarea'))")
        self.call("Input.insertText", text=text)

    def press_enter(self) -> None:
        """Presses Enter where the focus is."""
        enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **enter)
        self.call("Input.dispatchKeyEvent", type="keyUp", **enter)

    def click(self, label: str) -> None:
        """Clicks the button whose text begins so."""
        buttons = "[...document.querySelectorAll('button')]"
        self.evaluate(f"{buttons}.find(one => one.innerText.trim().startsWith({json.dumps(label)})).click()")

    def screenshot(self, path: Path) -> None:
        """Writes a picture of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(picture["data"]))

    def _events(self, method: str) -> list[dict]:
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event.get("method") == method
        ]

    @property
    def requests(self) -> list[str]:
        return [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[dict]:
        return [
            event
            for method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
            for event in self._events(method)
        ]

    def close(self) -> None:
        """Closes the page."""
        self._browser.call("Target.closeTarget", targetId=self.target)
