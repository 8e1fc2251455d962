# Copyright (c) mmext contributors. All rights reserved.
"""Certified averages of classifiers."""
import json
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from mmext.models.classification import LipschitzClassifier
from mmext.models.lipschitz.attacks import pgd_attack, wrong_margin
from mmext.models.lipschitz.bounds import CertificationError
from mmext.models.lipschitz.ensemble import average
from mmext.models.lipschitz.p_norm import get_p, set_p
from mmext.utils.user_error import UserError
from ...classification_fixtures import write_fashion_mnist
from ...tool_fixtures import ROOT, tool
from ...toy_runs import quick_runner
from ..test_lipschitz.nets import stretch
from .lip_models import (CLASSES, build, classifier, finished, images,
                         lip_head, mlp_body, mlp_head, predict, preprocessed,
                         stacked, trained)
from .lip_runs import run, runner_config

EPS = [0.002, 0.01, 0.03]
WIDE = dict(mean=[90.], std=[75.])


def ensemble(members, **options):
    """Config of a ``CertifiedEnsemble`` of these (module or dict)."""
    certify = options.pop('certify', dict(eps=EPS))
    return dict(
        type='mmext.CertifiedEnsemble',
        members=[m if 'model' in m else dict(model=m)
                 for m in members] if isinstance(members, list) else members,
        test_cfg=dict(certify=certify) if certify else None,
        **options)


class Module(dict):
    """A member that is built already."""

    def __init__(self, model, **options):
        super().__init__(model=model, **options)


def three(mixed=True):
    """Three networks: other seeds, heads, architectures, normalisations."""
    if not mixed:
        return [finished(classifier(), seed) for seed in range(3)]
    return [
        finished(classifier()),
        finished(classifier('mlp'), 1),
        finished(
            classifier(
                lip_head(in_channels=16),
                dict(
                    type='mmext.LipConv',
                    in_channels=1,
                    img_size=6,
                    width=2 / 32,
                    hidden=16),
                data_preprocessor=WIDE), 2),
    ]


def evaluated(model):
    """In evaluation, as a test runner has it."""
    return build(model).eval()


@pytest.fixture
def golden(golden_root):
    path = golden_root / 'lipschitz' / 'ensemble.npz'
    if not path.is_file():
        pytest.skip(f'no {path}; set MMEXT_GOLDEN')
    with np.load(path) as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file}


def golden_ensemble(golden):
    """The recorded members as classifiers in float64."""
    count, (_, channels, *size) = int(golden['K']), golden['x'].shape
    low, high = float(golden['down'][0]), float(golden['up'][0])
    std = 255 / (high - low)
    members = []
    for k in range(count):
        first, last = (
            golden[f'm{k}_L{i}_weight'].flatten(1) for i in range(2))
        model = build(
            classifier(
                lip_head(num_classes=len(last), in_channels=len(first)),
                mlp_body(
                    depth=1,
                    width=len(first) / 1024,
                    in_channels=channels,
                    img_size=tuple(size)),
                data_preprocessor=dict(mean=[-low * std], std=[std])))
        model.load_state_dict({
            'backbone.body.layers.fc1.weight':
            first,
            'backbone.body.layers.fc1.mean_shift.running_mean':
            golden[f'm{k}_running_mean'],
            'head.classifier.fc.weight':
            last,
            'head.classifier.fc.bias':
            golden[f'm{k}_L1_bias']
        })
        members.append(Module(model.double()))
    eps = (golden['eps_list_normalised'] / (high - low)).tolist()
    built = evaluated(
        ensemble(members, certify=dict(eps=eps,
                                       sound_rounding=False))).double()
    return built, (golden['x'].double() - low) * std


