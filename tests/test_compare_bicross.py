# Copyright (c) mmext contributors. All rights reserved.
"""The comparison of BiCross with its parts, a baseline and the bound."""
import json
from pathlib import Path

import cv2
import pytest

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmext.apis.bicross_comparison import gap_closed  # noqa: E402
from mmext.utils.comparison import RunFolder  # noqa: E402
from mmext.utils.user_error import UserError  # noqa: E402
from .bicross_runs import write_stages  # noqa: E402
from .tool_fixtures import run_tool, tool  # noqa: E402

TOOL = 'analysis_tools/compare_bicross'
TARGET = """
test_dataloader = loader(
    street('spike', domain='fog', frames=2), 1, shuffle=False)
test_evaluator = dict(type='mmext.DepthMetric')
test_cfg = dict(type='TestLoop')
"""
SPIKES = """
model = estimator(ticks)
train_dataloader = loader(street('spike', domain={domain!r}))
val_dataloader = loader(street('spike', frames=2), 1, shuffle=False)
val_evaluator = dict(type='mmext.DepthMetric')
val_cfg = dict(type='ValLoop')
"""


@pytest.fixture
def folder(tmp_path):
    """Configs of all rows, each of two iterations, tested on the target."""
    write_stages(tmp_path)
    text = (tmp_path / 'stage1.py').read_text()
    common = text[:text.index('model = ')]
    for stage in ('stage2', 'stage3'):
        path = tmp_path / f'{stage}.py'
        path.write_text(path.read_text() + TARGET)
    for name, domain in dict(baseline='clear', bound='fog').items():
        (tmp_path /
         f'{name}.py').write_text(common + SPIKES.format(domain=domain) +
                                  TARGET)
    stages = (tmp_path / 'bicross.py').read_text().replace(
        'stage3.py', 'bicross.py')
    (tmp_path / 'bicross.py').write_text("_base_ = './stage3.py'\n" + stages)
    (tmp_path / 'ugmt.py'
     ).write_text("_base_ = './stage3.py'\nmodel = dict(losses=('scp', ))\n")
    return tmp_path


class FakeRuns:
    """Stands for the processes: writes what a run of the tools leaves."""

    def __init__(self, monkeypatch):
        self.started = []
        # start of a folder's name -> AbsRel
        self.scores = {}
        # the run that is interrupted, and whether it has a checkpoint by then
        self.fails, self.late = None, True
        monkeypatch.setattr(RunFolder, 'run', self)

    def __get__(self, run_folder, owner=None):
        return lambda *args: self.run(run_folder.path, *args)

    def run(self, path, name, arguments, log):
        arguments = list(map(str, arguments))
        name_of_run = f'{path.parent.name}/{path.name}'
        if name == 'test':
            assert Path(arguments[1]).is_file()
            out = Path(arguments[arguments.index('--out') + 1])
            score = self.scores[path.parent.name] + 0.1 * int(path.name[-1])
            out.write_text(json.dumps(dict(abs_rel=score, d1=1 - score)))
            return
        source = None
        if '--checkpoint' in arguments:
            source = arguments[arguments.index('--checkpoint') + 1]
            source = '/'.join(Path(source).parts[-4:-2])
        self.started.append((name_of_run, source, '--resume' in arguments))
        stage = path / arguments[0].strip('-')
        stage.mkdir(parents=True, exist_ok=True)
        if name_of_run != self.fails or self.late:
            (stage / 'last.pth').write_text('weights')
            (stage / 'last_checkpoint').write_text('last.pth')
        if name_of_run == self.fails:
            raise KeyboardInterrupt
        (stage / 'finished.json').write_text(
            json.dumps(dict(checkpoint=str(stage / 'last.pth'))))


def compare(folder, *arguments, metrics=('abs_rel', 'd1')):
    tool(TOOL).main([
        str(folder / 'bicross.py'), *map(str, arguments), '--metrics',
        *metrics, '--work-dir',
        str(folder / 'out')
    ])
    return json.loads((folder / 'out' / 'report.json').read_text())['rows']


def ends(folder):
    return ('--baseline', folder / 'baseline.py', '--bound',
            folder / 'bound.py')


def test_stages_are_trained_once_and_reused(folder, monkeypatch):
    runs = FakeRuns(monkeypatch)
    runs.scores = dict(
        baseline=0.5, bound=0.1, stage2=0.4, ugmt=0.35, bicross=0.2)
    command = (*ends(folder), '--parts', folder / 'ugmt.py', '--seeds', 0, 1)
    rows = compare(folder, *command)
    assert list(rows) == [
        'Pre_src', 'MonoCross', 'ugmt', 'BiCross', 'Supervised'
    ]
    assert [run[:2] for run in runs.started if run[0].endswith('0')] == [
        ('baseline/seed0', None),
        ('stage1/seed0', None),
        ('stage2/seed0', 'stage1/seed0'),
        ('ugmt/seed0', 'stage2/seed0'),
        ('bicross/seed0', 'stage2/seed0'),
        ('bound/seed0', None),
    ]
    assert rows['BiCross']['mean']['abs_rel'] == pytest.approx(0.25)
    assert rows['BiCross']['std']['abs_rel'] == pytest.approx(0.1 / 2**.5)
    assert rows['BiCross']['stages'] == ['stage1', 'stage2', 'bicross']
    table = (folder / 'out' / 'report.md').read_text()
    assert '| BiCross | 0.2500 ± 0.0707 | 0.7500 ± 0.0707 | 75 % |' in table

    # nothing is run again
    runs.started.clear()
    assert compare(folder, *command) == rows
    assert not runs.started
    # a changed stage takes those behind it along
    path = folder / 'stage2.py'
    path.write_text(path.read_text().replace('hidden=8, out_channels=4',
                                             'hidden=8, out_channels=8'))
    compare(folder, *command)
    assert {run[0].split('/')[0] for run in runs.started} == \
        {'stage2', 'ugmt', 'bicross'}


