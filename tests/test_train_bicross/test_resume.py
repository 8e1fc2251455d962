# Copyright (c) mmext contributors. All rights reserved.
"""Stages that were interrupted, and folders of older runs (H38)."""
import json
import os
import shutil

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmext.utils.io import safe_load
from mmext.utils.user_error import UserError
from ..test_models.test_segmentation.common import same
from ..tool_fixtures import tool
from .stage_runs import drive, handed_over


def moved(stages, folder):
    """A copy of what the stages left, as if they had run there."""
    shutil.copytree(stages / 'work', folder)
    for n in (1, 2, 3):
        note = folder / f'stage{n}' / 'finished.json'
        text = note.read_text().replace(str(stages / 'work'), str(folder))
        note.write_text(text)
    return folder


def test_h38_resume_is_the_same_run(stages, tmp_path):
    """H38: interrupted in stage 3, then all stages again with --resume."""
    whole, again = stages / 'bicross.py', moved(stages, tmp_path / 'again')
    stage = again / 'stage3'
    (stage / 'finished.json').unlink()
    (stage / 'iter_4.pth').unlink()
    (stage / 'last_checkpoint').write_text(str(stage / 'iter_2.pth'))
    old = (again / 'stage2' / 'iter_2.pth').stat().st_mtime_ns
    drive(whole, '--work-dir', again, '--resume')
    assert (again / 'stage2' / 'iter_2.pth').stat().st_mtime_ns == old
    first, second = (
        safe_load(folder / 'stage3' / 'iter_4.pth')
        for folder in (stages / 'work', again))
    assert same(first['state_dict'], second['state_dict'])
    assert same(first['teacher_state_dict'], second['teacher_state_dict'])
    assert not same(first['state_dict'], first['teacher_state_dict'])


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_h38_resume_in_the_middle_of_an_epoch(stages, tmp_path, stage):
    """H38: every stage, at iteration 3 of 4, and on into the next epoch."""
    data = 'train_dataloader.dataset'
    frames = [f'{data}.frames=8'] if stage < 3 else [
        f'{data}.{one}.frames=8' for one in ('source', 'target')
    ]
    start = [] if stage == 1 else [
        '--checkpoint', handed_over(stages, stage - 1)
    ]
    # draws of the pipeline, too, go on where they were
    text = (stages / f'stage{stage}.py').read_text()
    pack = "dict(type='mmext.PackDepthInputs'"
    assert text.count(pack) == 1
    config = tmp_path / 'flips.py'
    config.write_text(
        text.replace(pack, f"dict(type='mmext.RandomDepthFlip'), {pack}"))
    command = [
        f'--stage{stage}', config, *start, '--no-validate', '--cfg-options',
        *frames, 'train_cfg.max_iters=6',
        'default_hooks.checkpoint.interval=1', '--work-dir'
    ]
    drive(*command, tmp_path / 'whole')
    again = tmp_path / 'again' / f'stage{stage}'
    again.mkdir(parents=True)
    whole = tmp_path / 'whole' / again.name
    shutil.copyfile(whole / 'iter_3.pth', again / 'iter_3.pth')
    (again / 'last_checkpoint').write_text(str(again / 'iter_3.pth'))
    drive(*command, tmp_path / 'again', '--resume')
    names = {path.name for path in again.glob('iter_*.pth')}
    assert names == {f'iter_{i}.pth' for i in (3, 4, 5, 6)}
    for name in ('iter_4.pth', 'iter_6.pth'):
        one, other = (safe_load(path / name) for path in (whole, again))
        keys = ['state_dict'] + ['teacher_state_dict'] * (stage == 3)
        for key in keys:
            assert same(one[key], other[key]), (name, key)
        moments = [each['optimizer']['state'] for each in (one, other)]
        assert moments[0].keys() == moments[1].keys() and moments[0]
        for key, value in moments[0].items():
            assert same(value, moments[1][key]), (name, key)
    first = safe_load(whole / 'iter_3.pth')['state_dict']
    assert not same(first, one['state_dict'])
    if stage == 2:  # its teacher is the file, not what was resumed
        assert not {key for key in one if 'teacher' in key}


def test_stages_after_a_new_one_start_anew(stages, tmp_path, monkeypatch):
    """Though their notes name a file of the same path."""
    module, ran = tool('train_bicross'), []
    work = moved(stages, tmp_path / 'work')

    def run_stage(cfg, stage, args):
        ran.append((stage, args.resume))
        return module.written(cfg.work_dir, args.pick)

    monkeypatch.setattr(module, 'run_stage', run_stage)
    for first in (4, 3, 2, 1):
        ran.clear()
        note = work / f'stage{first}' / 'finished.json'
        text = note.read_text() if first < 4 else ''
        note.unlink(missing_ok=True)
        module.main(
            [str(stages / 'bicross.py'), '--work-dir',
             str(work), '--resume'])
        assert ran == [(f'stage{n}', n == first) for n in range(first, 4)]
        if text:
            note.write_text(text)


