"""The command line: quick help, flags from signatures, one line and exit code 2 for every mistake."""

import contextlib
import importlib.metadata
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tomllib
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image
from rich.table import Table

import sfumato
from sfumato.cli import main as cli
from sfumato.cli.flags import at_home, flags
from sfumato.core import terminal, versions
from sfumato.core.options import args_of
from sfumato.explore.sensitivity import show_sensitivity
from sfumato.explore.trajectory import show_trajectory
from sfumato.methods.outline import outlines
from sfumato.methods.registry import find, info
from sfumato.module import fields
from sfumato.training.start import OF_DATA
from sfumato.training.train import train
from sfumato.translation.one_picture import OnePicture
from sfumato.translation.pictures import translate
from sfumato.translation.translator import USES

ROOT = Path(__file__).parents[1]


def run(*words, ok=0):
    with pytest.raises(SystemExit) as end:
        cli.main([str(w) for w in words])
    assert end.value.code == ok


def said(capsys, *words):
    """What a command that fails says: one line on stderr, nothing on stdout."""
    run(*words, ok=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sfumato: ")
    assert err.count("\n") == 1, err
    return err


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    part = sfumato.find("diffusion")(domains=("cat", "dog"), net="tiny")
    sfumato.save(part, root / "model", info={"size": 16})
    sfumato.save(sfumato.find("paired_sde")(net="tiny"), root / "pairs", info={"size": 16})
    rng = np.random.default_rng(0)
    for name in ("cat/1.png", "cat/2.jpg", "dog/1.png", "dog/2.png"):
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "in" / name)
    return root


def python(*words, **how):
    return subprocess.run(
        [sys.executable, *words], check=True, capture_output=True, text=True, **how
    ).stdout


# ---- quick --------------------------------------------------------------------------------------


def test_help_is_quick():
    def seconds():
        began = time.perf_counter()
        assert "translate" in python("-m", "sfumato", "--help")
        return time.perf_counter() - began

    def idle():
        began = time.perf_counter()
        python("-c", "pass")
        return time.perf_counter() - began

    # a busy machine is slow at starting Python, too
    busy = max(1.0, statistics.median(idle() for _ in range(3)) / 0.03)
    help_takes = statistics.median(seconds() for _ in range(3))
    print(f"sfumato --help: {help_takes:.2f} s")
    assert help_takes < 1.0 * busy


@pytest.mark.parametrize(
    "code",
    [
        "import sfumato",
        "import sfumato.cli.main as c; c.outlines(); c.make_app([]); c.make_app(['train', '--help'])",
        "import sfumato; dir(sfumato); sfumato.__version__",
    ],
)
def test_torch_is_imported_on_use_only(code):
    heavy = "{'torch', 'numpy', 'matplotlib', 'PIL', 'accelerate', 'sklearn'}"
    assert (
        python("-c", f"{code}\nimport sys; print(sorted(sys.modules.keys() & {heavy}))") == "[]\n"
    )


def test_the_public_names_exist_and_stay_functions():
    for name in set(sfumato.__all__) - {"__version__"}:
        found = getattr(sfumato, name)  # never the module of that name
        assert inspect.isfunction(found) or inspect.isclass(found), name
        assert found.__name__ == name
        assert found.__module__.startswith("sfumato.")
        assert found.__doc__, f"{name} has no docstring"
    assert sfumato.__version__ == version("sfumato")
    rooms = [p.name for p in Path(sfumato.__file__).parent.iterdir()]
    assert not set(rooms) & set(sfumato.__all__)  # a package would hide the function of its name
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        sfumato.trian  # noqa: B018


# ---- flags --------------------------------------------------------------------------------------


