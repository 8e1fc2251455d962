# Copyright (c) mmext contributors. All rights reserved.
"""The recipes in configs/lipschitz are those of the specification."""
import math
import re
from pathlib import Path

import pytest
import yaml

from mmext.utils.config_build import build_model
from mmext.utils.config_check import check_config
from mmext.utils.config_io import load_config
from mmext.utils.io import safe_load
from .tool_fixtures import ROOT, run_tool, write_classification

CONFIGS = ROOT / 'configs' / 'lipschitz'
CIFAR = 8 / 255
# mean, std of images in [0, 1]
DATA = dict(
    mnist=((0.1307, ), 0.3081),
    fashion=((0.2860, ), 0.3520),
    cifar10=((0.4914, 0.4822, 0.4465), 0.2009),
    cifar100=((0.5071, 0.4867, 0.4408), 0.2667))
# config -> loss (mix of the hinge, or CE), kappa, epochs, eps_train, eps,
# parameters (section 10 and the table of section 2)
M, MR = (0, 50, 0, 350, 400), (0, 50, 50, 350, 400)
C, CR = (0, 100, 0, 750, 800), (0, 100, 100, 750, 800)
RECIPES = {
    'lipnet_mnist': (0.75, 1., M, 0.45, 0.3, 82_708_490),
    'lipnet++_mnist': ('CE', 0.5, MR, 0.35, 0.3, 83_970_826),
    # 450 -> 150 weights of the first layer, one channel for three
    'liplenet++_mnist': ('CE', 0.5, MR, 0.35, 0.3, 703_660 - 300),
    'lipnet_fashion-mnist': (1., 1., M, 0.225, 0.1, 82_708_490),
    'lipnet++_fashion-mnist': ('CE', 0.5, MR, 0.11, 0.1, 85_284_362),
    'liplenet++_fashion-mnist': ('CE', 0.5, MR, 0.11, 0.1, 703_360),
    'lipnet_cifar10': (0.75, 1., C, 5 * CIFAR, CIFAR, 120_637_450),
    'lipnet++_cifar10': ('CE', 0.95, CR, 1.1 * CIFAR, CIFAR, 123_213_322),
    'lipnet-conv_cifar10': (0.75, 1., CR, 5 * CIFAR, CIFAR, 51_256_874),
    'lipnet-conv_cifar100': (0.75, 1., CR, 5 * CIFAR, CIFAR, 68_836_836),
    'lipnet-conv++_cifar10': ('CE', 1., CR, 1.1 * CIFAR, CIFAR, 51_776_554),
    'lipnet-conv++_cifar100': ('CE', 1., CR, 1.1 * CIFAR, CIFAR, 69_310_436),
    'liplenet_cifar10': (0.75, 1., C, 5 * CIFAR, CIFAR, 117_420),
    'lipalexnet_cifar10': (0.75, 1., C, 5 * CIFAR, CIFAR, 6_613_802),
    'lipvggnet_cifar10': (0.75, 1., C, 5 * CIFAR, CIFAR, 26_172_106),
    'liplenet++_cifar10': ('CE', 0.95, CR, 1.1 * CIFAR, CIFAR, 703_660),
    'lipalexnet++_cifar10': ('CE', 0.95, CR, 1.1 * CIFAR, CIFAR, 7_662_890),
    'lipvggnet++_cifar10': ('CE', 0.95, CR, 1.1 * CIFAR, CIFAR, 26_827_978),
    'lipnet_cifar100': (0.75, 1., C, 5 * CIFAR, CIFAR, 170_483_812),
    'lipnet++_cifar100': ('CE', 0.95, CR, 1.1 * CIFAR, CIFAR, 173_066_852),
    'liplenet++_cifar100': ('CE', 0.95, CR, 1.1 * CIFAR, CIFAR, 749_830),
}
ENSEMBLES = {
    'lipnet_ensemble5_mnist': ('lipnet_mnist', 5),
    'lipnet_ensemble5_fashion-mnist': ('lipnet_fashion-mnist', 5),
    'lipnet++_ensemble5_mnist': ('lipnet++_mnist', 5),
    'lipnet++_ensemble5_fashion-mnist': ('lipnet++_fashion-mnist', 5),
    'liplenet++_ensemble10_mnist': ('liplenet++_mnist', 10),
    'liplenet++_ensemble10_fashion-mnist': ('liplenet++_fashion-mnist', 10),
    'liplenet++_ensemble10_cifar10': ('liplenet++_cifar10', 10),
    'liplenet++_ensemble10_cifar100': ('liplenet++_cifar100', 10),
}
# eps_train, eps, lambda, epochs, parameters (P2), and rho (P3)
V2_MNIST, V2_CIFAR = (0, 0, 25, 400, 450), (0, 0, 100, 1250, 1300)
SORT, SORTM = (0, 0, 200, 2950, 3000), (0, 0, 100, 1450, 1500)
MLP5, MLP6, FEATURE5 = 82_708_491, 120_637_451, 123_213_323
SUCCESSORS = {
    'lipnet-mixture_mnist-0.1': (0.3, 0.1, (0.05, 2e-4), V2_MNIST, MLP5),
    'lipnet-mixture_mnist-0.3': (0.45, 0.3, (0.05, 2e-4), V2_MNIST, MLP5),
    'lipnet-mixture_cifar10-2':
    (10 / 255, 2 / 255, (0.05, 2e-3), V2_CIFAR, MLP6),
    'lipnet-mixture_cifar10-8':
    (24 / 255, 8 / 255, (0.1, 5e-4), V2_CIFAR, MLP6),
    'lipnet-mixture_cifar10-16':
    (40 / 255, 16 / 255, (0.1, 2e-4), V2_CIFAR, MLP6),
    'sortnet_cifar10-8': (24 / 255, 8 / 255, (0.2, 2e-3), SORT, MLP6, 0.85),
    'sortnet_cifar10-2': (8 / 255, 2 / 255, (1., 0.01), SORT, MLP6, 0.75),
    'sortnet++_cifar10-8':
    (8.8 / 255, 8 / 255, (1., 0.01), (0, 500, 200, 2950, 3000), FEATURE5, 0.6),
    'sortnet++_cifar10-2': (2.2 / 255, 2 / 255, (1., 0.01),
                            (0, 500, 200, 2950, 3000), FEATURE5, 0.7),
    'sortnet_mnist-0.1': (0.3, 0.1, (0.1, 1e-3), SORTM, MLP5, 0.7),
    'sortnet_mnist-0.3': (0.45, 0.3, (0.02, 2e-4), SORTM, MLP5, 0.75),
}


