# Copyright (c) mmext contributors. All rights reserved.
"""The tools as a user runs them, on tiny generated data.

Each subprocess imports a whole toolbox, so one call checks several things.
"""
import json
import os

import pytest
import torch
from mmengine.config import Config

from mmext.utils.launch import set_resume
from mmext.utils.user_error import UserError
from .tool_fixtures import (CLASSIFIER, ROOT, SEGMENTOR, run_tool, tool,
                            write_classification, write_config,
                            write_segmentation)


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    """A folder with data, a config and a run of two iterations."""
    pytest.importorskip('mmseg')
    folder = tmp_path_factory.mktemp('seg')
    root = write_segmentation(folder / 'data')
    config = write_config(folder / 'seg.py', SEGMENTOR, 'mmseg_runtime.py',
                          root)
    output = run_tool(
        'tools/train.py',
        config,
        '--cfg-options',
        'default_hooks.checkpoint.interval=1',
        'randomness.seed=7',
        cwd=folder)
    return folder, config, output


def checkpoint_keys(path):
    return set(torch.load(path, weights_only=False)['state_dict'])


# tools/train.py --------------------------------------------------------------


@pytest.mark.stack_subset
def test_train_writes_checkpoints_to_the_default_work_dir(segmentor):
    folder, _, output = segmentor
    work_dir = folder / 'work_dirs' / 'seg'
    # the option changed the interval of the config from 2 to 1
    assert (work_dir / 'iter_1.pth').is_file()
    assert (work_dir / 'iter_2.pth').is_file()
    assert 'mIoU' in output and 'Traceback' not in output
    assert 'seed = 7' in (work_dir / 'seg.py').read_text() or \
        'seed=7' in (work_dir / 'seg.py').read_text()