def test_changed_options_of_finished_stages_are_told(stages, tmp_path,
                                                     monkeypatch):
    """They are not trained again, whatever --cfg-options says."""
    module, told = tool('train_bicross'), []
    monkeypatch.setattr(module, 'print_log',
                        lambda text, **_: told.append(text))
    monkeypatch.setattr(module, 'run_stage', lambda *_: 1 / 0)
    work = moved(stages, tmp_path / 'work')
    command = [str(stages / 'bicross.py'), '--work-dir', str(work), '--resume']
    module.main([*command, '--no-validate'])
    assert not told
    module.main([*command, '--cfg-options', 'stage2.train_cfg.max_iters=9'])
    text, = told
    note = work / 'stage2' / 'finished.json'
    for part in ('stage2 was finished', 'train_cfg.max_iters: 2 -> 9',
                 f'Delete {note}'):
        assert part in text
    # as an older version wrote it
    known = json.loads(note.read_text())
    known.pop('options')
    note.write_text(json.dumps(known))
    module.main([*command, '--cfg-options', 'stage2.train_cfg.max_iters=9'])
    assert len(told) == 1


def test_what_an_older_run_left_is_not_gone_on_from(stages, tmp_path,
                                                    monkeypatch):
    """A new run in its folder was interrupted before its first checkpoint."""
    module, begun = tool('train_bicross'), []

    def interrupted(cfg):
        begun.append((bool(cfg.get('resume')), cfg.load_from))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'build_runner', interrupted)
    work, start = tmp_path / 'work', handed_over(stages, 2)
    shutil.copytree(stages / 'work' / 'stage3', work / 'stage3')
    command = [
        '--stage3',
        str(stages / 'stage3.py'), '--checkpoint', start, '--work-dir',
        str(work)
    ]
    for options in ([], ['--resume']):
        with pytest.raises(KeyboardInterrupt):
            module.main(command + options)
    assert begun == [(False, start)] * 2
    last = work / 'stage3' / 'iter_2.pth'
    (last.parent / 'last_checkpoint').write_text(str(last))
    (last.parent / 'iter_4.pth').unlink()
    with pytest.raises(KeyboardInterrupt):
        module.main(command + ['--resume'])
    assert begun[-1] == (True, str(last))


def test_what_is_handed_over(tmp_path):
    written = tool('train_bicross').written
    with pytest.raises(UserError, match='no checkpoint to hand over'):
        written(str(tmp_path), 'last')
    with pytest.raises(UserError, match='save_best'):
        written(str(tmp_path), 'best')
    names = ['iter_2.pth', 'best_d1_iter_2.pth', 'best_val_sig_iter_2.pth']
    for age, name in enumerate(reversed(names)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / 'last_checkpoint').write_text('/moved/away/iter_2.pth')
    assert written(str(tmp_path), 'last').endswith('/iter_2.pth')
    best = [f'/moved/away/{name}' for name in names[1:]]
    # the newest of those that the run has written
    assert written(str(tmp_path), 'best', best).endswith(names[2])
    assert written(str(tmp_path), 'best', best[:1]).endswith(names[1])
    with pytest.raises(UserError, match='save_best'):
        written(str(tmp_path), 'best')


def test_the_best_is_of_this_run(stages, tmp_path):
    """Though the folder holds that of an older one, resumed or not."""
    stage, command = tmp_path / 'stage1', [
        '--stage1', stages / 'stage1.py', '--work-dir', tmp_path, '--pick',
        'best', '--cfg-options', 'default_hooks.checkpoint.rule=less'
    ]
    save_best = 'default_hooks.checkpoint.save_best=abs_rel'
    stage.mkdir()
    old = stage / 'best_abs_rel_iter_9.pth'
    shutil.copyfile(handed_over(stages, 1), old)
    os.utime(old, (4e9, 4e9))

    def handed():
        note = json.loads((stage / 'finished.json').read_text())
        return note['checkpoint']

    drive(*command, save_best)
    mine = stage / 'best_abs_rel_iter_2.pth'
    assert handed() == str(mine)
    # gone on with, and nothing better is found
    (stage / 'finished.json').unlink()
    drive(*command, save_best, '--resume')
    assert handed() == str(mine)
    with pytest.raises(UserError, match='written no best'):
        drive(*command)
    assert old.is_file() and mine.is_file()
