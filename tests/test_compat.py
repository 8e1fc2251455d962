# Copyright (c) mmext contributors. All rights reserved.
import configparser
import os
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint

import mmext
from mmext import compat
from mmext.utils import versions
from mmext.utils.io import CheckpointError, UnsafeCheckpointError, atomic_save
from tests.processes import run, run_distributed, run_python

pytestmark = pytest.mark.stack_subset
ROOT = Path(__file__).resolve().parents[1]


class Bomb:

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path, )


def _bomb(folder: Path) -> Path:
    torch.save(dict(state_dict=Bomb(folder / 'executed')), folder / 'b.pth')
    return folder / 'b.pth'


def _fake_versions(monkeypatch, **found):
    given = {name.replace('_', '-'): v for name, v in found.items()}
    for module in (compat, versions):
        monkeypatch.setattr(module, 'installed_version', given.get)


def test_version_guard_accepts_either_stack(monkeypatch):
    compat.check_versions()
    _fake_versions(
        monkeypatch,
        onedl_mmengine='0.10.13',
        onedl_mmcv='2.3.6',
        onedl_mmsegmentation='1.4.2',
        torch='2.14.1+cu130')
    compat.check_versions()
    assert compat.stack() == 'onedl'
    _fake_versions(
        monkeypatch, mmengine='0.10.7', mmcv_lite='2.1.0', mmpretrain='1.2.0')
    compat.check_versions()
    assert compat.stack() == 'openmmlab'
    _fake_versions(monkeypatch)
    compat.check_versions()
    assert compat.stack() is None


def test_both_stacks_at_once_is_an_error_with_the_remedy(monkeypatch):
    _fake_versions(monkeypatch, onedl_mmengine='0.10.12', mmcv_lite='2.1.0')
    with pytest.raises(ImportError) as caught:
        compat.check_versions()
    assert 'pip uninstall -y onedl-mmengine mmcv-lite' in str(caught.value)
    assert "pip install 'mmext[onedl]'" in str(caught.value)


@pytest.mark.parametrize('name, version, remedy', [
    ('onedl_mmcv', '2.4.0', "pip install 'onedl-mmcv>=2.3.6,<2.4'"),
    ('onedl_mmengine', '0.10.11', "'onedl-mmengine>=0.10.12,<0.11'"),
    ('mmcv', '2.2.0', "pip install 'mmcv>=2.1,<2.2'"),
    ('mmcv_lite', '2.0.1', "pip install 'mmcv-lite>=2.1,<2.2'"),
    ('torch', '2.5.1+cpu', "pip install 'torch>=2.6'"),
])
def test_version_outside_the_range_is_an_error_with_the_remedy(
        monkeypatch, name, version, remedy):
    _fake_versions(monkeypatch, **{name: version})
    with pytest.raises(ImportError) as caught:
        compat.check_versions()
    assert remedy in str(caught.value)
    assert f'{version} is installed' in str(caught.value)


def test_version_ranges_are_those_of_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    for extra, ranges in (('onedl', versions.ONEDL), ('openmmlab',
                                                      versions.OPENMMLAB)):
        lines = setup['options.extras_require'][extra].split()
        for name, (low, high) in ranges.items():
            assert f'{name}>={low},<{high}' in lines
    assert f'torch>={versions._TORCH[0]}' in \
        setup['options']['install_requires'].split()


def test_shims_are_idempotent():
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.runner import checkpoint
    before = (checkpoint.torch, checkpoint.load_url,
              BaseInferencer._init_model, dict(MODULE2PACKAGE),
              list(sys.meta_path))
    compat.install_shims()
    compat.install_shims()
    assert before == (checkpoint.torch, checkpoint.load_url,
                      BaseInferencer._init_model, dict(MODULE2PACKAGE),
                      list(sys.meta_path))


@pytest.mark.parametrize('base', [
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'mmpretrain::vision_transformer/vit-base-p32_64xb64_in1k.py',
])
def test_host_configs_can_be_inherited(tmp_path, base):
    (tmp_path / 'a.py').write_text(f"_base_ = ['{base}']\n")
    cfg = Config.fromfile(tmp_path / 'a.py')
    assert cfg.model.type in ('EncoderDecoder', 'ImageClassifier')
    assert cfg.default_scope in ('mmseg', 'mmpretrain')


def test_our_configs_can_be_inherited_and_keep_the_host_scope(tmp_path):
    (tmp_path / 'a.py').write_text(
        "_base_ = ['mmext::svdp/cityscapes_acdc.py']\n"
        'work_dir = "elsewhere"\n')
    cfg = Config.fromfile(tmp_path / 'a.py')
    direct = Config.fromfile(ROOT / 'configs' / 'svdp' / 'cityscapes_acdc.py')
    assert cfg.default_scope == direct.default_scope == 'mmseg'
    assert cfg.model == direct.model
    assert '_scope_' not in cfg.pretty_text


def test_mmext_is_a_known_package():
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import get_installed_path, is_installed
    assert MODULE2PACKAGE['mmext'] == 'mmext'
    assert is_installed('mmext') and is_installed(MODULE2PACKAGE['mmseg'])
    assert Path(get_installed_path('mmext')) == Path(mmext.__file__).parent


