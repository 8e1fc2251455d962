# Copyright (c) mmext contributors. All rights reserved.
import copy
import functools
import importlib.util
import json
import os.path as osp
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

HERE = osp.dirname(osp.abspath(__file__))
ROOT = osp.dirname(osp.dirname(HERE))
TOOL = osp.join(ROOT, 'tools', 'model_converters',
                'nvidia_segformer_to_mmseg.py')
MODELS_DIR = osp.join(ROOT, 'configs', '_base_', 'models')
# Two heads and more from the second stage on, all kinds of blocks.
TINY = dict(dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), width=20, classes=5)
HEADS, RATIOS = (1, 2, 3, 4), (8, 4, 2, 1)


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('converter', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


@pytest.fixture
def b5_keys():
    """Keys and shapes of NVIDIA's B5, from its architecture."""
    path = osp.join(HERE, 'segformer_b5_nvidia_keys.json')
    with open(path) as file:
        return json.load(file)


def tiny_checkpoint(seed=0):
    """A random checkpoint in NVIDIA's layout."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def add(name, *shape, scale=0.3):
        state[name] = torch.randn(*shape, generator=generator) * scale

    def pair(name, *shape):
        add(f'{name}.weight', *shape)
        add(f'{name}.bias', shape[0])

    def norm(name, width):
        add(f'{name}.weight', width)
        state[f'{name}.weight'] += 1
        add(f'{name}.bias', width)

    previous = 3
    for s, width in enumerate(TINY['dims'], 1):
        kernel = 7 if s == 1 else 3
        stem = f'backbone.patch_embed{s}.'
        # Small values: here the eps of the norm matters.
        add(f'{stem}proj.weight', width, previous, kernel, kernel, scale=2e-3)
        add(f'{stem}proj.bias', width, scale=2e-3)
        norm(f'{stem}norm', width)
        previous = width
        for b in range(TINY['depths'][s - 1]):
            stem = f'backbone.block{s}.{b}.'
            norm(f'{stem}norm1', width)
            pair(f'{stem}attn.q', width, width)
            pair(f'{stem}attn.kv', 2 * width, width)
            pair(f'{stem}attn.proj', width, width)
            ratio = RATIOS[s - 1]
            if ratio > 1:
                add(f'{stem}attn.sr.weight',
                    width,
                    width,
                    ratio,
                    ratio,
                    scale=3e-4)
                add(f'{stem}attn.sr.bias', width, scale=3e-3)
                norm(f'{stem}attn.norm', width)
            norm(f'{stem}norm2', width)
            pair(f'{stem}mlp.fc1', 4 * width, width)
            pair(f'{stem}mlp.dwconv.dwconv', 4 * width, 1, 3, 3)
            pair(f'{stem}mlp.fc2', width, 4 * width)
        norm(f'backbone.norm{s}', width)
        pair(f'decode_head.linear_c{s}.proj', TINY['width'], width)
    add('decode_head.linear_fuse.conv.weight', TINY['width'],
        4 * TINY['width'], 1, 1)
    norm('decode_head.linear_fuse.bn', TINY['width'])
    add('decode_head.linear_fuse.bn.running_mean', TINY['width'])
    add('decode_head.linear_fuse.bn.running_var', TINY['width'])
    state['decode_head.linear_fuse.bn.running_var'].abs_().add_(0.5)
    state['decode_head.linear_fuse.bn.num_batches_tracked'] = torch.tensor(7)
    pair('decode_head.linear_pred', TINY['classes'], TINY['width'], 1, 1)
    pair('decode_head.conv_seg', TINY['classes'], 12, 1, 1)
    return state


def reference_forward(state, image):
    """NVIDIA's network, written from the paper on NVIDIA's names."""

    def get(name):
        return state[f'{name}.weight'], state[f'{name}.bias']

    def norm(name, x, eps):
        return F.layer_norm(x, x.shape[-1:], *get(name), eps)

    def attention(stem, x, size, heads, ratio):
        n, tokens, width = x.shape
        query = F.linear(x, *get(f'{stem}attn.q'))
        source = x
        if ratio > 1:
            grid = x.transpose(1, 2).reshape(n, width, *size)
            grid = F.conv2d(grid, *get(f'{stem}attn.sr'), stride=ratio)
            source = norm(f'{stem}attn.norm',
                          grid.flatten(2).transpose(1, 2), 1e-5)
        key, value = F.linear(source, *get(f'{stem}attn.kv')).chunk(2, -1)
        query, key, value = (
            t.reshape(n, -1, heads, width // heads).transpose(1, 2)
            for t in (query, key, value))
        weights = query @ key.transpose(-1, -2) * (width // heads)**-0.5
        out = (weights.softmax(-1) @ value).transpose(1, 2)
        return F.linear(
            out.reshape(n, tokens, width), *get(f'{stem}attn.proj'))

    def mlp(stem, x, size):
        hidden = F.linear(x, *get(f'{stem}mlp.fc1'))
        grid = hidden.transpose(1, 2).reshape(len(x), -1, *size)
        grid = F.conv2d(
            grid,
            *get(f'{stem}mlp.dwconv.dwconv'),
            padding=1,
            groups=grid.shape[1])
        hidden = F.gelu(grid.flatten(2).transpose(1, 2))
        return F.linear(hidden, *get(f'{stem}mlp.fc2'))

    levels = []
    x = image
    for s in range(1, 5):
        kernel, stride = (7, 4) if s == 1 else (3, 2)
        x = F.conv2d(
            x,
            *get(f'backbone.patch_embed{s}.proj'),
            stride=stride,
            padding=kernel // 2)
        size = tuple(x.shape[2:])
        x = norm(f'backbone.patch_embed{s}.norm',
                 x.flatten(2).transpose(1, 2), 1e-5)
        for b in range(TINY['depths'][s - 1]):
            stem = f'backbone.block{s}.{b}.'
            x = x + attention(stem, norm(f'{stem}norm1', x, 1e-6), size,
                              HEADS[s - 1], RATIOS[s - 1])
            x = x + mlp(stem, norm(f'{stem}norm2', x, 1e-6), size)
        x = norm(f'backbone.norm{s}', x, 1e-6)
        x = x.transpose(1, 2).reshape(len(x), -1, *size)
        levels.append(x)
    joined = []
    for s in (4, 3, 2, 1):
        level = levels[s - 1]
        flat = F.linear(
            level.flatten(2).transpose(1, 2),
            *get(f'decode_head.linear_c{s}.proj'))
        level = flat.transpose(1, 2).reshape(len(level), -1, *level.shape[2:])
        joined.append(
            F.interpolate(
                level,
                levels[0].shape[2:],
                mode='bilinear',
                align_corners=False))
    fused = F.conv2d(
        torch.cat(joined, 1), state['decode_head.linear_fuse.conv.weight'])
    bn = 'decode_head.linear_fuse.bn'
    fused = F.batch_norm(fused, state[f'{bn}.running_mean'],
                         state[f'{bn}.running_var'], *get(bn))
    return F.conv2d(fused.relu(), *get('decode_head.linear_pred'))


def tiny_model(**backbone):
    cfg = Config.fromfile(osp.join(MODELS_DIR, 'segformer_mit-b5_nvidia.py'))
    cfg.model.backbone.update(
        embed_dims=8, num_heads=HEADS, num_layers=TINY['depths'], **backbone)
    cfg.model.decode_head.update(
        in_channels=TINY['dims'],
        channels=TINY['width'],
        num_classes=TINY['classes'])
    return MODELS.build(cfg.model).eval()


def logits(model, image):
    with torch.no_grad():
        return model.decode_head(model.backbone(image))


@pytest.mark.stack_subset
@pytest.mark.parametrize('size', [(64, 64), (64, 96)])
def test_converted_network_computes_what_the_original_does(tool, size):
    state = tiny_checkpoint()
    model = tiny_model()
    model.load_state_dict(tool.convert(state), strict=True)
    image = torch.randn(
        2, 3, *size, generator=torch.Generator().manual_seed(1))
    expected = reference_forward(state, image)
    assert expected.std() > 0.1
    torch.testing.assert_close(
        logits(model, image), expected, rtol=1e-4, atol=1e-5)


def test_eps_of_mmseg_would_not_do(tool):
    """The eps per layer is needed: mmseg's own gives other logits."""
    state = tiny_checkpoint()
    image = torch.randn(
        1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = reference_forward(state, image)
    model = tiny_model(embed_norm_eps=1e-6, reduction_norm_eps=1e-6)
    model.load_state_dict(tool.convert(state))
    assert (logits(model, image) - expected).abs().max() > 1e-3


def test_eps_by_role():
    backbone = tiny_model().backbone
    eps = {
        name: module.eps
        for name, module in backbone.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
    }
    coarse = {name for name, value in eps.items() if value == 1e-5}
    assert coarse == {f'layers.{s}.0.norm'
                      for s in range(4)} | {
                          f'layers.{s}.1.{b}.attn.norm'
                          for s in range(3)
                          for b in range(TINY['depths'][s])
                      }
    assert set(eps.values()) == {1e-5, 1e-6}


def test_backbone_has_the_keys_of_mmseg():
    ours = tiny_model().backbone.state_dict()
    cfg = Config.fromfile(osp.join(MODELS_DIR, 'segformer_mit-b5_nvidia.py'))
    backbone = cfg.model.backbone
    backbone.update(
        type='MixVisionTransformer',
        embed_dims=8,
        num_heads=HEADS,
        num_layers=TINY['depths'])
    host = MODELS.build(backbone).state_dict()
    assert {
        k: v.shape
        for k, v in ours.items()
    } == {
        k: v.shape
        for k, v in host.items()
    }


def test_b5_keys_and_sizes(tool, b5_keys, monkeypatch):
    """Every key of the release's B5 finds its place, none is left."""
    # One number behind every tensor: shapes without 340 MB of memory.
    state = {k: torch.zeros(()).expand(shape) for k, shape in b5_keys}
    assert len(state) == 1070
    # in_proj joins tensors, which would fill them in: keep these on meta.
    monkeypatch.setattr(
        tool.torch, 'cat', lambda tensors: torch.empty(
            (sum(len(t) for t in tensors), *tensors[0].shape[1:]),
            device='meta'))
    converted = tool.convert(state)
    monkeypatch.undo()
    # MiT reads its drop-path rates from a tensor, which meta has not.
    monkeypatch.setattr(torch, 'linspace',
                        functools.partial(torch.linspace, device='cpu'))
    cfg = Config.fromfile(osp.join(MODELS_DIR, 'segformer_mit-b5_nvidia.py'))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert {k: tuple(v.shape) for k, v in converted.items()} == expected
    sizes = {
        part: sum(p.numel() for p in getattr(model, part).parameters()) / 1e6
        for part in ('backbone', 'decode_head')
    }
    assert sizes['backbone'] == pytest.approx(81.4, abs=0.05)
    assert sizes['decode_head'] == pytest.approx(3.2, abs=0.05)
    assert sum(sizes.values()) == pytest.approx(84.6, abs=0.05)


def test_errors_list_the_keys(tool):
    state = tiny_checkpoint()
    state['backbone.block1.0.attn.rel_pos'] = torch.zeros(1)
    state['decode_head.extra.weight'] = torch.zeros(1)
    with pytest.raises(ValueError, match=r'block1\.0\.attn\.rel_pos'):
        tool.convert(state)
    del state['backbone.block1.0.attn.rel_pos']
    with pytest.raises(ValueError, match=r'decode_head\.extra\.weight'):
        tool.convert(state)
    del state['decode_head.extra.weight']
    del state['backbone.block2.1.attn.kv.bias']
    with pytest.raises(ValueError, match=r'block2\.1\.attn\.q\.bias'):
        tool.convert(state)
    bare = {
        k[9:]: v
        for k, v in tiny_checkpoint().items() if k.startswith('backbone.')
    }
    with pytest.raises(ValueError, match='mit2mmseg.*') as caught:
        tool.convert(bare)
    assert 'patch_embed1.proj.weight' in str(caught.value)


def test_conversion_changes_nothing_in_its_input(tool):
    state = tiny_checkpoint()
    before = copy.deepcopy(state)
    tool.convert(state)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[k], before[k]) for k in state)


