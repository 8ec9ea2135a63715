"""Folders of diffusers, and files of DDIM's code, against diffusers itself and the code's formulas."""

import json
import math
import shutil
import sys
import time
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_train import TINY, folders  # noqa: F401
from torch.nn import functional as F

from sfumato.checkpoints import ddim
from sfumato.checkpoints.export import export
from sfumato.checkpoints.model_folder import load, save
from sfumato.checkpoints.published import read_published
from sfumato.cli.main import main
from sfumato.core.errors import UserError
from sfumato.diffusion.chains import Betas, ScaledLinear
from sfumato.diffusion.integrate import integrate
from sfumato.training.train import train
from sfumato.translation.translator import translator

diffusers = pytest.importorskip("diffusers")

LITTLE = {
    "sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
NCSNPP = LITTLE | {
    "block_out_channels": (32, 32),
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"), "time_embedding_type": "fourier",
    "freq_shift": 0, "center_input_sample": True, "mid_block_scale_factor": 2**0.5, "norm_eps": 1e-6,
}  # fmt: skip
OWN = torch.linspace(0.001, 0.05, 200).tolist()
CASES = {
    "linear, eps": ({}, "DDPM", {}),
    "linear of 400, its variance learned": ({"out_channels": 6}, "DDIM", {"num_train_timesteps": 400}),
    "squaredcos_cap_v2, v, 3 classes": (
        {"num_class_embeds": 3}, "DDPM",
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    ),
    "scaled_linear, sample": (
        {}, "DDIM", {"beta_schedule": "scaled_linear", "beta_start": 1e-3, "prediction_type": "sample"},
    ),
    "scaled_linear, eps": ({}, "PNDM", {"beta_schedule": "scaled_linear"}),
    "trained betas": ({"add_attention": False}, "DDIM", {"trained_betas": OWN, "num_train_timesteps": 200}),
    "a table of times": ({"time_embedding_type": "learned", "num_train_timesteps": 1000}, "DDPM", {}),
}  # fmt: skip
G = torch.Generator().manual_seed(0)
X = torch.rand(2, 3, 16, 16, generator=G) * 2 - 1


def randomly(net):
    """The network with random weights."""
    g = torch.Generator().manual_seed(0)
    for name, p in net.named_parameters():
        z = torch.randn(p.shape, generator=g)
        p.data = z / p[0].numel() ** 0.5 if p.ndim > 1 else z / 10 + name.endswith("weight")
    return net.eval()


def written(folder, net, scheduler, flat=False):
    """The folder of a pipeline."""
    net.save_pretrained(folder / ("" if flat else "unet"))
    scheduler.save_pretrained(folder / ("" if flat else "scheduler"))
    return folder


def made(folder, to, **given):
    """It as a model folder, and what was said of it."""
    found = read_published(folder, **given)
    save(found.part, to, info=found.info)
    return to, found.said


def error(mine, theirs):
    return ((mine - theirs).abs().max() / theirs.abs().max()).item()


def agreement(f, answer, theirs, x):
    """Largest differences to a scheduler of diffusers: of the mean at 20 levels, and of DDIM in 20 steps."""
    ddim = diffusers.DDIMScheduler.from_config(theirs.config, clip_sample=False, set_alpha_to_one=True)
    ddim.set_timesteps(20)
    T, worst, start = ddim.config.num_train_timesteps, 0.0, x
    for k in ddim.timesteps:
        step = ddim.step(answer(x, k), k, x)
        worst = max(worst, error(f(x, (k.item() + 1) / T), step.pred_original_sample))
        x = step.prev_sample
    times = torch.cat([(ddim.timesteps.double() + 1) / T, torch.zeros(1, dtype=torch.float64)])
    return worst, error(integrate("ddim", f, start, times), x)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_a_folder_is_what_diffusers_makes_of_it(name, shapes_unchecked, tmp_path, report):
    """The mean at 20 levels, and DDIM of 20 steps, against its own scheduler."""
    options, kind, how = CASES[name]
    net = randomly(diffusers.UNet2DModel(**LITTLE | options))
    theirs = getattr(diffusers, f"{kind}Scheduler")(**how)
    model, said = made(written(tmp_path / "p", net, theirs), tmp_path / "m")
    assert ("its learned variance left out" in said) == ("out_channels" in options)
    classes = options.get("num_class_embeds")
    f, label = load(f"{model}:{1 if classes else 'p'}"), torch.tensor([1, 1]) if classes else None
    worst, whole = agreement(f, lambda x, k: net(x, k, label).sample[:, :3], theirs, X)
    report(f"diffusers, {name}: mean, and DDIM of 20", worst, whole)
    assert worst < 1e-5
    assert whole < 1e-5


@torch.no_grad()
def test_ncsnpp_is_told_pictures_between_0_and_1(shapes_unchecked, tmp_path, report):
    """The mean by Tweedie's formula in its own units, and the probability flow in 20 steps."""
    net = randomly(diffusers.UNet2DModel(**NCSNPP))
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.02, sigma_max=2.0)
    file = written(tmp_path / "p", net, scheduler) / "unet/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file(state | {"time_proj.W": state["time_proj.weight"].clone()}, file)  # as in 2022
    f = load(f"{made(tmp_path / 'p', tmp_path / 'm')[0]}:p")
    times = torch.linspace(1, 0, 21, dtype=torch.float64)  # the last is clean
    sigmas, x, worst = [*(0.02 * 100 ** times[:-1]), 0.0], (X + 1) / 2, 0.0
    for t, (s, following) in zip(times, pairwise(sigmas), strict=False):
        mean = x + s**2 * net(x.float(), s.float()[None]).sample
        worst = max(worst, error(f(2 * x.float() - 1, t), 2 * mean - 1))
        x = mean + following / s * (x - mean)
    whole = error(integrate("ddim", f, X, times), 2 * x - 1)
    report("diffusers, NCSN++: mean, and probability flow of 20", worst, whole)
    assert worst < 1e-5
    assert whole < 1e-5


