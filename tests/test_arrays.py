"""Arrays read as pictures: `.npy`, and the slices of DICOM and NIfTI."""

import gzip
import io
import pickle
import struct
import sys
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

import sfumato
from sfumato.cli import main as cli
from sfumato.core.errors import UserError
from sfumato.data.carried import NOTHING, carried_by
from sfumato.data.decode import Refused, decode, inspect
from sfumato.data.listing import list_pictures, stem_of
from sfumato.data.preparation import Preparation
from sfumato.data.read import header_of, pages_of, read_file
from sfumato.studio.uploads import admit
from sfumato.translation.pictures import translate

RNG = np.random.default_rng(0)
SMALL = {"size": 16, "batch": 2, "held_out": 0, "preview_every": 0, "quiet": True, "steps": 2}
CT = RNG.integers(0, 4096, (3, 6, 8)).astype(np.int16)  # slices, rows, columns
NAME = b"Doe^Jane"


def npy(x, **how):
    file = io.BytesIO()
    np.lib.format.write_array(file, x, **how)
    return file.getvalue()


def header(shape, descr="<f4"):
    file = io.BytesIO()
    form = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, form)
    return file.getvalue()


def dicom(frames, colours="MONOCHROME2", stored=None, syntax="1.2.840.10008.1.2.1", **more):
    """A DICOM of frames (N, H, W) or (N, H, W, 3)."""
    pydicom = pytest.importorskip("pydicom")
    ds = pydicom.Dataset()
    bits = 8 * frames.itemsize
    ds.PatientName, ds.SOPClassUID, ds.SOPInstanceUID = NAME.decode(), "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape[:3]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = frames[0, 0, 0].size, colours
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, stored or bits, (stored or bits) - 1
    ds.PixelRepresentation, ds.PlanarConfiguration = int(frames.dtype.kind == "i"), 0
    ds.PixelData = frames.tobytes()
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    for tag, value in more.items():
        setattr(ds, tag, value)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(file, ds, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return file.getvalue()


def nifti(volume, slope=None, inter=0.0, two=False):
    """A NIfTI of a volume (X, Y, ...)."""
    nibabel = pytest.importorskip("nibabel")
    image = (nibabel.Nifti2Image if two else nibabel.Nifti1Image)(volume, np.eye(4), dtype=volume.dtype)
    data = bytearray(image.to_bytes())
    if slope is not None:  # nibabel computes its own on writing
        struct.pack_into("<dd" if two else "<ff", data, 176 if two else 112, slope, inter)
    return bytes(data)


# ---- NumPy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i2", ">i4", "<f4", ">f8", "<f2", "<i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_of_npy_are_those_of_numpy(dtype, order):
    gray = (RNG.random((5, 7)) * 250).astype(dtype)
    colour = (RNG.random((5, 7, 3)) * 250).astype(dtype)
    many = (RNG.random((9, 7, 6)) * 250).astype(dtype)
    for x, wanted, made in (
        (gray, gray[..., None], None), (colour, colour, None), (colour.transpose(2, 0, 1), colour, None),
        (colour[:2], colour[:2], None),
        (many, many, 6), (many[..., :5].transpose(2, 0, 1), many[..., :5], 5),
    ):  # fmt: skip
        data = npy(np.array(x, order=order))
        found = decode(data, ranged=True, bands=made)
        assert np.array_equal(found.samples, wanted)
        assert found.samples.dtype == np.dtype(dtype).newbyteorder("=")
        bands = found.samples.shape[2]
        assert found.header == inspect(data) == ("NPY", 7, len(wanted), 1, found.samples.dtype.name, bands)
        assert found.lost == {}


def test_npy_takes_a_range_as_tiff_does(tmp_path):
    for x in (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint16)):
        assert decode(npy(x)).samples.dtype == x.dtype
    np.save(tmp_path / "x.npy", CT[0])
    with pytest.raises(UserError, match=r"x.npy has int16 samples, whose range is not known: state it by"):
        Preparation().read(tmp_path / "x.npy")
    image, size, lost = Preparation(range=(0, 4095), channels=1).read(tmp_path / "x.npy")
    assert (size, lost) == ((6, 8), {})
    assert abs((image[0].numpy() + 1) * 4095 / 2 - CT[0]).max() < 1e-3
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 1] = np.nan
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(UserError, match=r"x.npy: the picture has values that are not numbers"):
        Preparation(range=(0, 1)).read(tmp_path / "x.npy")
    with pytest.raises(Refused, match=r"has 7 bands and does not say .*: train with --channels 7"):
        decode(npy(np.zeros((9, 9, 7), np.uint8)))
    with pytest.raises(Refused, match="has 7 bands, expected 5, as a model or --channels says"):
        decode(npy(np.zeros((9, 9, 7), np.uint8)), bands=5)


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def test_nothing_is_unpickled(tmp_path):
    objects = np.array([[Runs(tmp_path / "ran"), 1], [2, 3]], object)
    for data, why in (
        (npy(objects, allow_pickle=True), "holds Python objects, which may run code"),
        (pickle.dumps(objects), "is not an image"),
    ):
        for look in (inspect, decode):
            with pytest.raises(Refused, match=why):
                look(data)
    assert not (tmp_path / "ran").exists()


