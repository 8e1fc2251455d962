# Copyright (c) mmext contributors. All rights reserved.
"""Wrappers of stages 2 and 3 around real networks: H14-H16, H21-H27."""
import copy

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmext.models.distillers import check_weights, load_weights
from mmext.models.teachers import GroupEMA
from mmext.spike import strong_view
from mmext.utils.user_error import ConfigError, MissingFileError
from tests.tiny_depth import ROOT, depth_config, depth_model, depth_sample

TICKS = 16


def build(kind, seed=0, model_options=None, **options):
    init_default_scope('mmseg')
    torch.manual_seed(seed)
    inner = depth_config(
        losses=True, in_channels=TICKS, **(model_options or {}))
    key = 'student' if kind == 'CrossModalityDistiller' else 'model'
    return MODELS.build(dict(type=f'mmext.{kind}', **{key: inner}, **options))


def distiller(**options):
    """A stage 2 with its teacher, and head sizes for a test."""
    options['ckd'] = dict(
        dict(hidden=8, out_channels=4), **options.get('ckd', {}))
    model = build('CrossModalityDistiller', **options)
    torch.manual_seed(1)
    model.attach_teacher(model.build_teacher())
    return model


def pairs(n=2):
    torch.manual_seed(5)
    return dict(
        inputs=dict(
            rgb=torch.randn(n, 3, 32, 64),
            spike=torch.randn(n, TICKS, 32, 64).sign()),
        data_samples=[depth_sample(40, 70) for _ in range(n)])


def domains(source=2, target=2):
    torch.manual_seed(6)
    return dict(
        inputs=dict(
            source=torch.randn(source, TICKS, 32, 64).sign(),
            target=torch.randn(target, TICKS, 32, 64).sign()),
        data_samples=dict(
            source=[depth_sample(40, 70) for _ in range(source)], target=[]))


def adapter(teacher_seed=3, **options):
    """A stage 3 with a teacher that is another network."""
    options.setdefault('warmup_iters', 0)
    model = build('CrossDomainAdapter', **options)
    teacher = build('CrossDomainAdapter', **dict(options, seed=teacher_seed))
    model.attach_teacher(teacher)
    return model


def train(model, batches, lr=1e-3):
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=lr)
    for batch in batches:
        losses = model(**batch, mode='loss')
        total = sum(v for k, v in losses.items() if 'loss' in k)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return losses


def same(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(),
                                          other.state_dict().values()))


@pytest.mark.stack_subset
def test_h14_teacher_stays_and_needs_no_gradients():
    """H14: bit-identical teacher, and what its gradients would change."""
    model = distiller()
    before = copy.deepcopy(model.teacher)
    train(model, [pairs()] * 2)
    assert same(before, model.teacher) and not model.teacher.training
    assert all(p.grad is None for p in model.teacher.parameters())
    other = distiller()
    other.teacher.train().requires_grad_(True)
    taught = other._teach
    other._teach = lambda rgb, used: torch.enable_grad()(taught)(rgb, used)
    train(other, [pairs()] * 2)
    assert any(p.grad is not None for p in other.teacher.parameters())
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_h15_without_distillation_it_is_supervised_training():
    """H15: both weights 0."""
    model = distiller(ckd=dict(weight=0), fkd=dict(weight=0))
    model._slot.module = None  # not even asked for
    plain = depth_model(losses=True, in_channels=TICKS)
    batch = pairs()
    found = model(**batch, mode='loss')
    expected = plain.loss(batch['inputs']['spike'], batch['data_samples'])
    assert found.keys() == expected.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key])
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_h16_pixel_filter_in_the_model():
    """H16: everything eligible is plain, nothing is 0."""
    plain = distiller()(**pairs(), mode='loss')
    for quantiles, ratio in (((1, 0), 1), ((0, 1), 0), ((0.5, 0.5), None)):
        options = dict(zip(('rgb_q', 'spike_q'), quantiles))
        found = distiller(fkd=dict(pixel_filter=options))(
            **pairs(), mode='loss')
        if ratio is None:
            assert 0 < float(found['fkd_ratio']) < 1
        else:
            assert float(found['fkd_ratio']) == ratio
            torch.testing.assert_close(found['loss_fkd'],
                                       ratio * plain['loss_fkd'])
        torch.testing.assert_close(found['loss_ckd'], plain['loss_ckd'])


def test_weights_decay_if_asked():
    model = distiller(decay='linear')
    full = model(**pairs(), mode='loss')
    model.progress = 0.75
    late = model(**pairs(), mode='loss')
    for key in ('loss_ckd', 'loss_fkd'):
        torch.testing.assert_close(late[key], full[key] / 4)
    model.progress = 1.
    assert 'loss_fkd' not in model(**pairs(), mode='loss')