def test_variants_and_interruption(folder, monkeypatch):
    runs = FakeRuns(monkeypatch)
    runs.scores = {
        'stage2': 0.4,
        'stage2-far': 0.3,
        'bicross': 0.2,
        'bicross-far': 0.2,
        'bicross-q': 0.2
    }
    runs.fails = 'bicross-far/seed0'
    command = ('--variant', 'q', 'stage3.model.warmup_iters=2', '--variant',
               'far', 'stage2.model.ckd.weight=0.1')
    with pytest.raises(KeyboardInterrupt):
        compare(folder, *command)
    assert runs.started == [
        ('stage1/seed0', None, False),
        ('stage2/seed0', 'stage1/seed0', False),
        ('bicross/seed0', 'stage2/seed0', False),
        ('bicross-q/seed0', 'stage2/seed0', False),
        ('stage2-far/seed0', 'stage1/seed0', False),
        ('bicross-far/seed0', 'stage2-far/seed0', False),
    ]
    runs.fails = None
    runs.started.clear()
    rows = compare(folder, *command)
    assert runs.started == [('bicross-far/seed0', 'stage2-far/seed0', True)]
    assert list(rows) == [
        'MonoCross', 'BiCross', 'BiCross, q', 'MonoCross, far', 'BiCross, far'
    ]
    # without both ends there is no gap
    assert '| - |' in (folder / 'out' / 'report.md').read_text()


def test_other_settings_are_not_gone_on_from(folder, monkeypatch):
    """Even if the new run was interrupted before its first checkpoint."""
    runs = FakeRuns(monkeypatch)
    runs.scores = dict(stage2=0.4, bicross=0.2)
    compare(folder)
    path = folder / 'bicross.py'
    path.write_text(path.read_text() + 'model = dict(warmup_iters=2)\n')
    runs.fails, runs.late = 'bicross/seed0', False
    runs.started.clear()
    for fails in ('bicross/seed0', None):
        runs.fails = fails
        if fails:
            with pytest.raises(KeyboardInterrupt):
                compare(folder)
            left = folder / 'out' / 'bicross' / 'seed0' / 'stage3'
            assert [one.name for one in left.iterdir()] == ['last.pth']
        else:
            compare(folder)
    assert runs.started == [('bicross/seed0', 'stage2/seed0', False)] * 2


def test_mistakes(folder, monkeypatch, capsys):
    runs = FakeRuns(monkeypatch)
    with pytest.raises(UserError, match='belongs to no stage'):
        compare(folder, '--variant', 'q', 'model.warmup_iters=2')
    with pytest.raises(UserError, match='would both write to bicross-a'):
        (folder / 'bicross-a.py').write_text("_base_ = './stage3.py'\n")
        compare(folder, '--parts', folder / 'bicross-a.py', '--variant', 'a',
                'stage3.model.warmup_iters=2')
    with pytest.raises(UserError, match="'absrel'.* among abs_rel, .*ause"):
        compare(folder, '--sheet', 1, metrics=('d1', 'absrel'))
    with pytest.raises(SystemExit):
        compare(folder, '--sheet', -1)
    assert 'number of samples' in capsys.readouterr().err
    with pytest.raises(UserError, match='no_such'):
        compare(folder, '--variant', 'a', 'stage3.no_such.key=2')
    (folder / 'bicross.py').write_text("_base_ = './stage3.py'\n")
    with pytest.raises(UserError, match='does not name its stages'):
        compare(folder)
    assert not runs.started


def test_a_test_set_without_depth_ends_the_comparison(folder, monkeypatch):
    runs = FakeRuns(monkeypatch)
    runs.scores = dict(stage2=float('nan'), bicross=0.2)
    with pytest.raises(UserError, match='stage2.py scored nothing.*abs_rel'):
        compare(folder)
    assert not (folder / 'out' / 'report.json').exists()


def test_gap_closed():
    assert gap_closed(0.5, 0.5, 0.1) == 0
    assert gap_closed(0.1, 0.5, 0.1) == pytest.approx(1)
    assert gap_closed(0.6, 0.5, 0.1) == pytest.approx(-0.25)
    # more is better
    assert gap_closed(0.7, 0.6, 0.8) == pytest.approx(0.5)
    assert gap_closed(0.7, 0.6, 0.6) is None


@pytest.mark.slow
def test_real_runs(folder):
    """All rows but the parts, as a user runs the tool."""
    run_tool(
        f'tools/{TOOL}.py',
        folder / 'bicross.py',
        *ends(folder),
        '--sheet',
        '2',
        '--work-dir',
        folder / 'out',
        cwd=folder)
    sheet = cv2.imread(str(folder / 'out' / 'sheet.jpg'))
    # playback, truth and four rows; a line of text above each
    assert sheet.shape == (2 * (32 + 18), 6 * 64, 3)
    report = json.loads((folder / 'out' / 'report.json').read_text())
    for row in report['rows'].values():
        assert row['mean']['abs_rel'] > 0 and row['minutes'] > 0
        assert row['runs'][0]['num_images'] == 2
