# Copyright (c) mmext contributors. All rights reserved.
"""Tiny data sets and configs for the tests of the tools."""
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Optional

import cv2
import numpy as np

from mmext.compat import stack
from tests.processes import run

ROOT = Path(__file__).resolve().parents[1]
BASES = ROOT / 'configs' / '_base_'

SEGMENTOR = """
_base_ = [{base!r}]
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=2, max_keep_ckpts=-1))
classes = dict(classes=('a', 'b', 'c'), palette=[[0] * 3, [9] * 3, [99] * 3])
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='RandomFlip', prob=0.),
            dict(type='RandomFlip', prob=1.)
        ], [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])
]
data = dict(
    type='BaseSegDataset',
    data_root={root!r},
    img_suffix='.png',
    seg_map_suffix='.png',
    data_prefix=dict(img_path='images', seg_map_path='labels'),
    metainfo=classes,
    pipeline=pipeline)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=data)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=data)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric')
test_evaluator = val_evaluator
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', size=(32, 48), mean=[127.] * 3,
        std=[60.] * 3, seg_pad_val=255),
    backbone=dict(
        type='MixVisionTransformer', embed_dims=8, num_stages=2,
        num_layers=[1, 1], num_heads=[1, 2], patch_sizes=[7, 3],
        strides=[4, 2], sr_ratios=[2, 1], out_indices=(0, 1), mlp_ratio=2),
    decode_head=dict(
        type='SegformerHead', in_channels=[8, 16], in_index=[0, 1],
        channels=8, dropout_ratio=0.1, num_classes=3, align_corners=False,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
"""

CLASSIFIER = """
_base_ = [{base!r}]
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset', data_root={root!r}, data_prefix='classes',
        pipeline=pipeline))
val_dataloader = train_dataloader
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[127.] * 3, std=[60.] * 3, num_classes=2),
    backbone=dict(
        type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8,
        num_stages=2, out_indices=(1, ), strides=(1, 2), dilations=(1, 1)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=2, in_channels=16,
        loss=dict(type='CrossEntropyLoss')))
"""


def write_segmentation(root: Path, count: int = 4) -> Path:
    """Write ``images/N.png`` and ``labels/N.png``, 32 x 48, three classes."""
    rng = np.random.default_rng(0)
    for folder in ('images', 'labels'):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        label = rng.integers(0, 3, (32, 48), dtype=np.uint8)
        image = np.repeat(label[..., None] * 80, 3, axis=2)
        cv2.imwrite(str(root / 'images' / f'{i}.png'), image)
        cv2.imwrite(str(root / 'labels' / f'{i}.png'), label)
    return root


def write_classification(root: Path, count: int = 2) -> Path:
    """Write ``classes/{a,b}/N.png``, 16 x 16."""
    rng = np.random.default_rng(0)
    for name in ('a', 'b'):
        (root / 'classes' / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            cv2.imwrite(str(root / 'classes' / name / f'{i}.png'), image)
    return root


def write_config(path: Path,
                 template: str,
                 base: str,
                 root: Path,
                 extra: str = '') -> Path:
    """Fill a template with its base config and data folder."""
    text = template.format(base=str(BASES / base), root=str(root))
    path.write_text(text + extra)
    return path


def _stubs(folder: Path) -> str:
    """Give a subprocess what ``conftest.py`` gives this process.

    The original mmseg imports compiled operators that have no build for a
    current torch; ``sitecustomize`` runs before any tool.
    """
    site = folder / 'site'
    site.mkdir(exist_ok=True)
    (site / 'sitecustomize.py').write_text(
        f'import sys\nsys.path.insert(0, {str(ROOT)!r})\n'
        'import tests.conftest\n')
    return str(site)


def tool_environment(cwd: Path) -> dict:
    """Variables with which a tool of the checkout runs in ``cwd``."""
    env = dict(PYTHON=sys.executable)
    if stack() == 'openmmlab':
        env['PYTHONPATH'] = _stubs(cwd)
    return env


def run_tool(*command: str,
             cwd: Path,
             code: Optional[int] = 0,
             **environment: str) -> str:
    """Run a tool of the checkout; return stdout and stderr together.

    ``tools/x.py`` runs with this interpreter, ``tools/x.sh`` with bash.
    """
    script = str(ROOT / command[0])
    first = ['bash'] if script.endswith('.sh') else [sys.executable]
    env = dict(tool_environment(cwd), **environment)
    return run(*first, script, *command[1:], cwd=cwd, code=code, **env)


def tool(name: str) -> ModuleType:
    """Import ``tools/NAME.py`` as a module; it may import its neighbours."""
    path = ROOT / 'tools' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(path.stem + '_tool', path)
    module = importlib.util.module_from_spec(spec)
    # last, since some scripts are named as libraries are
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