@pytest.mark.parametrize('options,message', [
    (dict(fkd=dict(wieght=1)), 'wieght'),
    (dict(fkd=dict(pixel_filter=dict(q=1))), 'rgb_q'),
    (dict(
        fkd=dict(pixel_filter={}),
        model_options=dict(uncertainty_head=None)), None),
    (dict(fkd=dict(path='decode_head.path_9')), 'path_9'),
    (dict(ckd=dict(path='backbone.vit')), 'ckd.in_channels'),
    (dict(decay='cosine'), 'linear'),
])
def test_stage2_refuses_what_does_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        distiller(**options)(**pairs(), mode='loss')


def test_stage2_says_what_it_needs():
    model = distiller()
    with pytest.raises(ConfigError, match='rgb=..., spike='):
        model(torch.zeros(1, TICKS, 32, 64), [], mode='loss')
    model._slot.module = None
    with pytest.raises(ConfigError, match='DistillHook'):
        model(**pairs(), mode='loss')


def test_other_backbones_distil_through_a_connector():
    """A teacher of other width: heads and connector fit both."""
    student = depth_config(losses=True, in_channels=TICKS)
    teacher = copy.deepcopy(student)
    teacher.backbone.in_channels = 3
    teacher.decode_head.channels = teacher.uncertainty_head.channels = 16
    init_default_scope('mmseg')
    config = dict(
        type='mmext.CrossModalityDistiller',
        student=student,
        teacher=teacher,
        ckd=dict(hidden=8, out_channels=4))
    model = MODELS.build(copy.deepcopy(config))
    model.attach_teacher(model.build_teacher())
    with pytest.raises(ConfigError, match='connector=dict'):
        model(**pairs(), mode='loss')
    model = MODELS.build(
        dict(
            config, fkd=dict(connector=dict(in_channels=32, out_channels=16))))
    model.attach_teacher(model.build_teacher())
    train(model, [pairs()])
    assert model.connector.weight.grad is not None


@pytest.mark.stack_subset
@pytest.mark.parametrize('kind', ['distiller', 'adapter'])
def test_checkpoints_are_those_of_the_estimator(kind, tmp_path):
    model = distiller() if kind == 'distiller' else adapter()
    plain = depth_model(seed=9, losses=True, in_channels=TICKS)
    state = model.state_dict()
    assert set(plain.state_dict()) < set(state)
    extra = {key.split('.')[0] for key in set(state) - set(plain.state_dict())}
    assert extra == ({'projection_rgb', 'projection_spike'}
                     if kind == 'distiller' else {'domain_loss'})
    torch.save(dict(state_dict=state), tmp_path / 'it.pth')
    assert load_weights(plain, str(tmp_path / 'it.pth')) == []
    assert same(plain, model.estimator)
    other = distiller() if kind == 'distiller' else adapter(seed=8)
    other.load_state_dict(state)
    assert same(other, model)
    # prediction is the estimator's
    x = torch.randn(1, TICKS, 32, 64).sign()
    for inputs in (x, dict(spike=x, target=x)):
        found = model.eval()(inputs, [depth_sample(40, 70)], mode='predict')
        torch.testing.assert_close(
            found[0].pred_depth_map.data,
            plain.eval()(x, [depth_sample(40, 70)],
                         mode='predict')[0].pred_depth_map.data)


def test_h12_what_may_be_handed_over(tmp_path):
    """H12: RGB into spikes: one key; wrong files say what they are."""
    rgb = depth_model(seed=4, losses=True)
    path = str(tmp_path / 'rgb.pth')
    torch.save(dict(state_dict=rgb.state_dict()), path)
    model = depth_model(losses=True, in_channels=TICKS)
    stem = f'backbone.{model.backbone.stem_key}'
    before = model.state_dict()[stem].clone()
    assert load_weights(model, path, new_stem=True) == [stem]
    for key, value in model.state_dict().items():
        assert torch.equal(value,
                           before if key == stem else rgb.state_dict()[key])
    left = load_weights(model, path, new_stem=True, stem='inflate')
    assert left == [stem]
    mean = rgb.state_dict()[stem].mean(1)
    for moment in model.state_dict()[stem].unbind(1):
        assert torch.equal(moment, mean)
    with pytest.raises(ConfigError, match=r'RGB \(3 channels\).*spikes'):
        load_weights(model, path)
    with pytest.raises(ConfigError, match='Stage 2 makes'):
        load_weights(adapter(), path)
    with pytest.raises(MissingFileError, match='none.pth'):
        load_weights(model, str(tmp_path / 'none.pth'))
    with pytest.raises(ConfigError, match='weights are not in it'):
        check_weights(model, dict(fc=torch.zeros(3)), 'a file')
    spoilt = {key: value.clone() for key, value in rgb.state_dict().items()}
    for key, bad in ((stem, float('nan')), (list(spoilt)[-1], float('inf'))):
        spoilt[key].view(-1)[-1] = bad
        with pytest.raises(ConfigError, match='hold NaN or infinity'):
            check_weights(model, spoilt, 'a file', new_stem=True)
    wide = {
        k: v.repeat_interleave(2, 0) if v.dim() else v
        for k, v in model.state_dict().items()
    }
    with pytest.raises(ConfigError, match='another network'):
        check_weights(model, wide, 'a file', new_stem=True)


