# Copyright (c) mmext contributors. All rights reserved.
"""The objective of a training step with two passes."""
from typing import Any, List

import torch
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .functional import deep_alignment, symmetric_kl
from .injection import find_blocks
from .passes import OutputTap, chunk, on_backward


class TwoPassLoss:
    """Mixin of ``MoSAModel``: the loss of arXiv:2312.02923.

    The host's own loss sees the first pass; what the second adds is returned
    term by term, so that the log shows each.
    """

    def check_host(self) -> None:
        """Raise a ``ConfigError`` if the host cannot be trained."""
        if self.host is not None:
            self.host.check(self.module)

    def loss(self, inputs: Tensor, data_samples: List[Any]) -> dict:
        """Losses of one training step, both passes.

        Args:
            inputs (Tensor): Batch, shape (B, ...).
            data_samples (list): Its annotations.

        Returns:
            dict[str, Tensor]: The host's losses of the first pass, and
            ``loss_kl``, ``loss_aux``, ``loss_deep`` where they are used;
            with a ``kl_weight`` of 0 the divergence as ``kl``, for the log.

        Raises:
            ConfigError: If the host has no head, or one with another loss,
                or ``inactive='skip'`` has no guarded optimizer.
            RuntimeError: While merged.
        """
        self.check_host()
        if not self.training:
            return self.module.loss(inputs, data_samples)
        if any(
                getattr(draw.layer, 'merged', False)
                for draw in self.drawing.draws):
            raise RuntimeError(
                'The adapters are merged, so there are no modules to train. '
                'Call unmerge() first.')
        self.check_guard()
        self._ready(self.num_passes)
        if self.num_passes == 1:
            return self.module.loss(inputs, data_samples)
        if self.host is None:
            raise ConfigError(
                f'Two passes need a host whose loss mmext can take apart, '
                f'but {type(self.module).__name__} is not one. Wrap an '
                'ImageClassifier (mmpretrain) or an EncoderDecoder (mmseg), '
                'or set num_passes=1.')
        run = self._batched if self.batch_passes else self._in_sequence
        feats, logits, hidden = run(inputs)
        losses = self.host.loss(self.module, feats[0], logits[0], data_samples)
        return self._add_terms(losses, feats, logits, hidden, data_samples)

    def _tap(self) -> OutputTap:
        if not self.loss_cfg['deep_weight']:
            return OutputTap([])
        if self._blocks is None:
            self._blocks = [block for _, block in find_blocks(self.module)]
        return OutputTap(self._blocks[:self.loss_cfg['deep_blocks']])

    def _batched(self, inputs: Tensor) -> tuple:
        """Both passes as one batch: its halves meet different modules."""
        with self._tap() as tap:
            feats = self.host.features(self.module, torch.cat([inputs,
                                                               inputs]))
        logits = self.host.logits(self.module, feats)
        hidden = [chunk(h, 2) for h in tap.outputs]
        return chunk(feats,
                     2), logits.chunk(2), [list(h)
                                           for h in zip(*hidden)] or [[], []]

    def _in_sequence(self, inputs: Tensor) -> tuple:
        """One pass after the other."""
        feats, logits, hidden = [], [], []
        for i in range(2):
            self.drawing.enter(i)
            with self._tap() as tap:
                found = self.host.features(self.module, inputs)
            # A recomputed block needs the modules of its own pass.
            found, outputs = on_backward(
                lambda i=i: self.drawing.enter(i), (found, tap.outputs))
            feats.append(found)
            hidden.append(list(outputs))
            logits.append(self.host.logits(self.module, found))
        return feats, logits, hidden

    def _add_terms(self, losses: dict, feats: list, logits: list, hidden: list,
                   data_samples: list) -> dict:
        cfg, losses = self.loss_cfg, dict(losses)
        independent = self.host.independent(self.module)
        if cfg['kl_weight']:
            losses['loss_kl'] = cfg['kl_weight'] * symmetric_kl(
                *logits, independent)
        else:
            with torch.no_grad():
                losses['kl'] = symmetric_kl(*logits, independent)
        if cfg['aux_ce_weight']:
            second = self.host.loss(self.module, feats[1], logits[1],
                                    data_samples)
            total, _ = self.module.parse_losses(second)
            losses['loss_aux'] = cfg['aux_ce_weight'] * total
        if cfg['deep_weight']:
            losses['loss_deep'] = cfg['deep_weight'] * deep_alignment(
                *hidden, len(self._blocks))
        return losses