@pytest.mark.stack_subset
def test_golden_ensemble(golden):
    """Property 26: logits, residuals and all decisions as recorded."""
    model, pixels = golden_ensemble(golden)
    labels = golden['label']
    torch.testing.assert_close(
        model.scores(pixels), golden['fusion_logits'], rtol=1e-5, atol=1e-5)
    from .lip_models import samples
    found = model(pixels, samples(labels), mode='predict')
    certified = stacked(found, 'certified')
    alone = stacked(found, 'member_certified')
    for j in range(len(golden['eps_list_normalised'])):
        residual = golden[f'e{j}_fusion_res'].scatter(1, labels[:, None],
                                                      -math.inf).amax(1)
        torch.testing.assert_close(
            stacked(found, 'worst_margin')[:, j],
            residual,
            rtol=1e-5,
            atol=1e-5)
        assert torch.equal(certified[:, j], golden[f'e{j}_fusion_cert'])
        assert torch.equal(alone[:, :, j].T, golden[f'e{j}_member_cert'])
        for name, key in (('unanimous', 'unanimous'), ('majority',
                                                       'majority')):
            assert torch.equal(
                stacked(found, f'certified_{name}')[:, j],
                golden[f'e{j}_{key}_cert'])
        right = stacked(found, 'pred_label')[:, 0] == labels
        lipschitz = right & (
            stacked(found, 'radius_lipschitz') >= model.certify.eps[j])
        assert torch.equal(lipschitz, golden[f'e{j}_fusion_lip_cert'])


def test_one_member_is_that_member():
    """Property 27: K = 1 reproduces the single model, bit for bit."""
    single = finished(
        classifier(certify=dict(eps=EPS, attack=dict(steps=3, restarts=1))))
    alone = predict(single, images())
    member = deepcopy(single)
    model = evaluated(
        ensemble([Module(member)],
                 certify=dict(eps=EPS, attack=dict(steps=3, restarts=1))))
    found = predict(model, images())
    for name in ('pred_score', 'pred_label', 'certified', 'worst_margin',
                 'certified_radius', 'radius_lipschitz', 'attacked'):
        assert torch.equal(stacked(found, name), stacked(alone, name)), name


@pytest.mark.parametrize('head', ['lip', 'mlp'])
def test_copies_are_that_member(head):
    """Property 27: K copies, whatever their weights."""
    single = finished(classifier(head, certify=dict(eps=EPS)))
    alone = predict(single, images())
    model = evaluated(
        ensemble([Module(deepcopy(single), weight=w) for w in (1, 2, 5)]))
    found = predict(model, images())
    assert torch.equal(
        stacked(found, 'pred_label'), stacked(alone, 'pred_label'))
    assert torch.equal(
        stacked(found, 'certified'), stacked(alone, 'certified'))
    for name in ('worst_margin', 'certified_radius'):
        torch.testing.assert_close(
            stacked(found, name), stacked(alone, name), rtol=1e-6, atol=1e-6)


def test_weights():
    """Property 29: normalised; the average of members' own logits."""
    members = three()
    model = evaluated(
        ensemble([Module(m, weight=w) for m, w in zip(members, (1, 3, 4))]))
    torch.testing.assert_close(
        model.weights,
        torch.tensor([1, 3, 4], dtype=torch.float64) / 8)
    batch = images()
    logits = torch.stack(
        [m.scores(preprocessed(m, batch)['inputs']) for m in members])
    pixels = preprocessed(model, batch)['inputs']
    assert torch.equal(model(pixels), average(logits, [1, 3, 4]))
    with pytest.raises(ValueError, match='negative'):
        build(
            ensemble(
                [Module(m, weight=w) for m, w in zip(members, (1, -1, 4))]))
    # Without a certificate the predictions are the same.
    plain = evaluated(ensemble([Module(m) for m in members], certify=None))
    assert 'certified' not in predict(plain, batch)[0]


@pytest.mark.parametrize('mixed', [False, True])
def test_theorems_hold_sample_by_sample(mixed):
    """Property 26: R_F >= sum a_k R_k; unanimity implies certified."""
    members = three(mixed)
    data = images(40)
    model = evaluated(ensemble([Module(m) for m in members]))
    found = predict(model, data)
    certified = stacked(found, 'certified')
    unanimous, majority = (
        stacked(found, f'certified_{n}') for n in ('unanimous', 'majority'))
    alone = stacked(found, 'member_certified')
    assert alone.shape == (40, 3, 3)
    assert torch.equal(unanimous, alone.all(1))
    assert torch.equal(majority, alone.sum(1) >= 2)
    assert (certified >= unanimous).all() and (majority >= unanimous).all()
    assert (stacked(found, 'member_correct')[..., None] >= alone).all()
    labels = stacked(found, 'pred_label')[:, 0]
    certifier = model.certifier()
    pixels = preprocessed(model, data)['inputs']
    if not mixed:
        # Signed radii of the members in pixel units, without slack.
        theirs = -wrong_margin(
            model.member_scores(pixels).flatten(0, 1),
            labels.repeat(3)).reshape(3, -1) / 2 * 60 / 255
        assert certifier.lipschitz
        mine = stacked(found, 'radius_lipschitz')
        assert (mine >= average(theirs) - 1e-5).all()
        assert (theirs < 0).any()
        assert (mine > 0).any()
    else:
        assert not certifier.lipschitz
        assert 'radius_lipschitz' not in found[0]
    # In its own pixels an average of Lipschitz logits moves by A at most.
    other = pixels + 2.55 * (2 * torch.rand(pixels.shape) - 1)
    if not mixed:
        moved = (model.scores(other) - model.scores(pixels)).abs().amax()
        assert moved <= 2.55 / 60 * (1 + 1e-5)


