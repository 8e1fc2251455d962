# Copyright (c) mmext contributors. All rights reserved.
"""What ``load_from`` must fill before adapters are trained on it."""
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmext.models.adapters import host_weights  # noqa: E402
from mmext.utils.user_error import ConfigError  # noqa: E402
from ...tiny_classifiers import WIDTH, adaptformer, build, vit  # noqa: E402
from .test_mosa_hook import runner, state, train  # noqa: E402


def host_state(layers=3):
    """State dict of a plain host without its head, which is trained."""
    model = build(vit(layers=layers), double=False, seed=7)
    return {
        k: v
        for k, v in model.state_dict().items()
        if '.mosa.' not in k and not k.startswith('head')
    }


def tuned(layers=3, adapter=None, **backbone):
    return dict(type='mmext.MoSAModel', module=vit(layers, **backbone),
                adapter=adapter or adaptformer(), num_passes=1,
                num_modules=4 if adapter is None else 1)


def start(folder, content, model=None, **options):
    """Train one step from a file; the runner."""
    folder.mkdir(exist_ok=True)
    path = str(folder / 'start.pth')
    torch.save(content, path)
    return train(folder / 'run', length=1, model=model or tuned(),
                 load_from=path, **options)


def without(weights, part):
    return {k: v for k, v in weights.items() if part not in k}


@pytest.mark.parametrize('change, cure', [
    (lambda s: {k.replace('layers.', 'blocks.'): v for k, v in s.items()},
     'tools/model_converters'),
    (lambda s: {f'_orig_mod.{k}': v for k, v in s.items()},
     "Take '_orig_mod.' out"),
    (lambda s: dict(model=s), "are under 'model'"),
    (lambda s: {k[len('backbone.'):]: v for k, v in s.items()},
     "lack 'backbone.'.*backbone=dict"),
    (lambda s: without(without(s, 'layers.0'), 'layers.1'), 'Expected a file'),
    (lambda s: dict(s, **{'backbone.cls_token': torch.full(
        (1, 1, WIDTH), torch.nan)}), 'not finite in .*cls_token'),
])
def test_a_host_that_stays_random_is_refused(tmp_path, change, cure):
    """As for ``init_cfg``: adapters would be trained on random features."""
    with pytest.raises(ConfigError, match=cure) as caught:
        start(tmp_path, change(host_state()))
    assert 'load_from' in str(caught.value)
    assert 'start.pth' in str(caught.value)
    assert not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.parametrize('adapter', [
    dict(type='LinearProbe'), dict(type='FullFineTune'), dict(type='BitFit'),
    dict(type='SSF'), dict(type='LoRA', rank=2)
])
def test_baselines(tmp_path, adapter):
    """The host of a baseline is asked for the same."""
    model = tuned(adapter=adapter)
    made = start(tmp_path, host_state(), model)
    if adapter['type'] in ('LinearProbe', 'SSF', 'LoRA'):
        key = 'backbone.layers.2.attn.qkv.weight'
        assert torch.equal(state(made)[key], host_state()[key])
    with pytest.raises(ConfigError, match='100% of'):
        start(tmp_path / 'b', {
            f'x.{k}': v for k, v in host_state().items()}, model)


def test_gaps_are_told_and_whole_files_are_not(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(host_weights, 'print_log',
                        lambda text, **_: told.append(text))
    whole = host_state()
    start(tmp_path / 'whole', dict(state_dict=whole))
    start(tmp_path / 'ddp', {f'module.{k}': v for k, v in whole.items()})
    # a position embedding of another size is resized by the host
    start(tmp_path / 'resized', dict(
        whole, **{'backbone.pos_embed': torch.randn(1, 10, WIDTH)}))
    # a checkpoint that is tuned already, with its adapters
    model = build(vit(layers=3), double=False, num_passes=1)
    start(tmp_path / 'tuned', model.state_dict())
    assert not told
    start(tmp_path / 'gaps', without(whole, 'layers.1'))
    text, = told
    assert 'backbone.layers.1.' in text and '% of' in text


def test_what_init_cfg_loaded_before_counts(tmp_path):
    """Then ``load_from`` may hold heads or adapters alone."""
    path = str(tmp_path / 'backbone.pth')
    torch.save({k[len('backbone.'):]: v for k, v in host_state().items()},
               path)
    init = dict(type='Pretrained', checkpoint=path)
    head = {'head.fc.bias': torch.ones(5)}
    made = start(tmp_path, head, tuned(init_cfg=init))
    key = 'backbone.cls_token'
    assert torch.equal(state(made)[key], host_state()[key])
    with pytest.raises(ConfigError, match='100% of'):
        start(tmp_path / 'b', head)


def test_a_model_that_is_given_may_have_its_weights(tmp_path):
    """Nothing is known of a host that was built elsewhere."""
    model = build(vit(layers=3), double=False).unload()
    from mmext.models.adapters import MoSAModel
    given = MoSAModel(model, adapter=adaptformer(), num_passes=1)
    start(tmp_path, {'head.fc.bias': torch.ones(5)}, given)


def test_weights_that_are_loaded_by_hand(tmp_path):
    """``runner.load_checkpoint()`` before ``train()`` is judged, too; no
    watch is left behind."""
    made = runner(tmp_path / 'run', length=1, model=tuned())
    hooks = [len(m._load_state_dict_pre_hooks) for m in made.model.modules()]
    torch.save(host_state(), tmp_path / 'a.pth')
    made.load_checkpoint(str(tmp_path / 'a.pth'))
    made.train()
    assert hooks == [
        len(m._load_state_dict_pre_hooks) for m in made.model.modules()]
    made = runner(tmp_path / 'other', length=1, model=tuned())
    torch.save(dict(a=torch.ones(1)), tmp_path / 'b.pth')
    made.load_checkpoint(str(tmp_path / 'b.pth'))
    with pytest.raises(ConfigError, match='The checkpoint does not have'):
        made.train()
