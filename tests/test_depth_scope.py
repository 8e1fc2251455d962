# Copyright (c) mmext contributors. All rights reserved.
"""mmdepth: the second home of depth and spike parts (property H37)."""
import logging
from pathlib import Path

import pytest
from mmengine.registry import (HOOKS, MODELS, OPTIM_WRAPPERS, VISBACKENDS,
                               DefaultScope, init_default_scope)

from mmext import registry
from mmext.utils.dependency import has
from tests.processes import run_python

pytest.importorskip('mmseg')
ROOT = Path(__file__).resolve().parents[1]
NO_LOSS = dict(type='torch.nn.Identity')

# What the parts need at least; one that builds without arguments needs no
# line here.
CONFIGS = {
    'BiCrossDepthEstimator':
    dict(
        backbone=dict(type='mmext.DPTHybrid', arch='tiny', img_size=32),
        decode_head=dict(
            type='mmdepth.DPTDepthHead',
            in_channels=(32, 64, 64, 64),
            channels=8,
            hidden=4,
            reassemble=dict(out_channels=(32, 64, 64, 64)),
            loss_depth=NO_LOSS),
        uncertainty_head=dict(
            type='mmdepth.DPTUncertaintyHead',
            channels=8,
            loss_uncertainty=NO_LOSS)),
    'DepthLocalVisualizer':
    dict(name='depth_scope'),
    'DomainAdversarialLoss':
    dict(in_channels=8),
    'DPTDepthHead':
    dict(
        in_channels=(4, 4, 4, 4),
        channels=8,
        hidden=4,
        reassemble=None,
        loss_depth=NO_LOSS),
    'DPTHybrid':
    dict(arch='tiny', img_size=32),
    'DPTReassemble':
    dict(in_channels=(4, ), out_channels=(4, ), factors=(1, )),
    'DPTUncertaintyHead':
    dict(channels=8, hidden=4, loss_uncertainty=NO_LOSS),
    'ResizeSpike':
    dict(size=(8, 8)),
    'SpikeSE':
    dict(),
    'SpikeUNet':
    dict(widths=(8, 8), up_widths=(8, )),
    'SpikeUSENet':
    dict(widths=(8, 16), up_widths=(8, )),
}


CONFIGS['CrossModalityDistiller'] = dict(
    student=dict(
        type='mmdepth.BiCrossDepthEstimator',
        **CONFIGS['BiCrossDepthEstimator']))
CONFIGS['CrossDomainAdapter'] = dict(
    model=CONFIGS['CrossModalityDistiller']['student'])


def depth_parts():
    """(kind, name, class) of everything in the mmdepth registries."""
    for kind, twin in registry.DEPTH_REGISTRIES.items():
        twin.import_from_location()
        for name, cls in twin.module_dict.items():
            yield kind, name, cls


@pytest.mark.stack_subset
def test_every_part_has_both_names():
    """From every root, prefixed, whatever the default scope is."""
    import mmengine.registry as roots
    parts = list(depth_parts())
    assert {'BiCrossDepthEstimator', 'DPTHybrid'} <= {p[1] for p in parts}
    for kind, name, cls in parts:
        root = getattr(roots, kind)
        assert root.get(f'mmdepth.{name}') is cls
        assert root.get(f'mmext.{name}') is cls


# Data sets need files, samplers a data set, inferencers a model, loops a
# runner; their own tests build them.
BUILT = [(kind, name) for kind, name, _ in depth_parts()
         if kind not in ('DATASETS', 'DATA_SAMPLERS', 'INFERENCERS', 'LOOPS')]


@pytest.mark.stack_subset
@pytest.mark.parametrize('kind, name', BUILT)
def test_h37_parts_build_from_any_scope(kind, name):
    """Prefixed from foreign scopes, and by the bare name from mmdepth."""
    import mmengine.registry as roots
    options = CONFIGS.get(name, {})
    if 'DPTHybrid' in name + str(options) and not has('timm'):
        pytest.skip('timm is not installed')
    scopes = [s for s in ('mmseg', 'mmpretrain') if has(s)]
    types = [(s, f'{prefix}.{name}') for s in scopes
             for prefix in ('mmext', 'mmdepth')]
    for scope, type_ in [*types, ('mmdepth', name), (None, f'mmext.{name}')]:
        with DefaultScope.overwrite_default_scope(scope):
            built = getattr(roots, kind).build(dict(type=type_, **options))
        assert type(built).__name__ == name


def test_every_root_has_a_twin_so_that_nothing_warns():
    """A Runner with default_scope='mmdepth' asks all of them."""
    init_default_scope('mmdepth')
    from mmengine.logging import MMLogger
    logger, records = MMLogger.get_current_instance(), []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    HOOKS.build(dict(type='IterTimerHook'))
    HOOKS.build(dict(type='mmext.RNGStateHook'))
    VISBACKENDS.build(dict(type='LocalVisBackend', save_dir='unused'))
    import torch
    parameter = torch.nn.Parameter(torch.ones(1))
    OPTIM_WRAPPERS.build(
        dict(type='OptimWrapper', optimizer=torch.optim.SGD([parameter], 1)))
    assert not records


def test_a_miss_names_the_scope():
    init_default_scope('mmdepth')
    with pytest.raises(KeyError, match=r'mmdepth\.DPTHybird.*DPTHybrid'):
        MODELS.build(dict(type='DPTHybird'))


def test_only_registries_of_mmext_are_taken():
    with pytest.raises(ValueError, match='registry of mmext.registry'):
        registry.register_depth(MODELS)


def test_importing_mmext_is_enough():
    """No import of mmext.registry, no custom_imports of a module of it.

    On the default stack alone: a bare process has no stub of the operators
    that the original mmseg imports.
    """
    code = '''
import mmext, sys
assert 'mmext.registry' not in sys.modules
from mmengine.registry import MODELS, DefaultScope
DefaultScope.get_instance('test', scope_name='mmdepth')
assert type(MODELS.build(dict(type='SpikeSE'))).__name__ == 'SpikeSE'
from mmdepth.registry import MODELS as child
assert child.scope == 'mmdepth' and child.parent is MODELS
'''
    assert 'Failed to' not in run_python(code)
