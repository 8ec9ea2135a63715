"""Laws of the operations on latents, and latents to files and back."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from truth import f64, gaussian, normal

import sfumato
from sfumato.core.errors import UserError
from sfumato.data.images import read_image
from sfumato.diffusion.encode_decode import decode, encode
from sfumato.diffusion.integrate import ODE
from sfumato.diffusion.process import Cosine
from sfumato.explore import (
    OPERATIONS,
    Latents,
    Operation,
    apply,
    decode_latents,
    direction,
    encode_pictures,
    parse,
    round_trip,
)
from sfumato.methods.ddib import DDIB


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


Z, X, OTHER = noise(4, 3, 32, 32), noise(4, 3, 32, 32, seed=1).tanh(), noise(4, 3, 32, 32, seed=2)


def do(text, z=Z, images=X, seed=0, **latents):
    """The result of a chain; `latents` go to its last operation."""
    *first, last = parse(text)
    return apply([*first, Operation(last.name, last.parameters | latents)], z, images, seed)[0]


# ---- laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "latents"),
    [
        ("scale c=1", {}),
        ("add c=0", {}),
        ("add c=0 form=product", {}),
        ("add c=0 preserve_variance=true", {}),
        ("blend w=0", {}),
        ("blend w=0 preserve_variance=true", {}),
        ("blur sigma=0", {}),
        ("blur sigma=0 renormalise=true", {}),
        ("rotate angle=0", {}),
        ("rotate angle=360 interpolation=bilinear fill=-1", {}),
        ("translate", {}),
        ("translate right=32 down=-32", {}),
        ("translate wrap=false fill=3", {}),
        ("checkerboard cell=32", {}),
        ("slerp t=0", {"other": OTHER}),
        ("attribute weight=0", {"towards": Z, "away": OTHER}),
    ],
)
def test_nothing_is_exactly_nothing(text, latents):
    assert torch.equal(do(text, **latents), Z)


def test_the_other_ends():
    assert torch.equal(do("blend w=1"), X)
    torch.testing.assert_close(do("slerp t=1", other=OTHER), OTHER, rtol=0, atol=1e-5)
    assert torch.equal(do("swap factor=1", other=OTHER), Z + (OTHER - Z))


@pytest.mark.parametrize("c", [0.01, 0.1, 0.3, 0.7])
@pytest.mark.parametrize("form", ["sum", "product"])
def test_variance_of_added_noise(c, form, report):
    """1 + c^2 over independent draws of the latent and of the fixed noise."""
    z = noise(1, 1, 512, 512)
    got = do(f"add c={c} form={form}", z, z).var().item()
    kept = do(f"add c={c} form={form} preserve_variance=true", z, z).var().item()
    report(f"Var(z + {c} noise), {form}: measured, 1 + c^2", got, 1 + c**2)
    assert got == pytest.approx(1 + c**2, rel=0.012)
    assert kept == pytest.approx(1, rel=0.012)


def test_the_fixed_noise_is_one_draw():
    """Equal for all latents, coefficients and operations; another one for another seed."""
    n = do("add c=1") - Z
    assert torch.allclose(n[0], n[3], atol=1e-6)
    torch.testing.assert_close(do("add c=0.3"), Z + 0.3 * n, rtol=0, atol=1e-6)
    board = do("checkerboard other=noise")
    torch.testing.assert_close(board[:, :, 0, 1::2], n[:, :, 0, 1::2], rtol=0, atol=1e-6)
    assert torch.equal(do("add c=1", seed=5), do("add c=1", seed=5))
    assert (do("add c=1", seed=5) - do("add c=1")).abs().mean() > 0.5
    assert torch.equal(do("add c=1", Z[2:], X[2:]), do("add c=1")[2:])


@pytest.mark.parametrize("w", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_variance_of_a_blend(w, report):
    z, x = noise(1, 1, 512, 512), 0.5 * noise(1, 1, 512, 512, seed=1)
    got = do(f"blend w={w}", z, x).var().item()
    want = w**2 * x.var().item() + (1 - w) ** 2
    report(f"Var({w} image + {1 - w:.1f} z): measured, w^2 Var x + (1-w)^2", got, want)
    assert got == pytest.approx(want, rel=0.015)
    unit = do(f"blend w={w} preserve_variance=true", z, 2 * x).var().item()
    assert unit == pytest.approx(1, rel=0.015)


@given(st.integers(1, 8), st.sampled_from([8, 12, 16]))
def test_checkerboard(cell, side):
    z, x = Z[..., :side, :side], X[..., :side, :side]
    assert torch.equal(do(f"checkerboard cell={cell}", z, z), z)
    board = do(f"checkerboard cell={cell}", z, x)
    i, j = cell - 1, min(cell, side - 1)
    assert torch.equal(board[..., 0, 0], z[..., 0, 0])
    if cell < side:
        assert torch.equal(board[..., i, j], x[..., i, j])
        assert torch.equal(board[..., j, j], z[..., j, j])
    if side % (2 * cell) == 0:
        assert (board == x).float().mean() == 0.5


def test_std_of_blurred_noise(report):
    z = noise(1, 1, 512, 512)
    blurred = do("blur sigma=2", z)
    inside, unit = blurred[..., 16:-16, 16:-16].std().item(), do("blur sigma=2 renormalise=true", z)
    report("std of white noise blurred with sigma 2: inside, 1/(2 sqrt(pi) 2), renormalised", inside,
           1 / (4 * math.sqrt(math.pi)), unit.std().item())  # fmt: skip
    assert inside == pytest.approx(0.1410, abs=0.0025)
    exact = do("blur sigma=2", torch.eye(96).reshape(1, 1, 96, 96))[0, 0]  # g convolved with g
    assert exact[48, 48].item() == pytest.approx(0.1410, abs=1e-4)
    assert unit.std().item() == pytest.approx(1, abs=0.02)
    many = do("blur sigma=2 renormalise=true", noise(3000, 1, 8, 8), None)
    assert (many.std(0) - 1).abs().max() < 0.06  # at the borders, too
    torch.testing.assert_close(
        do("blur sigma=2, scale c=1.6666667", z), blurred / 0.6, rtol=1e-5, atol=1e-6
    )


def test_blur():
    constant = torch.full((1, 2, 16, 24), 0.7)
    torch.testing.assert_close(do("blur sigma=3", constant), constant)
    turned = do("blur sigma=2, rotate angle=90")
    torch.testing.assert_close(do("rotate angle=90, blur sigma=2"), turned, rtol=0, atol=1e-6)
    from scipy.ndimage import gaussian_filter

    want = gaussian_filter(Z[0, 0].double().numpy(), 1.5, mode="reflect", truncate=8)
    torch.testing.assert_close(
        do("blur sigma=1.5")[0, 0].double(), torch.from_numpy(want), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_rotate(how):
    for turns in (1, 2, 3):
        got = do(f"rotate angle={90 * turns} interpolation={how}")
        torch.testing.assert_close(got, Z.rot90(turns, (2, 3)), rtol=0, atol=1e-4)
    corner = do(f"rotate angle=45 interpolation={how} fill=-1")[..., 0, 0]
    torch.testing.assert_close(corner, torch.full_like(corner, -1))
    wide = noise(1, 1, 9, 21)  # half a turn of what is not square
    torch.testing.assert_close(
        do(f"rotate angle=180 interpolation={how}", wide), wide.rot90(2, (2, 3)), rtol=0, atol=1e-4
    )
    ramp = torch.arange(33.0)[:, None].expand(1, 1, 33, 65) - 16  # rows: a plane, that turns as one
    middle = do(f"rotate angle=30 interpolation={how}", ramp, None)[0, 0, 16, 32 - 8 : 32 + 9]
    want = torch.arange(-8.0, 9) * math.sin(math.radians(30))
    assert (middle - want).abs().max() < (0.51 if how == "nearest" else 1e-4)


def test_variance_of_rotated_noise(report):
    z = noise(1, 1, 256, 256)
    cut = lambda x: x[..., 96:160, 96:160].var().item()
    nearest, bilinear = (
        cut(do(f"rotate angle=60 interpolation={k}", z)) for k in ("nearest", "bilinear")
    )
    report(
        "Var of N(0, I) rotated by 60 degrees: nearest, bilinear, (2/3)^2", nearest, bilinear, 4 / 9
    )
    assert nearest == pytest.approx(1, abs=0.07)
    assert bilinear == pytest.approx(4 / 9, abs=0.04)  # E (u^2 + (1-u)^2) = 2/3 along each axis


def test_translate():
    assert torch.equal(do("translate right=3 down=-2"), Z.roll((-2, 3), (2, 3)))
    moved = do("translate right=3 down=-2 wrap=false fill=9")
    assert torch.equal(moved[..., :-2, 3:], Z[..., 2:, :-3])
    assert (moved[..., -2:, :] == 9).all()
    assert (moved[..., :3] == 9).all()


def test_normalise():
    z = do("normalise mode=zscore", 3 * Z + 5)
    torch.testing.assert_close(z.mean((1, 2, 3)), torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(z.std((1, 2, 3)), torch.ones(4))
    l2 = do("normalise mode=l2")
    torch.testing.assert_close(l2.flatten(1).norm(dim=1), torch.ones(4))
    assert l2.std().item() == pytest.approx(
        1 / math.sqrt(3072), rel=1e-2
    )  # nearly black when decoded
    m = do("normalise mode=minmax")
    assert m.amin((1, 2, 3)).tolist() == [-1] * 4
    assert m.amax((1, 2, 3)).tolist() == [1] * 4
    with pytest.raises(ValueError, match="is constant"):
        do("normalise", torch.ones(1, 3, 8, 8))


@given(st.floats(0, 1))
def test_slerp_keeps_the_norm(t):
    """On a sphere, and at a constant speed along it."""
    z, other = (x / x.flatten(1).norm(dim=1)[:, None, None, None] for x in (Z, OTHER))
    mid = do(f"slerp t={t}", z, other=other)
    torch.testing.assert_close(mid.flatten(1).norm(dim=1), torch.ones(4))
    angle = lambda a, b: (a * b).sum((1, 2, 3)).clamp(-1, 1).acos()
    torch.testing.assert_close(angle(z, mid), t * angle(z, other), rtol=0, atol=2e-3)


def test_slerp_with_itself():
    torch.testing.assert_close(do("slerp t=0.3", other=Z), Z)


def test_swap():
    low = sfumato.explore.operations.LowPass(4, "box")
    z = do("swap factor=4", other=OTHER)
    torch.testing.assert_close(low(z), low(OTHER), rtol=0, atol=1e-5)
    torch.testing.assert_close(z - low(z), Z - low(Z), rtol=0, atol=1e-5)
    torch.testing.assert_close(do("swap factor=8 kernel=cubic", other=Z), Z)
    assert do("swap", noise(1, 1, 512, 512), other=noise(1, 1, 512, 512, seed=1)).var().item() == (
        pytest.approx(1, abs=0.01)
    )


def test_attribute():
    """Two groups that differ by d have the direction d, up to the noise of their means."""
    d = noise(3, 8, 8, seed=3)
    towards, away = noise(4000, 3, 8, 8, seed=4) + d, noise(4000, 3, 8, 8, seed=5)
    assert (direction(towards, away) - d).abs().max() < 6 * math.sqrt(2 / 4000)
    moved = do("attribute weight=0.5", Z[..., :8, :8], towards=d[None], away=0 * d[None])
    torch.testing.assert_close(moved, Z[..., :8, :8] + 0.5 * d)


# ---- chains -------------------------------------------------------------------------------------


def test_order_matters_where_it_should():
    one, two = do("rotate angle=60, blur sigma=2"), do("blur sigma=2, rotate angle=60")
    assert (one - two).abs().max() > 0.05
    torch.testing.assert_close(do("scale c=2, blur sigma=2"), do("blur sigma=2, scale c=2"))
    double = do("blur sigma=3, blur sigma=4", noise(1, 1, 64, 64))
    torch.testing.assert_close(double, do("blur sigma=5", noise(1, 1, 64, 64)), rtol=0, atol=2e-4)


def test_log():
    z, log = apply("normalise, blur sigma=2,scale c=2", Z)
    assert [e["operation"] for e in log] == ["normalise", "blur sigma=2.0", "scale c=2.0"]
    assert log[0]["after"] == log[1]["before"]
    assert log[2]["after"]["std"] == pytest.approx(2 * log[1]["after"]["std"])
    assert log[2]["after"]["std"] == pytest.approx(z.std((1, 2, 3)).mean().item(), rel=1e-4)
    assert log[1]["before"]["autocorrelation"] == pytest.approx(0, abs=0.02)
    assert log[1]["after"]["autocorrelation"] > 0.8
    json.dumps(log)
    assert torch.equal(apply([Operation("blur", {"sigma": 2.0})], Z)[0], do("blur"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no operation given"),
        ("blurr sigma=2", "did you mean 'blur'"),
        ("blur sgima=2", "did you mean 'sigma'"),
        ("blur sigma", "expected sigma=VALUE"),
        ("blur sigma=1 sigma=2", "once"),
        ("blur sigma=much", "expected a number"),
        ("blur sigma=nan", "expected a number"),
        ("blur sigma=-1", "blur sigma must be at least 0, not -1"),
        ("blur sigma=1e5", "sigma must be at most the side, 32 pixels, not 100000"),
        ("checkerboard cell=1.5", "expected a whole number"),
        ("translate right=99999999999999999999", "a whole number of at most 1,000,000"),
        ("add c=1e200", "a number of at most 1,000,000"),
        ("checkerboard cell=0", "at least 1"),
        ("translate right=32 wrap=false", "translate .* leaves nothing of latents of 32x32 pixels but one"),
        ("translate down=-100 wrap=false fill=9", "leaves nothing"),
        ("blur, scale c=0", "scale c=0.0 leaves nothing"),
        ("normalise mode=max", "did you mean 'minmax'"),
        ("add preserve_variance=maybe", "true, false"),
        ("blend w=2", "in \\[0, 1\\]"),
        ("slerp t=0.3", "slerp needs other=FILE"),
        ("slerp other=nowhere.safetensors", "nowhere.safetensors does not exist"),
        ("swap factor=50", "is larger than"),
        ('blur "sigma', "No closing quotation"),
    ],
)
def test_mistakes(text, says):
    latents = {"other": OTHER} if "swap" in text else {}
    with pytest.raises(ValueError, match=says):
        do(text, **latents) if text else parse(text)


def test_operations_that_need_what_is_not_there():
    with pytest.raises(ValueError, match="no images to mix with"):
        do("blend", images=None)
    with pytest.raises(ValueError, match="or one of them"):
        do("slerp", other=OTHER[:2])
    with pytest.raises(ValueError, match="of one size"):
        do("attribute", towards=Z, away=Z[..., :8])


def test_every_operation_is_documented():
    from sfumato.explore.chain import outline

    assert len(outline().split("\n\n")) == len(OPERATIONS) == 11
    assert all(f"\n\n{name}" in f"\n\n{outline()}" for name in OPERATIONS)


# ---- latents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ODE)
def test_round_trip_by_any_solver(solver, report):
    f, x = gaussian([1.0, -2.0], [0.5, 2.0], Cosine()), normal(8, 2)
    a, s = f.process(f64(f.process.t_max))
    var, m = f64([0.5, 2.0]), f64([1.0, -2.0])
    want = a * m + (a**2 * var + s**2).sqrt() * (x - m) / var.sqrt()
    z = encode(f, x, steps=48, solver=solver)
    latent = (z - want).abs().max().item()
    back = (decode(f, z, steps=48, solver=solver) - x).abs().max().item()
    report(f"{solver}, 48 steps: error of the latent, of the round trip", latent, back)
    assert latent < (0.3 if solver == "ddim" else 0.03)
    assert back < (0.4 if solver == "ddim" else 0.01)


def test_is_the_bridges_own():
    f, g, x = gaussian([1.0], [0.5], Cosine()), gaussian([0.0], [2.0], Cosine()), normal(8, 1)
    ddib = DDIB(source=f, target=g)
    assert torch.equal(ddib.encode(x), encode(f, x))
    assert torch.equal(ddib.decode(x), decode(g, x))
    assert torch.equal(round_trip(f, x, steps=9), decode(f, encode(f, x, steps=9), steps=9))
    with pytest.raises(ValueError, match="solver 'ancestral' draws noise"):
        encode(f, x, solver="ancestral")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("explore")
    part = sfumato.find("diffusion")(domains=("cat", "dog"), net="tiny")
    sfumato.save(part, root / "model", info={"size": 16})
    gray = sfumato.find("diffusion")(domains=("a",), net="tiny", channels=1)
    sfumato.save(gray, root / "gray", info={"size": 16})
    rng = np.random.default_rng(0)
    for name in ("1.png", "sub/2.png"):
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / "in" / name)
    return root


def test_pictures_to_latents_to_pictures(root, tmp_path):
    z = encode_pictures(root / "in", f"{root}/model:cat", steps=3)
    assert z.names == ["1.png", "sub/2.png"]
    assert np.array_equal(z.images[0].numpy(), read_image(root / "in/1.png"))
    facts = z.protocol["encoded"]
    assert (facts["domain"], facts["steps"], facts["solver"], facts["nfe"]) == ("cat", 3, "ab3", 4)
    assert len(facts["weights"]) == len(facts["pictures"]) == 64
    z.save(tmp_path / "z.safetensors")
    z.save(tmp_path / "again.safetensors")
    assert (tmp_path / "z.safetensors").read_bytes() == (
        tmp_path / "again.safetensors"
    ).read_bytes()
    back = Latents.load(tmp_path / "z.safetensors")
    assert torch.equal(back.latents, z.latents)
    assert (back.names, back.protocol) == (z.names, z.protocol)
    images = decode_latents(back, f"{root}/model:dog", tmp_path / "out", steps=3)
    ddib = sfumato.translator("ddib", source=f"{root}/model:cat", target=f"{root}/model:dog")
    want = ddib.decode(ddib.encode(z.images, steps=3), steps=3)
    torch.testing.assert_close(images, want, rtol=0, atol=1e-4)
    shown = read_image(tmp_path / "out/sub/2.png")
    assert np.abs(shown - images[1].clamp(-1, 1).numpy()).max() < 0.005
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["run"]["decoded"]["domain"] == "dog"
    assert run["run"]["protocol"] == z.protocol
    with pytest.raises(ValueError, match="not an empty folder"):
        decode_latents(back, f"{root}/model:dog", tmp_path / "out")


def test_operations_on_the_picture_come_first(root):
    plain = encode_pictures(root / "in", f"{root}/model:cat", steps=2)
    first = encode_pictures(root / "in", f"{root}/model:cat", steps=2, first="blur sigma=2")
    torch.testing.assert_close(first.images, do("blur sigma=2", plain.images))
    assert (first.latents - plain.latents).abs().max() > 0.1
    assert first.protocol["encoded"]["first"][0]["operation"] == "blur sigma=2.0"


@pytest.mark.parametrize("chain", ["blur, , blur", "blur,, blur", "blur,", ", blur", ","])
def test_an_empty_operation_is_refused(chain):
    with pytest.raises(UserError, match="no operation beside a comma of"):
        parse(chain)
    with pytest.raises(UserError, match="a comma lacks before blur"):
        parse("rotate angle=60 blur sigma=2")


def test_a_chain_reads_latents_from_files(tmp_path):
    Latents(OTHER, X, list("abcd"), {}).save(tmp_path / "a b,c.safetensors")
    got, log = apply(f"slerp other='{tmp_path}/a b,c.safetensors' t=0.25", Z)
    assert torch.equal(got, do("slerp t=0.25", other=OTHER))
    assert "a b,c.safetensors" in log[0]["operation"]


@pytest.mark.parametrize(
    ("names", "protocol", "says"),
    [
        (["../x.png"], {}, "holds no latents"),
        (["/x.png"], {}, "holds no latents"),
        (["a/../../x.png"], {}, "holds no latents"),
        ([3], {}, "holds no latents"),
        (["a.png", "b.png"], {}, "holds no latents"),
        (["a.png"], {"latents": 99}, "reads up to 1"),
        (["a.png"], {"latents": "1"}, "holds no latents"),
        (["a.png"], {"operations": 5}, "holds no latents"),
    ],
)
def test_files_that_others_wrote(names, protocol, says, tmp_path):
    file = tmp_path / "z.safetensors"
    Latents(Z[:1], X[:1], names, protocol).save(file)
    with pytest.raises(ValueError, match=says):
        Latents.load(file)


def test_damaged_files(root, tmp_path):
    file = tmp_path / "z.safetensors"
    with pytest.raises(ValueError, match="no latents"):
        Latents.load(root / "model/weights.safetensors")
    for text in ("[" * 100_000, "[1]", "3", "{"):
        save_file({"latents": Z}, file, {"protocol": text})
        with pytest.raises(ValueError, match="not written by sfumato"):
            Latents.load(file)
    Latents(Z, X, list("abca"), {}).save(file)
    with pytest.raises(ValueError, match="two pictures alike"):
        Latents.load(file)
    Latents(Z, X, list("abcd"), {}).save(file)
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="do not have their hash"):
        Latents.load(file)
    file.write_bytes(data[:-100])
    with pytest.raises(ValueError, match="damaged or truncated"):
        Latents.load(file)
    file.write_text("cos\nsystem\n(S'echo'\ntR.")  # a pickle is not read, whatever its name
    with pytest.raises(ValueError, match="damaged or truncated"):
        Latents.load(file)


def test_latents_that_do_not_fit_the_model(root, tmp_path):
    z = encode_pictures(root / "in", f"{root}/model:cat", steps=1)
    with pytest.raises(ValueError, match="3 channels, .* has 1"):
        decode_latents(z, root / "gray", tmp_path / "out")
    z.latents = z.latents[..., :8, :8]
    with pytest.warns(UserWarning, match="^the latents are 8x8; .*:cat was trained at 16x16$"):
        decode_latents(z, f"{root}/model:cat", tmp_path / "small", steps=1)
    z.latents = z.latents * float("nan")
    with pytest.raises(ValueError, match="not numbers"):
        decode_latents(z, f"{root}/model:cat", tmp_path / "out", steps=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("chain", ["blend", "checkerboard"])
def test_images_of_another_shape_are_refused(chain):
    z = torch.zeros(2, 3, 8, 8)
    with pytest.raises(UserError, match=r"the images have shape \(2, 3, 4, 4\): expected \(2, 3, 8, 8\)"):
        apply(chain, z, torch.zeros(2, 3, 4, 4))
