"""DualGAN's critic (Yi et al. 2017, arXiv 1704.02510, sections 3.2 and 3.3); its translators are `pix2pix.UNet`."""

from __future__ import annotations

import torch

from gansmith.networks.blocks import Patch, PatchCritic, Shape
from gansmith.schema import PositiveFloat, PositiveInt


class ClippedPatchCritic(PatchCritic):
    """pix2pix's critic of patches, all its weights in [-clip, clip] after every step: Algorithm 1."""

    def __init__(self, shape: Shape, *, width: PositiveInt = 64, patch: Patch = 70, clip: PositiveFloat = 0.1) -> None:
        super().__init__(shape, width=width, patch=patch)
        self.clip = clip

    @torch.no_grad()
    def constrain(self) -> None:
        for weight in self.parameters():
            weight.clamp_(-self.clip, self.clip)
