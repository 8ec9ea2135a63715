"""What the functions and methods of the Python interface may be given, and what they say to the rest."""

import json
import math
import warnings
from functools import reduce
from inspect import signature
from pathlib import Path
from typing import Literal, get_type_hints

import numpy as np
import pytest
import torch

import sfumato
from sfumato.checkpoints.model_folder import denoiser_of
from sfumato.core.arguments import check_value, checked
from sfumato.core.errors import UserError, choose, out_of_memory
from sfumato.methods.outline import names
from sfumato.module import Part, describe, fields

ENDING = "expected a name that ends in .png, .tif, .jpg, .webp, such as"
X = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)


@pytest.fixture(scope="module")
def part():
    return sfumato.find("diffusion")(net="tiny", domains=("a",))


@pytest.fixture(scope="module")
def model(part):
    return sfumato.find("sdedit")(target=denoiser_of(part, "a")).eval()


@pytest.fixture(scope="module")
def folder(part, tmp_path_factory):
    folder = tmp_path_factory.mktemp("arguments")
    sfumato.save(part, folder / "model", info={"size": 8})
    sfumato.write(X, folder / "pictures/x.png")
    return folder


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
        ({"steps": "2"}, "steps must be a whole number, not '2'"),
        ({"steps": math.nan}, "steps must be a whole number, not nan"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"steps": None}, "steps must be a whole number, not None"),
        ({"steps": torch.tensor(2)}, "steps must be a whole number, not a Tensor"),
        ({"steps": 10**30}, "steps must be at most 1,000,000,000, not 1000"),
        ({"seed": "a"}, "seed must be a whole number or a list, not 'a'"),
        ({"seed": None}, "seed must be a whole number or a list, not None"),
        ({"seed": 1.5}, "seed must be a whole number or a list, not 1.5"),
        ({"strength": "x"}, "strength must be a finite number, not 'x'"),
        ({"strength": math.inf}, "strength must be a finite number, not inf"),
        ({"solver": 3}, "solver must be a name or a function, not 3"),
        ({"spacing": "kars"}, "unknown spacing 'kars': did you mean 'karras'"),
        ({"spacing": 3}, "spacing must be one of time, log_snr, karras, chain, not 3"),
        ({"mask": np.ones((8, 8))}, "mask must be a Tensor or None, not a ndarray of shape"),
        ({"watch": 3}, "watch must be a function or None, not 3"),
        ({"step": 3}, "unknown option of SDEdit.translate 'step': did you mean 'steps'"),
        ({"as_is": "yes"}, "as_is must be true or false, not 'yes'"),
    ],
)
def test_a_method_refuses_options_of_another_type(model, option, says):
    with pytest.raises(UserError) as error:
        model.translate(X, **({"steps": 1} | option))
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", [n for n in sfumato.names() if hasattr(sfumato.find(n), "translate")]
)
def test_every_method_knows_the_types_of_its_options(name):
    method = sfumato.find(name)
    for option in signature(method.translate).parameters.keys() - {"self", "source"}:
        with pytest.raises(UserError, match=f"^{option} must be .*, not an object$"):
            method.translate(method.__new__(method), X, **{option: object()})


def test_numbers_of_numpy_and_whole_numbers_for_fractions_are_taken(model):
    mine = model.translate(X, steps=2, strength=1.0, seed=3)
    for how in (
        {"steps": np.int64(2), "strength": np.float32(1), "seed": np.uint8(3)},
        {"steps": 2, "strength": 1, "seed": 3},
    ):
        assert torch.equal(model.translate(X, **how), mine)
    assert model.translate(X, steps=1, seed=2**62).shape == X.shape


def test_a_part_of_anothers_whose_types_cannot_be_told_translates():
    class Own(Part):
        def translate(self, source, *, seed: int = 0, how: "Unknown" = 1, by: float = 1.0):  # noqa: F821
            return source + how * by

    assert Own().translate(1, how=2, by="".count("x")) == 1


@pytest.mark.parametrize("given", [X.numpy(), X[0], [X], None, "x.png", Path("x.png")])
def test_as_is_takes_a_batch_of_numbers_and_says_so(model, given):
    with pytest.raises(
        UserError, match=r"takes a tensor \(B, C, H, W\), or points \(B, D\), not an? "
    ):
        model.translate(given, as_is=True, strength=0.0)


PATHS = {
    "train": {"method": "diffusion", "data": "pictures", "out": "run"},
    "translate": {"paths": "pictures", "out": "out"},
    "repeat": {"run": "run", "out": "out"},
    "evaluate": {"results": "a", "source": "b", "target": "c"},
    "compare": {"source": "a", "out": "o", "entries": ["model=m"], "target": "b"},
    "study": {"source": "a", "ours": "b", "theirs": "c", "out": "o"},
    "doctor": {"a": "pictures"},
    "load": {"folder": "m"},
    "save": {"part": None, "folder": "m"},
    "stream": {"pictures": X},
    "translator": {},
    "read": {"paths": "x.png"},
    "write": {"pictures": X, "paths": "x.png"},
    "grid": {"process": sfumato.VP(), "steps": 2},
    "integrate": {"step": "ddim", "denoiser": None, "x": X, "times": X},
}


