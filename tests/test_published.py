"""Denoisers of guided-diffusion: network and chain against their formulas, written down once more here."""

import math
import zipfile

import pytest
import torch
from test_train import TINY, folders  # noqa: F401
from torch.nn import functional as F

from sfumato.checkpoints.guided_diffusion import FIRST, read_network
from sfumato.checkpoints.known_files import KNOWN
from sfumato.checkpoints.known_networks import NETWORKS, others
from sfumato.checkpoints.model_folder import load, save
from sfumato.checkpoints.published import read_published
from sfumato.cli.main import main
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.process import DDPM, IDDPM
from sfumato.nets.adm import ADM
from sfumato.nets.indexed import Indexed
from sfumato.training.train import train
from sfumato.translation.translator import translator

LITTLE = {"widths": (32, 64), "blocks": 1, "attention": (1,), "embedding": 32}
CHAIN = {"size": 16, "schedule": "linear", "chain_steps": 1000, "attention_order": "old"}
CASES = {
    "guided": (LITTLE | {"updown": True}, {"head_channels": 16}),
    "new order, classes": (LITTLE | {"labels": 3}, {"head_channels": 32, "attention_order": "new"}),
    "fixed heads": (LITTLE | {"attention": (0, 1), "blocks": 2}, {"heads": 4}),
    "improved": (
        LITTLE | {"updown": False, "scale_shift": False},
        {"heads": 2, "schedule": "cosine", "chain_steps": 4000, "rescale_timesteps": True},
    ),
}
X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def weights(net, learned=False, seed=0):
    """Random weights under the names of a network, as a file has them; with a variance, if it was learned."""
    g = torch.Generator().manual_seed(seed)
    shapes = {k: list(v.shape) for k, v in net.state_dict().items()}
    if "label_emb.weight" in shapes:
        shapes["label_emb.weight"][0] -= 1
    for name in ("out.2.weight", "out.2.bias") if learned else ():
        shapes[name][0] *= 2
    return {k: torch.randn(s, generator=g) / max(1, math.prod(s[1:])) ** 0.5 for k, s in shapes.items()}


def written(file, state, **changes):
    torch.save({k: v for k, v in (state | changes).items() if v is not None}, file)
    return file


def little(**config):
    with without_values():
        return ADM(**LITTLE | {"heads": 1} | config)


# ---- the network, by its weights' names ---------------------------------------------------------


