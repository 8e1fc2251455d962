# Copyright (c) mmext contributors. All rights reserved.
"""Training on two processes, and the certificates of what it trained."""
import csv
import json
import shutil

import pytest
import torch

from mmext.utils.user_error import UserError
from .processes import ROOT, run_distributed
from .test_models.test_lipschitz import fake_autoattack
from .tool_fixtures import run_tool, tool, write_classification, write_config

pytest.importorskip('mmpretrain')

CLASSIFIER = """
_base_ = [{base!r}]
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root={root!r}, data_prefix='classes',
        pipeline=pipeline))
# An odd number: two processes pad it.
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root={root!r}, data_prefix='classes',
        indices=7, pipeline=pipeline))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='Accuracy', topk=1),
    dict(type='mmext.CertifiedAccuracy', out_dir='out', export='a.jsonl')]
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=4, val_interval=4)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(interval=2, max_keep_ckpts=-1),
    p_norm=dict(type='mmext.PNormScheduleHook', epochs=(0, 1, 2, 3, 4)))
model = dict(
    type='mmext.LipschitzClassifier',
    data_preprocessor=dict(mean=[127.] * 3, std=[60.] * 3, num_classes=2),
    backbone=dict(
        type='mmext.LipMLP', img_size=16, depth=2, width=16 / 1024,
        sync_mean=True),
    head=dict(
        type='mmext.LipClsHead', num_classes=2, in_channels=16,
        eps_train=0.02),
    test_cfg=dict(certify=dict(eps=[0.5 / 255, 0.05])))
"""


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    """A folder with a run on two processes of half the batch."""
    if torch.cuda.is_available():
        pytest.skip('checks the machines without a GPU')
    folder = tmp_path_factory.mktemp('lip')
    root = write_classification(folder / 'data', count=4)
    config = write_config(folder / 'lip.py', CLASSIFIER,
                          'mmpretrain_runtime.py', root)
    run_tool('tools/dist_train.sh', config, '2', '--work-dir', 'two',
             '--cfg-options', 'train_dataloader.batch_size=2', cwd=folder,
             MMEXT_LP_BACKEND='reference')
    return folder, config


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_train_and_evaluate_as_one(two_processes, monkeypatch):
    """The mean over all processes, one p everywhere, no image twice.

    The weights would differ from those of one process with the whole batch
    if a mean was that of half the batch, or if p differed between processes.
    """
    folder, config = two_processes
    monkeypatch.setenv('MMEXT_LP_BACKEND', 'reference')
    monkeypatch.chdir(folder)
    shutil.move(str(folder / 'out'), str(folder / 'out of two'))
    tool('train').main([str(config), '--work-dir', 'one'])
    for epoch in (2, 4):
        one, two = (
            torch.load(folder / run / f'epoch_{epoch}.pth',
                       weights_only=False) for run in ('one', 'two'))
        assert one['lp_norm'] == two['lp_norm']
        for key, value in one['state_dict'].items():
            torch.testing.assert_close(
                two['state_dict'][key], value, rtol=1e-4, atol=1e-4)
    one, two = (lines(folder / out / 'a.jsonl')
                for out in ('out', 'out of two'))
    assert len(one) == len({row['image'] for row in two}) == len(two) == 7
    for a, b in zip(one, two):
        assert a['image'] == b['image'] and a['predicted'] == b['predicted']
        assert a['radius'] == pytest.approx(b['radius'], abs=1e-4)
    first, second = (
        json.loads((folder / out / 'certified.json').read_text())
        for out in ('out', 'out of two'))
    assert first['metrics']['clean'] == second['metrics']['clean']
    assert second['images'] == 7


def test_certify(two_processes, monkeypatch, capsys):
    """Table, plots and export; radii and attack from the command line."""
    folder, config = two_processes
    monkeypatch.chdir(folder)
    certify = tool('analysis_tools/certify')
    certify.main([
        str(config), 'two/epoch_4.pth', '--eps', '0.5/255', '0.05',
        '--attack', '--steps', '5', '--restarts', '1', '--samples', '5',
        '--radius-steps', '3', '--out-dir', 'found', '--work-dir', 'w'
    ])
    report = json.loads((folder / 'found' / 'certified.json').read_text())
    metrics = report['metrics']
    assert report['images'] == 5 and report['eps'] == [0.5 / 255, 0.05]
    assert metrics['violations'] == 0
    assert metrics['certified@0.05'] <= metrics['attacked@0.05'] <= \
        metrics['clean']
    with open(folder / 'found' / 'samples.csv') as file:
        assert len(list(csv.DictReader(file))) == 5
    assert (folder / 'found' / 'certified_accuracy.png').is_file()
    with pytest.raises(SystemExit):
        certify.main([str(config), 'two/epoch_4.pth', '--eps', '8'])
    assert '8/255, not 8' in capsys.readouterr().err
    for option in ('--samples', '--steps', '--restarts'):
        with pytest.raises(SystemExit):
            certify.parse_args([str(config), '--attack', f'{option}=-5'])
        assert 'at least 1' in capsys.readouterr().err
    for argv, part in (
        (['two/epoch_2.pth'], 'middle of the schedule'),
        (['two/epoch_4.pth', '--amp'], 'float32'),
        (['nothing.pth'], 'nothing.pth'),
        ([], 'no weights'),
        (['none'], 'no weights'),
        (['two/epoch_4.pth', '--cfg-options',
          'model.type=ImageClassifier'], 'LipschitzClassifier'),
    ):
        with pytest.raises((UserError, ValueError)) as caught:
            certify.main([str(config), *argv, '--work-dir', 'w'])
        assert part in str(caught.value), argv