def load(name):
    return load_config(str(CONFIGS / f'{name}.py'))


def parameters(cfg):
    return sum(p.numel() for p in build_model(cfg._cfg_dict).parameters())


def check_data(cfg, name):
    """One scalar std, nothing that resizes, batches of 512."""
    data = name.split('_')[-1].split('-')[0]
    mean, std = DATA[data]
    given = cfg.data_preprocessor
    assert given.mean == pytest.approx([255 * m for m in mean])
    assert given.std == pytest.approx([255 * std] * len(mean))
    assert given.to_rgb is False
    assert cfg.train_dataloader.batch_size == 512
    size, pad = (28, 1) if 'mnist' in name else (32, 4)
    steps = cfg.train_dataloader.dataset.pipeline
    assert [
        s.type for s in steps
    ] == ['RandomCrop'] + ['RandomFlip'] * (size == 32) + ['PackInputs']
    successor = 'mixture' in name or 'sortnet' in name
    if successor:
        assert steps[0].padding_mode == 'edge'
        pad = min(pad, 3)
    assert (steps[0].crop_size, steps[0].padding) == (size, pad)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert [s.type for s in loader.dataset.pipeline] == ['PackInputs']
        assert loader.dataset.split == 'test'


@pytest.mark.stack_subset
@pytest.mark.parametrize('name', RECIPES)
def test_published_recipes(name):
    """Section 10 of the specification."""
    loss, kappa, epochs, eps_train, eps, count = RECIPES[name]
    cfg = load(name)
    head = cfg.model.head
    if loss == 'CE':
        assert head.loss.type == 'mmext.LipCrossEntropyLoss'
        assert head.type == 'mmext.BoundMLPHead'
        assert head.hidden == (256 if name == 'lipnet++_mnist' else 512)
    else:
        assert head.loss.type == 'mmext.LipHingeLoss'
        assert head.loss.mix == loss and head.type == 'mmext.LipClsHead'
    assert head.kappa == kappa and head.eps_train == pytest.approx(eps_train)
    assert cfg.model.test_cfg.certify.eps == pytest.approx([eps])
    assert parameters(cfg) == count
    check_data(cfg, name)

    hooks = cfg.default_hooks
    assert hooks.p_norm.epochs == epochs
    assert (hooks.p_norm.p_start, hooks.p_norm.p_end) == (8., 1000.)
    assert hooks.ema.decay == 0.99 and cfg.randomness.seed == 2020
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer == dict(
        type='mmext.AdamWLp',
        lr=0.02,
        betas=(0.9, 0.99),
        eps=1e-10,
        weight_decay=5e-3)
    cosine = cfg.param_scheduler
    assert cosine.type == 'CosineAnnealingLR' and cosine.eta_min == 0
    assert (cosine.begin, cosine.begin + cosine.T_max) == (epochs[1],
                                                           epochs[4])
    assert cosine.end > epochs[4] and cosine.convert_to_iter_based
    assert cfg.train_cfg.max_epochs == epochs[4]
    assert cfg.train_cfg.val_begin == epochs[3]