BROKEN = {
    "a part of its pixels is missing": [header((4, 4)), npy(np.zeros((4, 4)))[:-1]],
    "expected at most 100,000,000": [header((10**5, 10**5)), header((3, 99_999), "u1")],
    "unpacks to 9,000,000,000 bytes": [header((30_000, 3000, 100), "u1")],
    "holds values of type": [header((4, 4), "<c8"), header((4, 4), "|b1"), header((4, 4), "<U3")],
    r"has shape \(4,\): expected \(H, W\)": [header((4,))],
    r"has shape \(2, 3, 4, 5\): expected": [header((2, 3, 4, 5))],
    "is empty": [header((0, 4)), header((4, -4))],
    "is broken": [b"\x93NUMPY", b"\x93NUMPY\1\0\xff\xff{", header((4, 4)).replace(b"shape", b"spahe")],
    r"is of NumPy's format 9\.0": [b"\x93NUMPY\x09\0" + header((4, 4))[8:]],
}


@pytest.mark.parametrize("why", BROKEN)
def test_broken_arrays_are_refused_before_anything_is_made_of_them(why):
    tracemalloc.start()
    for data in BROKEN[why]:
        with pytest.raises(Refused, match=why):
            decode(data, ranged=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_they_are_among_a_folders_pictures(tmp_path):
    for name in ("a.npy", "b.nii.gz", "c.NII", "d.dcm", "e.npz", "f.gz", "g.png"):
        (tmp_path / name).write_bytes(b"x")
    found = list_pictures(tmp_path)
    assert [f.name for f in found.files] == ["a.npy", "b.nii.gz", "c.NII", "d.dcm", "g.png"]
    assert found.left_out == {"of a kind that is not read": ["e.npz"], "other files": ["f.gz"]}
    assert [stem_of(f"s.1/{n}") for n in ("b.nii.gz", "a.b.tif", "x.gz")] == ["s.1/b", "s.1/a.b", "s.1/x"]


def test_they_do_not_come_into_the_studio(tmp_path):
    for name in ("x.npy", "x.png"):
        (tmp_path / name).write_bytes(npy(np.zeros((8, 8), np.uint8)))
        with pytest.raises(UserError, match=f"{name} is (of a kind that is not read|NPY by its content)"):
            admit(tmp_path / name)


def test_a_scanners_floats_are_translated(tmp_path, capsys):
    for side in ("noisy", "clean"):
        (tmp_path / side).mkdir()
        for i in range(4):
            np.save(tmp_path / side / f"{i}.npy", (RNG.random((16, 16)) * 4000 - 1000).astype(np.float32))
    how = SMALL | {"options": {"net": "tiny", "channels": 1}, "range": (-1000, 3000)}
    sfumato.train("pix2pix", [tmp_path / "noisy", tmp_path / "clean"], tmp_path / "run", **how)
    translate(tmp_path / "noisy", tmp_path / "out", model=tmp_path / "run")
    made = tifffile.imread(tmp_path / "out/2.tif")
    assert (made.dtype, made.shape) == (np.float32, (16, 16))
    assert -1000 <= made.min() < made.max() <= 3000
    seen = sfumato.read(tmp_path / "noisy/2.npy", like=sfumato.load(tmp_path / "run"))
    assert abs((seen[0].numpy() + 1) * 2000 - 1000 - np.load(tmp_path / "noisy/2.npy")).max() < 1e-3
    with pytest.raises(SystemExit):
        cli.main(["translate", str(tmp_path / "noisy/2.npy"), "--out", str(tmp_path / "x.npy"),
                  "--model", str(tmp_path / "run")])  # fmt: skip
    assert "expected a name that ends in .png, .tif" in capsys.readouterr().err


def test_the_doctor_sees_them(tmp_path):
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", (RNG.random((32, 32)) * 4000).astype(np.float32))
    assert "--range" in str(sfumato.doctor(tmp_path, measure=False).findings)
    found = sfumato.doctor(tmp_path, range=(0, 4000), measure=False).findings
    assert {f.kind for f in found} == {"count", "splits"}


# ---- DICOM ---------------------------------------------------------------------------------------


def test_frames_of_dicom_are_pages_in_their_units():
    data = dicom(CT, stored=13, RescaleSlope="1", RescaleIntercept="-1024")
    assert inspect(data) == ("DICOM", 8, 6, 3, "int16", 1)
    for page in range(3):
        found = decode(data, ranged=True, page=page)
        assert np.array_equal(found.samples[..., 0], CT[page] - 1024)
        assert (found.samples.dtype, found.lost) == (np.int16, {})
    assert decode(data, ranged=True).lost == {"pages": "3 pictures"}
    with pytest.raises(Refused, match="has int16 samples, whose range is not known: state it by --range"):
        decode(data)
    with pytest.raises(Refused, match="has no page 4, but 3 pages"):
        inspect(data, page=3)
    assert inspect(dicom(CT, RescaleSlope="1", RescaleIntercept="-1024")).dtype == "int32"
    halves = decode(dicom(CT, RescaleSlope="0.5", RescaleIntercept="-3"), ranged=True).samples
    assert halves.dtype == np.float32
    assert np.array_equal(halves[..., 0], CT[0] / 2 - 3)
    more = dicom(gray := CT.astype(np.uint16), stored=12)[:-2] + b"\xff\xff"  # bits beyond do not count
    assert decode(more, page=2).samples[-1, -1, 0] == 4095
    doubled = dicom(gray % 256, stored=8, RescaleSlope="2", RescaleIntercept="0")
    assert inspect(doubled).dtype == "int16"  # never a type whose range is known


def test_each_frame_may_have_a_scale_of_its_own():
    pydicom = pytest.importorskip("pydicom")

    def group(slope):
        scale, outer = pydicom.Dataset(), pydicom.Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = slope, 7
        outer.PixelValueTransformationSequence = [scale]
        return outer

    data = dicom(CT, PerFrameFunctionalGroupsSequence=[group(n) for n in (1, 2, 3)])
    for page in range(3):
        found = decode(data, ranged=True, page=page).samples
        assert np.array_equal(found[..., 0], CT[page].astype(int) * (page + 1) + 7)
    data = dicom(CT, SharedFunctionalGroupsSequence=[group(4)])
    assert decode(data, ranged=True).samples.max() == 4 * int(CT[0].max()) + 7


def test_white_may_be_the_least_value_and_colours_are_rgb():
    gray = CT.astype(np.uint16)
    turned = decode(dicom(gray, "MONOCHROME1", stored=12)).samples
    assert np.array_equal(turned[..., 0], 4095 - gray[0])
    colours = RNG.integers(0, 256, (1, 6, 8, 3), np.uint8)
    found = decode(dicom(colours, "RGB"))
    assert np.array_equal(found.samples, colours[0])
    assert found.header == ("DICOM", 8, 6, 1, "uint8", 3)


def test_nothing_of_a_patient_is_carried():
    data = dicom(CT)
    assert NAME in data
    assert carried_by(data) == NOTHING
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, np.zeros((8, 8), np.uint8), extratags=[(315, 2, None, NAME.decode(), True)])
    both = tiff.getvalue()[:128].ljust(128, b"\0") + data[128:]  # the preamble may be a TIFF's header
    assert inspect(both).kind == "DICOM"
    assert carried_by(both) == NOTHING