@torch.no_grad()
def test_a_variance_preserving_score_sde_is_told_its_time(shapes_unchecked, tmp_path, report):
    """DDPM++: t of [0, 1] times 999; the schedule as ScoreSdeVpScheduler has it."""
    net, where = randomly(diffusers.UNet2DModel(**LITTLE)), tmp_path / "p/scheduler"
    net.save_pretrained(tmp_path / "p/unet")
    where.mkdir()
    how = {"_class_name": "ScoreSdeVpScheduler", "beta_min": 0.1, "beta_max": 10}
    (where / "scheduler_config.json").write_text(json.dumps(how))
    model, _ = made(tmp_path / "p", tmp_path / "m")
    f, times = load(f"{model}:p"), torch.linspace(1, 0.02, 21, dtype=torch.float64)
    x, worst = X, 0.0
    for t, s in pairwise(times):
        (a, sigma), (b, following) = [
            (log.exp().float(), (1 - (2 * log).exp()).sqrt().float())
            for log in (-0.25 * u**2 * (10 - 0.1) - 0.5 * u * 0.1 for u in (t, s))
        ]
        eps = net(x, 999 * t.float()[None]).sample
        mean = (x - sigma * eps) / a
        worst = max(worst, error(f(x, t), mean))
        x = b * mean + following * eps
    whole = error(integrate("ddim", f, X, times), x)
    report("diffusers, DDPM++: mean, and probability flow of 20", worst, whole)
    assert worst < 2e-5
    assert whole < 1e-5
    with pytest.raises(UserError, match="diffusers has no pipeline of VP"):
        export(model, tmp_path / "out", to="diffusers")


def test_a_flat_folder_of_2022(tmp_path):
    """Its files lie beside each other, queries have another name, and its weights are those of torch.save."""
    net = randomly(diffusers.UNet2DModel(**LITTLE | {"attention_head_dim": None}))
    new = written(tmp_path / "new", net, diffusers.DDPMScheduler())
    old = written(tmp_path / "old", net, diffusers.DDPMScheduler(), flat=True)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, value in net.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
        state[key] = value
    assert sum("query" in key for key in state) == 8
    (old / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, old / "diffusion_pytorch_model.bin")
    (old / "scheduler_config.json").write_text('{"_class_name": "DDPMScheduler", "timesteps": 1000}')
    parts = [read_published(folder, domains=("cat",)).part.state_dict() for folder in (new, old)]
    assert all(torch.equal(v, parts[1][k]) for k, v in parts[0].items())


# ---- latents -----------------------------------------------------------------------------------

