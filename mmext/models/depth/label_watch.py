# Copyright (c) mmext contributors. All rights reserved.
"""Images that teach nothing, counted, and batches of nothing else, told."""
import logging
from typing import Mapping

import torch
from mmengine.logging import print_log
from torch import Tensor


class LabelWatch:
    """Counts the images of a batch that have no ground truth to learn from.

    A wrong ``depth_scale`` puts all depth out of range: every loss is zero
    and the run looks fine. So the log gets the share of such images, and the
    first batch that has no other ones is told, once, in words. To find it,
    the first ten batches and every hundredth are looked at; that waits for
    the device, all others do not.
    """

    first, interval = 10, 100

    def __init__(self) -> None:
        self.batches, self.told = 0, False

    @torch.compiler.disable  # it would be compiled anew for each count
    def __call__(self, target: Tensor, mask: Tensor, cfg: Mapping) -> Tensor:
        """Count, and warn.

        Args:
            target (Tensor): Ground truth (B, 1, H, W) in metres.
            mask (Tensor): Bool, the pixels that count.
            cfg (Mapping): Limits and crop, for the message: ``min_depth``,
                ``max_depth``, ``crop``.

        Returns:
            Tensor: Share of the images with fewer than two pixels, in [0, 1].
        """
        skipped = (mask.flatten(1).sum(1) < 2).float().mean()
        due = self.batches < self.first or self.batches % self.interval == 0
        self.batches += 1
        if due and not self.told and float(skipped) == 1:
            self.told = True
            self._tell(target, cfg)
        return skipped

    @staticmethod
    def _tell(target: Tensor, cfg: Mapping) -> None:
        found = target[target.isfinite() & (target > 0)]
        values = 'are 0 everywhere' if not len(found) else \
            f'go from {float(found.min()):.4g} to {float(found.max()):.4g} m'
        where = f"inside the crop {cfg['crop']!r}" if cfg['crop'] else \
            'anywhere'
        print_log(
            f"No depth between {cfg['min_depth']:g} and {cfg['max_depth']:g} "
            f'm {where} in all {len(target)} images of a batch, whose depths '
            f'{values}: its losses are 0 and it teaches nothing. Check '
            'depth_scale of the data set, and max_depth and crop of '
            'train_cfg. This is said once; the log has the share of such '
            'images as depth_skipped.',
            logger='current',
            level=logging.WARNING)