def test_property_10_the_average_is_lipschitz():
    """Trained members, averages of their weights, and other stds: in pixels
    a logit of the average moves by the average of 1 / std at most."""
    live, ema = (deepcopy(m) for m in trained())
    model = evaluated(
        ensemble([
            Module(live),
            Module(ema, weight=2.),
            Module(three()[2]),
        ])).double()
    limit = float(model.weights @ torch.tensor([1 / 60, 1 / 60, 1 / 75],
                                               dtype=torch.float64))
    pixels = preprocessed(model, images(6))['inputs']
    # Large steps, beside which the rounding of pixels to float32 is small.
    found = stretch(model.scores, pixels, eps=60, steps=60, least=60)
    assert 0.05 * limit < found <= limit * (1 + 1e-5)


@pytest.mark.parametrize('mixed', [False, True])
def test_no_attack_breaks_the_average(mixed):
    """Property 27: attacks on the average and on each member."""
    members = three(mixed)
    model = evaluated(
        ensemble([Module(m) for m in members],
                 certify=dict(eps=[0.002, 0.01], radius_steps=10)))
    data = images(30)
    found = predict(model, data)
    radius = stacked(found, 'certified_radius').float()
    rows = radius > 0
    pixels = preprocessed(model, data)['inputs'][rows]
    labels = stacked(found, 'pred_label')[:, 0][rows]
    eps = radius[rows].reshape(-1, 1, 1, 1) * 255
    box = (torch.zeros(1), torch.full((1, ), 255.))
    targets = [
        lambda x, k=k: model.members[k].scores(model.member_inputs(k, x))
        for k in range(3)
    ]
    generator = torch.Generator().manual_seed(0)
    assert len(pixels) > 20
    runs = [(model.scores, 'margin', 20), (model.scores, 'ce', 20)]
    runs += [(target, 'margin', 10) for target in targets]
    for target, loss, steps in runs:
        adversarial = pgd_attack(
            target,
            pixels,
            labels,
            eps,
            box,
            steps=steps,
            restarts=2,
            loss=loss,
            generator=generator)
        assert torch.equal(model.scores(adversarial).argmax(1), labels)
    far = pgd_attack(model.scores, pixels, labels, 8 * eps, box, steps=20)
    assert (model.scores(far).argmax(1) != labels).any()


def test_attack_is_on_the_average():
    model = evaluated(
        ensemble([Module(m) for m in three()],
                 certify=dict(
                     eps=[0.01, 0.2], attack=dict(steps=10, restarts=1))))
    found = predict(model, images(30))
    certified, attacked = (
        stacked(found, n) for n in ('certified', 'attacked'))
    right = stacked(found, 'pred_label') == stacked(found, 'gt_label')
    assert (certified <= attacked).all() and (attacked <= right).all()
    assert attacked[:, 1].sum() < right.sum()


def test_each_member_has_its_own_box():
    """Trap 17: the same pixels, the members' own mean and std."""
    members = [
        finished(classifier()),
        finished(classifier(data_preprocessor=WIDE), 1)
    ]
    model = evaluated(ensemble([Module(m) for m in members]))
    data = images()
    pixels = preprocessed(model, data)['inputs']
    assert torch.equal(pixels, data['inputs'].float())
    labels = torch.arange(12) % CLASSES
    mixed = model.certifier().residual(pixels, labels, 0.01)
    alone = [
        m.certifier(model.certify).residual(
            preprocessed(m, data)['inputs'], labels, 0.01) for m in members
    ]
    torch.testing.assert_close(mixed.value, sum(r.value for r in alone) / 2)
    torch.testing.assert_close(mixed.slack, sum(r.slack for r in alone) / 2)