@pytest.mark.parametrize('name', ENSEMBLES)
def test_published_ensembles(name):
    single, count = ENSEMBLES[name]
    cfg, member = load(name), load(single)
    assert cfg.model.train == 'joint' and len(cfg.model.members) == count
    for entry in cfg.model.members:
        assert entry.model == member.model
    assert cfg.model.test_cfg == member.model.test_cfg
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg',
                'default_hooks', 'data_preprocessor', 'train_dataloader'):
        assert cfg[key] == member[key]
    assert parameters(cfg) == count * RECIPES[single][-1]


@pytest.mark.parametrize('name', SUCCESSORS)
def test_successors(name):
    eps_train, eps, lam, epochs, count, *rho = SUCCESSORS[name]
    cfg = load(name)
    head, hooks = cfg.model.head, cfg.default_hooks
    assert head.eps_train == pytest.approx(eps_train)
    assert cfg.model.test_cfg.certify.eps == pytest.approx([eps])
    assert hooks.p_norm.style == 'v2' and hooks.p_norm.lam == lam
    assert hooks.p_norm.epochs == epochs
    assert hooks.p_norm.get('eps_smooth', 0.) == (0.4 if '++' in name else 0.)
    assert hooks.ema is None
    assert head.loss.type == ('mmext.LipCEHingeLoss'
                              if '++' in name else 'mmext.LipMixtureLoss')
    assert parameters(cfg) == count
    check_data(cfg, name)
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == ('AdamW' if rho else 'Adam')
    assert optimizer.lr == (0.02 if rho else 0.03)
    assert cfg.train_cfg.max_epochs == epochs[4]
    if rho:
        assert cfg.model.backbone.sort.rho == rho[0]
        identity = cfg.model.backbone.get('identity', 10.)
        assert identity == (10. if 'mnist' in name else None)


@pytest.mark.parametrize(
    'name',
    ['lipnet-mixture_mnist-0.3', 'sortnet_cifar10-8', 'sortnet++_cifar10-8'])
def test_rates_and_decay_of_the_successors(name):
    from mmengine.optim import build_optim_wrapper
    cfg = load(name)
    model = build_model(cfg._cfg_dict)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    found = {
        id(p): group
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }
    for key, parameter in model.named_parameters():
        group = found[id(parameter)]
        scalar = key.endswith('loss_module.scale')
        if name.startswith('lipnet'):
            assert group['lr'] == pytest.approx(0.006 if scalar else 0.03)
            assert group['weight_decay'] == 0
        else:
            linear = '++' in name and key.startswith('head.')
            assert group['weight_decay'] == (0.02 if scalar or linear else 0.)


def test_cpu_recipes_scale_with_one_number():
    names = [p.stem for p in CONFIGS.glob('*_cpu.py')]
    trained = [n for n in names if 'posthoc' not in n]
    assert len(trained) >= 5
    for name in trained:
        cfg = load(name)
        hook = cfg.default_hooks.p_norm
        assert hook.lr and hook.epochs[4] == 1
        assert cfg.get('param_scheduler') is None
        assert parameters(cfg) < 1_000_000


def test_every_config_is_in_the_metafile():
    meta = yaml.safe_load((CONFIGS / 'metafile.yml').read_text())
    listed = [model['Name'] for model in meta['Models']]
    # These are built from the checkpoints of their members.
    wanted = [p.stem for p in CONFIGS.glob('*.py') if '_posthoc' not in p.stem]
    assert sorted(listed) == sorted(wanted)