def test_train_resumes_from_the_newest_readable_checkpoint(segmentor):
    folder, config, _ = segmentor
    work_dir = folder / 'resumed'
    work_dir.mkdir()
    first = folder / 'work_dirs' / 'seg'
    good = (first / 'iter_1.pth').read_bytes()
    (work_dir / 'iter_1.pth').write_bytes(good)
    (work_dir / 'iter_2.pth').write_bytes(good[:len(good) // 2])
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_2.pth'))
    output = run_tool(
        'tools/train.py',
        config,
        '--work-dir',
        'resumed',
        '--resume',
        '--no-validate',
        '--cfg-options',
        'randomness.seed=7',
        cwd=folder)
    assert 'resumed epoch: 0, iter: 1' in output
    assert 'iter_2.pth' in output  # it says which one it could not read
    assert 'mIoU' not in output
    new = torch.load(work_dir / 'iter_2.pth', weights_only=False)
    old = torch.load(first / 'iter_2.pth', weights_only=False)
    assert new['meta']['iter'] == 2
    for key, value in old['state_dict'].items():
        assert torch.equal(value, new['state_dict'][key]), key


@pytest.mark.stack_subset
def test_train_an_mmpretrain_model(tmp_path):
    pytest.importorskip('mmpretrain')
    root = write_classification(tmp_path / 'data')
    config = write_config(tmp_path / 'cls.py', CLASSIFIER,
                          'mmpretrain_runtime.py', root)
    output = run_tool(
        'tools/train.py', config, '--work-dir', 'w', cwd=tmp_path)
    assert 'accuracy/top1' in output
    assert (tmp_path / 'w' / 'epoch_1.pth').is_file()
    # what mmpretrain's own train.py gives its dataloaders
    assert "type='default_collate'" in (tmp_path / 'w' / 'cls.py').read_text()


def test_distributed_training_without_gpu(segmentor):
    folder, config, _ = segmentor
    if torch.cuda.is_available():
        pytest.skip('checks the machines without a GPU')
    output = run_tool(
        'tools/dist_train.sh',
        config,
        '2',
        '--work-dir',
        'two processes',
        '--no-validate',
        '--cfg-options',
        'model.backbone.num_heads=[1, 2]',
        cwd=folder)
    assert 'SyncBN of the model is replaced by BN' in output
    path = folder / 'two processes' / 'iter_2.pth'
    assert checkpoint_keys(path) == checkpoint_keys(folder / 'work_dirs' /
                                                    'seg' / 'iter_2.pth')


def test_missing_data_stops_before_any_work(segmentor, tmp_path):
    _, _, _ = segmentor
    config = write_config(tmp_path / 'seg.py', SEGMENTOR, 'mmseg_runtime.py',
                          tmp_path / 'nowhere')
    output = run_tool('tools/train.py', config, cwd=tmp_path, code=2)
    assert 'Traceback' not in output
    assert str(tmp_path / 'nowhere' / 'images') in output
    for part in ('Expected layout', 'How to get it',
                 'tools/dataset_converters/streetworld.py'):
        assert part in output
    assert not (tmp_path / 'work_dirs').exists()


def test_user_errors_of_train(segmentor, tmp_path, monkeypatch):
    folder, config, _ = segmentor
    monkeypatch.chdir(tmp_path)
    train = tool('train')
    (tmp_path / 'broken.py').write_text('x = dict(\ny = 1\n')
    (tmp_path / 'child.py').write_text("_base_ = ['./broken.py']\n")
    (tmp_path / 'orphan.py').write_text("_base_ = ['./missing_base.py']\n")
    cases = [
        (['no/such_config.py'], 'does not exist'),
        (['no-such-model'], 'model name'),
        (['broken.py'], 'broken.py'),
        (['child.py'], 'broken.py'),
        (['orphan.py'], 'missing_base.py'),
        ([str(config), '--resume', 'nothing.pth'], 'nothing.pth'),
        ([str(config), '--auto-scale-lr'], 'base_batch_size'),
        ([str(config), '--cfg-options',
          'model.decode_head.in_index.x=1'], 'does not fit'),
        ([str(config), '--cfg-options',
          'load_from=src.pth'], str(tmp_path / 'src.pth')),
        ([str(config), '--cfg-options',
          'train_cfg.type=mmext.NoLoop'], 'NoLoop'),
        ([str(config), '--cfg-options',
          'train_cgf.max_iters=1'], "did you mean 'train_cfg'"),
        ([str(config), '--cfg-options',
          'default_hooks.invalid_loss.patients=1'], "Did you mean 'patience'"),
        ([str(config), '--cfg-options',
          'default_scope=mmnothing'], 'mmnothing'),
        ([str(config), '--cfg-options', 'val_cfg=None'], 'val_cfg'),
    ]
    if not torch.cuda.is_available():
        cases.append(([str(config), '--amp'], 'needs a GPU'))
    for argv, part in cases:
        with pytest.raises(UserError) as caught:
            train.main(argv)
        assert part in str(caught.value), argv
    with pytest.raises(SystemExit):  # argparse explains
        train.main([str(config), '--cfg-options', 'lr'])
    assert not (tmp_path / 'work_dirs').exists()


def test_options_of_train_reach_the_config(segmentor, tmp_path, monkeypatch):
    folder, config, _ = segmentor
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    train = tool('train')
    args = train.parse_args([
        str(config), '--no-validate', '--no-pin-memory', '--local-rank', '3',
        '--cfg-options', 'work_dir=last_word', 'default_hooks.rng_state=None',
        'train_dataloader.num_workers=2'
    ])
    assert os.environ['LOCAL_RANK'] == '3'
    cfg = train.load_config(args.config)
    train.merge_args(cfg, args)
    assert cfg.work_dir == 'last_word'
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    assert 'rng_state' not in cfg.default_hooks
    # mmseg's loaders keep mmengine's collate
    assert 'collate_fn' not in cfg.train_dataloader
    assert cfg.train_dataloader.pin_memory is False
    # allowed with two workers, impossible with none
    assert cfg.train_dataloader.persistent_workers is True
    assert cfg.test_dataloader.persistent_workers is False


def test_resume_without_a_checkpoint_starts_from_load_from(
        segmentor, tmp_path):
    folder, config, _ = segmentor
    cfg = tool('train').load_config(str(config))
    cfg.work_dir = str(tmp_path / 'fresh')
    cfg.load_from = 'source.pth'
    set_resume(cfg, 'auto')
    assert cfg.resume is False and cfg.load_from == 'source.pth'
    # with one, load_from becomes it; a folder is searched
    work_dir = str(folder / 'work_dirs' / 'seg')
    for resume, cfg.work_dir in (('auto', work_dir), (work_dir, 'other')):
        cfg.load_from = 'source.pth'
        set_resume(cfg, resume)
        assert cfg.resume is True
        assert cfg.load_from == os.path.join(work_dir, 'iter_2.pth')


# tools/test.py ---------------------------------------------------------------


@pytest.mark.stack_subset
def test_test_writes_metrics_predictions_and_pictures(segmentor):
    folder, config, _ = segmentor
    output = run_tool(
        'tools/test.py',
        config,
        'work_dirs/seg/iter_2.pth',
        '--out',
        'label maps',
        '--dump',
        'all.pkl',
        '--show-dir',
        'shown',
        '--tta',
        cwd=folder)
    assert 'mIoU' in output
    assert len(list((folder / 'label maps').glob('*.png'))) == 4
    assert (folder / 'all.pkl').is_file()
    assert len(list((folder / 'shown').rglob('*.png'))) == 4


def test_user_errors_and_outputs_of_test(segmentor, monkeypatch):
    folder, config, _ = segmentor
    monkeypatch.chdir(folder)
    test = tool('test')
    checkpoint = 'work_dirs/seg/iter_2.pth'
    for argv, part in (
        (['nothing.pth'], str(folder / 'nothing.pth')),
        ([checkpoint, '--adapt'], 'TestTimeAdaptLoop'),
        ([checkpoint, '--cfg-options',
          'test_evaluator.type=mmext.Nothing'], 'Nothing'),
    ):
        with pytest.raises(UserError) as caught:
            test.main([str(config), *argv])
        assert part in str(caught.value)
    for wrong in (['--adapt', '--tta'], ['--out-item',
                                         'pred'], ['--dump', 'x.txt']):
        with pytest.raises(SystemExit):
            test.main([str(config), checkpoint, *wrong])
    test.main([str(config), checkpoint, '--out', 'metrics.json'])
    assert 'mIoU' in json.loads((folder / 'metrics.json').read_text())


def test_views_are_not_certified():
    """An average over views has no certificate."""
    cfg = Config(dict(default_scope='mmpretrain', model=dict(
        type='mmext.LipschitzClassifier',
        test_cfg=dict(certify=dict(eps=[0.1])))))
    with pytest.raises(UserError, match='Leave out --tta'):
        tool('test').set_tta(cfg)


@pytest.mark.parametrize(
    'kind', ['mmext.BiCrossDepthEstimator', 'mmext.CrossDomainAdapter'])
def test_depth_is_not_written_as_labels(kind):
    test = tool('test')
    args = test.parse_args(['a.py', 'a.pth', '--out', 'folder'])
    cfg = Config(dict(default_scope='mmseg', model=dict(type=kind)))
    with pytest.raises(UserError, match='SpikeDepthInferencer'):
        test.add_outputs(cfg, args)


def test_adaptation_config_is_evaluated_unless_adapt_is_given(
        tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    from .toy_runs import adaptation_config, plain_pipeline
    monkeypatch.chdir(tmp_path)
    cfg = adaptation_config(tmp_path, dict(type='mmext.BNStats'), count=1)
    loader = cfg.train_dataloader.copy()
    for domain in loader.dataset.domains.values():
        domain.pipeline = plain_pipeline()
    cfg.test_dataloader = loader
    cfg.test_evaluator = dict(type='mmext.DomainIoUMetric')
    cfg.dump('adapt.py')
    test = tool('test')
    test.main([
        'adapt.py', 'source.pth', '--work-dir', 'eval', '--out', 'metrics.json'
    ])
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert {'r1/fog/mIoU', 'r1/night/mIoU', 'mIoU'} <= set(metrics)
    assert not list((tmp_path / 'eval').rglob('adaptation_report.json'))
    (tmp_path / 'text.pth').write_text('no checkpoint')
    classes = 'model.decode_head.num_classes=5'
    for run, argv, option, part in (
        (test, ['source.pth'], classes, 'model (5,), checkpoint (19,)'),
        (test, ['source.pth', '--adapt'], classes, 'has 19'),
        (test, ['text.pth'], 'randomness.seed=1', 'text.pth'),
        (tool('train'), [], 'load_from=text.pth', 'text.pth'),
        (tool('train'), [], 'train_cfg.resett=never', "Did you mean 'reset'"),
        (tool('train'), [], 'train_cfg.method.multi=1', "'multi_view'"),
    ):
        with pytest.raises(UserError) as caught:
            run.main([
                'adapt.py', *argv, '--work-dir', 'wrong', '--cfg-options',
                option
            ])
        assert part in str(caught.value)
    test.main(['adapt.py', 'source.pth', '--work-dir', 'adapted', '--adapt'])
    assert (tmp_path / 'adapted' / 'adaptation_report.json').is_file()


def test_adaptation_in_mixed_precision(monkeypatch):
    """--adapt --amp does as tools/train.py --amp, or says it cannot."""
    test = tool('test')
    argv = ['a.py', 'a.pth', '--adapt', '--amp', '--work-dir', 'adapted']
    cfg = Config(dict(model=dict(), optim_wrapper=dict(type='OptimWrapper')))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match='--amp needs a GPU'):
            test.merge_args(cfg, test.parse_args(argv))
    monkeypatch.setattr('mmext.utils.launch.require_gpu', lambda option: None)
    test.merge_args(cfg, test.parse_args(argv))
    assert cfg.optim_wrapper == dict(
        type='AmpOptimWrapper', loss_scale='dynamic')
    assert cfg.load_from == 'a.pth' and cfg.get('test_cfg') is None


# tools/misc ------------------------------------------------------------------


def test_check_config_and_print_config(segmentor):
    folder, config, _ = segmentor
    bad = write_config(
        folder / 'bad.py', SEGMENTOR, 'mmseg_runtime.py', folder / 'data',
        "model['backbone']['type'] = 'MixVisionTransformr'\n"
        "model['decode_head']['chanels'] = 8\n"
        "val_evaluator = dict(type='IoUMetric', ignor_index=3)\n"
        "defalt_hooks = dict()\n")
    output = run_tool(
        'tools/misc/check_config.py', config, bad, cwd=folder, code=1)
    lines = output.splitlines()
    assert f'{config}: sound' in output
    errors = [line for line in lines if f'{bad}: error' in line]
    assert len(errors) == 2
    assert any('MixVisionTransformr' in line for line in errors)
    assert any("'chanels'" in line and "'channels'" in line for line in errors)
    warnings = [line for line in lines if f'{bad}: warning' in line]
    assert any('ignor_index' in line for line in warnings)
    assert any('default_hooks' in line for line in warnings)

    target = folder / 'printed.py'
    printer = tool('misc/print_config')
    printer.main([
        str(config), '--out',
        str(target), '--cfg-options', 'train_cfg.max_iters=5'
    ])
    printed = printer.load_config(str(target))
    assert printed.train_cfg.max_iters == 5
    with pytest.raises(UserError, match='backbone'):
        printer.main([str(config), '--key', 'model.nothing'])


def test_tools_warn_that_configs_execute_code(capsys):
    for name in ('train', 'test', 'misc/print_config', 'misc/check_config'):
        with pytest.raises(SystemExit):
            tool(name).main(['--help'])
        text = capsys.readouterr().out
        assert 'executed' in text
        assert '--gpus' not in text  # mim would pass it


# Shell scripts ---------------------------------------------------------------


@pytest.fixture
def echo(tmp_path):
    """A program that prints its arguments, one a line, in brackets."""
    path = tmp_path / 'srun'
    path.write_text('#!/bin/sh\nfor word; do echo "[$word]"; done\n')
    path.chmod(0o755)
    return path


def words(echo, script, *args, **environment):
    environment['PATH'] = f'{echo.parent}:{os.environ["PATH"]}'
    output = run_tool(f'tools/{script}', *args, cwd=echo.parent, **environment)
    return [line[1:-1] for line in output.splitlines()]


def test_shell_scripts_pass_words_unbroken(echo):
    options = ['--cfg-options', 'a=[1, 2]', "b='x y'"]
    clean = dict(PYTHON=str(echo), PORT='', NNODES='')
    got = words(echo, 'dist_train.sh', 'my config.py', '2', *options, **clean)
    assert got[-3:] == options and 'my config.py' in got
    assert '--standalone' in got and '--nproc_per_node=2' in got
    got = words(
        echo, 'dist_test.sh', 'c.py', 'a b.pth', '4', *options,
        **dict(
            clean, NNODES='2', NODE_RANK='1', PORT='1234', MASTER_ADDR='host'))
    assert got[-3:] == options and 'a b.pth' in got
    assert {
        '--nnodes=2', '--node_rank=1', '--master_port=1234',
        '--master_addr=host'
    } <= set(got)
    slurm = dict(GPUS='16', SRUN_ARGS='--qos high', **clean)
    got = words(echo, 'slurm_train.sh', 'part', 'job', 'c d.py', 'work dir',
                *options, **slurm)
    assert got[-3:] == options and {
        'c d.py', 'work dir', '--ntasks=16', '--qos', 'high'
    } <= set(got)
    got = words(echo, 'slurm_test.sh', 'part', 'job', 'c.py', 'a b.pth',
                **slurm)
    assert {'a b.pth', '--launcher', 'slurm'} <= set(got)


def test_shell_scripts_explain_themselves(tmp_path):
    for name in ('dist_train', 'dist_test', 'slurm_train', 'slurm_test'):
        output = run_tool(f'tools/{name}.sh', cwd=tmp_path, code=2)
        assert f'tools/{name}.sh' in output and 'CONFIG' in output
        assert os.access(ROOT / 'tools' / f'{name}.sh', os.X_OK)