def test_what_dicom_is_not_read():
    gray = CT.astype(np.uint16)
    refused = {
        "has 3 bands of 16 bits: expected gray": dicom(np.stack([gray] * 3, -1), "RGB"),
        "has samples of kind PALETTE COLOR": dicom(gray, "PALETTE COLOR"),
        "holds no picture: it lacks Rows": dicom(gray, Rows=None),
        "is a deflated DICOM": dicom(gray) + b"1.2.840.10008.1.2.1.99",
        "is empty": dicom(gray, Columns=0),
        "expected at most 100,000,000": dicom(gray, Rows=65000, Columns=65000, NumberOfFrames=None),
        "unpacks to 84,500,000,000 bytes": dicom(gray, Rows=65000, Columns=650, NumberOfFrames=1000),
    }
    for why, data in refused.items():
        with pytest.raises(Refused, match=why):
            decode(data, ranged=True)
    data = dicom(gray)
    for cut in (140, 200, 400, len(data) - 9):
        with pytest.raises(Refused):
            decode(data[:cut], ranged=True, page=2)


def test_compression_that_takes_a_package_is_said():
    pydicom = pytest.importorskip("pydicom")
    body = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7" + bytes(60)])
    data = dicom(CT[:1].astype(np.uint16), PixelData=body, syntax="1.2.840.10008.1.2.4.80")
    assert inspect(data).width == 8
    with pytest.raises(Refused, match="JPEG-LS .* pip install 'pylibjpeg.all.', or save it uncompressed$"):
        decode(data)