def test_flags_are_the_methods_own(capsys):
    for name, outline in outlines().items():
        cls = sfumato.find(name)
        assert outline.translates == hasattr(cls, "translate")
        assert outline.trains_on == getattr(cls, "data", None)
        own = {k: v for k, v in vars(info(name)).items() if k in vars(outline)}
        assert own == vars(outline)  # what a file says unrun, its class says
        if outline.trains_on:
            own = {f.name for f in fields(cls)} - {"domains", "side", "bounded"}  # from the data, the codec
            taken = set(inspect.signature(sfumato.train).parameters)
            assert not own & taken, f"{name}: a field is called like an option of train"
            run("train", name, "--help")
            shown = capsys.readouterr().out
            assert all(f"--{f.replace('_', '-')}" in shown for f in own)
        if outline.translates:
            own = set(inspect.signature(cls.translate).parameters)
            own -= {"self", "source", "seed", "watch", "energy"}  # a function is for Python only
            taken = set(inspect.signature(sfumato.translate).parameters)
            assert not own & taken, f"{name}: an option is called like one of translate"
            run("translate", "--method", name, "--help")
            shown = capsys.readouterr().out
            assert all(f"--{f.replace('_', '-')}" in shown for f in own)


def test_every_flag_has_a_help_text():
    functions = [sfumato.train, sfumato.translate]
    functions += [sfumato.find(n).translate for n, o in outlines().items() if o.translates]
    for function in functions:
        texts = args_of(function.__doc__)
        missing = [p.name for p in flags(function, skip=("self",)) if not texts.get(p.name)]
        assert not missing, f"{function.__qualname__}: {missing}"


def test_help_texts_come_from_docstrings():
    assert args_of("One.\n\nArgs:\n    a: first,\n        b: not one.\n    c: x.\n\nRaises:\n    d: y") == {
        "a": "first, b: not one.", "c": "x.",
    }  # fmt: skip


def test_methods_and_cite(capsys):
    run("methods")
    listed = capsys.readouterr().out
    assert re.findall(r"^\w+", listed, re.M) == sfumato.names()
    for name in sfumato.names():
        run("cite", name)
        assert capsys.readouterr().out.startswith("@")
    run("train", "--help")
    assert "Diffusion model over one or many named domains" in capsys.readouterr().out
    run("--version")
    assert capsys.readouterr().out.strip() == sfumato.__version__


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("translate in --model pairs --out ''", "--out is empty"),
        ("translate in --model pairs --out=", "--out is empty"),
        ("translate in --model '' --out out", "--model is empty"),
        ("translate '' --model pairs --out out", "an empty text was given for paths: expected pictures"),
        ("translate --repeat-from '' --out out", "--repeat-from is empty"),
        ("train diffusion in --out ''", "--out is empty"),
        ("train diffusion '' --out out", "an empty text was given for data"),
        ("compare folder=in --source in --target in --out ''", "--out is empty"),
        ("evaluate in --source '' --target in", "--source is empty"),
        ("evaluate '' --source in --target in", "an empty text was given for results"),
        ("explore decode z.safetensors --model pairs --out ''", "--out is empty"),
        ("compare '' --source in --target in --out o", "empty text was given for entries: expected what to"),
        ("explore apply z ''  --out o", "an empty text was given for chain: expected operations, separated"),
        ("data digits ''", "an empty text was given for out"),
        ("demo --out ''", "--out is empty"),
    ],
)
def test_an_empty_name_is_refused_and_nothing_is_written(
    words, says, root, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(root / "in/cat", "in")
    shutil.copytree(root / "pairs", "pairs")
    before = sorted(tmp_path.rglob("*"))
    assert says in said(capsys, *shlex.split(words))
    assert sorted(tmp_path.rglob("*")) == before


def test_one_picture_is_said_to_be_one(root, tmp_path, capsys):
    run("translate", root / "in/cat/1.png", "--out", tmp_path, "--model", root / "pairs",
        "--steps", 1)  # fmt: skip
    assert capsys.readouterr().out.startswith(f"1 picture written to {tmp_path} (")
    assert terminal.count(0, "picture") == "0 pictures"


# ---- at work ------------------------------------------------------------------------------------


def test_translate_repeat_and_info(root, tmp_path, capsys):
    how = ("--method", "ddib", "--source", f"{root}/model:cat", "--target", f"{root}/model:dog")
    run("translate", root / "in/cat", "--out", tmp_path / "a", *how, "--steps", 2)
    assert re.match(r"2 pictures written to \S+ \(\d+ NFE, \S+ s each\)\n", capsys.readouterr().out)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["1.png", "2.png", "run.json"]
    run("translate", root / "in/cat", "--out", tmp_path / "a", *how, "--steps", 2)
    assert "0 pictures written" in capsys.readouterr().out
    run("translate", "--repeat-from", tmp_path / "a/run.json", "--out", tmp_path / "b")
    assert (tmp_path / "a/1.png").read_bytes() == (tmp_path / "b/1.png").read_bytes()
    run("translate", root / "in/dog/1.png", "--out", tmp_path / "c", "--model", root / "pairs",
        "--steps", 1, "--direction", "target-to-source")  # fmt: skip
    saved = json.loads((tmp_path / "c/run.json").read_text())
    assert saved["run"]["options"]["direction"] == "target-to-source"
    capsys.readouterr()
    run("info", root / "model")
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("diffusion", '["cat", "dog"]', "parameters", "sha256"))


