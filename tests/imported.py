"""What a server imports once for all the processes that it forks, see `kills`: it computes nothing."""

import accelerate  # noqa: F401
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import pytest  # noqa: F401
import torch._dynamo

import sfumato.checkpoints.seen
import sfumato.cli.main
import sfumato.methods.ddib
import sfumato.methods.diffusion
import sfumato.methods.pix2pix
import sfumato.training.session
import sfumato.training.train
import sfumato.translation.pictures  # noqa: F401

torch.set_num_threads(1)