def test_colour_order_of_members():
    """A member that wants RGB turns the channels itself."""
    body = mlp_body(in_channels=3)
    norm = dict(mean=[90., 100., 110.], std=[60., 50., 40.])
    members = [
        finished(classifier(body=body, data_preprocessor=dict(norm)), 1),
        finished(
            classifier(body=body, data_preprocessor=dict(norm, to_rgb=True)),
            1)
    ]
    data = images(channels=3)
    model = evaluated(ensemble([Module(m) for m in members]))
    pixels = preprocessed(model, data)['inputs']
    for k, member in enumerate(members):
        assert torch.equal(
            model.member_inputs(k, pixels),
            preprocessed(member, data)['inputs'])
    assert not torch.equal(
        model.member_inputs(0, pixels), model.member_inputs(1, pixels))


def test_fit_weights():
    """Chosen on held-out images, used and saved; never on test ones."""
    good, bad = finished(classifier(), 0), finished(classifier(), 1)
    batch = images(48)
    with torch.no_grad():
        # Of one network the labels, so that it is right everywhere.
        labels = good.scores(preprocessed(good, batch)['inputs']).argmax(1)
        rare = labels.bincount(minlength=CLASSES).argmin()
        bad.head.classifier.fc.bias[rare] -= 100.
    for sample, label in zip(batch['data_samples'], labels):
        sample.set_gt_label(int(label))
    model = evaluated(ensemble([Module(bad), Module(good)]))
    half = dict(
        inputs=batch['inputs'][:24], data_samples=batch['data_samples'][:24])
    rest = dict(
        inputs=batch['inputs'][24:], data_samples=batch['data_samples'][24:])
    fit = model.fit_weights([half, rest], 0.002)
    assert fit.certified >= max(fit.members + [fit.uniform])
    assert fit.certified > fit.uniform
    assert torch.equal(model.weights, fit.weights)
    assert fit.weights[1] > 0.9
    assert torch.equal(model.state_dict()['weights'], fit.weights)
    with pytest.raises(ValueError, match='held-out'):
        model.fit_weights([], 0.002)


def saved(folder, name, model, **extra):
    """A member's checkpoint and the path."""
    path = str(folder / f'{name}.pth')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(), **extra), path)
    return path


def test_members_from_files(tmp_path):
    """Configs and checkpoints, as a user has them."""
    config = tmp_path / 'member.py'
    model = classifier(certify=dict(eps=[0.1]))
    preprocessor = model.pop('data_preprocessor')
    config.write_text(
        f'model = {model!r}\ndata_preprocessor = {preprocessor!r}\n')
    source = finished(classifier(), 3)
    paths = [
        saved(tmp_path, 'a', source, lp_norm=math.inf),
        saved(tmp_path, 'b', finished(classifier(), 4))
    ]
    members = [dict(config=str(config), checkpoint=p) for p in paths]
    built = evaluated(
        dict(
            type='mmext.CertifiedEnsemble',
            members=members,
            test_cfg=dict(certify=dict(eps=EPS))))
    assert get_p(built) == math.inf
    for name, value in built.members[0].state_dict().items():
        assert torch.equal(value, source.state_dict()[name])
    # init_weights, which the Runner calls, leaves them as they were loaded.
    before = deepcopy(built.state_dict())
    built.init_weights()
    assert all(
        torch.equal(v, before[k]) for k, v in built.state_dict().items())
    assert 'certified' in predict(built, images())[0]


def test_stock_classifiers_are_members(tmp_path):
    """A Lip backbone that was trained under ``ImageClassifier``."""
    stock = classifier(lip_head(std=[60.]), type='ImageClassifier')
    path = saved(tmp_path, 'a', build(stock))
    model = evaluated(ensemble([dict(model=stock, checkpoint=path)]))
    assert isinstance(model.members[0], LipschitzClassifier)
    assert 'certified' in predict(model, images())[0]


