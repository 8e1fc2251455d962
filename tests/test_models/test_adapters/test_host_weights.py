# Copyright (c) mmext contributors. All rights reserved.
"""Pretrained files of the host: loaded, with gaps, or refused."""
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmext.utils.user_error import ConfigError
from ...tiny_classifiers import WIDTH, build, vit


def test_pretrained_host_weights_survive(tmp_path):
    """Property 30: ``init_cfg=Pretrained`` loads before the insertion."""
    source = build()
    weights = {
        k[len('backbone.'):]: v
        for k, v in source.state_dict().items()
        if k.startswith('backbone.') and '.mosa.' not in k
    }
    path = str(tmp_path / 'backbone.pth')
    torch.save(weights, path)
    module = vit(init_cfg=dict(type='Pretrained', checkpoint=path))
    model = build(module, seed=5)
    for key, value in weights.items():
        assert torch.equal(model.state_dict()[f'backbone.{key}'], value)


def backbone_file(path, rename=str, **changes):
    """Weights of the tiny backbone under other names."""
    weights = {
        k[len('backbone.'):]: v
        for k, v in build(double=False).state_dict().items()
        if k.startswith('backbone.') and '.mosa.' not in k
    }
    weights = {rename(k): v for k, v in weights.items()}
    torch.save(dict(weights, **changes), path)
    return str(path)


@pytest.mark.parametrize('rename, cure', [
    (lambda k: k.replace('layers.', 'blocks.'), 'tools/model_converters'),
    (lambda k: f'net.{k}', r"prefix='net\.'"),
])
def test_a_file_of_other_names_is_refused(tmp_path, rename, cure):
    """Frozen, the host would stay random."""
    path = backbone_file(tmp_path / 'a.pth', rename)
    init = dict(type='Pretrained', checkpoint=path)
    with pytest.raises(ConfigError, match=cure) as caught:
        build(vit(init_cfg=init))
    assert 'backbone.init_cfg' in str(caught.value) and path in str(
        caught.value)
    with pytest.raises(ConfigError, match='Leave prefix away'):
        build(vit(init_cfg=dict(init, prefix='nowhere.')))
    if 'prefix' in cure:
        build(vit(init_cfg=dict(init, prefix='net.')))


def test_a_file_with_gaps_is_told_and_a_spoilt_one_refused(
        tmp_path, monkeypatch):
    from mmext.models.adapters import host_weights
    told = []
    monkeypatch.setattr(host_weights, 'print_log',
                        lambda text, **_: told.append(text))
    # a position embedding of another size is resized by the host
    whole = backbone_file(
        tmp_path / 'a.pth', pos_embed=torch.randn(1, 10, WIDTH))
    init = dict(type='Pretrained', checkpoint=whole)
    module = vit(init_cfg=init)
    build(module)
    # or into the whole host, whose head is trained
    weights = {f'backbone.{k}': v for k, v in torch.load(whole).items()}
    torch.save(weights, tmp_path / 'b.pth')
    build(
        dict(
            vit(),
            init_cfg=dict(
                type='Pretrained', checkpoint=str(tmp_path / 'b.pth'))))
    assert not told
    init['checkpoint'] = backbone_file(tmp_path / 'c.pth',
                                       lambda k: k.replace('qkv', 'q_k_v'))
    build(vit(init_cfg=init))
    assert 'layers.0.attn.qkv.weight' in told[0] and 'random' in told[0]
    init['checkpoint'] = backbone_file(
        tmp_path / 'd.pth', cls_token=torch.full((1, 1, WIDTH), torch.nan))
    with pytest.raises(ConfigError, match='not finite in .*cls_token'):
        build(vit(init_cfg=init))
