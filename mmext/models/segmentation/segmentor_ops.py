# Copyright (c) mmext contributors. All rights reserved.
"""What adaptation asks of an mmseg segmentor, as plain functions."""
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmext.models.uncertainty import mc_dropout_passes
from mmext.utils.random import RandomSource
from mmext.utils.user_error import ConfigError
from .frame import View

PromptFn = Callable[[View], Tensor]
MapsFn = Callable[[nn.Module, List[View], Tensor, Tuple[int, int]], Tensor]


def decode(model: nn.Module, feats: Any) -> Tensor:
    """Low-resolution logits of the decode head(s), shape (N, C, h', w').

    Args:
        model (nn.Module): An mmseg ``EncoderDecoder`` or cascade.
        feats (Any): Features from ``extract_feat``.

    Raises:
        ConfigError: If the head does not return logits as a tensor.
    """
    heads = model.decode_head
    if isinstance(heads, nn.ModuleList):
        out = heads[0](feats)
        for head in heads[1:]:
            out = head(feats, out)
    else:
        out = heads(feats)
    if isinstance(out, (list, tuple)):
        out = out[-1]
    if not isinstance(out, Tensor) or out.dim() != 4:
        raise ConfigError(
            f'Adaptation needs a decode head whose forward returns logits of '
            f'shape (N, C, h, w), but {type(heads).__name__} returned '
            f'{type(out).__name__}. Heads that predict sets of masks are not '
            f'supported.')
    return out


def resize_logits(model: nn.Module, logits: Tensor, view: View,
                  size: Tuple[int, int]) -> Tensor:
    """Resize logits of a view to ``size``, without its padding.

    One bilinear resize when the view has no padding, in single precision
    whatever the network computed in.

    Args:
        model (nn.Module): The segmentor, for ``align_corners``.
        logits (Tensor): Shape (N, C, h', w').
        view (View): Whose logits they are.
        size (tuple[int, int]): Height and width wanted.

    Returns:
        Tensor: Shape (N, C, *size), float32.
    """
    logits = logits.float()
    padded = tuple(view.x.shape[-2:])
    options = dict(mode='bilinear', align_corners=model.align_corners)
    if view.size != padded:
        logits = F.interpolate(logits, size=padded, **options)
        logits = logits[..., :view.size[0], :view.size[1]]
    return F.interpolate(logits, size=size, **options)


@torch.no_grad()
def view_probabilities(model: nn.Module, views: List[View], x: Tensor,
                       size: Tuple[int, int]) -> Tensor:
    """Class probabilities of equal-sized views at the original resolution.

    The model's own inference, whole or sliding window; then resize, softmax
    and un-mirror.

    Args:
        model (nn.Module): An mmseg segmentor in eval mode.
        views (list[View]): Views of one size.
        x (Tensor): Their, possibly prompted, inputs, shape (N, 3, h, w).
        size (tuple[int, int]): Height and width of the original image.

    Returns:
        Tensor: Probabilities of shape (N, C, H0, W0).
    """
    # Sliding-window inference writes into the metainfo: hand it copies.
    logits = model.inference(x, [dict(view.meta) for view in views]).float()
    logits = logits[..., :views[0].size[0], :views[0].size[1]]
    logits = F.interpolate(
        logits, size=size, mode='bilinear', align_corners=model.align_corners)
    probs = logits.softmax(1)
    return torch.stack([
        p.flip(v.flip_dims) if v.flip_dims else p
        for p, v in zip(probs, views)
    ])


@torch.no_grad()
def ensemble(model: nn.Module,
             views: List[View],
             reference: int,
             size: Tuple[int, int],
             prompt: Optional[PromptFn] = None,
             batch: int = 2,
             maps: MapsFn = view_probabilities) -> Tuple[Tensor, Tensor]:
    """Average probabilities over all views, and those of the reference.

    One running sum is kept, whatever the number of views. Views of one size
    share a forward pass.

    Args:
        model (nn.Module): The predicting network.
        views (list[View]): All views.
        reference (int): Index of the reference view.
        size (tuple[int, int]): Height and width of the original image.
        prompt (Callable, optional): Maps a view to its prompted input.
        batch (int): Largest number of views in one pass. Defaults to 2.
        maps (Callable): What is averaged, called like
            :func:`view_probabilities`, the default.

    Returns:
        tuple[Tensor, Tensor]: Mean and reference probabilities, (C, H0, W0).
    """
    prompt = prompt or (lambda view: view.x)
    groups: Dict[tuple, List[int]] = {}
    for i, view in enumerate(views):
        groups.setdefault((tuple(view.x.shape), view.size), []).append(i)
    total = single = None
    for members in groups.values():
        for start in range(0, len(members), batch):
            part = members[start:start + batch]
            x = torch.cat([prompt(views[i]) for i in part])
            probs = maps(model, [views[i] for i in part], x, size)
            if reference in part:
                single = probs[part.index(reference)].clone()
            summed = probs.sum(0)
            total = summed if total is None else total.add_(summed)
    return total.div_(len(views)), single


@torch.no_grad()
def mc_probabilities(model: nn.Module, view: View, x: Tensor,
                     size: Tuple[int, int], passes: int, p: float,
                     rng: RandomSource) -> Iterator[Tensor]:
    """Softmax maps of repeated passes with dropout before the classifier.

    The backbone runs once; logits are resized once, directly to the original
    resolution.

    Args:
        model (nn.Module): An mmseg segmentor in eval mode.
        view (View): The view.
        x (Tensor): Its, possibly prompted, input, shape (1, 3, h, w).
        size (tuple[int, int]): Height and width of the original image.
        passes (int): Number of maps.
        p (float): Probability of dropping a value, in [0, 1).
        rng (RandomSource): Source of the masks.

    Yields:
        Tensor: Probabilities of shape (C, H0, W0).
    """
    feats = model.extract_feat(x)
    heads = model.decode_head
    last = heads[-1] if isinstance(heads, nn.ModuleList) else heads
    for logits in mc_dropout_passes(last, lambda: decode(model, feats), passes,
                                    p, rng):
        yield resize_logits(model, logits, view, size).softmax(1)[0]


def student_logits(model: nn.Module, view: View, x: Tensor,
                   size: Tuple[int, int]) -> Tensor:
    """Logits at the original resolution, with gradient.

    Args:
        model (nn.Module): The student.
        view (View): The view.
        x (Tensor): Its, possibly prompted, input, shape (1, 3, h, w).
        size (tuple[int, int]): Height and width of the original image.

    Returns:
        Tensor: Shape (1, C, H0, W0).
    """
    logits = decode(model, model.extract_feat(x))
    return resize_logits(model, logits, view, size)
