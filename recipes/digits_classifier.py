"""The classifier that judges translated digits; it shares nothing with the diffusion models.

    python recipes/digits_classifier.py

A minute on one core. It learns from data/digits/train and is scored once on data/digits/test; no
source image is in both. Shifts by up to 2 pixels and faint noise keep it from judging by trifles.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from measure import CLASSIFIER, Classifier, images

from sfumato.data import WRITERS

EPOCHS, BATCH, SEED = 12, 64, 0

if __name__ == "__main__":
    if not Path("data/digits").exists():
        WRITERS["digits"]("data/digits")
    sets = {
        split: [images(f"data/digits/{split}/{digit}")[0] for digit in range(10)]
        for split in ("train", "test")
    }
    (x, y), (x_test, y_test) = (
        (torch.cat(s), torch.arange(10).repeat_interleave(torch.tensor([len(d) for d in s])))
        for s in sets.values()
    )
    torch.manual_seed(SEED)
    net = Classifier()
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x))
        for i in order[: len(x) // BATCH * BATCH].split(BATCH):
            top, left = torch.randint(5, (2,)).tolist()
            batch = F.pad(x[i], (2, 2, 2, 2), value=-1.0)[..., top : top + 32, left : left + 32]
            loss = F.cross_entropy(net(batch + 0.05 * torch.randn_like(batch)), y[i])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS}  loss {loss.item():.4f}", flush=True)
    net.eval().half().float()  # judge the weights that are stored
    accuracy = (net.says(x_test) == y_test).float().mean().item()
    print(f"held-out accuracy {accuracy:.4f} on {len(x_test)} images")
    said = {"accuracy": f"{accuracy:.4f}", "seed": str(SEED), "epochs": str(EPOCHS)}
    stored = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file(stored, CLASSIFIER, said | {"command": "python recipes/digits_classifier.py"})
