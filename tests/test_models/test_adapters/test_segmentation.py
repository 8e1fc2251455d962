# Copyright (c) mmext contributors. All rights reserved.
"""MoSA in mmseg: training a segmentor, and adapting it at test time."""
import os.path as osp

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.structures import PixelData  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from mmext.models.adapters import read_adapter  # noqa: E402
from mmext.models.segmentation.segmentor_ops import decode  # noqa: E402
from mmext.registry import MODELS  # noqa: E402
from ...tiny_classifiers import adaptformer, move  # noqa: E402
from ...tiny_segmentors import tiny_config  # noqa: E402
from ...toy_models import init_scope  # noqa: E402
from ...toy_runs import (REFERENCE, adaptation_config, run,  # noqa: E402
                         source_checkpoint, tta_pipeline)

STYLES = dict(
    adaptformer=adaptformer(),
    pfeiffer=dict(type='Pfeiffer', bottleneck=4),
    houlsby=dict(type='Houlsby', bottleneck=4))


def tuned(auxiliary=False, backbone=None, channels=None, **options):
    """Config of a tiny SegFormer with adapters."""
    module = tiny_config('segformer', auxiliary)
    if backbone is not None:
        module['backbone'] = backbone
    if channels is not None:
        module['decode_head']['in_channels'] = channels
    return dict(
        dict(type='mmext.MoSAModel', module=module, adapter=adaptformer()),
        **options)


def build(perturb=True, **options):
    from mmengine.config import ConfigDict
    init_scope()
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(tuned(**options)))
    if perturb:
        move(model, 0.1)
    return model.double()


def batch(count=2, size=32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, size, size, generator=generator).double()
    samples = []
    for _ in range(count):
        sample = SegDataSample(metainfo=dict(img_shape=(size, size)))
        label = torch.randint(0, 19, (1, size, size), generator=generator)
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    return x, samples


@pytest.mark.parametrize('style', STYLES)
def test_a_new_adapter_adds_nothing(style):
    """Property 6 on SegFormer: width of the stage, parallel to MixFFN."""
    model = build(adapter=STYLES[style], split='both',
                  perturb=False).eval()
    x, _ = batch()
    adapters = model.adapter_modules()
    assert len(adapters) == 4
    with torch.no_grad():
        actual = decode(model, model.extract_feat(x))
        with model.disable_adapters():
            expected = decode(model, model.extract_feat(x))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('auxiliary', [False, True])
def test_losses_and_gradients(auxiliary):
    """Two passes: host losses of the first, consistency over pixels."""
    results = []
    for batched in (True, False):
        model = build(auxiliary=auxiliary, batch_passes=batched,
                      split='both')
        # Batch statistics would differ between one and two batches.
        model.train()
        for module in model.modules():
            if isinstance(module, (torch.nn.modules.batchnorm._BatchNorm,
                                   torch.nn.Dropout, torch.nn.Dropout2d)):
                module.eval()
            if type(module).__name__ == 'DropPath':
                module.drop_prob = 0.
        x, samples = batch()
        model.draw()
        losses = model(x, samples, mode='loss')
        assert 'decode.loss_ce' in losses and 'loss_kl' in losses
        assert ('aux.loss_ce' in losses) == auxiliary
        model.parse_losses(losses)[0].backward()
        results.append((losses, {
            n: p.grad for n, p in model.named_parameters()
            if p.grad is not None}))
    for first, second in zip(*results):
        assert first.keys() == second.keys()
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=0,
                                       atol=1e-11)
    names = list(results[0][1])
    assert all('.mosa.' in n or 'head' in n for n in names)


@pytest.mark.parametrize('backbone', [
    dict(type='VisionTransformer', img_size=32, patch_size=8,
         embed_dims=16, num_layers=2, num_heads=2, mlp_ratio=2,
         out_indices=(0, 1, 1, 1)),
    dict(type='SwinTransformer', pretrain_img_size=32, embed_dims=8,
         patch_size=4, window_size=4, mlp_ratio=2, depths=(1, 1, 1, 1),
         num_heads=(1, 1, 2, 2)),
])
def test_other_backbones_of_the_host(backbone):
    """mmseg's own ViT and Swin carry adapters too."""
    init_scope()
    host = MODELS.build(dict(backbone))
    plain = host.state_dict()
    torch.manual_seed(0)
    model = MODELS.build(
        dict(type='mmext.MoSAModel', module=host, adapter=adaptformer(),
             num_passes=1, train_head=False))
    assert set(plain) <= set(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for training in (False, True):
            model.train(training)
            for module in model.modules():
                if type(module).__name__ in ('DropPath', 'Dropout'):
                    module.eval()
            outputs = model.module(x)
            with model.disable_adapters():
                expected = model.module(x)
            for a, b in zip(outputs, expected):
                torch.testing.assert_close(a, b)


SWIN = dict(
    type='SwinTransformer', pretrain_img_size=32, embed_dims=8, patch_size=4,
    window_size=4, mlp_ratio=2, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2))
