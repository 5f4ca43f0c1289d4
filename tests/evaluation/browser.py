"""A headless Chromium that a test drives through a pipe, by the DevTools protocol."""

import json
import os
import shutil
import subprocess

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--window-size=1400,1000")


class Page:
    """A page that is open in a browser of its own. errors: what its script raised and what it could not load."""

    def __init__(self, url, profile):
        ours, theirs = os.pipe(), os.pipe()
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}', "bash", CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(ours[0], theirs[1]),
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0]), os.close(theirs[1])
        self.out, self.read = os.fdopen(ours[1], "wb", buffering=0), os.fdopen(theirs[0], "rb")
        self.number, self.session, self.errors, self.asked = 0, {}, [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Runtime", "Page", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def call(self, method, **params):
        self.number += 1
        self.out.write(json.dumps({"id": self.number, "method": method, "params": params} | self.session).encode() + b"\0")
        while (message := self._next()).get("id") != self.number:
            self._note(message)
        assert "error" not in message, message
        return message["result"]

    def _next(self):
        data = bytearray()
        while (byte := self.read.read(1)) != b"\0":
            assert byte, "the browser is gone"
            data += byte
        return json.loads(data)

    def _note(self, message):
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        if method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    def __call__(self, expression):
        """The value of an expression of JavaScript, a promise's when it is kept."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, condition):
        assert self(
            f"new Promise(done => {{ const look = () => {condition} ? done(true) : setTimeout(look, 20); "
            "setTimeout(() => done(false), 20000); look(); })"
        ), condition

    def click(self, selector):
        """As a person: at the middle of an element."""
        x, y = self(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, text):
        self.call("Input.insertText", text=text)

    def close(self):
        self.out.close(), self.read.close()
        self.process.terminate()
        self.process.wait()