def test_members_need_not_name_their_loss(tmp_path):
    """Its learnable scalar is left out; any other key must fit."""
    mixture = classifier(lip_head(loss=dict(type='mmext.LipMixtureLoss')))
    path = saved(tmp_path, 'a', finished(mixture))
    plain = evaluated(ensemble([dict(model=classifier(), checkpoint=path)]))
    named = evaluated(ensemble([dict(model=mixture, checkpoint=path)]))
    for a, b in zip(predict(plain, images()), predict(named, images())):
        assert a.certified_radius == b.certified_radius
    path = saved(tmp_path, 'b', finished(classifier()))
    assert evaluated(ensemble([dict(model=mixture, checkpoint=path)]))


def test_checkpoints_that_are_refused(tmp_path):
    model = classifier()
    source = finished(model)
    early = saved(tmp_path, 'early', source, lp_norm=137.)
    with pytest.raises(ValueError, match='saved at p = 137'):
        build(ensemble([dict(model=model, checkpoint=early)]))
    forced = evaluated(
        ensemble([dict(model=model, checkpoint=early)],
                 certify=dict(eps=EPS, force_inf=True)))
    assert get_p(forced) == math.inf
    assert 'certified' in predict(forced, images())[0]
    other = classifier(mlp_head())
    with pytest.raises(ValueError, match='missing'):
        build(
            ensemble(
                [dict(model=other, checkpoint=saved(tmp_path, 'lip',
                                                    source))]))
    with pytest.raises(FileNotFoundError):
        build(ensemble([dict(model=model, checkpoint='nowhere.pth')]))

    def of(name, classes):
        path = str(tmp_path / name)
        torch.save(
            dict(
                state_dict=source.state_dict(),
                meta=dict(dataset_meta=dict(classes=classes))), path)
        return dict(model=model, checkpoint=path)

    with pytest.raises(ValueError, match='same classes in the same order'):
        build(
            ensemble([of('c.pth', tuple('abcd')),
                      of('d.pth', tuple('abdc'))]))


@pytest.mark.parametrize('members, message', [
    ([], 'at least one'),
    ([dict()], 'config .* or model'),
    ([dict(model=classifier(), config='x.py')], 'config .* or model'),
    ([dict(model=classifier(), weigth=1.)], 'weigth'),
    ([
        dict(model=classifier()),
        dict(model=classifier(lip_head(num_classes=5)))
    ], 'same classes'),
    ([
        dict(model=classifier()),
        dict(model=classifier(body=mlp_body(img_size=7)))
    ], 'same images'),
    ([dict(model=classifier(data_preprocessor=dict()))], 'mean and std'),
    ([dict(model=dict(type='mmext.CertifiedEnsemble', members=[]))
      ], 'is a CertifiedEnsemble'),
    ([
        dict(
            model=classifier(
                dict(type='LinearClsHead', num_classes=4, in_channels=24)))
    ], 'LinearClsHead'),
])
def test_members_that_are_refused(members, message):
    with pytest.raises(ValueError, match=message):
        build(dict(type='mmext.CertifiedEnsemble', members=members))


def test_states_that_are_refused():
    """Property 17 for ensembles."""
    model = evaluated(ensemble([Module(m) for m in three()]))
    with pytest.raises(RuntimeError, match='own'):
        model(**preprocessed(model, images()), mode='loss')
    with pytest.raises(ValueError, match='joint'):
        build(ensemble([classifier()], train='jointly'))
    model.train()
    with pytest.raises(CertificationError, match='eval'):
        predict(model, images())
    model.eval()
    set_p(model.members[1], 8.)
    with pytest.raises(CertificationError, match='p = 8'):
        predict(model, images())


def test_the_preprocessor_of_the_runner_is_the_members():
    """A top-level ``data_preprocessor`` of a config normalises members."""
    member = classifier()
    member.pop('data_preprocessor')
    model = evaluated(
        ensemble([member, classifier(data_preprocessor=WIDE)],
                 data_preprocessor=dict(
                     mean=[33.], std=[78.], num_classes=CLASSES)))
    assert not model.data_preprocessor._enable_normalize
    assert float(model.members[0].data_preprocessor.std) == 78.
    assert float(model.members[1].data_preprocessor.std) == 75.
    assert 'certified' in predict(model, images())[0]