# ---- NIfTI ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_slices_of_nifti_are_pages(two, packed):
    volume = np.asfortranarray(CT.transpose(2, 1, 0))  # across, down, slices
    data = nifti(volume, two=two)
    data = gzip.compress(data) if packed else data
    assert inspect(data) == ("NIFTI", 8, 6, 3, "int16", 1)
    for page in (None, 0, 2, 1):
        found = decode(data, ranged=True, page=page)
        assert np.array_equal(found.samples[..., 0], CT[page or 0])
        assert found.lost == ({"pages": "3 pictures"} if page is None else {})
    scaled = nifti(volume, 0.5, -100, two)
    scaled = decode(gzip.compress(scaled) if packed else scaled, ranged=True, page=1).samples
    assert np.array_equal(scaled[..., 0], CT[1] / 2 - 100)
    with pytest.raises(Refused, match="has no page 4, but 3 pages"):
        decode(data, ranged=True, page=3)
    with pytest.raises(Refused, match="int16 samples, whose range is not known"):
        decode(data)


def test_nifti_of_other_shapes_and_types():
    flat = np.asfortranarray(CT[0].T.astype(np.float64))
    assert np.array_equal(decode(nifti(flat), ranged=True).samples[..., 0], CT[0])
    times = np.stack([CT.transpose(2, 1, 0)] * 4, -1)
    times += np.arange(4, dtype=np.int16)
    found = decode(nifti(times), ranged=True, page=7)
    assert found.header.pages == 12
    assert np.array_equal(found.samples[..., 0], CT[1] + 2)
    with pytest.raises(Refused, match="holds values of type complex64"):
        decode(nifti(times.astype(np.complex64)), ranged=True)


def test_broken_nifti_is_refused_and_bombs_do_not_go_off():
    pytest.importorskip("nibabel")
    data = nifti(CT.transpose(2, 1, 0))
    huge = bytearray(data)
    struct.pack_into("<4h", huge, 40, 3, 30000, 30000, 3)
    many = bytearray(data)
    struct.pack_into("<4h", many, 40, 3, 3000, 3000, 3000)
    early = bytearray(data)
    struct.pack_into("<f", early, 108, 8.0)
    packed = gzip.compress(data)
    bomb = gzip.compress(data + bytes(10**8))
    tracemalloc.start()
    for broken, why in (
        (bytes(huge), "has 30000x30000 pixels: expected at most"),
        (gzip.compress(bytes(many)), "unpacks to 54,000,000,000"),
        (bytes(early), "begin in its header"), (data[:-9], "a part of its pixels is missing"),
        (gzip.compress(b"nothing"), "a gzip file that holds no NIfTI"), (packed[:40], "is broken"),
        (packed[:60] + bytes(40) + packed[100:], "is broken"), (data[:300], "is not an image"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=why):
            decode(broken, ranged=True, page=2)
    assert np.array_equal(decode(bomb, ranged=True, page=2).samples[..., 0], CT[2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


# ---- both ----------------------------------------------------------------------------------------


def test_stacks_of_slices_are_translated_page_by_page(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.dcm").write_bytes(dicom(CT))
    (tmp_path / "in/b.nii.gz").write_bytes(gzip.compress(nifti(CT.transpose(2, 1, 0))))
    torch_model = sfumato.find("diffusion")(net="tiny", domains=("a", "b"))
    sfumato.save(torch_model, tmp_path / "model", info={"size": 16})
    how = {"method": "sdedit", "target": f"{tmp_path}/model:a", "options": {"strength": 0.0}}
    how |= {"range": (0, 4095), "resize": "none"}
    done = translate(tmp_path / "in", tmp_path / "out", **how, pages="all")
    assert (done.written, done.skipped) == (2, {})
    for name in ("a.tif", "b.tif"):
        made = tifffile.imread(tmp_path / "out" / name, key=range(3))
        assert np.array_equal(made[..., 0] if made.ndim == 4 else made, CT)
        assert NAME not in (tmp_path / "out" / name).read_bytes()
    assert pages_of(tmp_path / "in/b.nii.gz") == 3
    assert header_of(tmp_path / "in/a.dcm", 2).width == 8
    done = translate(tmp_path / "in", tmp_path / "first", **how)
    assert [len(v) for k, v in done.lost.items() if "several pictures" in k] == [2]


@pytest.mark.parametrize(
    ("name", "package", "data"),
    [
        ("x.dcm", "pydicom", bytes(128) + b"DICM" + bytes(99)),
        ("x.nii.gz", "nibabel", gzip.compress(bytes(344) + b"n+1\0" + bytes(99))),
    ],
    ids=["dicom", "nifti"],  # what is packed holds the time
)
def test_without_its_package_a_file_is_left_out_in_one_line(name, package, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} is \w+, which takes .* to read: pip install {package}$"):
        read_file(tmp_path / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "y.png")
    folder = sfumato.data.image_folder.ImageFolder(tmp_path).decoded()
    assert [*folder.names] == ["y"]
