"""How the page looks: fonts, colours, and where things are on a phone."""

from __future__ import annotations

from typing import Any

CSS = """
.sfumato-picture img { image-rendering: pixelated; }
.sfumato-picture .image-frame img { width: 100%; height: 100%; object-fit: contain; }
.sfumato-examples .grid-container { grid-template-columns: repeat(auto-fill, minmax(56px, 1fr)) !important;
                                    grid-auto-rows: auto; gap: 6px; }
.sfumato-examples .thumbnail-item { aspect-ratio: 1; width: 100%; height: auto; min-width: 0; }
.sfumato-picture .grid-wrap, .sfumato-picture .image-frame { padding-top: 2rem; }
.sfumato-unlabelled .grid-wrap { padding-top: 0.5rem; }
.sfumato-side .grid-container { gap: 6px; grid-auto-rows: auto;
    grid-template-columns: repeat(auto-fill, minmax(min(190px, 45%), 1fr)) !important; }
.sfumato-side .thumbnail-item { aspect-ratio: 1; width: 100%; height: auto; min-width: 0; }
.sfumato-head { align-items: start; }
.sfumato-status { min-height: 2.2em; }
.sfumato-notes:not(:has(.alert)) { display: none; }
.sfumato-said { font-size: var(--text-md); color: var(--body-text-color); }
.sfumato-said progress { width: 9em; vertical-align: middle; accent-color: var(--color-accent); }
.sfumato-said .alert { border-left: 4px solid #b91c1c; padding: 0.4em 0.8em; font-weight: 600; }
.sfumato-text pre { white-space: pre-wrap; overflow-wrap: anywhere; font-family: var(--font-mono);
                    font-size: var(--text-sm); color: var(--body-text-color); margin: 0; }
.sfumato-text table { border-collapse: collapse; color: var(--body-text-color); }
.sfumato-text td, .sfumato-text th { padding: 0.15em 0.9em 0.15em 0 !important; text-align: left;
                                     border: none !important; }
.sfumato-text table, .sfumato-text tr { border: none !important; }
.sfumato-text td.number, .sfumato-text th.number { text-align: right; }
.sfumato-text { overflow-x: auto; }
button[role=tab][aria-selected=true] { color: var(--primary-600) !important; }
.dark button[role=tab][aria-selected=true] { color: var(--primary-300) !important; }
@media (max-width: 640px) {  /* what is pressed and what it says stay in sight, and so do all tabs */
    .sfumato-bar { position: fixed; left: 0; right: 0; bottom: 0; z-index: 100; padding: 8px 16px !important;
                   gap: 4px; background: var(--background-fill-primary) !important;
                   border-top: 1px solid var(--border-color-primary); }
    .sfumato-picture { scroll-margin-bottom: 130px; }
    .sfumato-bar .row { flex-wrap: nowrap; }
    .sfumato-bar button { min-width: 0; padding: 8px; }
    .sfumato-bar .sfumato-said { max-height: 30vh; overflow-y: auto; }
    .gradio-container > main { padding-bottom: 130px !important; }
    button[role=tab] { padding-inline: 7px !important; font-size: var(--text-sm) !important; }
    .sfumato-head h1 { font-size: 1.3rem !important; }
    .sfumato-head { flex-wrap: nowrap; }
    .sfumato-upload { height: 130px !important; min-height: 0 !important; }
}
:focus-visible { outline: 2px solid var(--color-accent) !important; outline-offset: 2px; }
"""


def theme() -> Any:
    """System fonts, and colours whose contrast to their background is 4.5 or more, light and dark."""
    import gradio as gr

    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    mono = ("ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
    base = gr.themes.Default(
        primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=mono
    )
    return base.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        button_cancel_background_fill="*neutral_200", button_cancel_background_fill_dark="*neutral_700",
        button_cancel_text_color="*neutral_800", button_cancel_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700", block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800", block_title_text_color_dark="*neutral_100",
        link_text_color_dark="*primary_300", link_text_color_hover_dark="*primary_200",
        link_text_color_visited_dark="*primary_300", link_text_color_active_dark="*primary_300",
        input_placeholder_color="*neutral_600", input_placeholder_color_dark="*neutral_400",
    )  # fmt: skip
