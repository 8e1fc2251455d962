# Copyright (c) mmext contributors. All rights reserved.
"""How many parameters a tuned model trains, stores and uses, and where."""
from typing import Any, Dict, List

import torch.nn as nn
from torch import Tensor

from .lifecycle import TASKS
from .slots import SLOT, slots
from .split_linear import SplitLinear
from .split_options import MaskedLayerNorm, MaskedLinear
from .standard import standard_state


def count(adapter: nn.Module, num_passes: int = 1) -> Dict[str, float]:
    r"""Parameters of one adapter.

    Args:
        adapter (nn.Module): The adapter.
        num_passes (int): Passes of a training step, P. Defaults to 1.

    Returns:
        dict: ``stored``, elements of its parameters in training;
        ``unique``, those of the standard adapter that it merges to, which
        is what papers count; ``trained``, elements that training can
        change; ``per_step``, how many of them a step changes on average:
        a module is drawn with :math:`1 - (1 - 1/N)^P`.
    """
    stored = sum(p.numel() for p in adapter.parameters())
    unique = sum(v.numel() for v in standard_state(adapter).values())
    trained = per_step = 0.
    inside = set()
    for layer in adapter.modules():
        if isinstance(layer, SplitLinear):
            inside |= {id(p) for p in layer.parameters()}
            if layer.merged:
                continue
            drawn = 1 - (1 - 1 / layer.num_modules)**num_passes
            for kind in layer.kinds():
                held = layer.parameters_of(kind)
                owner = layer.owner_of(kind)
                own = sum(p.numel() for p in held) if owner is None \
                    else owner.numel()
                trained += own
                per_step += own * drawn
        elif isinstance(layer, (MaskedLinear, MaskedLayerNorm)):
            inside |= {id(p) for p in layer.parameters(recurse=False)}
            own = sum(
                int(getattr(layer, f'{kind}_mask').sum())
                for kind, _ in layer.named_parameters(recurse=False))
            trained, per_step = trained + own, per_step + own
    rest = sum(p.numel() for p in adapter.parameters() if id(p) not in inside)
    return dict(
        stored=stored,
        unique=unique,
        trained=int(trained + rest),
        per_step=round(per_step + rest, 1))


def adapter_report(model: Any) -> dict:
    """Parameters of a tuned model, and its adapters place by place.

    Args:
        model (MoSAModel): The model.

    Returns:
        dict: ``total`` parameters of host, heads in use and merged adapter,
        ``trainable`` tensors' elements, ``percentage`` (of unique and other
        trained parameters in the total), ``adapter`` (the sums of
        :func:`count` for the active adapter), ``head_and_host`` (trained
        parameters outside adapters), ``active``, and ``layers``: one dict
        for each adapter in each place.
    """
    rows: List[dict] = []
    sums = dict(stored=0, unique=0, trained=0, per_step=0.)
    for path, slot in slots(model):
        for name, adapter in slot.items():
            numbers = count(adapter, model.num_passes)
            rows.append(
                dict(
                    place=path,
                    adapter=name,
                    type=type(adapter).__name__,
                    **_status(slot, name, adapter),
                    **numbers))
            if name == model.active_adapter:
                sums = {key: sums[key] + numbers[key] for key in sums}
    inside = tuple(f'{path}.{SLOT}.' for path, _ in slots(model))
    host = {
        name: p
        for name, p in model.named_parameters()
        if not name.startswith((*inside, f'{TASKS}.'))
    }
    others = sum(p.numel() for p in host.values() if p.requires_grad)
    total = sum(p.numel() for p in host.values()) + sums['unique']
    return dict(
        active=model.active_adapter,
        total=total,
        trainable=sum(p.numel() for p in model.parameters()
                      if p.requires_grad),
        head_and_host=others,
        adapter=sums,
        percentage=100 * (sums['unique'] + others) / total,
        layers=rows)


def _status(slot: Any, name: str, adapter: nn.Module) -> dict:
    layers = [m for m in adapter.modules() if isinstance(m, SplitLinear)]
    some: Tensor = next(adapter.parameters())
    return dict(
        num_modules=max([layer.num_modules for layer in layers] or [1]),
        active=slot.active == name and slot.enabled,
        merged=any(layer.merged for layer in layers),
        dtype=str(some.dtype).replace('torch.', ''),
        device=str(some.device))


def report_text(report: dict) -> str:
    """The report as text, one line for each place."""
    sums = report['adapter']
    lines = [
        f'adapter {report["active"]!r}',
        f'  trainable tensors hold   {report["trainable"]:>12,}',
        f'  unique (merged) adapter  {sums["unique"]:>12,}',
        f'  stored while training    {sums["stored"]:>12,}',
        f'  changed per step         {sums["per_step"]:>12,.0f}'
        '  (adapter, on average)',
        f'  heads and host, trained  {report["head_and_host"]:>12,}',
        f'  total                    {report["total"]:>12,}',
        f'  tuned                    {report["percentage"]:>11.3f}%'
        '  (unique, heads and host of the total)',
    ]
    if report['layers']:
        width = max(len(row['place']) for row in report['layers'])
        lines.append(f'{"place":{width}}  adapter     type         N  '
                     'unique     stored     state')
    for row in report['layers']:
        state = ' '.join([key for key in ('active', 'merged') if row[key]] +
                         [row['dtype'], row['device']])
        lines.append(
            f'{row["place"]:{width}}  {row["adapter"]:10.10}  '
            f'{row["type"]:11} {row["num_modules"]:2}  {row["unique"]:<9,}  '
            f'{row["stored"]:<9,}  {state}')
    return '\n'.join(lines)
