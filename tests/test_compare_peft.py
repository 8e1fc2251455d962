# Copyright (c) mmext contributors. All rights reserved.
"""The comparison of tuning methods over seeds and rates."""
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmext.apis.adapters import build_tuned  # noqa: E402
from mmext.utils.comparison import RunError, RunFolder  # noqa: E402
from mmext.utils.config_io import load_config, merge_options  # noqa: E402
from mmext.utils.user_error import UserError  # noqa: E402
from .classification_fixtures import write_elpv  # noqa: E402
from .test_datasets.test_classification_train import write_config  # noqa: E402
from .tool_fixtures import run_tool, tool  # noqa: E402

TOOL = 'analysis_tools/compare_peft'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Tiny configs ``vit_{mosa,full}_elpv.py`` and their data."""
    path = tmp_path_factory.mktemp('peft')
    write_elpv(path / 'data')
    Path(write_config(path, 'elpv',
                      path / 'data')).rename(path / 'vit_mosa_elpv.py')
    (path / 'vit_full_elpv.py').write_text(
        "_base_ = './vit_mosa_elpv.py'\n"
        "model = dict(adapter=dict(_delete_=True, type='FullFineTune'),\n"
        '             num_modules=1, num_passes=1)\n')
    return path


class FakeRuns:
    """Stands for the processes: writes what a run of the tools leaves."""

    def __init__(self, monkeypatch):
        self.started = []
        self.interrupt = False
        # rate -> scores of the validations; None: the loss was infinite
        self.val = {}
        self.test = {}
        monkeypatch.setattr(RunFolder, 'run', self)

    def __get__(self, run_folder, owner=None):
        return lambda *args: self.run(run_folder.path, *args)

    def run(self, path, name, arguments, log):
        arguments = list(map(str, arguments))
        options = dict(
            x.split('=', 1)
            for x in arguments[arguments.index('--cfg-options') + 1:])
        rate = float(options.get('optim_wrapper.optimizer.lr', 1e-3))
        seed = int(options['randomness.seed'])
        assert options['model.seed'] == options['randomness.seed']
        self.started.append((name, rate, seed, '--resume' in arguments))
        if name == 'test':
            out = Path(arguments[arguments.index('--out') + 1])
            out.write_text(json.dumps({'accuracy/top1': self.test[seed]}))
            return 500.
        torch.save({}, path / 'epoch_1.pth')
        (path / 'last_checkpoint').write_text(str(path / 'epoch_1.pth'))
        if self.interrupt:
            raise KeyboardInterrupt
        if self.val.get(rate, [50.]) is None:
            raise RunError('failed', 'FloatingPointError: loss')
        cfg = load_config(arguments[0])
        merge_options(cfg, {
            k: int(v)
            for k, v in options.items() if k == 'model.num_modules'
        })
        torch.save(
            dict(state_dict=build_tuned(cfg).state_dict()),
            path / 'epoch_1.pth')
        lines = [dict(loss=1., time=9., step=1, memory=0)]
        lines += [
            dict(loss=1., time=t, step=2, memory=0) for t in (0.1, 0.3, 0.2)
        ]
        lines += [{
            'accuracy/top1': v,
            'step': i + 1
        } for i, v in enumerate(self.val.get(rate, [50.]))]
        scalars = path / str(len(self.started)) / 'vis_data' / 'scalars.json'
        scalars.parent.mkdir(parents=True)
        scalars.write_text('\n'.join(map(json.dumps, lines)))
        return 700. + seed


def compare(folder, *arguments):
    tool(TOOL).main([
        str(folder / 'vit_mosa_elpv.py'), *arguments, '--work-dir',
        str(folder / 'out')
    ])
    return json.loads((folder / 'out' / 'report.json').read_text())['methods']


@pytest.fixture
def work(folder, tmp_path):
    """A folder of its own with the configs of the module."""
    for path in folder.glob('*.py'):
        (tmp_path / path.name).write_text(path.read_text())
    return tmp_path


def test_rate_is_chosen_on_validation_and_losers_are_not_tested(
        work, monkeypatch):
    runs = FakeRuns(monkeypatch)
    runs.val = {1e-4: [90., 60.], 1e-3: [50., 70.], 1e-2: [70.], 1.: None}
    runs.test = {0: 40., 1: 44.}
    command = ('--seeds', '0', '1', '--lr-grid', '1e-4', '1e-3', '1e-2', '1')
    row = compare(work, *command)['mosa']
    # the last epoch counts, the first of equals wins, infinity never
    assert row['rate'] == 1e-3
    assert row['rates'] == {
        '0.0001': 60.,
        '0.001': 70.,
        '0.01': 70.,
        '1': None
    }
    assert [run[:3] for run in runs.started] == [('train', 1e-4, 0),
                                                 ('train', 1e-3, 0),
                                                 ('train', 1e-2, 0),
                                                 ('train', 1., 0),
                                                 ('test', 1e-3, 0),
                                                 ('train', 1e-3, 1),
                                                 ('test', 1e-3, 1)]
    assert row['mean'] == 42. and row['std'] == pytest.approx(8**.5)
    assert row['step_seconds'] == pytest.approx(0.2)
    assert (row['memory_mb'], row['memory_of']) == (701., 'process')
    # adapters 2 * (8 * 4 + 4 + 4 * 8 + 4 * 8 + 2 * 8) and a head of 18
    assert row['trainable'] == 250 and row['unique'] == 250 - 2 * 3 * 8
    assert not list((work / 'out').rglob('*.pth'))
    saved = work / 'out/vit_mosa_elpv/lr0.001/seed1/adapter.safetensors'
    assert saved.stat().st_size == row['saved_bytes']
    table = (work / 'out' / 'report.md').read_text()
    assert '**42.00 ± 2.83**' in table and '250' in table

    # nothing is run again, also where checkpoints are gone
    del runs.started[:]
    assert compare(work, *command)['mosa'] == row
    assert not runs.started
    # another setting is another run
    compare(work, *command[:3], '--cfg-options', 'model.num_modules=2')
    assert [run[0] for run in runs.started] == ['train', 'test'] * 2


def test_interrupted_run_goes_on(work, monkeypatch):
    runs = FakeRuns(monkeypatch)
    runs.test = {0: 40.}
    runs.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        compare(work)
    runs.interrupt = False
    compare(work, '--keep-checkpoints')
    assert runs.started == [('train', 1e-3, 0, False),
                            ('train', 1e-3, 0, True), ('test', 1e-3, 0, False)]
    assert list((work / 'out').rglob('epoch_1.pth'))
    # not from the checkpoint of another run in the same folder
    del runs.started[:]
    runs.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        compare(work, '--cfg-options', 'model.num_modules=2')
    assert runs.started == [('train', 1e-3, 0, False)]


def test_variants(work, monkeypatch):
    """Every config with and without the settings; rates may be shared."""
    runs = FakeRuns(monkeypatch)
    runs.val, runs.test = {1e-2: [60.]}, {0: 40.}
    grid = ('--variant', 'n2', 'model.num_modules=2', '--lr-grid', '1e-3',
            '1e-2')
    rows = compare(work, str(work / 'vit_full_elpv.py'), *grid)
    assert list(rows) == ['mosa', 'mosa [n2]', 'full', 'full [n2]']
    assert rows['full']['trainable'] == rows['full']['total']
    assert all(row['rate'] == 1e-2 for row in rows.values())
    assert len(runs.started) == 4 * 3
    del runs.started[:]
    (work / 'out').rename(work / 'before')
    rows = compare(work, *grid, '--share-rate')
    assert rows['mosa [n2]']['rates'] == {}
    assert [run[1] for run in runs.started if run[0] == 'train'] == \
        [1e-3, 1e-2, 1e-2]


@pytest.mark.parametrize('options, part', [
    (('--cfg-options', 'model.type=ImageClassifier'), 'Only'),
    (('--cfg-options', 'optim_wrapper.optimizer.lr=1'), 'is set by'),
    (('--cfg-options', 'model.seed=1'), 'is set by'),
    (('--cfg-options', 'val_dataloader.dataset.split=test'), 'test set'),
    (('--cfg-options', 'train_dataloader.dataset.dataset.data_root=no'),
     'Expected layout'),
])
def test_everything_is_checked_before_the_first_run(options, part, work,
                                                    monkeypatch):
    runs = FakeRuns(monkeypatch)
    with pytest.raises(UserError, match=part):
        compare(work, '--lr-grid', '1e-3', *options)
    assert not runs.started


def test_another_metric_is_named(work, monkeypatch):
    FakeRuns(monkeypatch)
    with pytest.raises(UserError, match='accuracy/top1'):
        compare(work, '--metric', 'mIoU')


@pytest.mark.stack_subset
def test_compare_peft(folder):
    """The processes themselves: one method, one seed; then reused."""
    command = (f'tools/{TOOL}.py', 'vit_mosa_elpv.py', '--work-dir', 'real')
    output = run_tool(*command, cwd=folder)
    row = json.loads(
        (folder / 'real/report.json').read_text())['methods']['mosa']
    assert 0 <= row['mean'] <= 100 and row['mean'] == row['runs'][0]['test']
    assert row['memory_mb'] > 50 and row['val'] is not None
    assert output.count('running') == 1
    assert 'reused' in run_tool(*command, cwd=folder)
