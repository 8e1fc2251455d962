# Copyright (c) mmext contributors. All rights reserved.
"""Weights that go from one stage to the next, and whether they fit."""
import logging
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from mmengine.logging import print_log
from torch import Tensor, nn

from mmext.utils.io import safe_load
from mmext.utils.user_error import ConfigError

#: Parts that only a later stage has.
NEW_PARTS = ('projection_', 'domain_loss.', 'connector.')
#: What stands before the first convolution, and is new where this is.
TEMPORAL = 'temporal.'
#: How the first convolution of a spike network may start.
STEM_STARTS = dict(
    random='stays as it was',
    inflate='starts from the mean of the RGB filters')


def weights_of(checkpoint: Any, name: str) -> Dict[str, Tensor]:
    """The tensors of a loaded checkpoint, without ``module.``.

    Raises:
        ConfigError: If it holds none.
    """
    for key in ('state_dict', 'model_state_dict'):
        if isinstance(checkpoint, Mapping) and key in checkpoint:
            checkpoint = checkpoint[key]
            break
    weights = {
        key[len('module.'):] if key.startswith('module.') else key: value
        for key, value in checkpoint.items() if isinstance(value, Tensor)
    } if isinstance(checkpoint, Mapping) else {}
    if not weights:
        raise ConfigError(f'Expected a checkpoint with weights, but {name} '
                          'holds none.')
    return weights


def check_weights(model: nn.Module,
                  weights: Mapping[str, Tensor],
                  name: str,
                  new_stem: bool = False,
                  optional: Sequence[str] = NEW_PARTS) -> List[str]:
    """Whether weights are a whole model's, and which are left out.

    Args:
        model (nn.Module): The model that shall get them.
        weights (Mapping[str, Tensor]): By the names of ``state_dict()``.
        name (str): Of the checkpoint, for messages.
        new_stem (bool): Whether the first convolution may take other
            channels than the model's, and the temporal module be new: the
            step from RGB to spikes. Defaults to False.
        optional (Sequence[str]): Beginnings of names that need not be
            there.

    Returns:
        list[str]: Names that do not fit: empty, or the stem's.

    Raises:
        ConfigError: If weights are absent, have other shapes or hold a value
            that is not finite, or are those of a temporal module that the
            model does not have.
    """
    optional = (*optional, TEMPORAL) if new_stem else tuple(optional)
    own = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
    }
    missing = [
        key for key in own
        if key not in weights and not key.startswith(optional)
    ]
    if missing:
        raise ConfigError(
            f'{name} does not hold a {_kind(model)}: {len(missing)} of '
            f'{len(own)} weights are not in it, such as {missing[0]!r}; it '
            f'has {next(iter(weights))!r}. Give the checkpoint that the '
            'stage before has written with the same backbone and heads, or '
            'convert published weights with '
            'tools/model_converters/dpt_to_mmext.py.')
    unused = [
        key for key in weights if key.startswith(TEMPORAL) and key not in own
    ]
    if unused:
        raise ConfigError(
            f'{name} has a temporal module, which this {_kind(model)} has '
            f'not or another one: {unused[0]!r} would be left out. Set '
            '`temporal` of the model as in the config that wrote it.')
    other = [(key, tuple(weights[key].shape), own[key]) for key in own
             if key in weights and tuple(weights[key].shape) != own[key]]
    stems = [one for one in other if _is_stem(*one)]
    if other and (len(other) != 1 or len(stems) != 1 or not new_stem):
        raise ConfigError(_misfit(name, other, stems, new_stem))
    spoilt = [
        key for key in own
        if key in weights and not weights[key].isfinite().all()
    ]
    if spoilt:
        raise ConfigError(
            f'{name} is spoilt: {len(spoilt)} of {len(own)} weights hold NaN '
            f'or infinity, such as {spoilt[0]!r}; its training has diverged. '
            'Use an earlier checkpoint, or train again with a lower learning '
            'rate.')
    return [key for key, _, _ in other]


def _kind(model: nn.Module) -> str:
    inner = getattr(model, 'student', getattr(model, 'model', model))
    return type(inner).__name__


def _is_stem(key: str, given: Tuple[int, ...], own: Tuple[int, ...]) -> bool:
    """A convolution that differs in its input channels only."""
    return key.startswith('backbone.') and len(given) == len(own) == 4 \
        and given[:1] + given[2:] == own[:1] + own[2:]