@pytest.mark.stack_subset
def test_joint_training(tmp_path):
    """All members learn on the averaged residuals; p follows the hook."""
    members = [
        classifier(),
        classifier(
            lip_head(loss=dict(type='mmext.LipMixtureLoss')),
            data_preprocessor=WIDE)
    ]
    model = ensemble(members, train='joint')
    runner = run(tmp_path, model, epochs=20)
    log = {
        k: v._log_history
        for k, v in runner.message_hub.log_scalars.items()
    }
    assert log['val/cert/clean'][-1] > 90
    assert log['val/cert/certified@0.01'][-1] > 50
    trained = runner.model
    assert get_p(trained) == math.inf
    start = build(model).state_dict()
    moved = [
        k for k, v in trained.state_dict().items()
        if not torch.equal(v.cpu(), start[k])
    ]
    assert any('members.1' in k for k in moved)
    # One loss: the other head's is not kept.
    assert not [k for k in start if k.startswith('members.1.head.loss_mod')]

    config = runner_config(tmp_path, model, name='test')
    config['load_from'] = str(tmp_path / 'run' / 'epoch_20.pth')
    assert Runner(**config).test()['cert/certified@0.01'] == pytest.approx(
        log['val/cert/certified@0.01'][-1])


def test_joint_loss_of_one_member_is_its_own():
    """The averaged loss of copies equals the loss of the one."""
    for head in ('lip', 'mlp'):
        single = build(classifier(head))
        joint = build(
            ensemble([Module(deepcopy(single)),
                      Module(deepcopy(single))],
                     train='joint'))
        one = single(**preprocessed(single, images()), mode='loss')['loss']
        two = joint(**preprocessed(joint, images()), mode='loss')['loss']
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize('optim_wrapper', [
    dict(
        optimizer=dict(type='Adam', lr=0.03),
        paramwise_cfg=dict(
            custom_keys={'loss_module.scale': dict(lr_mult=0.2)})),
    dict(
        constructor='mmext.LpOptimWrapperConstructor',
        optimizer=dict(type='mmext.AdamWLp', lr=0.03)),
])
def test_joint_loss_has_one_scalar(tmp_path, optim_wrapper):
    """It moves once a step, and members come from their own trainings."""
    head = lip_head(loss=dict(type='mmext.LipMixtureLoss'), lam=0.5)
    member = classifier(head)
    path = saved(tmp_path, 'member', finished(member))
    joint = build(
        ensemble([
            dict(model=member),
            dict(model=member, checkpoint=path),
            dict(model=classifier(), checkpoint=path)
        ],
                 train='joint'))
    scale = joint.members[0].head.loss_module.scale
    wrapper = build_optim_wrapper(joint, optim_wrapper)
    assert sum(p is scale for group in wrapper.param_groups
               for p in group['params']) == 1
    loss = joint(**preprocessed(joint, images()), mode='loss')['loss']
    wrapper.update_params(loss)
    rate = next(g['lr'] for g in wrapper.param_groups
                if any(p is scale for p in g['params']))
    assert abs(scale.item() - 1) == pytest.approx(rate, rel=0.05)
    # What was trained together is evaluated as an average, too.
    other = build(ensemble([member, member, classifier()]))
    other.load_state_dict(joint.state_dict())


def test_tool_needs_no_checkpoint(tmp_path, monkeypatch):
    """``tools/test.py CONFIG``: the members name theirs."""
    monkeypatch.chdir(tmp_path)
    write_fashion_mnist('data', 20)
    members = []
    for seed in range(2):
        model = classifier(lip_head(num_classes=10), mlp_body(img_size=28))
        path = saved(tmp_path, str(seed), finished(model, seed))
        members.append(dict(model=model, checkpoint=path))
    base = str(ROOT / 'configs' / '_base_')
    config = tmp_path / 'pair.py'
    config.write_text(
        f"_base_ = ['{base}/datasets/fashion-mnist_pad1.py',\n"
        f"          '{base}/lip_runtime.py']\n"
        f'model = {ensemble(members)!r}\n'
        "test_dataloader = dict(dataset=dict(data_root='data'),\n"
        '                       num_workers=0, persistent_workers=False)\n'
        'test_cfg = dict()\n'
        'train_dataloader = val_dataloader = val_evaluator = None\n')
    test = tool('test').main
    with quick_runner():
        test([str(config), '--out', 'metrics.json'])
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['cert/certified@0.03'] <= metrics['cert/clean']
    assert 'cert/majority@0.03' in metrics
    del members[0]['checkpoint']
    config.write_text(f'model = {ensemble(members)!r}\n')
    with pytest.raises(UserError, match='no weights'):
        test([str(config)])
