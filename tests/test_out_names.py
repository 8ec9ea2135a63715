"""A name of a picture that cannot be written is refused, and never becomes a folder."""

import pytest
from test_translate import DDIB, ends, picture, root  # noqa: F401

import sfumato
from sfumato.core.errors import UserError
from sfumato.data.folders import for_folder
from sfumato.data.listing import OTHER_PICTURES, PAGES, SUFFIXES, reads_as_picture
from sfumato.data.write import FORMATS, format_of
from sfumato.translation.pictures import translate

WRITTEN = [ending for holds in FORMATS.values() for ending in holds.endings]
REFUSED = [
    "heic",
    "HEIF",
    "avif",
    "jp2",
    "psd",
    "svg",
    "pdf",
    "gif",
    "raw",
    "dng",
    "bmp",
    "eps",
    "ico",
    "npy",
    "nii.gz",
]


@pytest.mark.parametrize("ending", REFUSED)
def test_a_translation_says_which_pictures_are_written(root, ends, tmp_path, ending):  # noqa: F811
    picture(tmp_path / "a.png", 0)
    file = tmp_path / f"x.{ending}"
    with pytest.raises(UserError) as error:
        translate(tmp_path / "a.png", file, **DDIB, **ends)
    assert f"{file}: expected a name that ends in .png, .tif, .jpg, .webp, such as " in str(error.value)
    assert "PNG, TIFF, JPEG and WebP are the formats that are written" in str(error.value)
    assert not file.exists()
    with pytest.raises(UserError, match="reads as a picture; expected a folder"):
        for_folder(file)


@pytest.mark.parametrize(
    "name", ["results.v2", "2026.11.29", "a.b.c", "heic", ".results", "lr0.1", "x.jpg.d"]
)
def test_a_folder_may_have_dots(root, ends, tmp_path, name):  # noqa: F811
    picture(tmp_path / "a.png", 0)
    translate(tmp_path / "a.png", tmp_path / name, **DDIB, **ends)
    assert (tmp_path / name / "a.png").is_file()


def test_a_folder_that_is_there_stays_one(root, ends, tmp_path):  # noqa: F811
    picture(tmp_path / "a.png", 0)
    (tmp_path / "x.heic").mkdir()
    translate(tmp_path / "a.png", tmp_path / "x.heic", **DDIB, **ends)
    assert (tmp_path / "x.heic/a.png").is_file()


@pytest.mark.parametrize("ending", sorted({*SUFFIXES, *OTHER_PICTURES, *PAGES} - {*WRITTEN}))
def test_no_ending_of_a_picture_names_a_folder(ending, tmp_path):
    assert reads_as_picture(f"x{ending.upper()}")
    for call in (sfumato.translate, lambda _, out, **__: format_of(out)):
        with pytest.raises(UserError, match="expected a name that ends in .png, .tif, .jpg, .webp"):
            call([], tmp_path / f"x{ending}", model="sfumato/earth_pairs")
