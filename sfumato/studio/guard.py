"""Who may ask the studio at all: its own page, at its own address, with bodies of a bounded size.

A page of another site can make a browser send requests here, and can have its own name point to this machine
(DNS rebinding).  So a request is answered only under a name of the studio, and only if no other site sent it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sfumato.core.errors import UserError
from sfumato.core.terminal import say
from sfumato.studio import limits

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Between the server and gradio's application.

    Args:
        app: the application, as ASGI.
        host: address that the server listens at.
        names: other names that it is reached by, as those of a proxy.
        framed_by: sites that may show it in a frame.
        cache: folder of the uploads.
    """

    def __init__(
        self, app: Any, host: str, names: Sequence[str], framed_by: Sequence[str], cache: Path
    ) -> None:
        self.app, self.cache, self.coming = app, cache, 0
        self.given = {name.lower() for name in names}
        self.names = self.given | {host.strip("[]").lower(), *LOOPBACK}
        self.open = beyond(host)
        if self.open:
            here = socket.gethostname().lower()
            self.names |= {here, f"{here}.local"}
        ancestors = " ".join(framed_by) or "'none'"
        self.headers = [(b"content-security-policy", f"frame-ancestors {ancestors}".encode())]
        if not framed_by:
            self.headers.append((b"x-frame-options", b"DENY"))

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # gradio opens no websockets
            return await send({"type": "websocket.close"})
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}

        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        upload = scope["path"].rstrip("/").endswith("/upload")

        async def refuse(status: int, text: str) -> None:
            kind = [(b"content-type", b"text/plain; charset=utf-8")]
            await answer({"type": "http.response.start", "status": status, "headers": kind})
            await answer({"type": "http.response.body", "body": text.encode()})

        if refused := self.foreign(headers) or self.too_much(scope["method"], headers, upload):
            return await refuse(*refused)
        length = int(headers.get("content-length", 0)) if upload else 0
        self.coming += length
        try:
            return await self.app(scope, receive, answer)
        except Exception as error:
            if begun or not said(error):
                raise
            await refuse(400, "the studio's page sends no such request")
        finally:
            self.coming -= length

    def foreign(self, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason, if a request is for another name, or from another site."""
        host = headers.get("host", "").lower()
        if not self.known(_name(host)):
            return 403, "this is not an address of the studio: open the one that it printed"
        origin = urlsplit(headers.get("origin", f"http://{host}").lower())
        own = origin.netloc == host or origin.hostname in self.given
        # a browser that sends no Origin with a picture's or a script's request says this
        inner = headers.get("sec-fetch-mode", "navigate") != "navigate"
        if not own or (inner and headers.get("sec-fetch-site") in ("cross-site", "same-site")):
            return 403, "a page of another site asked: the studio answers its own alone"
        return None

    def known(self, name: str) -> bool:
        """Whether the studio is reached by this name; another site's name can point to any number."""
        return name in self.names or (self.open and _is_number(name))

    def too_much(self, method: str, headers: dict[str, str], upload: bool) -> tuple[int, str] | None:
        """Status and reason, if a request's body is too large, or does not say how large it is."""
        if method != "POST":
            return None
        if "transfer-encoding" in headers or not headers.get("content-length", "").isdecimal():
            return 411, "a body of unknown length: say Content-Length"
        length, most = int(headers["content-length"]), limits.UPLOAD if upload else limits.REQUEST
        if length > most:
            return 413, f"{length:,} bytes at once: expected at most {most:,}"
        if not upload:
            return None
        held = _bytes(self.cache)
        if held + self.coming + length > limits.UPLOADS:
            return 413, (
                f"the studio holds {held:,} bytes of uploads, and this has {length:,}: expected at most "
                f"{limits.UPLOADS:,}; wait until they are removed, two hours at most, or start it anew"
            )
        return None


def said(error: BaseException) -> bool:
    """Says in one line what a request ended in, unless a line of sfumato failed, which is a bug."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = frames and Path(frames[-1].filename).is_relative_to(Path(__file__).parents[1])
    if ours and not isinstance(error, UserError):
        return False
    why = " ".join(f"{type(error).__name__}: {error}".split())
    say(f"refused a request: {why[:200]}", file=sys.stderr)
    return True


NAME = r"[\w-]+(\.[\w-]+)*"
SITE = rf"https?://({NAME}|\[[0-9a-fA-F:.]+\])(:[0-9]{{1,5}})?"


def check_sites(names: Sequence[str], framed_by: Sequence[str]) -> None:
    """Sees that these are names of hosts, and sites: what they are put into is a header.

    Raises:
        UserError: one is not.
    """
    for name in names:
        if not (re.fullmatch(NAME, name, re.ASCII) or _is_number(name)):
            raise UserError(f"--names {name!r} is no name of a host: expected one such as studio.example.org")
    for site in framed_by:
        if not re.fullmatch(SITE, site, re.ASCII):
            raise UserError(
                f"--framed-by {site!r} is no site: expected its scheme and host, and a port if it has one of "
                f"its own, such as https://huggingface.co or http://127.0.0.1:8000"
            )


def beyond(host: str) -> bool:
    """Whether others than this machine reach the address."""
    host = host.strip("[]")
    return not ip_address(host).is_loopback if _is_number(host) else host.lower() != "localhost"


def _bytes(folder: Path) -> int:
    """Of all files below a folder; some may go meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _name(host: str) -> str:
    """The name of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_number(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
