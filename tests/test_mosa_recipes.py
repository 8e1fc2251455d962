# Copyright (c) mmext contributors. All rights reserved.
"""The recipes in configs/mosa are those of the specification."""
import math
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmext.datasets.vtab import VTAB_TASKS
from mmext.models.adapters.report import adapter_report
from mmext.utils.config_build import build_model
from mmext.utils.config_io import load_config
from .tool_fixtures import ROOT, run_tool, write_classification

CONFIGS = ROOT / 'configs' / 'mosa'
pytestmark = pytest.mark.stack_subset
# data set -> classes, rate, width, modules, split, alignment
RECIPES = dict(
    cub=(200, 1e-3, 64, 4, 'up', 0.),
    nabirds=(555, 5e-4, 64, 4, 'up', 0.),
    flowers=(102, 5e-3, 64, 4, 'up', 0.),
    dogs=(120, 5e-4, 64, 4, 'up', 0.),
    cars=(196, 5e-3, 64, 2, 'down', 0.01),
    cifar100=(100, 5e-4, 64, 4, 'up', 0.),
    aircraft=(100, 5e-3, 64, 4, 'up', 0.),
    food101=(101, 5e-4, 64, 4, 'up', 0.))
RECIPES['fgvc-joint'] = (1173, 5e-4, 64, 2, 'both', 0.)
FGVC = ('cub', 'nabirds', 'flowers', 'dogs', 'cars')


def load(name):
    return load_config(str(CONFIGS / f'{name}.py'))


@pytest.mark.parametrize('name', [
    *(f'vit-base-p16_mosa_{task}'
      for task in RECIPES), *(f'swin-base-p4-w7_mosa_{task}' for task in FGVC)
])
def test_published_recipes(name):
    """Section (c) of the specification."""
    backbone, _, task = name.split('_')
    classes, lr, width, modules, split, deep = RECIPES[task]
    cfg = load(name)
    model = cfg.model
    assert model.module.head.num_classes == classes
    assert cfg.optim_wrapper.optimizer.lr == lr
    assert model.adapter.type == 'AdaptFormer'
    assert (model.adapter.bottleneck, model.num_modules,
            model.split) == (width, modules, split)
    assert (model.get('loss') or {}).get('deep_weight', 0.) == deep
    assert (model.adapter.scale, model.adapter.drop_rate,
            model.adapter.act_cfg.type) == (0.1, 0.1, 'GELU')
    start = model.module.head.init_cfg
    assert (start.type, start.mode) == ('Kaiming', 'fan_out')
    assert start.bias == pytest.approx(-math.log(99))
    images = model.module.data_preprocessor
    assert images.mean == [123.675, 116.28, 103.53]
    assert images.std == [58.395, 57.12, 57.375]
    assert images.to_rgb == (task != 'cifar100')  # those are red first
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, tuple(optimizer.betas), optimizer.eps,
            optimizer.weight_decay) == ('AdamW', (0.9, 0.999), 1e-6, 0.01)
    assert cfg.train_dataloader.batch_size == 128
    assert cfg.randomness.seed == 3407
    if task in FGVC:
        loaders = (cfg.train_dataloader, cfg.val_dataloader,
                   cfg.test_dataloader)
        assert [(x.dataset.task, x.dataset.split) for x in loaders
                ] == [(task, s) for s in ('train', 'val', 'test')]
    drop = model.module.backbone
    if backbone.startswith('vit'):
        assert (drop.drop_rate, drop.proj_drop_rate) == (0.1, 0.)
    else:
        assert drop.drop_path_rate == 0.5


def test_vtab_recipes():
    """All nineteen tasks, one recipe."""
    seen = {}
    for path in CONFIGS.glob('vit-base-p16_mosa_vtab-*.py'):
        cfg = load_config(str(path))
        task, = {
            loader.dataset.task
            for loader in (cfg.train_dataloader, cfg.val_dataloader,
                           cfg.test_dataloader)
        }
        seen[task] = cfg.model.module.head.num_classes
        assert cfg.train_dataloader.dataset.split == 'train800val200'
        assert cfg.test_dataloader.dataset.split == 'test'
        assert cfg.optim_wrapper.optimizer.lr == 5e-3
        assert cfg.model.adapter.bottleneck == 16
        assert cfg.train_cfg.val_interval == cfg.train_cfg.max_epochs
    assert seen == VTAB_TASKS


def test_joint_recipe_orders_the_labels_as_published():
    cfg = load('vit-base-p16_mosa_fgvc-joint')
    for loader, split in ((cfg.train_dataloader, 'train'),
                          (cfg.val_dataloader, 'val'), (cfg.test_dataloader,
                                                        'test')):
        parts = loader.dataset.datasets
        assert list(parts) == ['cars', 'cub', 'dogs', 'flowers', 'nabirds']
        assert all(part.task == name and part.split == split
                   for name, part in parts.items())


