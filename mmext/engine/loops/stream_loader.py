# Copyright (c) mmext contributors. All rights reserved.
"""The data loader of an ordered stream."""
import logging
from copy import deepcopy
from typing import List, Optional, Sequence, Union

from mmengine.logging import print_log
from torch import nn
from torch.utils.data import DataLoader

from mmext.datasets.domain_sequence import DomainSequence
from mmext.datasets.samplers import StreamSampler
from mmext.utils.user_error import ConfigError


def stream_dataloader(
        dataloader: Union[DataLoader, dict]) -> Union[DataLoader, dict]:
    """Turn a loader config into one that yields single frames in order.

    Any data set becomes a :class:`DomainSequence`, and any sampler is
    replaced by :class:`StreamSampler`, so that a host's own test or training
    loader can be used as it is.

    Args:
        dataloader (DataLoader | dict): A config, or a loader that already
            complies.

    Returns:
        DataLoader | dict: A loader that complies, or its config.

    Raises:
        ConfigError: If the batch size is not 1, or a built loader has
            another sampler.
    """
    if not isinstance(dataloader, dict):
        if not isinstance(dataloader.sampler, StreamSampler) or \
                dataloader.batch_size != 1:
            raise ConfigError(
                'A data loader built in advance needs batch_size=1 and '
                'mmext.StreamSampler for adaptation, but got batch_size='
                f'{dataloader.batch_size} and '
                f'{type(dataloader.sampler).__name__}.')
        return dataloader
    cfg = deepcopy(dataloader)
    batch_size = cfg.get('batch_size', 1)
    if batch_size != 1:
        raise ConfigError(
            'Test-time adaptation takes one frame at a time, but '
            f'train_dataloader.batch_size is {batch_size}. Set it to 1.')
    cfg['batch_size'] = 1
    cfg.pop('batch_sampler', None)
    sampler = cfg.get('sampler') or {}
    if sampler.get('type') not in ('mmext.StreamSampler', 'StreamSampler',
                                   StreamSampler):
        if sampler:
            print_log(
                f'The sampler {sampler.get("type")} is replaced by '
                'mmext.StreamSampler: adaptation follows the stream in order.',
                logger='current',
                level=logging.WARNING)
        cfg['sampler'] = dict(type='mmext.StreamSampler')
    dataset = cfg['dataset']
    if isinstance(dataset, dict):
        kind = str(dataset.get('type'))
        if 'DomainSequence' not in kind:
            cfg['dataset'] = dict(
                type='mmext.DomainSequence', domains=dict(all=dataset))
    elif not isinstance(dataset, DomainSequence):
        cfg['dataset'] = DomainSequence(dict(all=dataset))
    return cfg


def check_arguments(method: dict, reset: str, autocast: Optional[str]) -> None:
    """Refuse settings of :class:`TestTimeAdaptLoop` that do not exist.

    Args:
        method (dict): Config of the method.
        reset (str): ``'never'``, ``'domain'`` or ``'round'``.
        autocast (str, optional): ``'bfloat16'`` or ``'float16'``.

    Raises:
        ConfigError: For any other value, or a method without a type.
    """
    if reset not in ('never', 'domain', 'round'):
        raise ConfigError("train_cfg.reset is 'never', 'domain' or "
                          f"'round', but got {reset!r}.")
    if autocast not in (None, 'bfloat16', 'float16'):
        raise ConfigError("train_cfg.autocast is None, 'bfloat16' or "
                          f"'float16', but got {autocast!r}.")
    if not (method or {}).get('type'):
        raise ConfigError('train_cfg.method needs a type, such as dict('
                          f"type='mmext.SVDP'), but got {method!r}.")


def check_stream(stream: DomainSequence, model: nn.Module) -> None:
    """Refuse a stream with an empty domain or with other classes.

    Args:
        stream (DomainSequence): The stream.
        model (nn.Module): A segmentor; one whose head does not tell its
            ``num_classes`` is not compared.

    Raises:
        ConfigError: If a domain has no frame, or the stream has another
            number of classes than the model.
    """
    empty = [name for name, data in stream.datasets.items() if not len(data)]
    if empty:
        raise ConfigError(
            f'No frame in the domain(s) {", ".join(empty)}. Check their '
            'folders, and settings that leave frames out.')
    head = getattr(model, 'decode_head', None)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    check_classes(
        getattr(head, 'num_classes', None), stream.metainfo.get('classes'))


def check_classes(given: Optional[int],
                  classes: Optional[Sequence[str]]) -> None:
    """Refuse a model with another number of classes than the stream.

    Args:
        given (int, optional): Classes of the model, if it tells.
        classes (Sequence[str], optional): Classes of the stream, if known.

    Raises:
        ConfigError: If both are known and differ.
    """
    if given and classes and given != len(classes):
        raise ConfigError(
            f'The model predicts {given} classes, but the stream has '
            f'{len(classes)}: {", ".join(classes)}. Use the source model of '
            'these classes (model.decode_head.num_classes, load_from), or '
            "give every domain the model's own, metainfo=dict(classes=...).")


def split_stream(stream: DomainSequence, reset: str, world_size: int,
                 rank: int) -> List[int]:
    """The part of the stream that a process visits.

    Where the state is reset, parts between resets are independent and are
    dealt out whole, so the result equals a single process's. A continual
    stream has no such parts: its frames are dealt out one by one, and each
    process adapts on every ``world_size``-th frame of every domain. No frame
    is ever repeated.

    Args:
        stream (DomainSequence): The stream.
        reset (str): ``'never'``, ``'domain'`` or ``'round'``.
        world_size (int): Number of processes.
        rank (int): This process.

    Returns:
        list[int]: Indices into the stream, ascending.
    """
    if world_size == 1:
        return list(range(len(stream)))
    if reset == 'never':
        print_log(
            f'{world_size} processes adapt {world_size} independent models, '
            'each on its own share of the frames. The result is not that of '
            'one continual stream; use one process to compare with published '
            'numbers.',
            logger='current',
            level=logging.WARNING)
        return list(range(rank, len(stream), world_size))
    parts: List[List[int]] = []
    last = None
    for visit in stream.visits:
        key = visit if reset == 'domain' else visit.round
        if key != last:
            parts.append([])
        parts[-1].extend(range(visit.start, visit.stop))
        last = key
    return [i for part in parts[rank::world_size] for i in part]