SMALL = {"block_out_channels": (16, 32), "norm_num_groups": 8}
CODEC = SMALL | {
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


def latent(kind):
    """A network of latents, its labels, and its autoencoder."""
    if kind == "LDM":
        codec = randomly(diffusers.VQModel(**CODEC, num_vq_embeddings=16, scaling_factor=0.5))
        return randomly(diffusers.UNet2DModel(**LITTLE)), None, codec
    codec = randomly(diffusers.AutoencoderKL(**CODEC, latent_channels=4))
    if kind == "DiT":
        how = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "norm_num_groups": 8}
        net = diffusers.DiTTransformer2DModel(out_channels=8, sample_size=16, num_embeds_ada_norm=5, **how)
        return randomly(net), torch.tensor([3, 3]), codec
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "layers_per_block": 1,
              "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip
    how = SMALL | blocks | {"sample_size": 16, "cross_attention_dim": 16, "attention_head_dim": 8}
    return randomly(diffusers.UNet2DConditionModel(**how)), None, codec


@torch.no_grad()
@pytest.mark.parametrize("kind", ["LDM", "DiT", "Stable Diffusion"])
def test_a_model_of_latents_is_what_diffusers_makes_of_it(kind, shapes_unchecked, tmp_path, report):
    net, label, codec = latent(kind)
    theirs = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    folder = written(tmp_path / "p", net, theirs)
    if kind == "DiT":
        (folder / "unet").rename(folder / "transformer")
    codec.save_pretrained(folder / ("vqvae" if kind == "LDM" else "vae"))
    g = torch.Generator().manual_seed(0)
    table = {n: torch.randn(5, 16, generator=g) for n in ("any domain", "a cat", "a dog")}
    given = {"prompts": tmp_path / "table.safetensors"} if kind == "Stable Diffusion" else {}
    save_file(table, tmp_path / "table.safetensors")
    model, said = made(folder, tmp_path / "m", **given)
    assert f"in the latents of 2x2 pixels of its {type(codec).__name__}" in said
    whole = load(model)
    channels = net.config.in_channels
    assert (whole.channels, whole.preparation.size) == (3, (32, 32))
    z = torch.randn(2, channels, 16, 16, generator=g)

    def answer(x, k, prompt="a dog"):
        if given:
            return net(x, k, table[prompt].expand(2, -1, -1)).sample
        return net(x, torch.as_tensor(k).expand(2), class_labels=label).sample[:, :channels]

    domain = {"LDM": "p", "DiT": "3"}.get(kind, "a dog")
    f = load(f"{model}:{domain}")
    worst, chain = agreement(f, answer, theirs, z)
    scale, x = codec.config.scaling_factor, torch.rand(2, 3, 32, 32, generator=g) * 2 - 1
    code = codec.encode(x)
    code = code.latents if kind == "LDM" else code.latent_dist.mode()
    encoded = error(whole.encode(x), code * scale)
    decoded = error(whole.decode(z), codec.decode(z / scale).sample)
    report(f"diffusers, {kind}: mean, DDIM of 20, encoded, decoded", worst, chain, encoded, decoded)
    assert max(worst, chain, encoded, decoded) < 1e-5
    if kind != "LDM":  # any domain is the class behind the others, or the empty prompt
        label = torch.tensor([5, 5])
        k, a = 500, theirs.alphas_cumprod[500]
        mean = (z - (1 - a).sqrt() * answer(z, k, "any domain")) / a.sqrt()
        assert error(whole.denoiser(z, 501 / 1000), mean) < 1e-5
        inner, level, last = whole.denoiser.net.net, torch.tensor([k, k]).float(), len(whole.domains)
        assert torch.equal(inner(z, level), inner(z, level, torch.tensor([last, last])))
    y = translator("sdedit", target=f"{model}:{domain}").translate(x[..., :30], steps=2)
    assert y.shape == (2, 3, 32, 30)
    assert y.isfinite().all()
    with pytest.raises(UserError, match="works in latents, and is not exported: expected a model of pict"):
        export(model, tmp_path / "out", to="diffusers")
    with pytest.raises(UserError, match="vq?[vae]+ holds no network that is told by prompts: leave out"):
        read_published(folder / ("vqvae" if kind == "LDM" else "vae"), prompts=tmp_path / "table.safetensors")
    wrong = {} if given else {"prompts": tmp_path / "table.safetensors"}
    with pytest.raises(UserError, match="add --prompts TABLE" if given else "is not told by prompts: leave"):
        read_published(folder, **wrong)
    if kind == "DiT":  # a table of places that no weight says the size of
        file = folder / "transformer/config.json"
        whole = file.read_text()
        file.write_text(json.dumps(json.loads(whole) | {"sample_size": HUGE}))
        with pytest.raises(UserError, match=r"p: sample_size must be in \[1, 256\]"):
            read_published(folder, size=64)
        file.write_text(whole)
    file = next(folder.glob("v*/config.json"))
    file.write_text(file.read_text().replace(type(codec).__name__, "ConsistencyDecoder"))
    with pytest.raises(UserError, match="is of a ConsistencyDecoder: expected AutoencoderKL or Auto"):
        read_published(folder, **given)