def test_the_seconds_that_are_said_are_those_of_one_picture(root, tmp_path, capsys):
    for i in range(8):
        shutil.copy(root / "in/cat/1.png", tmp_path / f"{i}.png")
    out = tmp_path / "out"
    run("translate", *sorted(tmp_path.glob("*.png")), "--out", out, "--model", root / "pairs",
        "--steps", 1)  # fmt: skip
    recorded = json.loads((out / "run.json").read_text())["result"]["seconds_per_picture"]
    assert f" NFE, {recorded:.2g} s each)" in capsys.readouterr().out


def test_info_refuses_a_domain_that_the_model_does_not_know(root, capsys):
    run("info", f"{root}/model:dog")
    assert "diffusion" in capsys.readouterr().out
    text = said(capsys, "info", f"{root}/model:77")
    assert "unknown domain '77'" in text and "known: cat, dog" in text  # noqa: PT018
    assert "has no domains" in said(capsys, "info", f"{root}/pairs:cat")


def test_a_repetition_says_that_it_takes_nothing_else(root, tmp_path, capsys):
    run("translate", root / "in/cat", "--out", tmp_path / "a", "--model", root / "pairs",
        "--steps", 1)  # fmt: skip
    capsys.readouterr()
    for more in (["--seed", "5"], [root / "in/dog"], ["--method", "ddib"]):
        words = ("--repeat-from", tmp_path / "a/run.json", "--out", tmp_path / "b", *more)
        text = said(capsys, "translate", *words)
        assert "a repetition takes only --out and --device besides" in text
        assert "translate anew" in text
    (tmp_path / "x.json").write_text("{}")
    text = said(capsys, "translate", "--repeat-from", tmp_path / "x.json", "--out", tmp_path / "b")
    assert f"{tmp_path}/x.json is damaged, or not of a translation" in text
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "words",
    [
        "translate https://example.com/cat.png --model MODEL --out o",
        "translate IN --model https://example.com/model --out o",
        "translate IN --model MODEL --out s3://bucket/o", "info https://example.com/model",
        "train diffusion cat=https://example.com/cats dog=IN --out o", "doctor https://example.com/cats",
        "evaluate https://example.com/cats --source IN --target IN",
        "import https://example.com/g.pth --out o",
        "compare folder=https://example.com/cats --source IN --target IN --out o",
        "explore report https://example.com/z.safetensors", "study HTTPS://example.com/a IN IN --out o",
    ],
)  # fmt: skip
def test_addresses_are_told_to_be_downloaded_first(words, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = words.replace("IN", str(root / "in")).replace("MODEL", str(root / "pairs"))
    text = said(capsys, *words.split())
    assert "download it first" in text
    assert re.search(r"(https|s3)://", text, re.IGNORECASE)
    assert not list(tmp_path.iterdir())


def test_a_flag_of_sites_takes_addresses():
    words = ["studio", "--framed-by", "https://huggingface.co"]
    _, bound, _ = cli.make_app(words).parse_args(words)
    assert bound.kwargs["framed_by"] == ["https://huggingface.co"]


def test_skipped_pictures_are_named(root, tmp_path, capsys):
    Image.open(root / "in/cat/1.png").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"")
    how = ("--out", tmp_path / "out", "--model", root / "pairs", "--steps", 1)
    run("translate", tmp_path / "good.png", tmp_path / "bad.png", *how, ok=1)
    out, err = capsys.readouterr()
    assert err == f"skipped: {tmp_path}/bad.png is an empty file\n"
    hint = "as in training; --scale native works at full size by windows"
    assert out.endswith(f", 1 skipped\n{tmp_path}: 20x20 -> 16x16, {hint}\n")