def test_other_checkpoints_are_refused(two_processes, tmp_path, monkeypatch):
    """Nothing is certified, tested or trained on of a random network."""
    folder, config = two_processes
    monkeypatch.chdir(folder)
    whole = torch.load('two/epoch_4.pth', weights_only=False)
    weights = whole['state_dict']
    spoilt = {key: value * float('nan') for key, value in weights.items()}
    path = str(tmp_path / 'x.pth')
    for state, part in (
        ({f'other.{key}': weights[key] for key in weights}, 'missing'),
        (spoilt, 'not finite'),
    ):
        torch.save(dict(whole, state_dict=state), path)
        for name, argv in (('analysis_tools/certify', [path]),
                           ('test', [path]), ('train', ['--resume', path])):
            with pytest.raises(UserError, match=part) as caught:
                tool(name).main([str(config), *argv, '--work-dir', 'w'])
            assert path in str(caught.value), name


def test_options_of_certificates():
    certify = tool('analysis_tools/certify')

    def given(*argv):
        return certify.given(certify.parse_args(['config.py', *argv]))

    assert given() == {}
    assert given('--no-clamp', '--method', 'lipschitz') == dict(
        clamp=False, method='lipschitz')
    assert given('--eps', '8/255', '0.1', '--radius-steps', '0') == dict(
        eps=[8 / 255, 0.1], radius_steps=0)
    assert given('--attack', '--steps', '7')['attack'] == dict(
        steps=7, restarts=5, loss=['margin', 'ce'])


def test_certify_on_two_processes(two_processes, monkeypatch):
    """The same images, each once, as on one process."""
    folder, config = two_processes
    monkeypatch.setenv('MMEXT_LP_BACKEND', 'reference')
    monkeypatch.chdir(folder)
    argv = [
        config, 'two/epoch_4.pth', '--eps', '0.5/255', '0.05', '--work-dir',
        'w', '--out-dir'
    ]
    certify = ROOT / 'tools/analysis_tools/certify.py'
    run_distributed(certify, *argv, 'by two', '--launcher', 'pytorch',
                    cwd=folder)
    tool('analysis_tools/certify').main([*map(str, argv), 'by one'])
    one, two = (
        json.loads((folder / out / 'certified.json').read_text())
        for out in ('by one', 'by two'))
    assert one['images'] == two['images'] == 7
    assert one['metrics'] == pytest.approx(two['metrics'], rel=1e-5)
    rows = [(folder / out / 'samples.csv').read_text().splitlines()
            for out in ('by one', 'by two')]
    assert len(rows[0]) == len(rows[1]) == 8


def test_network_for_the_comparison_of_bounds(capsys):
    """What auto_LiRPA gets is our network; without it a line says so."""
    bench = tool('benchmarks/lip_bounds')
    worker = tool('benchmarks/lirpa_worker')
    bench.NETWORKS = dict(
        mlp=dict(arch='mlp', depth=3, width=0.02, input_size=(1, 8, 8)),
        lenet=dict(arch='lenet', hidden=32))
    for name in bench.NETWORKS:
        net = bench.build(name, 2)
        x = torch.randn(2, *net.body.input_size)
        layers, arrays = bench.describe(net)
        other = worker.build(layers, arrays, tuple(x.shape[1:]))
        assert torch.equal(other(x), net(x))
    args = bench.parse_args(['--lirpa-python', '/bin/false'])
    assert bench.lirpa(net, x, net(bench.Bounds(None, x, x)), args) is None
    assert 'no row of auto_LiRPA' in capsys.readouterr().out
    rows = bench.as_rows(
        bench.parse_args([]),
        dict(mlp=[
            dict(library='a b', backend='c', ms_per_image=1.5),
            dict(library='a b', backend='d', ms_per_image=2., standing=0.5)
        ]))
    assert {row['name']: row['value'] for row in rows[3:]} == {
        'mlp_a_b_c_ms_per_image': 1.5,
        'mlp_a_b_d_ms_per_image': 2.,
        'mlp_a_b_d_standing': 0.5
    }
    assert all(set(row) == {'name', 'value', 'unit', 'target', 'ok'}
               for row in rows)


def test_bounds_beside_autoattack(tmp_path, monkeypatch, capsys):
    """Certified images stand; without a package nothing is computed."""
    bench = tool('benchmarks/lip_bounds')
    calls = fake_autoattack.install(monkeypatch)
    out = tmp_path / 'rows.json'
    argv = [
        '--networks', 'mlp', '--lirpa-python', '/bin/false', '--autoattack',
        '--batch', '24', '--repeats', '1', '--eps', '0.2'
    ]
    bench.NETWORKS = dict(
        mlp=dict(arch='mlp', depth=3, width=0.02, input_size=(1, 8, 8)))
    threads = torch.get_num_threads()
    try:
        bench.main([*argv, '--out', str(out)])
    finally:
        torch.set_num_threads(threads)
    rows = {row['name']: row for row in json.loads(out.read_text())}
    found = {
        key: rows[f'mlp_torchattacks_AutoAttack_{key}']['value']
        for key in ('certified', 'standing', 'violations', 'ms_per_image')
    }
    assert 0 < found['certified'] < found['standing'] < 1
    assert found['violations'] == 0 < found['ms_per_image']
    row = rows['mlp_torchattacks_AutoAttack_violations']
    assert row['target'] == 0 and row['ok']
    # The inputs' range is black to white, and eps a part of it.
    (call, ) = calls
    assert call['x'].min() == 0 and call['x'].max() == 1
    assert 0.01 < call['eps'] < 0.1
    monkeypatch.setattr('mmext.models.lipschitz.attacks.has',
                        lambda name: False)
    capsys.readouterr()
    with pytest.raises(UserError, match='pip install torchattacks'):
        bench.main(argv)
    assert not capsys.readouterr().out