def test_package_lookup_needs_no_pkg_resources(tmp_path):
    """As under setuptools >= 82, where pkg_resources is gone."""
    (tmp_path / 'a.py').write_text("_base_ = ['mmpretrain::vision_transformer/"
                                   "vit-base-p32_64xb64_in1k.py']\n")
    code = ('import sys; sys.modules["pkg_resources"] = None; import mmext; '
            'from mmengine.config import Config; '
            f'Config.fromfile({str(tmp_path / "a.py")!r})')
    run_python(code)


def test_pickle_bomb_is_refused_by_mmengine_loaders(tmp_path):
    path = _bomb(tmp_path)
    model = nn.Linear(1, 1)
    for load in (_load_checkpoint, CheckpointLoader.load_checkpoint,
                 partial(load_checkpoint, model)):
        with pytest.raises(UnsafeCheckpointError, match='posix.mkdir'):
            load(str(path))
    assert not (tmp_path / 'executed').exists()


def test_pickle_bomb_from_the_web_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    _bomb(tmp_path)
    atomic_save(dict(state_dict=dict(w=torch.ones(1))), tmp_path / 'good.pth')
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *args: None
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}/'
    try:
        assert _load_checkpoint(url + 'good.pth')['state_dict']['w'] == 1
        with pytest.raises(UnsafeCheckpointError, match='posix.mkdir'):
            _load_checkpoint(url + 'b.pth')
    finally:
        server.shutdown()
        server.server_close()
    assert not (tmp_path / 'executed').exists()


def test_trusted_checkpoint_loads_as_before(tmp_path, monkeypatch):
    monkeypatch.setenv('MMEXT_TRUST_CHECKPOINT', '1')
    _load_checkpoint(str(_bomb(tmp_path)))
    assert (tmp_path / 'executed').exists()


def test_plain_and_safetensors_checkpoints_load_into_a_model(tmp_path):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    for name in ('a.pth', 'a.safetensors'):
        atomic_save(source.state_dict(), tmp_path / name)
        nn.init.zeros_(target.weight)
        load_checkpoint(target, str(tmp_path / name), strict=True)
        assert torch.equal(source.weight, target.weight)


def test_truncated_checkpoint_is_named(tmp_path):
    (tmp_path / 'cut.pth').write_bytes(b'PK\3\4 and no more')
    with pytest.raises(CheckpointError, match='cut.pth'):
        _load_checkpoint(str(tmp_path / 'cut.pth'))


def test_config_text_in_a_checkpoint_is_not_executed(tmp_path):
    mark = tmp_path / 'executed'
    text = f'import os\nos.mkdir({str(mark)!r})\nmodel = dict(type="X")\n'
    path = str(tmp_path / 'a.pth')
    atomic_save(
        dict(
            meta=dict(config=text, cfg=text, epoch=1),
            message_hub=dict(runtime_info=dict(cfg=text)),
            state_dict={}), path)
    assert 'config' not in _load_checkpoint(path)['meta']
    with pytest.raises(ValueError, match='a.pth'):
        BaseInferencer._init_model(object(), Config(), path)
    assert not mark.exists()


def test_import_without_any_host_and_without_site_packages():
    code = (f'import sys; sys.path.insert(0, {str(ROOT)!r}); import mmext; '
            'print(mmext.__version__); '
            'assert not {"torch", "numpy", "mmengine"} & set(sys.modules)')
    output = run(sys.executable, '-I', '-S', '-c', code)
    assert output.strip() == mmext.__version__


def test_import_is_cheap():
    """Nothing heavy: neither torch nor a host comes with ``import mmext``."""
    code = ('import sys, mmengine; before = set(sys.modules); import mmext; '
            'new = {n.split(".")[0] for n in set(sys.modules) - before}; '
            'assert not new & {"torch", "mmseg", "mmpretrain", "mmcv", '
            '"torchvision", "cv2", "scipy", "timm"}, new')
    run_python(code)


_DISTRIBUTED = '''
import sys
import torch
from torch import nn
import mmext
from mmext.compat import patch_cpu_distributed
patch_cpu_distributed()
patch_cpu_distributed()
from mmengine.config import Config
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.model import BaseModel
from mmengine.runner import Runner


class Model(BaseModel):

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=self.layer(torch.stack(inputs)).mean())


data = [dict(inputs=torch.full((2, ), float(i))) for i in range(8)]
runner = Runner(
    Model(), sys.argv[1], launcher='pytorch',
    env_cfg=dict(dist_cfg=dict(backend='nccl')),
    train_cfg=dict(by_epoch=True, max_epochs=1),
    train_dataloader=dict(
        dataset=data, batch_size=1, num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False)),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    default_hooks=dict(checkpoint=None))
runner.train()
weight = runner.model.module.layer.weight.detach().clone()
total = weight.clone()
all_reduce(total)
assert get_world_size() == 2
assert torch.equal(total, 2 * weight), (total, weight)
open(f'{sys.argv[1]}/done{get_rank()}', 'w').close()
# Tensors that gloo's threads drop last, and a group that outlives the script:
# without time for them about half of such processes abort at their end.
sys.group = torch.distributed.group.WORLD
for _ in range(20):
    all_reduce(torch.ones(1))
'''


@pytest.mark.skipif(
    torch.cuda.is_available(), reason='for machines without an accelerator')
def test_two_processes_train_on_the_cpu(tmp_path):
    (tmp_path / 'train.py').write_text(_DISTRIBUTED)
    run_distributed(tmp_path / 'train.py', tmp_path, timeout=120)
    assert (tmp_path / 'done0').exists() and (tmp_path / 'done1').exists()