def test_temporal_modules_are_not_left_out(tmp_path):
    """New in the step from RGB to spikes only, never dropped."""
    temporal = dict(type='mmext.SpikeSE', channels=TICKS)
    rgb = depth_model(seed=4, losses=True)
    spikes = depth_model(losses=True, in_channels=TICKS)
    squeezed = depth_model(
        losses=True, in_channels=TICKS, temporal=temporal)
    assert check_weights(squeezed, rgb.state_dict(), 'rgb', new_stem=True)
    check_weights(squeezed, squeezed.state_dict(), 'same')
    with pytest.raises(ConfigError, match="such as 'temporal"):
        check_weights(squeezed, spikes.state_dict(), 'spikes')
    with pytest.raises(ConfigError, match='Set `temporal`'):
        check_weights(spikes, squeezed.state_dict(), 'squeezed')


# Stage 3 --------------------------------------------------------------------


def test_h21_teacher_follows():
    """H21: theta_s + 0.999^k (theta_0 - theta_s); no copy at first."""
    student = adapter()
    mean = GroupEMA(adapter(teacher_seed=1), 0.999)
    for p in student.parameters():
        p.data += 1
    start = copy.deepcopy(mean.module)
    for k in range(1, 4):
        mean.update(student)
        for s, t, t0 in zip(student.parameters(), mean.module.parameters(),
                            start.parameters()):
            torch.testing.assert_close(
                t, s + 0.999**k * (t0 - s), rtol=1e-6, atol=1e-6)
            assert k > 1 or not torch.equal(t, s)


def test_h22_gradients_of_self_training():
    """H22: none in the teacher, exactly zero outside the mask; one tensor."""
    model = adapter(losses=('scp', ))
    seen, maps = [], []
    for net in (model.model, model.teacher):

        def record(x, run=net.depth_and_uncertainty, net=net, **kwargs):
            seen.append(x)
            out = run(x, **kwargs)
            if net is model.model:
                out[0].retain_grad()
            maps.append(out)
            return out

        net.depth_and_uncertainty = record
    batch = domains()
    found = model(**batch, mode='loss')
    assert seen[0] is seen[1] is batch['inputs']['target']
    found['loss_scp'].backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    label, uncertainty = maps[0]
    mask = model.candidates(label)
    mask &= uncertainty < found['scp_threshold'] + 1e-8
    grad = maps[1][0].grad
    assert bool((grad[~mask] == 0).all()) and bool((grad[mask] != 0).any())
    assert all(p.grad is None
               for p in model.model.uncertainty_head.parameters())
    ratio = found['scp_keep_ratio']
    assert 0.4 < float(ratio) < 0.6 and float(found['scp_skipped']) == 0


@pytest.mark.parametrize('crop,box', [('eigen', (124, 342, 44, 1197)),
                                      ('garg', (153, 371, 44, 1197)),
                                      ('nyu', (35, 368, 80, 1166)),
                                      (None, (0, 375, 0, 1242))])
def test_pseudo_labels_are_cropped_as_training_is(crop, box):
    """NYU's rectangle, too, on the network's grid."""
    model = adapter(
        losses=('scp', ), model_options=dict(train_cfg=dict(crop=crop)))
    found = model.candidates(torch.full((1, 1, 375, 1242), 9.))[0, 0]
    top, bottom, left, right = box
    assert found[top:bottom, left:right].all()
    assert int(found.sum()) == (bottom - top) * (right - left)