def test_only_biases_are_free_of_decay():
    """As in the authors' code: norms, head and adapters are decayed."""
    cfg = load('vit-base-p16_mosa_cub')
    model = build_model(cfg._cfg_dict)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decay = {
        id(p): group['weight_decay']
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert {id(p) for _, p in trained} <= set(decay)
    for name, parameter in trained:
        assert decay[id(parameter)] == (0. if 'bias' in name else 0.01), name
    # 1.208 M of the adapters, 3 more copies of each up-projection's bias,
    # and the head (table a.11 of the specification)
    count = sum(p.numel() for _, p in trained)
    assert count == 1_208_064 + 12 * 3 * 768 + 769 * 200


# values of the merged adapter, and in training with N copies (None: the
# table has no such number)
SIZES = {
    'vit-base-p16_mosa_cub': (1_208_064, 3_005_184),
    'vit-base-p16_mosa_cars': (1_208_064, 1_798_656),
    'vit-base-p16_mosa_fgvc-joint': (1_208_064, 12 * 199_808),
    'vit-base-p16_mosa_vtab-cifar100': (322_752, 792_768),
    'vit-base-p16_mosa-pfeiffer_cub': (1_208_064, 3_005_184),
    'vit-base-p16_mosa-houlsby_cub': (2_379_264, None),
    'vit-base-p16_mosl_cub': (589_824, None),
    'swin-base-p4-w7_mosa_cub': (1_553_664, None),
}


@pytest.mark.parametrize('name', SIZES)
def test_sizes_of_the_recipes(name):
    """Property 23: table a.11 of the specification."""
    merged, replicated = SIZES[name]
    cfg = load(name)
    cfg.model.storage = 'replicated'
    found = adapter_report(build_model(cfg._cfg_dict))['adapter']
    assert found['unique'] == merged
    assert replicated in (None, found['stored'])


def test_dropout_of_the_backbone_is_as_published():
    from mmpretrain.registry import MODELS
    vit = MODELS.build(
        dict(
            type='mmext.SplitDropoutViT',
            arch=dict(
                embed_dims=8,
                num_layers=2,
                num_heads=2,
                feedforward_channels=16),
            img_size=8,
            patch_size=4,
            drop_rate=0.1))
    assert vit.drop_after_pos.p == 0.1
    for layer in vit.layers:
        assert layer.attn.proj_drop.p == 0.
        rates = [
            m.p for m in layer.ffn.modules()
            if isinstance(m, torch.nn.Dropout)
        ]
        assert rates and set(rates) == {0.1}


# The five lines on a config of mmpretrain

HOST = """
_base_ = [{base!r}]
model = dict(
    module=dict(
        backbone=dict(
            arch=dict(
                _delete_=True,
                embed_dims=8,
                num_layers=2,
                num_heads=2,
                feedforward_channels=16),
            img_size=16,
            patch_size=8),
        head=dict(in_channels=8, hidden_dim=None, num_classes=2)),
    adapter=dict(bottleneck=4))
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
data = dict(
    type='CustomDataset',
    data_root={root!r},
    data_prefix='classes',
    pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, **data))
val_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, **data))
test_dataloader = val_dataloader
val_evaluator = dict(topk=1)
test_evaluator = dict(topk=1)
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
load_from = None
"""
EXAMPLE = CONFIGS / 'mmpretrain-vit-base-p16_mosa_in1k-384px.py'


@pytest.fixture(scope='module')
def host_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('host')
    root = write_classification(folder / 'data')
    (folder / 'host.py').write_text(
        HOST.format(base=str(EXAMPLE), root=str(root)))
    return folder / 'host.py'


def test_the_host_keeps_its_preprocessor():
    """The base has it at the top level, where the wrapper receives it."""
    cfg = load_config(str(EXAMPLE))
    model = build_model(cfg._cfg_dict)
    assert model.data_preprocessor.mean.flatten().tolist() == [127.5] * 3
    assert model.data_preprocessor.to_rgb


@pytest.mark.parametrize('program', ['mmext', 'mmpretrain'])
def test_five_lines_on_a_host_base(program, host_config):
    """tools/train.py, and mmpretrain's own."""
    script = 'tools/train.py'
    if program == 'mmpretrain':
        import mmpretrain
        script = Path(mmpretrain.__file__).parent / '.mim/tools/train.py'
        if not script.is_file():
            pytest.skip('this mmpretrain came without its tools')
    run_tool(
        str(script),
        host_config,
        '--work-dir',
        program,
        cwd=host_config.parent,
        PYTHONPATH=str(ROOT))
    saved = torch.load(
        host_config.parent / program / 'epoch_1.pth', weights_only=False)
    names = set(saved['state_dict'])
    assert 'backbone.layers.0.ffn.layers.1.weight' in names
    assert any('.mosa.default.up.' in name for name in names)


def test_two_processes(host_config):
    """``tools/dist_train.sh`` on CPUs: no unused parameter, one result."""
    if torch.cuda.is_available():
        pytest.skip('checks the machines without a GPU')
    run_tool(
        'tools/dist_train.sh',
        host_config,
        '2',
        '--work-dir',
        'distributed',
        cwd=host_config.parent)
    saved = torch.load(
        host_config.parent / 'distributed' / 'epoch_1.pth',
        weights_only=False)
    assert 'rng' in saved['mosa']
    assert any('.mosa.default.up.owner' in name
               for name in saved['state_dict'])