# ---- DDIM's code --------------------------------------------------------------------------------


def ddim_shapes(widths, blocks, attention):
    """Names and shapes of the weights of `Model` in DDIM's code."""
    first, shapes = widths[0], {}
    e = 4 * first

    def add(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def block(name, a, b):
        add(f"{name}.norm1", a), add(f"{name}.conv1", b, a, 3, 3), add(f"{name}.temb_proj", b, e)
        add(f"{name}.norm2", b), add(f"{name}.conv2", b, b, 3, 3)
        add(f"{name}.nin_shortcut", b, a, 1, 1) if a != b else None

    def attend(name, c):
        add(f"{name}.norm", c), [add(f"{name}.{n}", c, c, 1, 1) for n in ("q", "k", "v", "proj_out")]

    add("temb.dense.0", e, first), add("temb.dense.1", e, e), add("conv_in", first, 3, 3, 3)
    skips, c = [first], first
    for i, w in enumerate(widths):
        for j in range(blocks):
            block(f"down.{i}.block.{j}", c, w)
            attend(f"down.{i}.attn.{j}", w) if i in attention else None
            skips.append(c := w)
        if i < len(widths) - 1:
            add(f"down.{i}.downsample.conv", c, c, 3, 3)
            skips.append(c)
    block("mid.block_1", c, c), attend("mid.attn_1", c), block("mid.block_2", c, c)
    for i, w in reversed(list(enumerate(widths))):
        for j in range(blocks + 1):
            block(f"up.{i}.block.{j}", c + skips.pop(), w)
            attend(f"up.{i}.attn.{j}", w) if i in attention else None
            c = w
        add(f"up.{i}.upsample.conv", c, c, 3, 3) if i else None
    add("norm_out", c), add("conv_out", 3, c, 3, 3)
    return shapes


def ddim_eps(w, x, k):
    """What `Model` of DDIM's code answers."""
    linear = lambda n, x: F.linear(x, w[f"{n}.weight"], w[f"{n}.bias"])
    conv = lambda n, x, **how: F.conv2d(x, w[f"{n}.weight"], w[f"{n}.bias"], **how)
    norm = lambda n, x: F.group_norm(x, 32, w[f"{n}.weight"], w[f"{n}.bias"], 1e-6)
    levels = 1 + max(int(n.split(".")[1]) for n in w if n.startswith("down"))
    blocks = 1 + max(int(n.split(".")[3]) for n in w if n.startswith("down.0.block"))
    half = w["temb.dense.0.weight"].shape[1] // 2
    angle = k[:, None] * (-math.log(10_000) / (half - 1) * torch.arange(half)).exp()
    e = torch.cat([angle.sin(), angle.cos()], 1)
    e = F.silu(linear("temb.dense.1", F.silu(linear("temb.dense.0", e))))

    def block(n, x):
        h = conv(f"{n}.conv1", F.silu(norm(f"{n}.norm1", x)), padding=1)
        h = h + linear(f"{n}.temb_proj", e)[:, :, None, None]
        h = conv(f"{n}.conv2", F.silu(norm(f"{n}.norm2", h)), padding=1)
        return h + (conv(f"{n}.nin_shortcut", x) if f"{n}.nin_shortcut.weight" in w else x)

    def attended(n, x):
        if f"{n}.norm.weight" not in w:
            return x
        q, k, v = (conv(f"{n}.{a}", norm(f"{n}.norm", x)).flatten(2) for a in "qkv")
        y = v @ (q.mT @ k / x.shape[1] ** 0.5).softmax(2).mT
        return x + conv(f"{n}.proj_out", y.reshape(x.shape))

    skips = [conv("conv_in", x, padding=1)]
    for i in range(levels):
        for j in range(blocks):
            skips.append(attended(f"down.{i}.attn.{j}", block(f"down.{i}.block.{j}", skips[-1])))
        if i < levels - 1:
            skips.append(conv(f"down.{i}.downsample.conv", F.pad(skips[-1], (0, 1, 0, 1)), stride=2))
    h = block("mid.block_2", attended("mid.attn_1", block("mid.block_1", skips[-1])))
    for i in reversed(range(levels)):
        for j in range(blocks + 1):
            h = attended(f"up.{i}.attn.{j}", block(f"up.{i}.block.{j}", torch.cat([h, skips.pop()], 1)))
        if i:
            h = conv(f"up.{i}.upsample.conv", F.interpolate(h, scale_factor=2.0), padding=1)
    return conv("conv_out", F.silu(norm("norm_out", h)), padding=1)


@torch.no_grad()
def test_a_file_of_ddims_code(shapes_unchecked, tmp_path, report, monkeypatch):
    g = torch.Generator().manual_seed(0)
    shapes = ddim_shapes((32, 64), 2, (1,))
    state = {k: torch.randn(s, generator=g) / max(1, math.prod(s[1:])) ** 0.5 for k, s in shapes.items()}
    file = tmp_path / "celeba_hq.ckpt"
    torch.save([{f"module.{k}": v + 1 for k, v in state.items()}, {"lr": 0.1}, 3, 40, state], file)
    with pytest.raises(UserError, match="published celeba_hq, .*channels 32, 64, not 128, 1"):
        read_published(file)
    monkeypatch.setattr(ddim, "DDIM_256", {})
    model, said = made(file, tmp_path / "m")
    assert "a diffusion model of face: a U-Net of 32, 64 channels, trained on 256 pixels" in said
    f, worst = load(f"{model}:face"), 0.0
    bars = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0).float()
    x, levels = X, list(range(999, 0, -52))
    for k, following in zip(levels, [*levels[1:], -1], strict=True):
        a, b = bars[k], bars[following] if following >= 0 else torch.tensor(1.0)
        eps = ddim_eps(state, x, torch.full((2,), float(k)))
        mean = (x - (1 - a).sqrt() * eps) / a.sqrt()
        worst = max(worst, error(f(x, (k + 1) / 1000), mean))
        x = b.sqrt() * mean + (1 - b).sqrt() * eps
    times = (torch.tensor([*levels, -1], dtype=torch.float64) + 1) / 1000
    whole = error(integrate("ddim", f, X, times), x)
    report("DDIM's code: mean, and DDIM of 20", worst, whole)
    assert worst < 1e-5
    assert whole < 1e-5
    torch.save(state, tmp_path / "mine.pth")
    with pytest.raises(UserError, match=r"add --size N --schedule linear\|cosine --chain-steps N$"):
        read_published(tmp_path / "mine.pth")
    torch.save(state | {"down.0.block.0.conv1.weight": torch.zeros(32)}, file)
    with pytest.raises(UserError, match=r"conv1.weight is \(32,\), expected \(32, 32, 3, 3\)"):
        read_published(file)


