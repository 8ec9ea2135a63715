"""The studio behind an address: the page, what it may read, and how much it does at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sfumato.errors import UserError, not_installed
from sfumato.terminal import say

TITLE = "sfumato studio"
INTRO = """# sfumato studio
Dissolve a picture of one domain into noise, or part of the way, and let it re-emerge in another."""


def studio(
    folders: Sequence[str | Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    wait: bool = True,
) -> Any:
    """Opens the studio in a browser's reach, until Ctrl-C.

    Args:
        folders: model folders, folders of them, and folders of pictures; nothing else is read.
        host: address to listen at; 127.0.0.1 is this machine alone, 0.0.0.0 whoever can reach it.
        port: to listen at, 0 for a free one.
        wait: return only when it is closed; otherwise call `close()` on what is returned.

    Raises:
        UserError: if gradio is missing, or a folder is missing or holds neither a model nor pictures.
        OSError: if the port is taken.
    """
    if find_spec("gradio") is None:
        raise not_installed("gradio", "studio")
    room = tempfile.TemporaryDirectory(prefix="sfumato-studio-", ignore_cleanup_errors=True)
    # read by gradio when the page is made: uploads and results go with the folder
    os.environ["GRADIO_TEMP_DIR"] = str(Path(room.name) / "cache")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        page = build(folders, Path(room.name))
        page.room = room  # goes with the page
        _launch(page, host, port)
        say(f"the studio is open at {page.local_url} (Ctrl-C closes it)")
        if wait:
            page.block_thread()
    except BaseException:
        room.cleanup()
        raise
    if wait:
        room.cleanup()
    return page


def _refuse_addresses() -> None:
    """Gradio would fetch pictures whose place is an http address; nothing leaves this machine."""
    from gradio import processing_utils

    async def refuse(url: str, cache_dir: str) -> str:
        raise UserError("addresses are not read: upload the picture")

    processing_utils.async_ssrf_protected_download = refuse


def _launch(page: Any, host: str, port: int) -> None:
    from . import limits
    from .page import CSS, theme

    page.launch(
        server_name=host, server_port=port or None, share=False, quiet=True, prevent_thread_lock=True,
        show_error=False, max_file_size=limits.BYTES, state_session_capacity=limits.SESSIONS,
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

    from . import about, comparing, data, given, inside, limits, translating
    from .jobs import Shelf

    _refuse_addresses()
    known, shelf = given.gather(folders), Shelf(room)
    _warm()
    hour = 3600
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(hour, hour)) as page:
        gr.Markdown(INTRO)
        with gr.Tabs():
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
        tab.select(*opened, show_progress="hidden", api_visibility="private", queue=False)
    page.queue(max_size=limits.WAITING, api_open=False, default_concurrency_limit=4)
    return page


def _warm() -> None:
    """One small translation, so that the first visitor does not wait for what a process does once."""
    import torch

    from sfumato.translate import run_translator, translator

    part = translator("ddib", source="sfumato/digits:2", target="sfumato/digits:3")
    run_translator(part, torch.zeros(1, 3, 32, 32), options={"steps": 2})