def test_train(root, tmp_path, capsys):
    tiny = ("--net", "tiny", "--size", 16, "--steps", 2, "--batch", 2, "--preview-every", 0)
    named = (f"a={root}/in/cat", f"b={root}/in/dog")
    run("train", "diffusion", *named, "--out", tmp_path / "one", *tiny, "--held-out", 0)
    model = sfumato.load(tmp_path / "one")
    assert model.domains == ("a", "b")
    run("train", "paired_sde", root / "in/cat", root / "in/dog", "--out", tmp_path / "two", *tiny)
    assert hasattr(sfumato.load(tmp_path / "two"), "translate")
    capsys.readouterr()
    assert "every domain needs" in said(capsys, "train", "diffusion", named[0], named[0],
                                        "--out", tmp_path / "no")  # fmt: skip
    assert not (tmp_path / "no").exists()


def test_data(tmp_path, capsys):
    pytest.importorskip("sklearn")
    run("data", "digits", tmp_path / "digits", "--copies", 1, "--size", 8)
    assert (tmp_path / "digits/train/0").is_dir()
    capsys.readouterr()
    assert "--from" in said(capsys, "data", "mnist", tmp_path / "mnist")
    assert "not an empty folder" in said(capsys, "data", "digits", tmp_path / "digits")