# ---- and back -----------------------------------------------------------------------------------


def test_what_is_exported_is_what_was_imported(tmp_path, folders):  # noqa: F811
    """The same bits, also in diffusers, and after a training of one domain and of two."""
    net = randomly(diffusers.UNet2DModel(**LITTLE))
    model, _ = made(written(tmp_path / "p", net, diffusers.DDPMScheduler()), tmp_path / "m")
    export(model, tmp_path / "out", to="diffusers")
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "out/unet")
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in again.state_dict().items())
    how = {k: v for k, v in TINY.items() if k != "options"} | {"held_out": 0, "steps": 1}
    for n, classes in ((1, ""), (2, "; its classes are 0: red, 1: green")):
        run, out = tmp_path / f"run {n}", tmp_path / f"out {n}"
        mine = train("diffusion", dict([*folders.items()][:n]), run, start=model, **how)
        assert not torch.equal(mine.net.net.model.conv_in.weight, net.conv_in.weight)
        assert export(run, out, to="diffusers") == f"{out} holds a DDPMPipeline of diffusers{classes}"
        theirs = read_published(out, domains=mine.domains).part
        for domain in mine.domains:
            assert torch.equal(mine.denoiser(X, 0.5, domain), theirs.denoiser(X, 0.5, domain))
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out 1")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)
    with pytest.raises(UserError, match="is one domain: a model is exported with all, as in sfumato/digits$"):
        export("sfumato/digits:3", tmp_path / "x", to="diffusers")
    with pytest.raises(UserError, match="the network of .*digits is no U-Net of diffusers: expected a model"):
        export("sfumato/digits", tmp_path / "x", to="diffusers")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["VE", "squaredcos_cap_v2", "scaled_linear", "own"])