@pytest.mark.parametrize("name", PATHS)
def test_every_argument_of_a_public_function_has_its_type(name, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, good = getattr(sfumato, name), PATHS[name]
    for own in {"part", "denoiser"} & good.keys():
        good = good | {own: part if own == "part" else part.denoiser}
    for argument in signature(function).parameters:
        if argument in ("pictures", "like", "denoiser"):  # of any kind
            continue
        for bad in (object(), b"x", "a\0b", ""):
            text = argument not in PATHS[name] or isinstance(PATHS[name][argument], (Part, type(X)))
            if isinstance(bad, str) and (text or argument in ("method", "step")):
                continue  # some may be any text
            with pytest.raises(UserError, match=rf"^{argument} must be .*, not ") as error:
                function(**good | {argument: bad})
            assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sfumato.translate("in", None), "out must be a path such as 'folder/name', not None"),
        (lambda: sfumato.read(["x.png", None]), "paths[1] must be a path such as"),
        (lambda: sfumato.read([]), "an empty list was given"),
        (lambda: sfumato.read({"x.png"}), "paths must be a path such as 'folder/name' or a list of paths"),
        (lambda: sfumato.write(X, ["."]), f".: {ENDING} picture.png"),
        (lambda: sfumato.write(X, [".."]), f"..: {ENDING} ../picture.png"),
        (lambda: sfumato.write(X, "a/"), f"a: {ENDING} a.png"),
        (lambda: sfumato.load(":3"), "':3' names no model folder: expected FOLDER or FOLDER:DOMAIN"),
        (lambda: sfumato.load("a" * 300), "there is no model folder 'aaa"),
        (lambda: sfumato.train("diffusion", [], "run"), "no folders given"),
        (lambda: sfumato.compare("a", "o", [None], target="b"), "entries[0] must be "),
    ],
)  # fmt: skip
def test_odd_names_are_refused_with_what_is_expected(call, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(says)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_is_given_twice_is_said_to_be(folder, tmp_path):
    file = folder / "pictures/x.png"
    for paths in ([file, file], [file.parent, file], [file.parent, file.parent]):
        with pytest.raises(UserError, match=r"x\.png is given twice: name it once"):
            sfumato.translate(paths, tmp_path / "out", method="sdedit", target=f"{folder}/model:a")


def test_numbers_of_numpy_are_written_into_run_json(folder, tmp_path):
    summary = sfumato.translate(
        folder / "pictures", tmp_path / "out", method="sdedit", target=f"{folder}/model:a",
        seed=np.int64(3), batch=np.int32(1), options={"steps": np.int64(1), "strength": np.float32(0.5)},
    )  # fmt: skip
    assert summary.written == 1
    sfumato.train(
        "diffusion", {"a": [X[0]] * 4}, tmp_path / "run", size=np.int64(8), steps=np.int32(1), batch=2,
        held_out=0, quiet=True, range=(np.int64(-1), np.float32(1)),
        options={"net": "tiny", "channels": np.int64(3), "any_domain": np.float32(0)},
    )  # fmt: skip
    assert '"channels": 3' in (tmp_path / "run/run.json").read_text()


def test_what_cannot_be_saved_leaves_nothing(part, tmp_path):
    (tmp_path / "file").write_text("x")
    for how, says in (
        ({"dtype": torch.int8}, "dtype must be a type of floats"),
        ({"dtype": torch.float8_e4m3fn}, "dtype must be a type of floats of 16 to 64 bits"),
        ({"info": {"name": "\udcff"}}, "info must be what JSON holds.* surrogates not allowed"),
        ({"info": {"in": {1: "a", "1": "b"}}}, "info must be what JSON holds.* '1' is there twice"),
        ({"info": reduce(lambda x, _: {"in": x}, range(3000), {})}, "info must be .* nested too deep"),
        ({"dtype": "float16"}, "dtype must be a dtype, not 'float16'"),
        ({"info": {"of": {1, 2}}}, "info must be what JSON holds"),
    ):
        with pytest.raises(UserError, match=says):
            sfumato.save(part, tmp_path / "m", **how)
    with pytest.raises(UserError, match="file is a file"):
        sfumato.save(part, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_warnings_name_the_line_that_called(tmp_path):
    sfumato.write(torch.cat([X, -X], 2), tmp_path / "x.png")
    red = torch.stack([X[0, 0], -X[0, 1], X[0, 2]])
    sfumato.write(red, tmp_path / "red.png")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        sfumato.read(tmp_path / "red.png", channels=1)
    assert [Path(w.filename).name for w in seen] == [Path(__file__).name]


def test_a_checked_function_is_what_it_was():
    @checked
    def power(base: float, by: int = 2) -> float:
        """Raised."""
        return base**by

    assert (power(3), power(np.float64(2), by=3), power.__doc__) == (9, 8.0, "Raised.")
    assert str(signature(power)) == "(base: float, by: int = 2) -> float"
    with pytest.raises(TypeError, match="unexpected keyword argument 'to'"):
        power(3, to=2)
    with pytest.raises(UserError, match="by must be a whole number, not '2'"):
        power(3, "2")


def test_results_do_not_hang_on_torchs_defaults(tmp_path):
    """A notebook may have set its type and its device; the same pictures, files and scores are made."""
    picture = torch.linspace(-1, 1, 3 * 16 * 16).reshape(3, 16, 16)
    for name, k in (("a", 0), ("b", 3)):
        (tmp_path / name).mkdir()
        for i in range(4):
            sfumato.write(picture.roll((i, k), (-1, -2)), tmp_path / name / f"{i}.png")
    small = {"options": {"net": "tiny"}, "size": 16, "batch": 2, "steps": 2, "quiet": True}
    data = {"a": tmp_path / "a", "b": tmp_path / "b"}

    def run(out):
        sfumato.train("diffusion", data, out / "run", **small)
        sfumato.translate(tmp_path / "a", out / "made", method="sdedit", target=f"{out}/run:b",
                          options={"steps": 2})  # fmt: skip
        model = sfumato.translator("sdedit", target=f"{out}/run:b")
        with torch.device("cpu"):
            made = model.translate(picture, steps=2).tolist()
        sfumato.save(model, out / "saved")
        assert sfumato.load(out / "saved").translate(np.zeros((16, 16, 3), np.uint8), steps=2).any()
        files = [out / name for name in ("run/weights.safetensors", "made/0.png")]
        return [made, sfumato.read(files[1]).tolist(), *(file.read_bytes() for file in files)]

    want = run(tmp_path / "single")
    torch.set_default_device("meta")  # which has no values
    try:
        assert run(tmp_path / "moved") == want
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)  # "cpu" would stay as a mode, in which calls are made twice
    torch.set_default_dtype(torch.float64)
    try:
        assert run(tmp_path / "double") == want
        sfumato.evaluate(tmp_path / "double/made", tmp_path / "a", target=tmp_path / "b",
                         out=tmp_path / "scores")  # fmt: skip
        assert torch.get_default_dtype() is torch.float64
        x = torch.zeros(1, 3, 8, 8, dtype=torch.float32)
        noise = sfumato.Noise([1])(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(noise, sfumato.Noise([1])(x))


def test_numbers_of_numpy_are_saved_with_a_model():
    described = describe({"channels": np.int64(3), "sigma": np.float32(0.25), "codes": [np.bool_(True)]})
    assert json.dumps(described) == '{"channels": 3, "sigma": 0.25, "codes": [true]}'


def test_old_names_of_options_are_refused_with_todays(model):
    with pytest.raises(UserError, match="^option of train 'alone' is called 'warmup_batches' now$"):
        choose("option of train", "alone", ["steps", "warmup_batches"])
    with pytest.raises(UserError, match="^unknown option of train 'alone': "):
        choose("option of train", "alone", ["steps"])
    with pytest.raises(UserError, match="^units 'carried' is called 'at-256' now$"):
        check_value("units", "carried", Literal["at-256", "paper"])


def test_a_text_in_place_of_one_of_some_numbers_is_refused():
    for text in ("8", "9"):
        with pytest.raises(UserError, match=f"^depth must be one of 8, 16 or None, not '{text}'$"):
            check_value("depth", text, Literal[8, 16] | None)


def test_a_method_that_is_called_names_translate(model):
    with pytest.raises(UserError, match=r"^a SDEdit is not called: use .translate\(pictures\)$"):
        model(X)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True), (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), True),
        ("RuntimeError: [enforce fail] can't allocate memory", True),
        ("torch.OutOfMemoryError: CUDA out of memory.", True), (RuntimeError("shapes differ"), False),
    ],
)  # fmt: skip
def test_full_memory_is_told_from_other_errors(error, full):
    assert out_of_memory(error) is full


def test_every_number_of_a_method_has_a_range():
    """A number without one reaches torch: no channels, a width below nothing."""
    free = [
        f"{name}.{field.name}" for name in names() for field in fields(sfumato.find(name))
        if get_type_hints(sfumato.find(name), include_extras=True)[field.name] in (int, float)
    ]  # fmt: skip
    assert not free
    for name in names():
        if "channels" in signature(sfumato.find(name)).parameters:
            with pytest.raises(UserError, match="channels must be at least 1, not 0"):
                sfumato.find(name)(channels=0)


@pytest.mark.parametrize(
    ("call", "lacks"),
    [
        (lambda: sfumato.translate("photos"), "translate needs out, too"),
        (lambda: sfumato.train("cyclegan"), "train needs data, out, too"),
        (lambda: sfumato.evaluate("a", "b"), "evaluate needs target, too"),
    ],
)
def test_what_is_missing_is_named(call, lacks):
    with pytest.raises(UserError, match=lacks):
        call()


def test_a_model_that_translates_nothing_says_so():
    model = sfumato.load("sfumato/digits:3")
    assert not hasattr(model, "translate")
    with pytest.raises(UserError, match="is not a translator by itself"):
        model.translate(None)
