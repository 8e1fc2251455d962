# Copyright (c) mmext contributors. All rights reserved.
"""Property 30: a small distance net learns MNIST and can be certified.

Reads the four files of MNIST in ``$MMEXT_MNIST`` (made by
``tools/dataset_converters/mnist.py``) and takes about a minute::

    MMEXT_MNIST=data/mnist pytest -m slow tests/test_lip_mnist.py
"""
import math
import os
from pathlib import Path

import pytest
from mmengine.runner import Runner

import mmext  # noqa: F401
from mmext.utils.config_io import load_config
from .tool_fixtures import ROOT
from .toy_runs import quick_runner

MNIST = Path(os.environ.get('MMEXT_MNIST') or ROOT / 'data' / 'mnist')


@pytest.mark.slow
@pytest.mark.skipif(
    not (MNIST / 'train-images-idx3-ubyte').is_file(),
    reason=f'no MNIST in {MNIST}; set MMEXT_MNIST to the folder that '
    'tools/dataset_converters/mnist.py has written')
def test_property_30_smoke(tmp_path):
    config = ROOT / 'configs' / 'lipschitz' / 'lipnet-3x512_mnist-0.1_cpu.py'
    cfg = load_config(str(config))
    cfg.model.backbone.width = 0.25  # MLP(3, 0.25)
    cfg.model.head.in_channels = 256
    cfg.train_dataloader.batch_size = 100
    cfg.test_dataloader = cfg.val_dataloader
    for loader, count in ((cfg.train_dataloader, 4000), (cfg.val_dataloader,
                                                         1000)):
        loader.num_workers, loader.persistent_workers = 0, False
        loader.dataset.data_root = str(MNIST)
        loader.dataset.indices = count
    cfg.train_cfg.max_epochs = 20
    cfg.work_dir = str(tmp_path)
    cfg.launcher = 'none'
    with quick_runner():
        runner = Runner.from_cfg(cfg)
        untrained = runner.test()
        runner.train()
    scalars = runner.message_hub.log_scalars
    losses, _ = scalars['train/loss'].data
    assert all(map(math.isfinite, losses))

    def last(name):
        return float(scalars[f'val/cert/{name}'].current())

    certified, live = last('certified@0.1'), last('certified@0.1_live')
    print(f'clean {last("clean"):.1f}, certified@0.1 {certified:.1f}, live '
          f'{live:.1f}, untrained {untrained["cert/certified@0.1"]:.1f}')
    assert certified > 50.
    assert certified > untrained['cert/certified@0.1'] + 30
    assert last('clean') >= certified >= live - 1.