def test_metrics_of_the_metafile_are_those_of_the_readme():
    """Only of configs that were run as they are."""
    meta = yaml.safe_load((CONFIGS / 'metafile.yml').read_text())
    readme = (CONFIGS / 'README.md').read_text()
    found = {
        model['Name']: result['Metrics']
        for model in meta['Models']
        for result in model['Results'] if result['Metrics']
    }
    assert found
    for name, metrics in found.items():
        eps = max(load(name).model.test_cfg.certify.eps)
        clean, certified = (
            metrics.pop(key)
            for key in ('Top 1 Accuracy', f'Certified Accuracy (eps {eps:g})'))
        assert not metrics and certified < clean
        assert f'{clean:.2f}' in readme and f'{certified:.2f}' in readme


def test_a_loss_without_its_weight_is_found():

    def levels():
        found = check_config(cfg, allow_missing_paths=True)
        assert not [f for f in found if f.level == 'error' and f.path != LAM]
        return [f.level for f in found if f.path == LAM]

    LAM = 'model.head.lam'
    cfg = load('lipnet-3x512_mnist-0.3_cpu')
    cfg.model.head.eps_train = '8/255'  # the text of a fraction is one
    assert levels() == []
    for lam in ((0., 0.1), (0., 0.)):
        cfg.default_hooks.p_norm.lam = lam
        assert levels() == ['error']
        cfg.load_from = 'trained.pth'  # may go on with it
        assert levels() == ['warning']
        cfg.load_from = None
    cfg.default_hooks.p_norm.lam = (0.1, 0.)
    assert levels() == []
    cfg.default_hooks.p_norm.lam = None
    assert levels() == ['error']
    cfg.model.head.lam = 0.05
    assert levels() == []
    cfg.default_hooks.p_norm.lam = (0., 0.1)  # rules the head's
    assert levels() == ['error']
    cfg.model.head.loss.clip = 1.5  # wrong images have a gradient
    assert levels() == []
    cfg.model.head.loss.clip = 1.
    cfg.model.head.lam = 0.
    cfg.default_hooks.p_norm = None
    assert levels() == ['warning']


def _snippet(path):
    """What the Python of a README defines that has a certified classifier."""
    blocks = re.findall(r'```python\n(.*?)```', path.read_text(), re.S)
    block, = [b for b in blocks if 'LipschitzClassifier' in b]
    names = {}
    exec(block, names)
    return names


def test_models_of_the_readmes_set_lam_and_the_rate():
    front = _snippet(ROOT / 'README.md')
    assert front['model']['head']['lam'] > 0
    names = _snippet(CONFIGS / 'README.md')
    hook, = [h for h in names['custom_hooks'] if 'PNormSchedule' in h['type']]
    # Without a param_scheduler the rate would stay at 0.02.
    assert hook['lr'] and 'param_scheduler' not in names


def test_a_host_config_with_a_distance_backbone():
    cfg = load('mmpretrain-resnet18_liplenet_cifar10')
    model = build_model(cfg._cfg_dict)
    assert type(model).__name__ == 'ImageClassifier'
    assert type(model.head).__name__ == 'LinearClsHead'
    assert type(model.backbone).__name__ == 'LipLeNet'
    assert {m.p for m in model.modules() if hasattr(m, 'p')} == {8.}


HOST = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(img_size=16, hidden=16),
    head=dict(in_channels=16, num_classes=2))
data = dict(
    type='CustomDataset',
    data_root={root!r},
    data_prefix='classes',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, **data))
val_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, **data))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
"""


@pytest.mark.stack_subset
def test_a_distance_backbone_trains_under_the_host(tmp_path):
    """By mmpretrain's own train.py, which knows nothing of mmext."""
    import mmpretrain
    script = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'train.py'
    if not script.is_file():
        script = 'tools/train.py'  # this mmpretrain came without its tools
    root = write_classification(tmp_path / 'data')
    base = CONFIGS / 'mmpretrain-resnet18_liplenet_cifar10.py'
    (tmp_path / 'host.py').write_text(
        HOST.format(base=str(base), root=str(root)))
    text = run_tool(
        str(script),
        'host.py',
        '--work-dir',
        'work',
        cwd=tmp_path,
        PYTHONPATH=str(ROOT))
    assert 'accuracy/top1' in text
    saved = safe_load(tmp_path / 'work' / 'epoch_2.pth')
    assert saved['lp_norm'] == math.inf
    assert 'backbone.body.layers.conv1.weight' in saved['state_dict']