def test_every_chain_is_exported(kind, tmp_path, folders):  # noqa: F811
    """And what a network of score SDEs was not to learn, its frequencies, it did not."""
    net = diffusers.UNet2DModel(**(NCSNPP if kind == "VE" else LITTLE | {"num_class_embeds": 2}))
    betas = {"beta_schedule": kind, "prediction_type": "v_prediction"}
    betas = {"trained_betas": OWN, "num_train_timesteps": 200} if kind == "own" else betas
    scheduler = diffusers.ScoreSdeVeScheduler() if kind == "VE" else diffusers.DDPMScheduler(**betas)
    model, _ = made(written(tmp_path / "p", randomly(net), scheduler), tmp_path / "m")
    if kind == "VE":
        how = {k: v for k, v in TINY.items() if k != "options"} | {"held_out": 0, "steps": 1}
        train("diffusion", {"p": folders["red"]}, tmp_path / "run", start=model, **how)
        own, learnt = (load(m).state_dict() for m in (model, tmp_path / "run"))
        changed = {k.split("model.")[1] for k, v in own.items() if not torch.equal(v, learnt[k])}
        assert "conv_in.weight" in changed
        assert not {"time_proj.weight", "class_embedding.weight"} & changed
        model = tmp_path / "run"
    export(model, tmp_path / "out", to="diffusers")
    one, two = load(model), read_published(tmp_path / "out", domains=load(model).domains).part
    assert one.denoiser.process == two.denoiser.process
    assert one.prediction == two.prediction
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


# ---- what is refused ----------------------------------------------------------------------------


class Dangerous:
    def __reduce__(self):
        return print, ("this ran",)


def test_without_diffusers_a_line_says_what_to_type(tmp_path, monkeypatch):
    net = diffusers.UNet2DModel(**LITTLE)
    model, _ = made(written(tmp_path / "p", net, diffusers.DDPMScheduler()), tmp_path / "m")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for use in (lambda: load(model), lambda: read_published(tmp_path / "p")):
        with pytest.raises(UserError, match=r"this needs diffusers: type pip install -e .\.\[diffusers\]"):
            use()