def _misfit(name: str, other: List[tuple], stems: List[tuple],
            new_stem: bool) -> str:
    if len(other) == len(stems) == 1:
        key, given, own = stems[0]
        say = {3: 'RGB (3 channels)'}
        given_kind, own_kind = (
            say.get(shape[1], f'spikes ({shape[1]} channels)')
            for shape in (given, own))
        return (f'{name} is a network for {given_kind}, but this one takes '
                f'{own_kind}: {key} has the shape {given}, expected {own}. '
                'Stage 2 makes the spike network of the RGB one, and stage 3 '
                'starts from what stage 2 has written.')
    shown = '; '.join(f'{key} is {given}, expected {own}'
                      for key, given, own in other[:3])
    return (f'{name} is of another network: {len(other)} weights have other '
            f'shapes: {shown}. Use the same backbone and heads as the stage '
            'before.' +
            (' Only the first convolution may differ.' if new_stem else ''))


def inflate_stem(weight: Tensor,
                 in_channels: int,
                 standardised: bool = True) -> Tensor:
    r"""A first convolution for spikes that sees what one for RGB saw.

    The mean of the RGB filters is repeated over all moments, so that the
    convolution reads the firing rate, a grey picture. A weight that its
    layer standardises has no scale; another one is divided, so that a rate
    of 1 answers as white did:
    :math:`w'_t = \frac{1}{T} \sum_{c=1}^{3} w_c`.

    Args:
        weight (Tensor): (C, 3, k, k).
        in_channels (int): T, moments of the new input.
        standardised (bool): Whether the layer standardises its weight.
            Defaults to True.

    Returns:
        Tensor: (C, T, k, k).

    Raises:
        ConfigError: If the weight is not one for RGB.
    """
    if weight.size(1) != 3:
        raise ConfigError(
            'Expected the first convolution of an RGB network, (C, 3, k, k), '
            f'but it has the shape {tuple(weight.shape)}. Only RGB filters '
            'can be spread over spikes.')
    mean = weight.mean(dim=1, keepdim=True)
    if not standardised:
        mean = mean * 3 / in_channels
    return mean.repeat(1, in_channels, 1, 1)


def new_stems(model: nn.Module, weights: Mapping[str, Tensor],
              left: Sequence[str], stem: str) -> Dict[str, Tensor]:
    """What a model's first convolution starts from where it does not fit.

    Args:
        model (nn.Module): The model for spikes.
        weights (Mapping[str, Tensor]): Of the RGB network.
        left (Sequence[str]): What :func:`check_weights` has found.
        stem (str): 'random' leaves it as it is, 'inflate' spreads the RGB
            filters, see :func:`inflate_stem`.

    Returns:
        dict[str, Tensor]: Empty for 'random'.
    """
    if stem == 'random':
        return {}
    # stage wrappers have the estimator's names in their state only
    model = getattr(model, 'estimator', model)
    own = dict(model.named_parameters())
    convolutions = {
        id(one.weight): one
        for one in model.modules() if isinstance(one, nn.Conv2d)
    }
    return {
        key:
        inflate_stem(
            weights[key],
            own[key].size(1),
            # weight standardisation is what has an eps in a convolution
            hasattr(convolutions[id(own[key])], 'eps'))
        for key in left
    }


def load_weights(model: nn.Module,
                 path: str,
                 new_stem: bool = False,
                 optional: Sequence[str] = NEW_PARTS,
                 stem: str = 'random') -> List[str]:
    """Load a checkpoint that must fit into a model.

    Args:
        model (nn.Module): Changed in place.
        path (str): The checkpoint.
        new_stem (bool): See :func:`check_weights`.
        optional (Sequence[str]): See there.
        stem (str): What such a stem becomes, see :func:`new_stems`.
            Defaults to 'random', left as it is.

    Returns:
        list[str]: Names that did not fit.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be read.
        ConfigError: If it does not fit.
    """
    weights = weights_of(safe_load(path), path)
    left = check_weights(model, weights, path, new_stem, optional)
    own = model.state_dict()
    own.update({
        key: value
        for key, value in weights.items() if key in own and key not in left
    })
    own.update(new_stems(model, weights, left, stem))
    model.load_state_dict(own)
    print_log(
        f'Loaded {path} into {_kind(model)}' +
        (f'; {left[0]} {STEM_STARTS[stem]}, for its other input.'
         if left else '.'),
        logger='current',
        level=logging.INFO)
    return left