def test_strong_view_is_for_the_student_only():
    model = adapter(
        losses=('scp', ), strong_aug=dict(type='mmext.SpikeStrongView'))
    x = domains()['inputs']['target']
    view = model._hard(x)
    assert view.shape == x.shape and not torch.equal(view, x)
    assert set(view.unique().tolist()) == {-1., 1.}
    kept = strong_view(x, chunk=1, silence=0, erase_area=(0, 0))
    assert torch.equal(kept, x) and kept is not x
    mixed = strong_view(x, chunk=4, silence=0, erase_area=(0, 0))
    for start in range(0, TICKS, 4):
        block = slice(start, start + 4)
        assert torch.equal(mixed[:, block].sum(1), x[:, block].sum(1))
    with pytest.raises(ConfigError, match='silence'):
        MODELS.build(dict(type='mmext.SpikeStrongView', silence=2))


def test_h25_joint_mode_is_the_sum_of_its_parts():
    """H25: source + 0.1 alignment + pseudo-labels."""
    batch = domains()
    parts = {}
    for losses in (('sup', 'scp', 'sca'), ('sup', ), ('scp', ), ('sca', )):
        found = adapter(losses=losses)(**batch, mode='loss')
        parts[losses] = {k: v for k, v in found.items() if 'loss' in k}
    joint = parts.pop(('sup', 'scp', 'sca'))
    assert set(joint) == {
        'loss_depth', 'loss_uncertainty', 'loss_scp', 'loss_sca'
    }
    apart = {k: v for one in parts.values() for k, v in one.items()}
    assert apart.keys() == joint.keys()
    for key, value in joint.items():
        torch.testing.assert_close(value, apart[key])


@pytest.mark.parametrize('sizes', [(3, 1), (1, 2), (1, 1)])
def test_h26_batches_of_other_sizes(sizes):
    """H26: fewer target than source samples, odd last batches."""
    found = train(adapter(), [domains(*sizes)])
    for key, value in found.items():
        assert bool(torch.isfinite(value).all()), key


def test_h19_nothing_to_select_is_counted_and_finite():
    """H19: no candidates, as with a fresh head of 172 m."""
    model = adapter()
    model.model.train_cfg['max_depth'] = 2e-3
    found = train(model, [domains()])
    assert float(found['loss_scp']) == 0 and float(found['scp_skipped']) == 1
    for p in model.parameters():
        assert bool(torch.isfinite(p).all())


def test_h17_warmup_needs_a_counter():
    """H17: off by one on demand; nobody counts, nobody trains."""
    model = adapter(warmup_iters=4, warmup_off_by_one=True)
    assert model.warmup_iters == 3
    with pytest.raises(ConfigError, match='DistillHook'):
        model(**domains(), mode='loss')
    model.step = 2
    warm = model(**domains(), mode='loss')
    model.step = 3
    full = model(**domains(), mode='loss')
    assert set(warm) == {'loss_depth', 'loss_uncertainty', 'depth_skipped'}
    torch.testing.assert_close(warm['loss_depth'], 0.1 * full['loss_depth'])


def test_labels_out_of_range_are_counted_in_every_stage():
    """As they are, also in the warm-up; the other losses still count."""
    for model, batch in ((distiller(), pairs()), (adapter(), domains()),
                         (adapter(warmup_iters=1), domains())):
        model.step = 0
        samples = batch['data_samples']
        samples = samples['source'] if isinstance(samples, dict) else samples
        samples[0].gt_depth_map.data *= 256
        found = model(**batch, mode='loss')
        assert found['depth_skipped'] == 0.5
        samples[1].gt_depth_map.data *= 256
        found = model(**batch, mode='loss')
        assert found['depth_skipped'] == 1
        total, _ = model.parse_losses(found)
        assert total == sum(v for k, v in found.items() if 'loss' in k)
        warm = getattr(model, 'warmup_iters', 0)
        assert bool(total > 0) == (not warm)


@pytest.mark.parametrize('options,message', [
    (dict(losses=('sup', 'kd')), 'sca'),
    (dict(scp=dict(threshold='median')), 'quantile'),
    (dict(sca=dict(path='backbone.vit')), 'sca.in_channels'),
    (dict(model_options=dict(uncertainty_head=None)), 'uncertainty_head'),
])
def test_stage3_refuses_what_does_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        adapter(**options)


@pytest.mark.parametrize('mult', [0.1, 1.1])
def test_h27_parameter_groups(mult):
    """H27: backbone (with its reassembly) and heads of their own rate."""
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / 'schedules' /
                          'bicross_adam.py')
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    keys.backbone.lr_mult = keys.reassemble.lr_mult = mult
    for model in (distiller(), adapter()):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        rates, count = {}, {}
        for group in wrapper.param_groups:
            for p in group['params']:
                rates[p] = group['lr'] / 1e-4
                count[p] = count.get(p, 0) + 1
        names = {p: n for n, p in model.named_parameters()}
        trained = {p for p in model.parameters() if p.requires_grad}
        assert trained <= set(count) and set(count.values()) == {1}
        for p in trained:
            name = names[p]
            slow = 'backbone' in name or 'reassemble' in name
            head = name.startswith(('projection_', 'domain_loss'))
            expected = mult if slow else 0.1 if head else 1
            assert rates[p] == pytest.approx(expected), name