def run(*args):
    return subprocess.run([sys.executable, TOOL, *map(str, args)],
                          capture_output=True,
                          text=True,
                          cwd=ROOT)


def test_command_line(tmp_path):
    src, dst = tmp_path / 'nvidia.pth', tmp_path / 'out' / 'mmseg.pth'
    meta = dict(CLASSES=['a', 'b'], PALETTE=[[0, 0, 0], [1, 1, 1]])
    torch.save(dict(state_dict=tiny_checkpoint(), meta=meta), src)
    dst.parent.mkdir()
    result = run(src, dst)
    assert result.returncode == 0, result.stderr
    written = torch.load(dst, weights_only=True)
    assert written['meta']['dataset_meta']['classes'] == ('a', 'b')
    tiny_model().load_state_dict(written['state_dict'], strict=True)
    assert [p.name for p in dst.parent.iterdir()] == ['mmseg.pth']
    # A failure leaves what is there as it was, and no traceback.
    torch.save(dict(state_dict=dict(x=torch.zeros(1))), src)
    content = dst.read_bytes()
    result = run(src, dst)
    assert result.returncode == 1 and 'left over: x' in result.stderr
    assert 'Traceback' not in result.stderr
    assert dst.read_bytes() == content


class _Bomb:

    def __reduce__(self):
        return exec, ('raise SystemExit("executed")', )


def test_refuses_a_pickle_bomb(tmp_path):
    src = tmp_path / 'bomb.pth'
    torch.save(dict(state_dict=_Bomb()), src)
    result = run(src, tmp_path / 'out.pth')
    assert result.returncode == 1
    assert 'executed' not in result.stderr and 'exec' in result.stderr
    assert not (tmp_path / 'out.pth').exists()