HUGE = 10**9
WRONG = {
    "class": ("unet", {"_class_name": "UNet3DModel"}, r"config.json is of a UNet3DModel: expected UNet2D"),
    "remote": ("unet", {"_class_name": "os:system"}, "is of an os:system: expected UNet2DModel"),
    "layer": ("unet", {"act_fn": "os.system"}, "does not describe a UNet2DModel .*os.system"),
    "shapes": ("unet", {"block_out_channels": [24, 32]}, r"conv_in.weight is \(16, 3, 3, 3\), expected \(24"),
    "wide": ("unet", {"block_out_channels": [10**6, 10**6]}, r"expected \(1000000, 3, 3, 3\)"),
    "deep": ("unet", {"layers_per_block": HUGE}, r"describes a model of more than its \d+ tensors"),
    "text": ("unet", {"layers_per_block": "two"}, "does not describe a UNet2DModel"),
    "answers": ("unet", {"out_channels": 4}, r"conv_out.weight is .3, 16, 3, 3., expected .4, 16"),
    "classes": ("unet", {"num_class_embeds": "two"}, "num_class_embeds must be a whole number, not 'two'"),
    "rows": ("unet", {"num_class_embeds": HUGE}, "class_embedding.weight is .*, expected .1000000001"),
    "identity": ("unet", {"class_embed_type": "identity"}, "classes by .identity. are not read"),
    "size": ("unet", {"sample_size": None}, "does not say the size of its pictures: add --size N"),
    "scheduler": ("scheduler", {"_class_name": "DDMScheduler"}, "unknown scheduler .*: did you mean 'DDPM"),
    "steps": ("scheduler", {"num_train_timesteps": HUGE}, r"num_train_timesteps must be in \[1, 1000000\]"),
    "schedule": ("scheduler", {"beta_schedule": "laplace"}, "unknown beta_schedule 'laplace'.*scaled_linear"),
    "prediction": ("scheduler", {"prediction_type": "flow"}, "unknown prediction_type 'flow'"),
    "snr": ("scheduler", {"rescale_betas_zero_snr": True}, "ends without any signal"),
    "betas": ("scheduler", {"trained_betas": [0.1, 2.0]}, r"p: values\[1\] must be in \(0, 1\)"),
    "beta": ("scheduler", {"beta_end": "0.02"}, "beta_end must be a finite number, not '0.02'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    net = randomly(diffusers.UNet2DModel(**LITTLE))
    return written(tmp_path_factory.mktemp("pipeline") / "p", net, diffusers.DDPMScheduler())


@pytest.mark.parametrize("name", WRONG)
def test_wrong_configs_are_one_line(name, pipeline, tmp_path):
    part, changes, message = WRONG[name]
    folder = shutil.copytree(pipeline, tmp_path / "p")
    file = folder / part / {"unet": "config.json", "scheduler": "scheduler_config.json"}[part]
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    began = time.monotonic()
    with pytest.raises(UserError, match=message) as error:
        read_published(folder)
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 5


def test_wrong_folders_are_one_line(pipeline, tmp_path, capsys):
    def refused(message, **given):
        with pytest.raises(UserError, match=message) as error:
            read_published(folder, **given)
        assert "\n" not in str(error.value)

    folder = shutil.copytree(pipeline, tmp_path / "p")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    refused("--schedule is not for a folder of diffusers, as .*p is: leave it out", schedule="linear")
    refused("is no generator, and has no way back", back="x")
    refused("p: it has no classes: expected 1 domain, not 2", domains=("a", "b"))
    state = load_file(weights)
    save_file(state | {"conv_in.bias": torch.full((16,), torch.nan)}, weights)
    refused(r"conv_in.bias has values that are not numbers")
    save_file(state | {"more": torch.zeros(1)}, weights)
    refused("holds more, which its UNet2DModel does not have")
    weights.unlink()
    refused("unet has no diffusion_pytorch_model.safetensors, nor .bin")
    torch.save(Dangerous(), weights.with_suffix(".bin"))
    refused("holds other things than tensors")
    assert "this ran" not in capsys.readouterr().out
    (folder / "vae").mkdir()
    refused("vae is no whole folder of diffusers: it has no config.json")
    shutil.rmtree(folder / "vae")
    (folder / "scheduler/scheduler_config.json").write_text("[1]")
    refused("scheduler_config.json is damaged, or no config of diffusers")
    shutil.rmtree(folder / "scheduler")
    refused("p is no whole folder of diffusers: it has no scheduler/scheduler_config.json")
    shutil.rmtree(folder / "unet")
    refused("it has no unet/config.json")


def test_chains_of_betas():
    chain, t = ScaledLinear(), torch.tensor([0.5], dtype=torch.float64)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(chain(t)[0].square(), (1 - betas[:500]).prod()[None])
    torch.testing.assert_close(chain.time(chain.log_snr(t)), t)
    assert Betas(steps=2, values=(0.1, 0.5))(1.0)[0].square().item() == pytest.approx(0.45)
    with pytest.raises(UserError, match="a chain of 3 steps has as many betas, not 1"):
        Betas(steps=3, values=(0.1,))


def test_on_the_command_line(pipeline, tmp_path, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as end:
            main([str(w) for w in words])
        return end.value.code, capsys.readouterr()

    code, said = run("import", pipeline, "--domains", "cat", "--out", tmp_path / "m")
    assert code == 0, said.err
    assert "a diffusion model of cat: diffusers' UNet2DModel of 16, 32 channels" in said.out
    assert "its clip_sample left out" in said.out
    code, said = run("export", tmp_path / "m", "--to", "diffusers", "--out", tmp_path / "out")
    assert said.out == f"{tmp_path / 'out'} holds a DDPMPipeline of diffusers\n"
    code, said = run("export", tmp_path / "m", "--to", "onyx", "--out", tmp_path / "x")
    assert code == 2
    assert said.err.count("\n") == 1