def test_h38_two_samples_are_learnt():
    """H38: the loss of an over-fit falls by half in 50 steps."""
    model = depth_model(losses=True, in_channels=TICKS)
    torch.manual_seed(2)
    x = torch.randn(2, TICKS, 32, 64).sign()
    target = [depth_sample(32, 64) for _ in range(2)]
    for sample in target:  # something to learn: nearer to the right
        ramp = torch.linspace(50, 4, 64).expand(1, 32, 64).clone()
        sample.gt_depth_map.data = ramp
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    values = []
    for _ in range(50):
        total, _ = model.parse_losses(model.loss(x, target))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total.detach()))
    assert values[-1] < values[0] / 2


@pytest.mark.parametrize(
    'device,dtype',
    [('cpu', torch.bfloat16),
     pytest.param(
         'cuda',
         torch.float16,
         marks=[
             pytest.mark.gpu,
             pytest.mark.skipif(
                 not torch.cuda.is_available(),
                 reason='needs a GPU, and --gpu')
         ])])
@pytest.mark.parametrize('make,data', [(distiller, pairs), (adapter, domains)])
def test_h39_mixed_precision_with_saturated_depths(make, data, device, dtype):
    """H39: finite losses and gradients at 1e8 m, in every stage."""
    model = make().to(device)
    model._slot.module.to(device)
    # half of the images behind the end of the world
    model.estimator.decode_head.output[-1].bias.data.fill_(-1)
    batch = data()
    batch['inputs'] = {k: v.to(device) for k, v in batch['inputs'].items()}
    samples = batch['data_samples']
    for sample in samples['source'] if isinstance(samples, dict) else samples:
        sample.gt_depth_map.data = sample.gt_depth_map.data.to(device)
    with torch.autocast(device, dtype):
        depth = model.estimator.depth_and_uncertainty(
            next(iter(reversed(batch['inputs'].values()))))[0]
        losses = model(**batch, mode='loss')
    assert depth.dtype == torch.float32 and float(depth.detach().max()) > 1e7
    for key, value in losses.items():
        assert bool(torch.isfinite(value).all()), key
        assert value.dtype == torch.float32
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    for name, p in model.named_parameters():
        assert p.grad is None or bool(torch.isfinite(p.grad).all()), name


def test_distillers_around_a_stock_backbone(tmp_path):
    """mmseg's ResNet in both stages, its stem replaced as any other."""
    init_default_scope('mmseg')
    head = dict(channels=8, hidden=4)
    inner = dict(
        type='mmext.BiCrossDepthEstimator',
        backbone=dict(
            type='ResNet', depth=18, base_channels=8, in_channels=TICKS),
        decode_head=dict(
            type='mmext.DPTDepthHead',
            in_channels=(8, 16, 32, 64),
            reassemble=None,
            scale=0.05,
            shift=0.05,
            **head),
        uncertainty_head=dict(type='mmext.DPTUncertaintyHead', **head))
    rgb = copy.deepcopy(inner)
    rgb['backbone']['in_channels'] = 3
    path = str(tmp_path / 'rgb.pth')
    torch.save(dict(state_dict=MODELS.build(rgb).state_dict()), path)
    model = MODELS.build(
        dict(
            type='mmext.CrossModalityDistiller',
            student=copy.deepcopy(inner),
            ckd=dict(hidden=8, out_channels=4)))
    teacher = model.build_teacher()
    load_weights(teacher, path, optional=())
    model.attach_teacher(teacher)
    left = load_weights(model, path, new_stem=True, stem='inflate')
    assert left == ['backbone.conv1.weight']
    # the convolution of this backbone is a plain one: a scene that is all
    # white answers as it did
    torch.testing.assert_close(
        model.student.backbone.conv1.weight.sum(1),
        teacher.backbone.conv1.weight.sum(1))
    train(model, [pairs()])
    model = MODELS.build(
        dict(
            type='mmext.CrossDomainAdapter',
            model=copy.deepcopy(inner),
            warmup_iters=0))
    model.attach_teacher(copy.deepcopy(model))
    for value in train(model, [domains()]).values():
        assert bool(torch.isfinite(value))
