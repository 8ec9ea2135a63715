"""An energy in three lines: 2s become 3s by SDEdit, pulled towards red.

python examples/guide_with_an_energy.py DIGITS/test/2 red_threes.png
"""

import sys

import sfumato
from sfumato.data import open_images, tile, write_png


def redness(x_t, t):  # energies are low where pictures are probable
    red, others = x_t[:, 0], x_t[:, 1:].mean(1)
    return (others - red).flatten(1).sum(1)


if __name__ == "__main__":
    twos = open_images(sys.argv[1], 32).get(range(8))
    threes = sfumato.load("sfumato/digits:3")
    guided = sfumato.Guided(threes, 0.5 * sfumato.Energy(redness))
    plain = sfumato.find("sdedit")(target=threes).translate(twos)
    red = sfumato.find("sdedit")(target=guided).translate(twos)
    import torch

    write_png(sys.argv[2], tile(torch.cat([twos, plain, red]), 8))
