"""Autoencoders of diffusers, against diffusers itself."""

import json

import pytest
import torch

from sfumato.checkpoints.model_folder import load, save
from sfumato.checkpoints.published import read_published
from sfumato.cli.main import main
from sfumato.diffusion.latents import codec_of

diffusers = pytest.importorskip("diffusers")

LITTLE = {
    "block_out_channels": (8, 16, 16), "norm_num_groups": 4, "sample_size": 16,
    "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3,
}  # fmt: skip
CASES = {
    "AutoencoderKL": (LITTLE | {"latent_channels": 4}, 4),
    "AutoencoderKL shifted": (LITTLE | {"shift_factor": 0.3, "scaling_factor": 1.5}, 4),
    "AutoencoderKL of means": (
        LITTLE | {"latents_mean": (0.1, 0.2, 0.3, 0.4), "latents_std": (1.0, 2.0, 3.0, 4.0)}, 4,
    ),
    "VQModel": (LITTLE | {"latent_channels": 3, "num_vq_embeddings": 7, "vq_embed_dim": 5}, 5),
    "AutoencoderTiny": (
        {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8),
         "num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}, 4,
    ),
}  # fmt: skip
X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(params=CASES)
def made(request, tmp_path):
    """diffusers' own model, the folder it wrote, and the channels of its latents."""
    config, channels = CASES[request.param]
    torch.manual_seed(0)
    model = getattr(diffusers, request.param.split()[0])(**config).eval()
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs", channels


def expected(model, x):
    """Latents as diffusers' pipelines hand them to a denoiser, and the pictures they make of them."""
    c = model.config
    made = model.encode(x)
    z = made.latent_dist.mode() if hasattr(made, "latent_dist") else made.latents
    mean = torch.tensor(getattr(c, "latents_mean", None) or [getattr(c, "shift_factor", None) or 0.0])
    std = torch.tensor(getattr(c, "latents_std", None) or [1.0])
    mean, std = mean[:, None, None], std[:, None, None]
    latents = (z - mean) * c.scaling_factor / std
    return latents, model.decode(latents * std / c.scaling_factor + mean).sample


@torch.no_grad()
def test_latents_and_pictures_are_those_of_diffusers(made, tmp_path):
    model, folder, channels = made
    found = read_published(folder)
    assert f"4x4 pixels are one latent of {channels} channels" in found.said
    save(found.part, tmp_path / "ours", info=found.info)
    part = load(tmp_path / "ours")
    codec = codec_of(part)
    assert (codec.channels, codec.latent_channels, codec.factor) == (3, channels, 4)
    z, y = expected(model, X)
    torch.testing.assert_close(codec.encode(X), z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(codec.decode(z), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(part.translate(X, as_is=True), y, rtol=1e-5, atol=1e-5)
    assert (part.factor, part.latent_channels) == (4, channels)
    back, cost = codec(X, lambda like: torch.zeros_like(like))  # a draw of 0 is the mean
    torch.testing.assert_close(back, y, rtol=1e-5, atol=1e-5)
    assert cost >= 0


def test_it_is_imported_by_command(made, tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        main(["import", str(made[1]), "--size", "16", "--out", str(tmp_path / "ours")])
    assert not done.value.code
    assert "ours holds diffusers' " in capsys.readouterr().out
    assert load(tmp_path / "ours").preparation.size == (16, 16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"out_channels": 1}, "makes 1 channels of 3: expected as many"),
        ({"block_out_channels": [8, 8, 16]}, r"is \(16, 16, 3, 3\), expected|is \(\d+.*\), expected"),
        ({"down_block_types": ["Nothing"] * 3}, "does not describe an AutoencoderKL"),
        ({"block_out_channels": 3}, "does not describe an AutoencoderKL"),
        ({"sample_size": [16, 16, 3]}, "sample_size must be a whole number, not a list"),
    ],
)
def test_what_is_refused(change, said, tmp_path):
    diffusers.AutoencoderKL(**CASES["AutoencoderKL"][0]).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=said) as error:
        read_published(tmp_path)
    assert "\n" not in str(error.value)
