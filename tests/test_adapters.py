"""A LoRA is told from a network: what to make of it is said, whoever wrote it and in whatever it comes."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sfumato.checkpoints.adapters import LORA
from sfumato.checkpoints.published import read_published
from sfumato.core.errors import UserError

W = torch.ones(2, 2)
NAMES = {
    "diffusers": "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight",
    "old": "down_blocks.0.attentions.0.attn1.processor.to_q_lora.down.weight",
    "peft": "base_model.model.to_q.lora_A.weight",
    "in a network": "unet.down_blocks.0.attn1.to_q.lora_A.default_0.weight",
    "kohya": "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
    "lycoris": "lycoris_unet_down_blocks_0.hada_w1_a",
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("place", ["x.safetensors", "x.pt", "x.bin", "folder/any.safetensors"])
def test_a_lora_is_said_to_be_one(kind, place, tmp_path):
    (file := tmp_path / place).parent.mkdir(exist_ok=True)
    state = {NAMES[kind]: W, "alpha": W.clone()}
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    given = file.parent if place.startswith("folder") else file
    with pytest.raises(UserError) as error:
        read_published(given)
    for word in (
        f"{given} is a LoRA",
        "load_lora_weights",
        "fuse_lora()",
        "save_pretrained",
        "import merged",
    ):
        assert word in str(error.value)


def test_a_folder_of_peft_and_a_network_that_was_not_merged(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UserError, match="is a LoRA"):
        read_published(tmp_path)
    for part, config in (("unet", {"_class_name": "UNet2DModel", "sample_size": 8}),
                         ("scheduler", {"_class_name": "DDPMScheduler"})):  # fmt: skip
        (tmp_path / "pipe" / part).mkdir(parents=True)
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (tmp_path / "pipe" / part / name).write_text(json.dumps(config))
    state = {
        "conv_in.weight": W,
        "mid.to_q.base_layer.weight": W.clone(),
        "mid.to_q.lora_A.x.weight": W.clone(),
    }
    save_file(state, tmp_path / "pipe/unet/diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="is a LoRA"):
        read_published(tmp_path / "pipe")


@pytest.mark.parametrize(
    "name", ["conv_in.weight", "floral.weight", "explora.0.bias", "input_blocks.0.0.weight"]
)
def test_names_of_networks_are_none(name):
    assert not LORA.search(name)