TRAINED = dict(
    LinearProbe=lambda name: False,
    FullFineTune=lambda name: True,
    BitFit=lambda name: name.endswith('bias'),
    SSF=lambda name: '.mosa.' in name)


@pytest.mark.parametrize('backbone', [None, SWIN], ids=['segformer', 'swin'])
@pytest.mark.parametrize('kind', TRAINED)
def test_baselines(kind, backbone):
    """What each trains beside the decode head, all of it used; what is
    folded or unloaded is the plain segmentor with the same scores."""
    channels = None if backbone is None else [8, 16, 32, 64]
    model = build(adapter=dict(type=kind), num_modules=1, num_passes=1,
                  backbone=backbone, channels=channels)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert list(trained) == [
        n for n, _ in model.named_parameters()
        if n.startswith('decode_head.') or TRAINED[kind](n)]
    x, samples = batch()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.parse_losses(model.train().loss(x, samples))[0].backward()
    assert not [n for n, p in trained.items() if p.grad is None]
    optimizer.step()
    moved = {n for n, p in model.named_parameters()
             if not torch.equal(p, before[n])}
    assert moved <= set(trained)
    # biases of keys shift all scores alike, so that softmax sees none
    assert len(moved) > 0.8 * len(trained)
    with torch.no_grad():
        expected = model.eval()(x)
        with model.disable_adapters():
            # only SSF has a layer to leave out
            same = torch.equal(model(x), expected)
        assert same == (kind != 'SSF')
        host = model.merge_and_unload() if kind == 'SSF' else model.unload()
        torch.testing.assert_close(
            host.eval()(x), expected, rtol=0, atol=1e-12)
    plain = MODELS.build(tuned(
        backbone=backbone, channels=channels)['module'])
    assert [type(m) for m in host.modules()] == [
        type(m) for m in plain.modules()]
    # a shift is a bias, which Swin's reductions do not have by themselves
    assert set(host.state_dict()) - set(plain.state_dict()) == {
        f'backbone.stages.{i}.downsample.reduction.bias' for i in range(3)
        if kind == 'SSF' and backbone is SWIN}


METHODS = dict(
    svdp=dict(type='mmext.SVDP', sparse_rate=0.02, decay=0.9),
    cotta=dict(type='mmext.CoTTA', decay=0.9, restore_prob=0.1))


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('source', ['host', 'wrapper'])
def test_adapting_only_mosa_parameters(method, source, tmp_path):
    """The loop starts from a checkpoint of the plain host or of
    the wrapper, and moves adapters only; the hook writes them out."""
    config = tuned(train_head=False)
    host = config['module'] if source == 'host' else config
    source_checkpoint(tmp_path, host)
    cfg = adaptation_config(
        tmp_path,
        dict(METHODS[method], adapt=r'\.mosa\.', reference_view=REFERENCE),
        model=config, domains=('fog', ), count=3,
        pipeline=tta_pipeline(base=(96, 64)))
    cfg.optim_wrapper.optimizer.lr = 0.1
    cfg.custom_hooks = [dict(
        type='mmext.MoSAHook', interval=1, export='adapted',
        export_merged=False)]
    given = torch.load(osp.join(tmp_path, 'source.pth'))['state_dict']
    runner = run(cfg)
    loop = runner.train_loop
    state = loop.model.state_dict()
    moved = {k for k, v in state.items()
             if k in given and not torch.equal(v, given[k])}
    assert all('.mosa.' in k for k in moved)
    if source == 'wrapper':
        assert moved
    new = [k for k in state if '.mosa.' in k and k.endswith('up.weight')]
    assert len(new) == 4 and any(state[k].any() for k in new)
    teacher = loop.teacher_hook.teacher.module.state_dict()
    assert teacher.keys() == state.keys()
    entries = runner.message_hub.log_scalars
    assert entries['train/mosa/update_norm_0'].data[0].any()
    tensors = read_adapter(osp.join(cfg.work_dir, 'adapted'))[1]
    adapters = {k.replace('.mosa.default.', '.mosa.'): v
                for k, v in state.items() if '.mosa.' in k}
    # and the generator of draws
    assert set(tensors) - set(adapters) == {'mosa_rng.cpu'}
    for key, value in adapters.items():
        assert torch.equal(tensors[key], value), key