class Theirs:
    """eps(x, k, label) of a state dict."""

    def __init__(self, state, heads=None, head_channels=None, attention_order="old", **_):
        self.w, self.heads, self.per, self.order = state, heads, head_channels, attention_order

    def embedded(self, k, label=None):
        w, half = self.w, self.w["time_embed.0.weight"].shape[1] // 2
        angle = k[:, None] * (-math.log(10_000) * torch.arange(half) / half).exp()
        e = self.linear("time_embed.0", torch.cat([angle.cos(), angle.sin()], 1))
        e = self.linear("time_embed.2", F.silu(e))
        return F.silu(e if label is None else e + w["label_emb.weight"][label])

    def logits(self, x, k, halved, head="out"):
        """Of an encoder whose stages `halved` halve the size."""
        e = self.embedded(k)
        for i in range(1 + max(int(n.split(".")[1]) for n in self.w if n.startswith("input"))):
            x = self.stage(f"input_blocks.{i}", x, e, "down" if i in halved else None)
        features = self.stage("middle_block", x, e)
        x = F.silu(self.norm(f"{head}.0", features)).flatten(2)
        x = torch.cat([x.mean(2, keepdim=True), x], 2) + self.w[f"{head}.2.positional_embedding"]
        x = F.conv1d(x, *(self.w[f"{head}.2.qkv_proj.{n}"] for n in ("weight", "bias")))
        out = []
        for q, k, v in zip(*(t.split(self.per, 1) for t in x.chunk(3, 1)), strict=True):
            out.append(v @ ((q.mT @ k) / self.per**0.5).softmax(2).mT)
        x = F.conv1d(torch.cat(out, 1), *(self.w[f"{head}.2.c_proj.{n}"] for n in ("weight", "bias")))
        return features, x[:, :, 0]

    def __call__(self, x, k, label=None):
        w, stages = self.w, lambda way: range(1 + max(int(n.split(".")[1]) for n in w if n.startswith(way)))
        e = self.embedded(k, label)
        up = [j for j in stages("output") if any(f"output_blocks.{j}.{i}.{n}" in w for i in (1, 2)
              for n in ("conv.weight", "in_layers.0.weight"))]  # fmt: skip
        last = stages("input")[-1]
        down = {last - (up[0] + 1) * n - up[0] for n in range(len(up))}
        skips = []
        for i in stages("input"):
            x = self.stage(f"input_blocks.{i}", x, e, "down" if i in down else None)
            skips.append(x)
        x = self.stage("middle_block", x, e)
        for j in stages("output"):
            x = self.stage(f"output_blocks.{j}", torch.cat([x, skips.pop()], 1), e)
        return self.conv("out.2", F.silu(self.norm("out.0", x)))[:, :3]

    def stage(self, at, x, e, way=None):
        for i in range(3):
            p = f"{at}.{i}"
            if f"{p}.in_layers.0.weight" in self.w:
                second = i > 0 and at.startswith("output")
                x = self.block(p, x, e, "up" if second else way)
            elif f"{p}.qkv.weight" in self.w:
                x = x + self.attention(p, x)
            elif f"{p}.op.weight" in self.w:
                x = self.conv(f"{p}.op", x, 2)
            elif f"{p}.conv.weight" in self.w:
                x = self.conv(f"{p}.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
            elif f"{p}.weight" in self.w:
                x = self.conv(p, x)
        return x

    def block(self, p, x, e, way):
        resized = {
            None: lambda v: v,
            "down": lambda v: v.unflatten(3, (-1, 2)).mean(4).unflatten(2, (-1, 2)).mean(3),
            "up": lambda v: v.repeat_interleave(2, 2).repeat_interleave(2, 3),
        }[way]
        h = self.conv(f"{p}.in_layers.2", resized(F.silu(self.norm(f"{p}.in_layers.0", x))))
        e, norm = self.linear(f"{p}.emb_layers.1", e)[:, :, None, None], f"{p}.out_layers.0"
        c = h.shape[1]
        h = self.norm(norm, h) * (1 + e[:, :c]) + e[:, c:] if e.shape[1] == 2 * c else self.norm(norm, h + e)
        x = resized(x)
        skip = f"{p}.skip_connection"
        return (self.conv(skip, x) if f"{skip}.weight" in self.w else x) + self.conv(
            f"{p}.out_layers.3", F.silu(h)
        )

    def attention(self, p, x):
        c, flat, w = x.shape[1], self.norm(f"{p}.norm", x).flatten(2), self.w
        row = F.conv1d(flat, w[f"{p}.qkv.weight"], w[f"{p}.qkv.bias"])
        d = c // self.heads if self.heads else self.per
        out = []
        for n in range(c // d):
            begin, step = (n * d, c) if self.order == "new" else (3 * n * d, d)
            q, k, v = (row[:, begin + i * step :][:, :d] for i in range(3))
            out.append(v @ ((q.mT @ k) / d**0.5).softmax(2).mT)
        y = F.conv1d(torch.cat(out, 1), w[f"{p}.proj_out.weight"], w[f"{p}.proj_out.bias"])
        return y.reshape(x.shape)

    def linear(self, p, x):
        return x @ self.w[f"{p}.weight"].T + self.w[f"{p}.bias"]

    def conv(self, p, x, stride=1):
        w = self.w[f"{p}.weight"]
        return F.conv2d(x, w, self.w[f"{p}.bias"], stride, padding=w.shape[-1] // 2)

    def norm(self, p, x):
        g = x.reshape(len(x), 32, -1)
        g = (g - g.mean(2, keepdim=True)) / (g.var(2, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return g.reshape(x.shape) * self.w[f"{p}.weight"][:, None, None] + self.w[f"{p}.bias"][:, None, None]


def bars_of(schedule="linear", chain_steps=1000, **_):
    """abar of numbers 0..T-1."""
    T = chain_steps
    if schedule == "linear":
        betas = torch.linspace(0.1 / T, 20 / T, T, dtype=torch.float64)
    else:
        f = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = [min(1 - f((i + 1) / T) / f(i / T), 0.999) for i in range(T)]
    return (1 - torch.as_tensor(betas, dtype=torch.float64)).cumprod(0)


def error(mine, theirs):
    return ((mine - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_a_file_is_the_published_denoiser(name, tmp_path, report):
    """The mean at 20 levels, and DDIM of 20 steps, by the chain's own formulas and another network's code."""
    config, given = CASES[name][0], CHAIN | CASES[name][1]
    state = weights(little(**config), learned=True)
    made = read_published(written(tmp_path / "a.pt", state), **given)
    assert "its learned variance left out" in made.said
    save(made.part, tmp_path / "m", info=made.info)
    domain = "2" if config.get("labels") else "a"
    f, label = load(f"{tmp_path / 'm'}:{domain}"), torch.tensor([2, 2]) if config.get("labels") else None
    theirs, bars, T = Theirs(state, **given), bars_of(**given), given["chain_steps"]
    told = 1000 / T if given.get("rescale_timesteps") else 1

    def eps(x, n):
        return theirs(x, torch.full((2,), n * told), label)

    levels, worst = torch.linspace(0, 0.98 * T - 1, 21).round().long().tolist(), 0.0
    for n in levels[::5]:  # what of 20 levels is not in the chain below
        a = bars[n]
        x0 = (X - (1 - a).sqrt() * eps(X, n)) / a.sqrt()
        worst = max(worst, error(f(X, (n + 1) / T), x0))
    x = X
    for n, m in zip(levels[:0:-1], levels[-2::-1], strict=True):
        a, b, z = bars[n], bars[m], eps(x, n)
        x = b.sqrt() * (x - (1 - a).sqrt() * z) / a.sqrt() + (1 - b).sqrt() * z
    times = (torch.tensor(levels[::-1], dtype=torch.float64) + 1) / T
    whole = error(integrate("ddim", f, X, times), x)
    report(f"{name}: mean, and DDIM of 20", worst, whole)
    assert worst < 1e-5
    assert whole < 2e-5


WIDE = {"widths": (256, 256, 512, 512, 1024, 1024), "blocks": 2, "attention": (3, 4, 5), "embedding": 256}
FLAT = {"updown": False, "embedding": 128}
PUBLISHED = {
    "afhq_dog_4m": ({}, 93.6, 362),
    "256x256_diffusion_uncond": (WIDE, 552.8, 566),
    "256x256_diffusion": (WIDE | {"labels": 1000}, 553.8, 567),
    "512x512_diffusion": (
        {"labels": 1000, "widths": (128, 256, 256, 512, 512, 1024, 1024), "blocks": 2,
         "attention": (4, 5, 6), "embedding": 256},
        559.0, 645,
    ),
    "128x128_diffusion": (
        WIDE | {"labels": 1000, "widths": (256, 256, 512, 768, 1024), "attention": (2, 3, 4), "heads": 4},
        421.5, 493,
    ),
    "64x64_diffusion": (
        {"labels": 1000, "widths": (192, 384, 576, 768), "blocks": 3, "attention": (1, 2, 3),
         "embedding": 192},
        295.9, 541,
    ),
    "lsun_uncond_100m": (FLAT | {"blocks": 2, "scale_shift": False, "heads": 1}, 113.7, 426),
    "cifar10_uncond": (
        FLAT | {"widths": (128, 256, 256, 256), "blocks": 3, "attention": (1, 2), "heads": 4}, 52.5, 446
    ),
    "imagenet64_cond_270m": (
        {"updown": False, "embedding": 192, "widths": (192, 384, 576, 768), "blocks": 3, "labels": 1000,
         "attention": (2, 3), "heads": 4},
        273.0, 451,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_are_told_by_names_and_shapes(name):
    config, millions, tensors = PUBLISHED[name]
    assert NETWORKS.keys() == KNOWN.keys()
    with without_values():
        net = ADM(**config)
    state = {k: v[:-1] if k == "label_emb.weight" else v for k, v in net.state_dict().items()}
    assert len(state) == tensors
    assert round(sum(v.numel() for v in state.values()) / 1e6, 1) == millions
    assert read_network(state) == {k: getattr(net, k) for k in read_network(state)}
    classes = len(state.get("label_emb.weight", ()))
    assert not others(read_network(state) | {"classes": classes}, NETWORKS[name])
    known = KNOWN[name]
    assert not known.missing()
    assert (known.heads or 0) == net.heads


def encoder(config, size, classes):
    """The names and shapes of a classifier's weights."""
    with without_values():
        net = ADM(**config, decoder=False, pool=size // 2 ** (len(config["widths"]) - 1))
        head = torch.nn.ModuleDict({"out": net.pooling()})
    c = net.features
    last = {"out.2.c_proj.weight": torch.empty(classes, c, 1), "out.2.c_proj.bias": torch.empty(classes)}
    return net, net.state_dict() | head.state_dict() | last


@pytest.mark.parametrize(
    ("size", "widths", "blocks", "attention", "millions"),
    [
        (256, (128, 128, 256, 256, 512, 512), 2, (3, 4, 5), 54.1),
        (64, (128, 256, 384, 512), 4, (1, 2, 3), 65.4),
    ],
)
def test_published_classifiers_are_told_by_names_and_shapes(size, widths, blocks, attention, millions):
    config = {"widths": widths, "blocks": blocks, "attention": attention, "embedding": 128}
    net, state = encoder(config, size, 1000)
    assert round(sum(v.numel() for v in state.values()) / 1e6, 1) == millions
    assert read_network(state, size) == {k: getattr(net, k) for k in read_network(state, size)}
    assert not others(read_network(state, size) | {"classes": 1000}, NETWORKS[f"{size}x{size}_classifier"])


def test_a_published_name_of_another_network_says_nothing_of_it(tmp_path):
    """What was given to a small network of one's own must not be that of the published one."""
    file = written(tmp_path / "afhq_dog_4m.pt", weights(little()))
    with pytest.raises(UserError) as error:
        read_published(file)
    said = str(error.value)
    assert "called as the published afhq_dog_4m, and holds another network" in said
    assert "channels 32, 64, not 128, 128, 256, 256, 512, 512" in said
    assert "add --size N --schedule linear|cosine --chain-steps N --attention-order new|old" in said
    with pytest.raises(UserError, match=r"add --attention-order new\|old$"):
        read_published(file, size=16, schedule="linear", chain_steps=1000, heads=1)
    made = read_published(file, **CHAIN, heads=1)
    assert "published" not in made.said
    assert made.part.domains == ("afhq_dog_4m",)


@torch.no_grad()
@pytest.mark.parametrize("head", ["out", "I2Iout"])
def test_a_classifier_is_the_published_one_and_guides(head, tmp_path, report):
    _, shapes = encoder(LITTLE | {"head_channels": 32}, 16, 3)
    g, names = torch.Generator().manual_seed(0), "cat,dog,fox".split(",")
    state = {k.replace("out.", f"{head}.") if k.startswith("out.") else k:
             torch.randn(v.shape, generator=g) / max(1, math.prod(v.shape[1:])) ** 0.5
             for k, v in shapes.items()}  # fmt: skip
    how = CHAIN | {"head_channels": 32}
    made = read_published(written(tmp_path / "c.pt", state), **how, domains=tuple(names))
    assert made.said.startswith("a classifier of cat, dog, fox: a U-Net of 32, 64 channels")
    save(made.part, tmp_path / "c", info=made.info)
    mine, worst = load(tmp_path / "c"), 0.0
    for n in (0, 300, 999):
        features, logits = Theirs(state, **how).logits(X, torch.full((2,), float(n)), {2}, head)
        worst = max(worst, error(mine(X, (n + 1) / 1000), logits))
        worst = max(worst, error(mine.features(X, (n + 1) / 1000), features))
    report(f"classifier, {head}: logits and features", worst)
    assert worst < 1e-5
    denoiser = weights(little()) | {"out.2.weight": weights(little())["out.2.weight"] / 10}
    dog = read_published(written(tmp_path / "dog.pt", denoiser), **how)
    save(dog.part, tmp_path / "dog", info=dog.info)
    roles = {"target": str(tmp_path / "dog"), "classifier": str(tmp_path / "c")}
    for method, options in (("egsde", {}), ("classifier_guidance", {"prior": "domain"})):
        y = translator(method, **roles).translate(X, steps=2, **options)
        assert y.isfinite().all()
    with pytest.raises(UserError, match="expected 8x8 features, not 16x16"):
        mine(torch.zeros(1, 3, 32, 32), 0.5)


@pytest.mark.parametrize("chain", [DDPM(), IDDPM(), IDDPM(steps=4000), DDPM(steps=250)], ids=str)
def test_levels_in_float32_are_whole_numbers(chain):
    t = torch.arange(1, chain.steps + 1, dtype=torch.float64) / chain.steps
    alpha, sigma = (v.float() for v in chain(t))
    k = Indexed(net=torch.nn.Identity(), chain=chain).numbers((sigma / alpha).log())
    assert torch.equal(k, torch.arange(chain.steps).float())
    between = Indexed(net=torch.nn.Identity(), chain=chain).numbers(torch.tensor([-20.0, -2.0, 20.0]))
    assert between[0] == 0
    assert between[2] == chain.steps - 1
    assert between[1] != between[1].round()


def test_checkpoints_around_the_weights(tmp_path):
    state, how = weights(little()), CHAIN | {"head_channels": 32}
    plain = read_published(written(tmp_path / "a.pt", state), **how).part
    for name, kept in {
        "module": {f"module.{k}": v.half().float() for k, v in state.items()},
        "nested": {"state_dict": {f"model.{k}": v for k, v in state.items()}, "step": 7},
        "ema": {"model": weights(little(), seed=1), "ema": state},
        "both": {f"model.{k}": v for k, v in weights(little(), seed=1).items()}
        | {f"model_ema.{k}": v for k, v in state.items()},
    }.items():
        file = tmp_path / f"{name}.pt"
        torch.save(kept, file)
        made = read_published(file, **how)
        assert made.part.domains == (name,)
        assert ("left out" in made.said) == (name == "both")
        x = torch.equal(made.part.denoiser(X, 0.5, name), plain.denoiser(X, 0.5, "a"))
        assert x == (name != "module")


def test_methods_take_it_and_training_goes_on(tmp_path, folders):  # noqa: F811
    state, model, run = weights(little()), tmp_path / "m", tmp_path / "run"
    state["out.2.weight"] /= 10
    made = read_published(written(tmp_path / "dog.pt", state), **CHAIN, head_channels=32)
    save(made.part, model, info=made.info)
    for method, options in (("sdedit", {}), ("ilvr", {}), ("egsde", {"realism": 0.0}), ("ddib", {})):
        source = {"source": f"{model}:dog"} if method == "ddib" else {}
        y = translator(method, target=str(model), **source).translate(X[:, :, :, :14], steps=2, **options)
        assert y.shape == (2, 3, 16, 14)
        assert y.isfinite().all()
    how = {k: v for k, v in TINY.items() if k != "options"} | {"held_out": 0, "steps": 1}
    part = train("diffusion", folders, run, start=model, **how)
    assert len(part.domains) == 2
    assert part.denoiser.net.net.label_emb.weight.shape[0] == 3
    with pytest.raises(UserError, match="does not know any domain"):
        part.denoiser(X, 0.5)
    old, new = (p.denoiser.net.net.state_dict()["out.2.weight"] for p in (load(model), load(run)))
    assert 0 < (old - new).abs().max() < 0.01


class Dangerous:
    def __reduce__(self):
        return print, ("this ran",)


HOW = CHAIN | {"head_channels": 32}
WRONG = {
    "unknown": ({}, {}, r"tell what it was trained with.*add --size N --schedule linear\|cosine .*--head-ch"),
    "rescaling": ({}, HOW | {"chain_steps": 4000}, "add --rescale-timesteps"),
    "heads": ({}, HOW | {"head_channels": 48}, "64 channels are no heads of 48 channels"),
    "both": ({}, HOW | {"heads": 2}, "say the same: give one of them"),
    "order": ({}, HOW | {"attention_order": "odd"}, "unknown attention_order 'odd'"),
    "domains": ({}, HOW | {"domains": ("a", "b")}, r"no classes: expected 1 domain, not 2"),
    "no name": ({}, HOW | {"domains": ("a", "")}, r"a domain has a name: expected cat,dog,..., not 'a,'"),
    "back": ({}, HOW | {"back": "other.pt"}, "has no way back"),
    "NaN": ({"out.2.bias": torch.full((3,), torch.nan)}, HOW, r"out\.2\.bias has values that are not"),
    "missing": ({"time_embed.2.bias": None}, HOW, r"time_embed\.2\.bias is missing, expected \(128,\)"),
    "more": ({"time_embed.4.bias": torch.zeros(1)}, HOW, r"holds time_embed\.4\.bias, which its U-Net"),
    "none": ({"input_blocks.1.0.out_layers.0.weight": None}, HOW, "is not a U-Net of guided-diffusion"),
    "claimed": ({"time_embed.0.weight": torch.zeros(1).expand(10**6, 10**6)}, HOW, "claim to be larger"),
    "wide": ({"input_blocks.1.0.out_layers.0.weight": torch.zeros(32 * 10**4)}, HOW, r"expected|is \(32,"),
    "deep": (
        {f"{w}put_blocks.{i}.x": torch.zeros(0) for i in range(999) for w in ("in", "out")}, HOW, "is not a"
    ),
    "latents": ({"first_stage_model.encoder.conv_in.weight": torch.zeros(1)}, HOW, "a model of latents"),
    "upsampler": ({FIRST: torch.zeros(32, 6, 3, 3)}, HOW, "for 6 channels: expected 1 or 3"),
    "code": ({"time_embed.0.weight": Dangerous()}, HOW, "other things than tensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(name, tmp_path, capsys):
    changes, how, message = WRONG[name]
    file = written(tmp_path / "a.pt", weights(little()), **changes)
    with pytest.raises(UserError, match=message) as error:
        read_published(file, **how)
    assert "\n" not in str(error.value)
    assert "this ran" not in capsys.readouterr().out


def test_damaged_files_are_one_line(tmp_path):
    whole = written(tmp_path / "a.pt", weights(little())).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="or is damaged"):
        read_published(tmp_path / "cut.pt", **HOW)
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/data.pkl", bytes(10**5))
    with pytest.raises(UserError, match="it is compressed"):
        read_published(tmp_path / "packed.pt", **HOW)


@pytest.fixture
def any_network(monkeypatch):
    """Files with published names may hold small networks."""
    monkeypatch.setattr("sfumato.checkpoints.guided_diffusion.NETWORKS", {})


def test_on_the_command_line(tmp_path, capsys, any_network):
    def run(*words):
        with pytest.raises(SystemExit) as end:
            main([str(w) for w in words])
        return end.value.code, capsys.readouterr()

    state = weights(little(labels=2))
    code, said = run("import", written(tmp_path / "my.pt", state), "--out", tmp_path / "m")
    assert code == 2
    assert said.err.count("\n") == 1
    given = [f"--{k.replace('_', '-')}={v}" for k, v in HOW.items()]
    given += ["--domains", "cat,dog"]
    code, said = run("import", tmp_path / "my.pt", "--out", tmp_path / "m", *given)
    assert code == 0, said.err
    assert f"--method ddib --source {tmp_path / 'm'}:DOMAIN" in said.out
    known = written(tmp_path / "256x256_diffusion_uncond_fixedsigma.pt", weights(little(widths=(64, 64))))
    code, said = run("import", known, "--out", tmp_path / "known")
    assert code == 0, said.err
    assert "trained on 256 pixels, linear schedule of 1000 steps" in said.out
    assert "as published of 256x256_diffusion_uncond" in said.out
    assert f"PICTURES --method sdedit --target {tmp_path / 'known'} --out" in said.out
    code, said = run("import", known, "--out", tmp_path / "x", "--schedule", "sine")
    assert code == 2


def test_a_name_on_the_hub_is_no_file():
    with pytest.raises(UserError, match="is on the Hub: hf download google/ddpm-cat-256 --local-dir FOLDER"):
        read_published("hf://google/ddpm-cat-256")