# ---- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("trnslate", "did you mean 'translate'"),
        ("train difusion x --out o", "did you mean 'diffusion'"),
        (
            "train diffusion =x b= --out o",
            "=x b=: every domain needs a name of its own and one folder",
        ),
        ("train diffusion a=x y --out o", "y: every domain needs a name of its own and one folder"),
        ("train ddib x --out o", "ddib is not trained itself"),
        ("train diffusion x --out o --stps 3", "Did you mean --steps"),
        ("train unpaired_sde a b --out o --alone 3", "--alone is called --warmup-batches now"),
        ("translate IN --out o --method ilvr --until=.5", "--until is called --keep-down-to now"),
        ("translate IN --out o --method ilvr --scale 2", "the weight of guidance is --guidance-scale now"),
        ("translate IN --out o --method egsde --target MODEL:dog --units carried", '"at-256"'),
        ("train diffusion x --out o --steps many", "unable to convert"),
        ("train diffusion x --out o --schedule cosin", 'Did you mean "cosine"'),
        ("train diffusion x", "--out"),
        ("train diffusion --out o", "NAME=FOLDER"),
        ("train diffusion nowhere --out o", "nowhere"),
        ("translate x --out o", "x does not exist"),
        ("translate IN --out o", "say how to translate"),
        ("translate IN --out o --method ddbi", "did you mean 'ddib'"),
        ("translate IN --out o --method ddib --source MODEL:cat", "--target FOLDER:DOMAIN"),
        ("translate IN --out o --method sdedit --target MODEL:dgo", "did you mean 'dog'"),
        ("translate IN --out o --method sdedit --target MODEL:dog --strenght 1", "--strength"),
        ("translate IN --out o --method sdedit --target MODEL:dog --strength 2", "[0, 1]"),
        ("translate IN --out o --method sdedit --target MODEL:dog --mask no.png", "no.png"),
        ("translate IN --out o --model MODEL", "which other methods translate with"),
        ("translate IN --out o --model nowhere", "no model folder 'nowhere'"),
        ("translate IN", "--out"),
        ("translate --repeat-from nowhere --out o", "nowhere does not exist"),
        ("info nowhere", "no model folder 'nowhere'"),
        ("cite dbib", "did you mean 'ddib'"),
        ("data erth out", "did you mean 'earth'"),
        ("demo --count 1.5", "--count takes a whole number, not 1.5"),
        ("data digits out --size 8.5", "--size takes a whole number, not 8.5"),
        ("train paired_sde a b --out o --steps inf", "--steps takes a whole number, not inf"),
        ("translate IN --out o --seed .5", "--seed takes a whole number, not .5"),
        ("import a.pth --out o --size 7.5", "--size takes a whole number, not 7.5"),
    ],
)
def test_mistakes(words, says, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = words.replace("IN", str(root / "in")).replace("MODEL", str(root / "model"))
    assert says in said(capsys, *words.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("cite DDIB", "ddib"), ("train DIFFUSION a=in --out o", "diffusion"), ("DEMO", "demo"),
        ("translate in --out o --method DDIB", "ddib"), ("explore ENCODE in", "encode"),
        ("train diffusion a=in --out o --net TINY --upscale", "tiny"), ("data DIGITS d", "digits"),
        ("train diffusion a=in --out o --process VP --upscale", "vp"),
        ("explore encode in --model model:DOG --out z.safetensors", "dog"),
        ("info sfumato/DIGITS", "sfumato/digits"),
        ("explore encode in --model model:dog --out z.safetensors --solver AB3", "ab3"),
        ("evaluate in/cat --source in/cat --target in/dog --protocol EGSDE", "egsde"),
    ],
)  # fmt: skip
def test_a_name_in_capitals_is_guessed(words, meant, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    capsys.readouterr()
    run(*words.split(), ok=2)
    assert f"did you mean '{meant}'?" in capsys.readouterr().err


def test_an_option_that_a_model_has_not_is_answered_with_those_it_has(root, monkeypatch, capsys):
    """A model that does not translate by itself is answered with the methods that use it."""
    monkeypatch.chdir(root)
    capsys.readouterr()
    sfumato.save(sfumato.find("domain_classifier")(domains=("cat", "dog"), net="tiny"), "sees")
    sfumato.save(sfumato.find("cyclegan")(net="tiny"), "gan", info={"size": 16})
    for model, how in {
        "model": "--method ddib --source model:DOMAIN --target model:DOMAIN",
        "model:cat": "--method ddib --source model:DOMAIN --target model:DOMAIN",
        "sees": "--method classifier_guidance --target FOLDER:DOMAIN --classifier sees",
    }.items():
        for steps in ([], ["--steps", "3"]):
            assert how in said(capsys, "translate", "in", "--model", model, *steps, "--out", "o")
    assert "of gan itself: --direction" in said(
        capsys, "translate", "in", "--model", "gan", "--steps", 3, "--out", "o"
    )
    own = {name for name, outline in outlines().items() if not outline.translates and outline.trains_on}
    assert own == set(USES)


def test_a_warning_is_one_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back afterwards
    run("methods")
    assert warnings.formatwarning("too much", UserWarning, "file.py", 3) == "sfumato: too much\n"


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\udcff[red]:smile:"


def test_names_are_plain_text_in_the_terminal(tmp_path, monkeypatch, capsys):
    error = said(capsys, "info", f"{tmp_path}/{ESCAPES}\nsfumato: all is well")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    run("methods")
    capsys.readouterr()
    warned = warnings.formatwarning(ESCAPES, UserWarning, "file.py", 3)
    sys.excepthook(RuntimeError, RuntimeError(ESCAPES), None)
    bug = capsys.readouterr().err
    for text in (error, warned, bug):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", text), ascii(text)
        assert "\\x1b]0;owned\\x07" in text
        assert "\\udcff[red]:smile" in text
    assert warned.count("\n") == 1


def test_ctrl_c_while_the_command_line_is_imported_is_one_line():
    code = """if True:
        import sys
        class Pressed:
            def find_spec(self, name, *_):
                if name == "cyclopts":
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Pressed())
        import runpy
        runpy.run_module("sfumato", run_name="__main__")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "\nstopped\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["sfumato"] == "sfumato.__main__:main"


def test_ctrl_c_that_an_import_makes_another_error_of_is_ctrl_c_still(monkeypatch, capsys):
    def swallowed():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("cannot load module more than once per process") from None

    monkeypatch.setattr(cli, "outlines", swallowed)
    run("methods", ok=130)
    assert capsys.readouterr().err == "\nstopped; the same command goes on\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("name", sorted(outlines()))
def test_no_option_of_a_method_is_a_flag_of_a_command(name):
    """Their names would be one flag; the source, seed and watch of a method are the command's own."""
    method, given = find(name), ("self", "source", "seed", "watch")
    options = {p.name for p in flags(method.translate, skip=given)} if info(method).translates else set()
    commands = translate, OnePicture.read, show_trajectory, show_sensitivity
    assert not options & {"repeat_from", "out", *(p.name for c in commands for p in flags(c))}
    if info(method).trains_on:
        assert not {p.name for p in flags(method, skip=("self", *OF_DATA))} & {p.name for p in flags(train)}


def test_a_line_break_in_a_name_begins_no_line(root, tmp_path, capsys):
    odd = tmp_path / "in" / "a\nsfumato: all\tis well.png"
    odd.parent.mkdir()
    odd.write_bytes(b"no picture")
    shown = "a\\nsfumato: all\\tis well.png"
    Image.new("RGB", (16, 16)).save(tmp_path / "in/1.png")
    (tmp_path / "in/b\nc.heic").touch()
    with warnings.catch_warnings(record=True) as warned:
        run("translate", tmp_path / "in", "--model", root / "pairs", "--out", tmp_path / "out", ok=1)
    err = capsys.readouterr().err + "".join(f"{one.message}\n" for one in warned)
    assert f"skipped: {tmp_path}/in/{shown} is not an image" in err
    assert "of a kind that is not read (b\\nc.heic)" in err
    run("doctor", tmp_path / "in", "--no-measure")
    out = capsys.readouterr().out
    assert f"{tmp_path}/in/{shown} is not an image" in out
    for line in (out + err).splitlines():
        assert not line.startswith(("sfumato: all", "c.heic"))


def test_a_name_that_no_line_holds_is_not_listed(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("1", "2", "a\nb"):
        Image.linear_gradient("L").resize((32, 32)).save(tmp_path / f"in/{name}.png")
    run("doctor", tmp_path / "in", "--no-measure", "--write-list", tmp_path / "list.txt")
    assert [Path(line).name for line in (tmp_path / "list.txt").read_text().splitlines()] == ["2.png"]


def test_a_terminal_of_another_encoding_gets_every_line():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    terminal.say("größe", ESCAPES, file=out)
    assert out.buffer.getvalue().startswith(b"gr\\xf6\\xdfe \\x1b]0;owned")


def test_tables_show_names_as_they_are():
    out = io.StringIO()
    console = terminal.screen(file=out, width=120, force_terminal=True)
    table = Table(ESCAPES, "[bold]a[/bold]")
    table.add_row("[/]", ":cat:")
    console.print(table)
    console.print(ESCAPES, highlight=False)
    for name in ("[bold]a[/bold]", "[/]", ":cat:"):
        assert name in out.getvalue()
    assert (
        out.getvalue().count("\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202egnp\\udcff[red]:smile:") == 2
    )
    assert "owned\x07" not in out.getvalue()


def test_the_version_is_known_where_nothing_is_installed(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert hasattr(sfumato, "__version__")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sfumato.__version__ == project["version"]
    assert versions.version("torch") == "unknown"
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "a" / "b.py"))
    assert versions.version() == "unknown"


def test_a_tree_that_is_not_installed_translates(root, tmp_path):
    code = "import sys, sfumato; sfumato.translate(sys.argv[1], sys.argv[2], model=sys.argv[3])"
    (tmp_path / "sfumato").symlink_to(ROOT / "sfumato")
    hide = "import importlib.metadata as m; f = m.distribution; "
    hide += "m.distribution = lambda n: (_ for _ in ()).throw(m.PackageNotFoundError(n)) "
    hide += "if n == 'sfumato' else f(n)\n"
    given = [str(root / "in" / "cat"), str(tmp_path / "out"), str(root / "pairs")]
    python("-c", hide + code, *given, cwd=tmp_path)
    found = json.loads((tmp_path / "out" / "run.json").read_text())["run"]["versions"]
    assert found["sfumato"]


FLOORS = {"rich": "13.6", "pillow": "10.3", "jinja2": "3.1.6"}


def test_what_we_depend_on_has_no_known_holes():
    """cyclopts 4 needs rich 13.6; older Pillow and jinja2 have known holes; gradio's insides are used."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    needs = {r.name: r.specifier for r in map(Requirement, [*project["dependencies"], *extras])}
    for name, floor in FLOORS.items():
        assert {s.version for s in needs[name] if s.operator == ">="} == {floor}
        assert importlib.metadata.version(name) in needs[name]
    assert "<" in {s.operator for s in needs["gradio"]}


def test_a_full_disk_is_one_line(root, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    how = ("--out", tmp_path, "--model", root / "pairs", "--steps", 1)
    error = said(capsys, "translate", root / "in", *how)
    assert "No space left on device; nothing written" in error
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here refuses every user")
@pytest.mark.parametrize("words", ["translate IN --model PAIRS --steps 1 --out", "data digits",
                                   "train diffusion a=IN --net tiny --upscale --steps 1 --out"])  # fmt: skip
def test_a_folder_that_cannot_be_made_is_named_with_the_reason(words, root, capsys):
    words = words.replace("IN", str(root / "in/cat")).replace("PAIRS", str(root / "pairs")).split()
    run(*words, "/proc/self/x/y", ok=2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match("sfumato: this folder cannot be made .*: /proc/self/x", last), last


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m sfumato methods | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


def train_on(root, out, capsys, monkeypatch, stdout, stderr, ok):
    """Trains two steps and tells with these streams; what a full or closed one makes of it."""
    words = ("train", "diffusion", f"a={root}/in/cat", "--net", "tiny", "--size", 16, "--steps", 2,
             "--batch", 2, "--held-out", 0, "--out", out)  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        run(*words, ok=ok)
        for stream in (sys.stdout, sys.stderr):  # as Python does in the end
            stream.flush()
    assert sfumato.load(out).domains == ("a",)


def unread():
    """A pipe whose reader has gone, as `| head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


def full():
    return Path("/dev/full").open("w", buffering=1)


def test_work_goes_on_when_its_reader_goes_away(root, tmp_path, capsys, monkeypatch):
    pipe = unread()
    train_on(root, tmp_path / "run", capsys, monkeypatch, pipe, pipe, ok=0)
    pipe.close()


def test_what_is_said_in_python_goes_on_without_a_reader(tmp_path):
    with unread() as pipe:
        terminal.say("one", file=pipe)
        terminal.screen(file=terminal.steady(pipe)).print("two")
        terminal.say("three", file=pipe)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_work_goes_on_where_what_it_says_cannot_be_written(root, tmp_path, capsys, monkeypatch):
    err = io.StringIO()
    with full() as device:
        train_on(root, tmp_path / "a", capsys, monkeypatch, device, err, ok=1)
    said = "sfumato: all is done, but not all that it said is written: No space left on device"
    assert err.getvalue().splitlines()[-1] == said
    with full() as out, full() as device:
        train_on(root, tmp_path / "b", capsys, monkeypatch, out, device, ok=1)


def test_work_goes_on_where_streams_are_closed(root, tmp_path, capsys, monkeypatch):
    train_on(root, tmp_path / "run", capsys, monkeypatch, None, None, ok=0)


@pytest.mark.parametrize(
    ("streams", "code", "says"),
    [
        (">&-", 0, ""), ("<&- >&- 2>&-", 0, ""), ("2>&-", 0, "diffusion"),
        (">/dev/full", 1, "not all that it said is written"), ("2>/dev/full", 0, "diffusion"),
    ],
)  # fmt: skip
def test_closed_and_full_streams_are_no_traceback(streams, code, says):
    if "/dev/full" in streams and not Path("/dev/full").exists():
        pytest.skip("there is no full device")
    command = f"{sys.executable} -m sfumato methods {streams}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert done.stderr.count("\n") <= 1


def test_a_table_is_shown_in_any_encoding():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stdout(out):
        terminal.screen().print("9.5 ±0.1")
    out.flush()
    assert out.buffer.getvalue() == b"9.5 \\xb10.1\n"


@pytest.mark.parametrize("flag", ["--out {}", "--out={}"])
def test_the_home_folder_is_found_though_a_shell_leaves_it(
    flag, root, tmp_path, monkeypatch, capsys
):
    """As of --out=~/x; a folder called ~ was made."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(root / "pairs", "home/pairs")
    shutil.copytree(root / "in", "home/in")
    words = flag.format("~/zz").split()
    run("translate", "~/in/cat/1.png", "--model=~/pairs", "--steps", 1, *words)
    assert sorted(p.name for p in Path("home/zz").iterdir()) == ["1.png", "run.json"]
    tiny = ("--net", "tiny", "--size", 16, "--steps", 1, "--batch", 2, "--held-out", 0)
    run("train", "diffusion", "a=~/in/cat", *tiny, *flag.format("~/run").split())
    run("train", "--resume", *flag.format("~/run").split(), "--steps", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]
    assert at_home("x=~y/z") == "x=~y/z"
    assert at_home("a~/$HOME/x") == "a~/$HOME/x"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_training_that_a_signal_ends_exits_with_its_number(name, root, tmp_path, monkeypatch):
    if not hasattr(signal, name):
        pytest.skip(f"there is no {name} here")
    number, objectives = getattr(signal, name), sfumato.find("diffusion").objectives

    def told(*given):
        os.kill(os.getpid(), number)
        yield from objectives(*given)

    monkeypatch.setattr(sfumato.find("diffusion"), "objectives", told)
    before = signal.signal(number, lambda *_: None)
    try:
        run("train", "diffusion", f"a={root}/in/cat", "--net", "tiny", "--size", 16, "--batch", 2,
            "--held-out", 0, "--out", tmp_path / "run", ok=128 + number)  # fmt: skip
    finally:
        signal.signal(number, before)


def test_ctrl_c_exits_with_130_and_the_run_goes_on(root, tmp_path):
    """Pressed while the sixth file of about a dozen is written."""
    (tmp_path / "in").mkdir()
    for i in range(12):
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(tmp_path / f"in/{i}.png")
    pressed = "import signal; from kills import die; die(6, 0.0, signal.SIGINT)"
    command = [sys.executable, "-c", f"{pressed}; from sfumato.cli.main import main; main()", "translate",
               tmp_path / "in", "--out", tmp_path / "out", "--model", root / "pairs", "--steps", "4",
               "--batch", "1"]  # fmt: skip
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "stopped; the same command goes on"
    assert 0 < len(list((tmp_path / "out").glob("*.png"))) < 12


@pytest.mark.parametrize("size", [0, -5, 70000])
def test_an_import_has_a_size_of_pixels(size, tmp_path, capsys):
    (tmp_path / "g.pth").touch()
    words = ["import", str(tmp_path / "g.pth"), "--out", str(tmp_path / "m"), f"--size={size}"]
    assert f"size must be in [1, 65535], not {size}" in said(capsys, *words)


def test_without_docstrings_everything_works_but_help(tmp_path):
    words = "import sfumato; sfumato.train, sfumato.translate, sfumato.compare, sfumato.evaluate, sfumato.fit"
    done = subprocess.run([sys.executable, "-OO", "-c", words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
