"""`sfumato explore`: encode, report, apply, decode; and one line for every mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import python, run, said

import sfumato
from sfumato.explore import Latents


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli_explore")
    part = sfumato.find("diffusion")(domains=("cat", "dog"), net="tiny")
    sfumato.save(part, root / "model", info={"size": 16})
    rng = np.random.default_rng(0)
    (root / "in").mkdir()
    for name in ("1.png", "2.png"):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / "in" / name)
    run("explore", "encode", root / "in", "--model", f"{root}/model:cat", "--out",
        root / "z.safetensors", "--steps", 2)  # fmt: skip
    return root


def test_from_pictures_to_pictures(root, tmp_path, capsys):
    run("explore", "apply", root / "z.safetensors", "rotate angle=60, blur sigma=2", "--out",
        tmp_path / "b.safetensors")  # fmt: skip
    shown = capsys.readouterr().out
    assert shown.startswith("rotate angle=60.0\n  mean ")
    assert "blur sigma=2.0\n" in shown
    assert shown.endswith(f"2 latents written to {tmp_path}/b.safetensors\n")
    run("explore", "apply", tmp_path / "b.safetensors", "add c=0.1", "--seed", 3, "--out",
        tmp_path / "c.safetensors")  # fmt: skip
    done = Latents.load(tmp_path / "c.safetensors").protocol["operations"]
    assert [(e["operation"], e["seed"]) for e in done] == [
        ("rotate angle=60.0", 0), ("blur sigma=2.0", 0), ("add c=0.1", 3),
    ]  # fmt: skip
    capsys.readouterr()
    run("explore", "decode", tmp_path / "c.safetensors", "--model", f"{root}/model:dog", "--out",
        tmp_path / "out", "--steps", 2)  # fmt: skip
    assert capsys.readouterr().out == f"2 pictures written to {tmp_path}/out\n"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1.png", "2.png", "run.json"]


def test_report(root, tmp_path, capsys):
    run("explore", "report", root / "z.safetensors", "--qq", tmp_path / "qq.png")
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["1.png", "2.png"]
    assert last.endswith("of 2 may be N(0, I)")
    assert (tmp_path / "qq.png").is_file()
    run("explore", "report", root / "z.safetensors", "--full")
    assert "autocorrelation [2]" in capsys.readouterr().out
    run("explore", "report", root / "z.safetensors", "--json", "--alpha", 0.05)
    found = json.loads(capsys.readouterr().out)
    assert found["2.png"]["alpha"] == 0.05
    assert len(found["2.png"]["rows"]) == 29


def test_looking_at_a_translation(root, tmp_path, capsys):
    how = ("--method", "sdedit", "--target", f"{root}/model:dog", "--steps", 3)
    run("explore", "trajectory", root / "in" / "1.png", "--out", tmp_path / "t", *how)
    assert capsys.readouterr().out.startswith(
        f"3 steps (3 NFE) shown in {tmp_path}/t: score, change"
    )
    assert (tmp_path / "t" / "strip.png").is_file()
    run("explore", "sensitivity", root / "in" / "1.png", "--out", tmp_path / "s", *how, "--seeds", 2,
        "--cell", 8, "--fill", -1)  # fmt: skip
    assert f"{tmp_path}/s: deviation over seeds up to" in capsys.readouterr().out
    run("explore", "trajectory", "--method", "egsde", "--help")
    shown = capsys.readouterr().out
    assert "--faithful" in shown
    assert "Options of egsde are among the parameters" in " ".join(shown.split())


def test_help(capsys):
    run("explore", "--help")
    shown = capsys.readouterr().out
    names = ("encode", "decode", "report", "apply", "trajectory", "sensitivity")
    assert all(name in shown for name in names)
    run("explore", "apply", "--help")
    assert "blur sigma=2.0 renormalise=False: Gaussian blur" in capsys.readouterr().out
    heavy = "{'torch', 'numpy', 'matplotlib', 'PIL'}"
    code = f"import sfumato.cli.main as c, sys; c.make_app(['explore']); print(sys.modules.keys() & {heavy})"
    assert python("-c", code) == "set()\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("encod", "did you mean 'encode'"),
        ("encode IN --out z.safetensors", "--model"),
        ("encode IN --model MODEL --out z.safetensors", "say which"),
        ("encode IN --model MODEL:cta --out z.safetensors", "did you mean 'cat'"),
        ("encode IN --model MODEL:cat --out LATENTS", "exists already"),
        ("encode IN --model MODEL:cat --out z.safetensors --solver ancestral", "'ancestral' draws noise"),
        ("encode IN --model MODEL:cat --out z.safetensors --steps 0", "steps"),
        ("encode IN --model MODEL:cat --out z.safetensors --size 64", "enlarge it by --upscale"),
        ("encode IN --model MODEL:cat --out z.safetensors --size 0", "at least 1"),
        ("encode IN --model MODEL:cat --out z.safetensors --first blurr", "did you mean 'blur'"),
        ("encode IN --model MODEL:cat --out z.safetensors --first blend", "no images to mix with"),
        ("encode nowhere --model MODEL:cat --out z.safetensors", "nowhere does not exist"),
        ("decode nowhere --model MODEL:cat --out o", "nowhere does not exist"),
        ("decode LATENTS --model MODEL:cat --out IN", "not an empty folder"),
        ("decode IN/1.png --model MODEL:cat --out o", "1.png is a picture: expected latents"),
        ("report MODEL/weights.safetensors", "holds no latents"),
        ("report LATENTS --alpha 2", "alpha must be in (0, 1), not 2"),
        ("report LATENTS --ful", "Did you mean --full"),
        ("apply LATENTS sharpen --out z.safetensors", "unknown operation 'sharpen'"),
        ("apply LATENTS slerp --out z.safetensors", "slerp needs other=FILE"),
        ("apply LATENTS blur", "--out"),
        ("trajectory IN/1.png --out o", "say how to translate"),
        ("trajectory IN/1.png --model MODEL --out o", "which other methods translate with"),
        ("trajectory IN/3.png --method sdedit --target MODEL:dog --out o", "expected one file"),
        ("trajectory IN/1.png --method sdedit --target MODEL:dog --out IN", "not an empty folder"),
        ("trajectory IN/1.png --method sdedit --target MODEL:dog --out o --strength 2", "strength"),
        ("sensitivity IN/1.png --method sdedit --target MODEL:dog --out o --cell 0", "at least 1"),
        ("sensitivity IN/1.png --method sdedit --target MODEL:dog --out o --seeds 1", "at least 2"),
        ("sensitivity IN/1.png --method sdedit --target MODEL:dog --out o --fill 3", "in [-1, 1], not 3"),
    ],
)
def test_mistakes(words, says, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, file in {"IN": "in", "MODEL": "model", "LATENTS": "z.safetensors"}.items():
        words = words.replace(name, str(root / file))
    capsys.readouterr()
    assert says in said(capsys, "explore", *words.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("in/1.png", "in/1.png is a picture: expected latents, made by `sfumato explore encode`"),
        ("in", "in is a folder: expected latents"),
        ("nowhere", "nowhere does not exist: expected latents"),
        ("model/model.json", "not a safetensors file"),
    ],
)
def test_what_is_given_for_latents_is_called_what_it_is(given, says, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    capsys.readouterr()
    assert says in said(capsys, "explore", "report", given)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("explore report LATENTS --qq there.png", "there.png exists already: give --qq a new file"),
        ("explore report LATENTS --qq q.jpg", "--qq q.jpg does not end in .png: expected a name"),
        ("explore report LATENTS --qq q", "does not end in .png"),
        ("explore apply LATENTS normalise --out there.png", "--out there.png reads as a picture"),
        ("explore apply LATENTS normalise --out z.txt", "z.txt does not end in .safetensors"),
        ("explore encode IN --model MODEL:cat --out z.pt", "z.pt does not end in .safetensors"),
        ("study a.json --score k.json --out page", "--score counts answers and has no use for --out"),
        ("study a.json --score k.json --count 3", "--score counts answers and has no use for --count"),
        ("doctor IN --no-measure --write-list there.txt", "there.txt exists already: give --write-list"),
        ("doctor IN --no-measure --write-list list.png", "reads as a picture; expected a text file, such "
         "as --write-list list.txt"),
        ("demo --out .", "holds what is not the demo's (index.html)"),
        ("study IN IN IN --out .", "holds a study.html without its study_key.json"),
        ("evaluate IN --source IN --target IN --out .", "holds something else than a comparison"),
    ],
)  # fmt: skip
def test_a_file_that_is_there_is_not_overwritten(words, says, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, file in {"IN": "in", "MODEL": "model", "LATENTS": "z.safetensors"}.items():
        words = words.replace(name, str(root / file))
    for name in ("there.png", "there.txt", "index.html", "study.html"):
        Path(name).write_text("mine")
    capsys.readouterr()
    run(*words.split(), ok=2)
    assert says in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {
        "there.png",
        "there.txt",
        "index.html",
        "study.html",
    }
    assert {p.read_text() for p in tmp_path.iterdir()} == {"mine"}


@pytest.mark.parametrize(
    "words",
    [
        "explore encode in --model model:cat", "explore apply z.safetensors normalise",
        "explore decode z.safetensors --model model:cat", "train diffusion a=in", "demo",
        "explore trajectory in/1.png --method sdedit --target model:dog", "data digits",
        "import in/1.png", "compare folder=in --source in --target in", "study in in in",
    ],
)  # fmt: skip
def test_what_is_no_picture_is_not_called_like_one(words, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    capsys.readouterr()
    out = [] if words.startswith("data") else ["--out"]
    assert "x.png reads as a picture; expected a f" in said(capsys, *words.split(), *out, "x.png")
    assert not Path("x.png").exists()


def test_a_report_of_many_latents_is_a_summary(root, tmp_path, capsys):
    z = Latents.load(root / "z.safetensors")
    many = [f"{i}.png" for i in range(50)]
    Latents(z.latents[:1].repeat(50, 1, 1, 1), z.images[:1].repeat(50, 1, 1, 1), many).save(
        tmp_path / "many.safetensors"
    )
    capsys.readouterr()
    run("explore", "report", tmp_path / "many.safetensors")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert lines[20] == "... and 30 more: --full or --json has them all"
    assert lines[21].endswith(" of 50 may be N(0, I)")


def test_json_of_latents_without_variance_is_json(root, tmp_path, capsys):
    flat = Latents.load(root / "z.safetensors").latents[:1] * 0
    Latents(flat, flat.clone(), ["a.png"]).save(tmp_path / "z.safetensors")
    run("explore", "report", tmp_path / "z.safetensors", "--json")
    json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize(
    "words",
    [
        "study IN IN IN", "evaluate IN --source IN --target IN", "demo",
        "compare folder=IN --source IN --target IN",
        "sweep sdedit --target-model MODEL:dog --option strength=0.5 --source IN --target IN",
        "translate IN --method sdedit --target MODEL:dog", "train diffusion a=IN --net tiny",
        "train diffusion a=IN --net tiny --resume", "explore decode LATENTS --model MODEL:cat",
        "explore trajectory IN/1.png --method sdedit --target MODEL:dog",
        "explore sensitivity IN/1.png --method sdedit --target MODEL:dog", "data digits", "import IN/1.png",
    ],
)  # fmt: skip
def test_a_folder_of_other_peoples_pictures_is_left_alone(words, root, tmp_path, capsys):
    own = tmp_path / "photos"
    own.mkdir()
    for name in ("me.png", "me.txt"):
        (own / name).write_text("mine")
    for name, file in {"IN": "in", "MODEL": "model", "LATENTS": "z.safetensors"}.items():
        words = words.replace(name, str(root / file))
    capsys.readouterr()
    error = said(capsys, *words.split(), *["--out"] * (not words.startswith("data")), own)
    assert str(own) in error
    assert {p.name: p.read_text() for p in tmp_path.rglob("*.*")} == {"me.png": "mine", "me.txt": "mine"}
