"""The studio behind an address: the page, what it may read, and how much it does at once."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sfumato.checkpoints.hub import address, fetched
from sfumato.core.arguments import checked
from sfumato.core.errors import UserError, not_installed
from sfumato.core.terminal import say
from sfumato.studio.room import Room, ended_by_signals

TITLE = "sfumato studio"
INTRO = """# sfumato studio
Dissolve a picture of one domain into noise, or part of the way, and let it re-emerge in another."""

OPEN = (
    "warning: whoever can reach {host} can use the studio, and see the names of its folders: "
    "--password WORD asks for one"
)
ASK = "Any user name, and the password that the studio was started with."
WRONG = 1.0
"""Seconds that a wrong password takes."""


@checked
def studio(
    folders: Sequence[str | Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    password: str | None = None,
    names: list[str] | None = None,
    framed_by: list[str] | None = None,
    wait: bool = True,
) -> Any:
    """Opens the studio in a browser's reach, until Ctrl-C.

    Args:
        folders: model folders, also hf://OWNER/NAME, folders of them, folders of pictures; nothing else is
            read.
        host: address to listen at: 127.0.0.1 serves this machine alone, 0.0.0.0 whoever can reach it.
        port: port to listen at; 0 takes a free one.
        password: password that every visitor is asked for; by default the environment variable
            SFUMATO_STUDIO_PASSWORD, which other users of the machine cannot see, or none.
        names: another name under which it is reached, such as a proxy's; repeat the flag for more.
            Requests under other names are refused.
        framed_by: a site that may show it in a frame, such as https://huggingface.co; repeat the flag for
            more.
        wait: return only when it is closed; otherwise call `close()` on what is returned.

    Raises:
        UserError: if gradio is missing, the password is empty, or a folder is missing or holds neither a
            model nor pictures; if the address is none of this machine, or the port is none or taken; or if a
            name is none, or a site.
    """
    if find_spec("gradio") is None:
        raise not_installed("gradio", "studio")
    password = os.environ.get("SFUMATO_STUDIO_PASSWORD") if password is None else password
    if password == "":
        raise UserError("the password is empty: expected a word, or none at all")
    from sfumato.studio.guard import beyond, check_sites

    check_sites(names or [], framed_by or [])
    folders = tuple(map(_here, folders))
    say("starting the studio, which takes some seconds")
    with ended_by_signals() if wait else contextlib.nullcontext():
        room = Room()
        # read by gradio when the page is made: uploads and results go with the folder
        cache = Path(room.name) / "cache"
        os.environ["GRADIO_TEMP_DIR"] = str(cache)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))  # made at an import, empty
        page = None
        try:
            page = build(folders, Path(room.name))
            page.room = room  # goes with the page
            guard = {"names": names or [], "framed_by": framed_by or [], "cache": cache}
            _launch(page, host, port, password, guard)
            if beyond(host) and not password:
                say(OPEN.format(host=host), file=sys.stderr)
            say(f"the studio is open at {page.local_url} (Ctrl-C closes it)")
            if wait:
                page.block_thread()
        except BaseException:
            _close(page, room)
            raise
        if wait:
            _close(page, room)
    return page


def _here(folder: str | Path) -> str | Path:
    """A folder that was named; a model of the Hub is fetched, while the Hub may be asked."""
    if (at := address(folder)) is None:
        return folder
    if at.domain is not None:
        raise UserError(f"{folder} is one domain: name the model, {at._replace(domain=None)}")
    return fetched(at.repo, at.revision)


def _free(host: str, port: int) -> None:
    """Sees that the studio can listen there; gradio would try for ever, or speak of its own options.

    Raises:
        UserError: the port is none, the address is none of this machine, or something listens there.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"there is no port {port}: expected --port 1 to 65535, or 0 for a free one")
    try:
        family, kind, _, _, place = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as there:
            if os.name == "posix":  # elsewhere this shares the port
                there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            there.bind(place)
    except (socket.gaierror, UnicodeError):
        raise UserError(
            f"there is no address {host!r}: expected one of this machine's, such as --host 127.0.0.1"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(
                f"{host} is not an address of this machine: expected one, such as --host 127.0.0.1"
            ) from None
        why = "something listens there" if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(
            f"port {port} of {host} cannot be taken ({why}): choose another, such as "
            f"--port {port + 1 if port + 1 < 2**16 else 0}"
        ) from None


def _close(page: Any, room: Room) -> None:
    """Ends the server, which might still write, and removes what was made."""
    if page is not None:
        # streams that visitors hold open end with the server: that is no error
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        page.close(verbose=False)
    room.cleanup()


def _refuse_addresses() -> None:
    """Gradio would fetch pictures whose place is an http address; nothing leaves this machine."""
    from gradio import processing_utils

    async def refuse(url: str, cache_dir: str) -> str:
        raise UserError("addresses are not read: upload the picture")

    processing_utils.async_ssrf_protected_download = refuse


def _say_unfit_requests() -> None:
    """Gradio shows a trace for whatever a request ends in, also where the page sends none such."""
    from gradio import queueing, routes

    from sfumato.studio.guard import said

    def print_exc() -> None:
        if (error := sys.exception()) and not said(error):
            traceback.print_exc()

    own: Any = SimpleNamespace(**vars(traceback) | {"print_exc": print_exc})
    queueing.traceback = routes.traceback = own


def _launch(page: Any, host: str, port: int, password: str | None, guard: dict[str, Any]) -> None:
    import asyncio
    import hmac

    from starlette.middleware import Middleware

    from sfumato.studio import limits
    from sfumato.studio.guard import Guard
    from sfumato.studio.look import CSS, theme

    async def admits(name: str, given: str) -> bool:
        if hmac.compare_digest(given.encode(), str(password).encode()):
            return True
        await asyncio.sleep(WRONG)
        return False

    _free(host, port)
    page.launch(
        auth=admits if password else None, auth_message=ASK, inline=False,
        app_kwargs={"middleware": [Middleware(Guard, host=host, **guard)]}, server_name=host,
        server_port=port or None, share=False, quiet=True, prevent_thread_lock=True, show_error=False,
        max_file_size=limits.BYTES, state_session_capacity=limits.SESSIONS,
        footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False,
        mcp_server=False, theme=theme(), css=CSS,
    )  # fmt: skip


def build(folders: Sequence[str | Path], room: Path) -> Any:
    """The page, not yet served.

    Args:
        folders: see `studio`.
        room: an existing folder for what is made while it runs.
    """
    import gradio as gr

    from sfumato.studio import about_tab as about
    from sfumato.studio import choices as given
    from sfumato.studio import compare_tab as comparing
    from sfumato.studio import data_tab as data
    from sfumato.studio import inside_tab as inside
    from sfumato.studio import limits
    from sfumato.studio import translate_tab as translating
    from sfumato.studio.jobs import Shelf

    _refuse_addresses()
    _say_unfit_requests()
    known, shelf = given.gather(folders), Shelf(room)
    _warm()
    hour = 3600
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(hour, hour)) as page:
        with gr.Row(elem_classes="sfumato-head"):
            gr.Markdown(INTRO)
            refresh = gr.Button("Refresh", size="sm", elem_id="refresh", scale=0, min_width=90)
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Translate"):
                frames = translating.build(known, shelf)
            with gr.Tab("Compare"):
                comparing.build(known, shelf)
            with gr.Tab("Inside") as tab:
                opened = inside.build(known, shelf, frames)
            with gr.Tab("Data"):
                data.build(known)
            with gr.Tab("About"):
                about.build(known)
        gr.on(
            [page.load, refresh.click], partial(_again, known), None, [c for c, _ in known.offered],
            show_progress="hidden", api_visibility="private", queue=False,
        )  # fmt: skip
        tab.select(*opened, show_progress="hidden", api_visibility="private", queue=False)
    page.queue(max_size=limits.WAITING, api_open=False, default_concurrency_limit=4)
    return page


def _again(known: Any) -> list[Any]:
    """The choices as they are now: models may have been saved since the start."""
    import gradio as gr

    known.look()
    return [gr.update(**now()) for _, now in known.offered]


def _warm() -> None:
    """One small translation, so that the first visitor does not wait for what a process does once."""
    import torch

    from sfumato.translation.translator import run_translator, translator

    part = translator("ddib", source="sfumato/digits:2", target="sfumato/digits:3")
    run_translator(part, torch.zeros(1, 3, 32, 32), options={"steps": 2})
