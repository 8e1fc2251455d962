# Copyright (c) mmext contributors. All rights reserved.
"""Two processes of the stages (property H39)."""
import json
import os
import sys

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmext.utils.io import safe_load
from .. import processes
from ..test_models.test_segmentation.common import same
from ..tool_fixtures import run_tool, tool_environment
from .stage_runs import handed_over, weights


def test_h39_two_processes_average_their_gradients():
    """H39: stages 2 and 3, as one process that averages.

    L_sig and the contrastive loss pool the batch of their own process only.
    """
    processes.run(sys.executable, '-m', 'tests.ddp_stages',
                  processes.free_port())


def test_two_processes(stages, tmp_path):
    """Stage 3 with ``tools/dist_train.sh`` on CPUs: one model, one result."""
    if torch.cuda.is_available():
        pytest.skip('checks the machines without a GPU')
    start = handed_over(stages, 2)
    run_tool(
        'tools/dist_train.sh',
        stages / 'stage3.py',
        '2',
        '--work-dir',
        'two',
        '--cfg-options',
        f'load_from={start}',
        cwd=tmp_path)
    saved = safe_load(tmp_path / 'two' / 'iter_4.pth')
    student, teacher = saved['state_dict'], saved['teacher_state_dict']
    for state in (student, teacher):
        assert all(value.isfinite().all() for value in state.values())
        assert not same(state, weights(start))
    assert {key for key in student if key.startswith('domain_loss')}
    lines = next((tmp_path / 'two').glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in lines.read_text().splitlines()]
    scores = [one for one in lines if any('abs_rel' in key for key in one)]
    assert len(scores) == 1
    counts = [v for k, v in scores[0].items() if k.endswith('num_images')]
    assert counts and set(counts) == {2}


def test_all_stages_in_two_processes(stages, tmp_path):
    """The command of the method's page: one note, one checkpoint a stage."""
    if torch.cuda.is_available():
        pytest.skip('checks the machines without a GPU')
    text = processes.run_distributed(
        processes.ROOT / 'tools' / 'train_bicross.py',
        stages / 'bicross.py',
        '--launcher',
        'pytorch',
        '--no-validate',
        '--work-dir',
        'two',
        cwd=tmp_path,
        **tool_environment(tmp_path))
    work, before = tmp_path / 'two', None
    for n, last in ((1, 2), (2, 2), (3, 4)):
        folder = work / f'stage{n}'
        note = json.loads((folder / 'finished.json').read_text())
        assert note['started_from'] == before
        before = note['checkpoint']
        assert os.path.samefile(tmp_path / before, folder / f'iter_{last}.pth')
        assert text.count(f'stage{n} wrote') == 1
        # both have seen their half of the samples
        alone = weights(stages / 'work' / f'stage{n}' / f'iter_{last}.pth')
        both = weights(tmp_path / before)
        assert both.keys() == alone.keys() and not same(both, alone)
        assert all(value.isfinite().all() for value in both.values())
    assert len(list(work.glob('stage3/*/vis_data/scalars.json'))) == 1
