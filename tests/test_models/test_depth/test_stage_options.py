# Copyright (c) mmext contributors. All rights reserved.
"""What the options of stages 2 and 3 and of the losses do in a model."""
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.registry import MODELS, init_default_scope

from mmext.models.distillers import contrastive_loss, ssi_loss
from mmext.utils.user_error import ConfigError
from tests.tiny_depth import depth_config, depth_sample
from .stage_models import TICKS, adapter, build, distiller, domains, pairs


def watch(model):
    """What teacher and student of stage 3 see and say, in their order."""
    seen = []
    for name, net in (('student', model.model), ('teacher', model.teacher)):

        def record(x, run=net.depth_and_uncertainty, name=name, **kwargs):
            # the alignment reads the features and stops: no output
            seen.append([name, x, None])
            entry = seen[-1]
            entry[2] = run(x, **kwargs)
            return entry[2]

        net.depth_and_uncertainty = record
    return seen


@pytest.mark.parametrize('losses', [('scp', ), ('sca', ), ('scp', 'sca')])
def test_h22_another_view_for_the_student_only(losses):
    """H22: with strong_aug the teacher still sees the recording itself."""
    model = adapter(
        losses=losses, strong_aug=dict(type='mmext.SpikeStrongView', chunk=4))
    seen, target = watch(model), domains()['inputs']['target']
    source = domains()['inputs']['source']
    before = target.clone()
    model(
        dict(source=source, target=target),
        domains()['data_samples'],
        mode='loss')
    assert torch.equal(target, before)
    views = {name: x for name, x, _ in seen if x is not source}
    if 'scp' in losses:
        assert views['teacher'] is target
    assert views['student'].shape == target.shape
    assert not torch.equal(views['student'], target)
    assert set(views['student'].unique().tolist()) == {-1., 1.}
    # the source has labels, and one view
    assert sum(x is source for _, x, _ in seen) == ('sca' in losses)


