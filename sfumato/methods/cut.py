"""CUT: unpaired translation by contrast of patches (Park et al. 2020, https://arxiv.org/abs/2007.15651).

    L_G = lambda_GAN L(D(G(x)), 1) + 1/2 [NCE(x, G(x)) + NCE(y, G(y))]

One direction, one generator: a patch of the result must be recognisable as the source's patch at the
same place (`contrastive` has the loss); pictures of the target must stay as they are.  The
paper's setting: --net paper --size 256 --batch 1 --flip --jitter 0.117, 200 + 200 epochs; its code stops
to resize and crop (--jitter) while the rate falls, this one does not.
For 32 to 64 pixels on a CPU (docs/experiments/one-budget.md):
--norm batch --num-patches 64 --batch 4 --lr 1e-3 --ema 0.99.

@inproceedings{park2020contrastive,
  title = {Contrastive Learning for Unpaired Image-to-Image Translation},
  author = {Park, Taesung and Efros, Alexei A. and Zhang, Richard and Zhu, Jun-Yan},
  booktitle = {European Conference on Computer Vision},
  year = {2020},
  url = {https://arxiv.org/abs/2007.15651}
}
"""

from __future__ import annotations

from sfumato.methods._shared.contrastive import Contrastive


class CUT(Contrastive):
    """One generator from source to target, whose encoder also compares patches, and a discriminator."""