@pytest.mark.parametrize('threshold', [
    dict(type='quantile', q=0.25),
    dict(type='quantile', q=0.75),
    dict(type='quantile', q=0.25, per_image=True), 'mean', 'number'
])
def test_threshold_of_pseudo_labels(threshold):
    """Kept is what the teacher is surer of: the lower q of its map."""
    batch = domains()
    plain = adapter(losses=('scp', ))
    seen = watch(plain)
    plain(**batch, mode='loss')
    label, uncertainty = next(out for name, _, out in seen
                              if name == 'teacher')
    chosen = plain.candidates(label)
    sure = uncertainty[chosen]
    if threshold == 'number':
        threshold = float(sure.sort().values[len(sure) // 3])
    found = adapter(
        losses=('scp', ), scp=dict(threshold=threshold))(
            **batch, mode='loss')
    ratio = float(found['scp_keep_ratio'])
    if isinstance(threshold, dict):
        assert ratio == pytest.approx(threshold['q'], abs=2 / len(sure))
        if not threshold.get('per_image'):
            assert float(found['scp_threshold']) == pytest.approx(
                float(sure.quantile(threshold['q'])), abs=1e-2)
    else:
        tau = sure.mean() if threshold == 'mean' else threshold
        assert float(found['scp_threshold']) == pytest.approx(float(tau))
        assert ratio == pytest.approx(
            float((sure < tau).float().mean()), abs=1 / len(sure))
        assert 0.2 < ratio < 0.8
    # the loss is that of these pixels
    depth = next(out[0] for name, _, out in seen if name == 'student')
    mask = chosen & (uncertainty < found['scp_threshold'])
    if not (isinstance(threshold, dict) and threshold.get('per_image')):
        torch.testing.assert_close(
            found['loss_scp'],
            plain.scp_loss(depth.clamp_min(1e-3), label, mask),
            rtol=5e-2,
            atol=1e-4)


def test_weights_of_the_losses_of_stage_3():
    batch = domains()
    once = adapter()(**batch, mode='loss')
    more = adapter(
        scp=dict(weight=2.), sca=dict(weight=0.3))(
            **batch, mode='loss')
    for key, times in (('loss_scp', 2), ('loss_sca', 3), ('loss_depth', 1),
                       ('scp_threshold', 1), ('scp_keep_ratio', 1)):
        torch.testing.assert_close(more[key], times * once[key])
    assert once['loss_scp'] > 0 and once['loss_sca'] > 0


@pytest.mark.parametrize('weight', [0.1, 0.35, 1., 0.])
def test_weight_of_the_warmup(weight):
    model = adapter(warmup_iters=1, warmup_weight=weight)
    batch = domains()
    model.step = 0
    warm = model(**batch, mode='loss')
    model.step = 1
    full = model(**batch, mode='loss')
    for key in ('loss_depth', 'loss_uncertainty'):
        assert full[key] > 0
        torch.testing.assert_close(warm[key], weight * full[key])


def test_h4_options_of_the_contrastive_loss():
    """Against the formula, each by itself, in float64."""
    a, b = torch.randn(5, 7).double(), 3 * torch.randn(5, 7).double()
    for normalize in (False, True):
        one, other = (
            F.normalize(x, dim=1) if normalize else x for x in (a, b))
        for temperature in (1., 0.07):
            logits = one @ other.t() / temperature
            rows = -logits.log_softmax(1).diagonal().mean()
            columns = -logits.log_softmax(0).diagonal().mean()
            torch.testing.assert_close(
                contrastive_loss(a, b, normalize, temperature), rows)
            torch.testing.assert_close(
                contrastive_loss(a, b, normalize, temperature, True),
                (rows + columns) / 2)


@pytest.mark.parametrize('options', [
    dict(normalize=True),
    dict(temperature=0.07),
    dict(symmetric=True),
    dict(normalize=True, temperature=0.07, symmetric=True),
])
def test_options_of_ckd_reach_its_loss(options):
    """In the model, on the embeddings that its heads give."""
    model = distiller(ckd=options)
    embeddings = []
    for head in (model.projection_rgb, model.projection_spike):
        head.register_forward_hook(lambda *args: embeddings.append(args[-1]))
    found = model(**pairs(3), mode='loss')['loss_ckd']
    expected = contrastive_loss(*embeddings, **options)
    torch.testing.assert_close(found, 0.01 * expected)
    assert abs(expected - contrastive_loss(*embeddings)) > 1e-6


def learn(**losses):
    """An estimator with other losses, its losses of a batch, its parts."""
    config = depth_config(losses=True, in_channels=TICKS)
    config.decode_head.loss_depth = losses.get('depth',
                                               config.decode_head.loss_depth)
    config.uncertainty_head.loss_uncertainty = losses.get(
        'uncertainty', config.uncertainty_head.loss_uncertainty)
    # u > 0, without which 'l1log' has no gradient
    config.uncertainty_head.init_bias = 0.5
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(config)
    torch.manual_seed(1)
    x = torch.randn(2, TICKS, 32, 64).sign()
    samples = [depth_sample(40, 70) for _ in range(2)]
    samples[0].gt_depth_map.data[0, 20, 30] = float('nan')
    samples[1].gt_depth_map.data[0, 21, 30] = float('inf')
    return model, model(x, samples, mode='loss'), (x, samples)


def check_gradients(model, loss, moved):
    """Finite, and of which parts."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    found = set()
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert bool(torch.isfinite(p.grad).all()), name
            if p.grad.any():
                found.add(name.split('.')[0])
    assert found == moved


@pytest.mark.parametrize('options', [
    dict(),
    dict(inverse=True),
    dict(reduction='image', alpha=2., scales=2, loss_weight=0.5)
])
def test_ssi_loss_of_an_estimator(options):
    """N11: (B, 1, H, W) and the mask reach it, not flattened pixels."""
    model, losses, (x, samples) = learn(
        depth=dict(type='mmext.SSILoss', **options))
    pred, target = model.depth_and_uncertainty(x)[0], \
        model.stack_targets(samples)
    mask = model.target_mask(target)
    pred = F.interpolate(pred, size=target.shape[2:], mode='bicubic')
    pred, target = (
        one.clamp_min(1e-3) for one in (pred, target.nan_to_num(1., 1.)))
    if options.get('inverse'):
        pred, target = 1 / pred, 1 / target
    expected = ssi_loss(
        pred,
        target,
        mask,
        alpha=options.get('alpha', 0.5),
        scales=options.get('scales', 4),
        reduction=options.get('reduction', 'batch'))
    torch.testing.assert_close(losses['loss_depth'],
                               options.get('loss_weight', 1) * expected)
    assert 0 < losses['loss_depth'] < 1e4
    check_gradients(model, losses['loss_depth'], {'backbone', 'decode_head'})


@pytest.mark.parametrize('mode', ['l1', 'l2', 'l1log'])
@pytest.mark.parametrize('detach', [False, True])
def test_uncertainty_losses_of_an_estimator(mode, detach):
    """H3: detach_target keeps the head for depth out, and nothing else."""
    model, losses, (x, samples) = learn(
        uncertainty=dict(
            type='mmext.UncertaintyLoss', mode=mode, detach_target=detach))
    loss = losses['loss_uncertainty']
    with torch.no_grad():
        target = model.stack_targets(samples)
        mask = model.target_mask(target)
        p, u = (
            F.interpolate(one, size=target.shape[2:], mode='bicubic')[mask]
            for one in model.depth_and_uncertainty(x))
        error = (p.clamp_min(1e-3) - target[mask]).abs()
        relative = (error / target[mask]).clamp(max=1)
        expected = dict(
            l1=(u - relative).abs(),
            l2=(u - relative).square(),
            l1log=error / u + u.log())[mode].mean()
    assert 0.1 < u.min() and u.max() < 2
    torch.testing.assert_close(loss, expected)
    # both heads share the last path of the decoder
    output = [
        p for n, p in model.decode_head.named_parameters()
        if n.startswith('output.')
    ]
    grads = torch.autograd.grad(
        loss, output, retain_graph=True, allow_unused=True)
    reached = any(g is not None and bool(g.any()) for g in grads)
    assert reached == (not detach)
    check_gradients(model, loss,
                    {'backbone', 'decode_head', 'uncertainty_head'})
    other, others, _ = learn(
        uncertainty=dict(
            type='mmext.UncertaintyLoss', mode=mode, detach_target=not detach))
    torch.testing.assert_close(others['loss_uncertainty'], loss)
    for (name, p), q in zip(model.uncertainty_head.named_parameters(),
                            other.uncertainty_head.parameters()):
        mine, = torch.autograd.grad(loss, p, retain_graph=True)
        theirs, = torch.autograd.grad(
            others['loss_uncertainty'], q, retain_graph=True)
        torch.testing.assert_close(mine, theirs)
        assert bool(mine.any()), name


@pytest.mark.parametrize('kind, options, name', [
    ('CrossModalityDistiller', dict(ckd=dict(normalize='no')),
     'ckd.normalize'),
    ('CrossModalityDistiller', dict(ckd=dict(symmetric='False')),
     'ckd.symmetric'),
    ('CrossDomainAdapter', dict(sca=dict(share_head='no')), 'sca.share_head'),
    ('CrossDomainAdapter', dict(sca=dict(joint_batch='no')),
     'sca.joint_batch'),
    ('CrossDomainAdapter',
     dict(scp=dict(threshold=dict(type='quantile', per_image='no'))),
     'threshold.per_image'),
    ('CrossDomainAdapter',
     dict(model_options=dict(train_cfg=dict(clamp_first='no'))),
     'train_cfg.clamp_first'),
    ('CrossDomainAdapter',
     dict(model_options=dict(test_cfg=dict(clamp_first='no'))),
     'test_cfg.clamp_first'),
])
def test_a_text_for_a_switch(kind, options, name):
    """Any text is True: ``'no'`` would switch the option on."""
    with pytest.raises(ConfigError, match=f'{name} is True or False'):
        build(kind, **options)
