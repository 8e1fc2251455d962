# Copyright (c) mmext contributors. All rights reserved.
"""The guard of an adaptation: what it sees and what it does."""
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from mmext.engine.hooks.adaptation_guard_hook import (  # noqa: E402
    prediction_share, relative_drift)
from mmext.registry import HOOKS  # noqa: E402
from mmext.utils.user_error import ConfigError  # noqa: E402
from ..test_loops.common import (METHODS, SVDP,  # noqa: E402
                                 adaptation_config, assert_equal, interrupt,
                                 predictions, report, run, state)


def guarded(folder, method, guard, **kwargs):
    cfg = adaptation_config(folder, method, save_predictions=True, **kwargs)
    cfg.custom_hooks = [dict(type='mmext.AdaptationGuardHook', **guard)]
    return cfg


def log_of(runner) -> str:
    path = Path(runner.log_dir) / f'{runner.timestamp}.log'
    return path.read_text()


def test_share_of_the_commonest_prediction():
    labels = torch.tensor([[3, 3, 1], [3, 0, 3]])
    assert prediction_share(labels) == pytest.approx(4 / 6)
    assert prediction_share(torch.full((2, 2), 7)) == 1
    depth = torch.tensor([10., 10.05, 9.95, 20.])
    assert prediction_share(depth) == pytest.approx(3 / 4)
    assert prediction_share(labels[:0]) == 0


def test_drift_is_a_part_of_the_norm():
    source = dict(a=torch.tensor([3., 0.]), b=torch.tensor([4.]))
    params = dict(a=torch.tensor([3., 0.3]), b=torch.tensor([4.4]),
                  prompt=torch.ones(9))
    assert relative_drift(params, source) == pytest.approx(0.1)
    assert relative_drift(params, {}) == 0


@pytest.mark.parametrize('action', ['warn', 'reset', 'stop'])
def test_actions(action, tmp_path):
    """A limit that every frame exceeds: each action, once per frame."""
    cfg = guarded(tmp_path, METHODS['tent'],
                  dict(action=action, window=1, max_share=0.01))
    runner = run(cfg)
    text, source = log_of(runner), dict(runner.train_loop.method.source or {})
    seen = len(predictions(runner))
    told = report(runner)
    assert told['frames'] == seen and told['stream_frames'] == 4
    assert told['stopped'] is (action == 'stop')
    if action == 'stop':
        assert seen == 1 and 'The stream ends here' in text
        page = Path(runner.work_dir) / 'adaptation_report.md'
        assert '1 frames' in page.read_text() and 'stopped' in page.read_text()
    elif action == 'reset':
        assert seen == 4 and text.count('returns to the source') == 4
        assert_equal(dict(runner.train_loop.model.state_dict()), source)
    else:
        # Two domains, one warning in each.
        assert seen == 4 and text.count('AdaptationGuardHook, frame') == 2


def test_drift_and_quiet_runs(tmp_path):
    cfg = guarded(tmp_path, METHODS['tent'],
                  dict(max_drift=1e-9, interval=2, max_share=None))
    text = log_of(run(cfg))
    assert 'the parameters moved by' in text and 'drift' in text
    quiet = guarded(tmp_path, METHODS['tent'], dict(max_drift=1e9, window=50),
                    work='quiet')
    assert 'AdaptationGuardHook, frame' not in log_of(run(quiet))


def test_resumed_run_acts_at_the_same_frame(tmp_path):
    """The window is saved: resets come where the whole run has them."""
    cfg = guarded(tmp_path, SVDP,
                  dict(action='reset', window=3, max_share=0.01), rounds=2,
                  count=1)
    whole = run(cfg)
    assert log_of(whole).count('returns to the source') == 1
    for frame in (1, 2, 3):
        again = run(interrupt(cfg, frame, f'again_{frame}'))
        later = predictions(again)
        assert_equal(later, {k: predictions(whole)[k] for k in later})
        assert_equal(state(whole), state(again))


def test_a_reset_of_the_loop_empties_the_window(tmp_path):
    """Frames of the domain before do not count, also in a resumed run."""
    cfg = guarded(tmp_path, METHODS['tent'],
                  dict(window=2, max_share=0.01), reset='domain')
    text = log_of(run(cfg))
    assert text.count('AdaptationGuardHook, frame') == 2
    assert 'frame 2 (fog' in text and 'frame 4 (night' in text
    again = log_of(run(interrupt(cfg, 3, 'again')))
    assert again.count('AdaptationGuardHook, frame') == 1
    assert 'frame 4 (night' in again


@pytest.mark.parametrize('options, match', [
    (dict(action='panic'), 'panic'),
    (dict(max_share=95), 'part of the pixels'),
    (dict(max_drift=0.), 'above 0'),
    (dict(window=0), 'at least 1'),
    (dict(patience=0), 'at least 1'),
])
def test_options_out_of_range(options, match):
    with pytest.raises(ConfigError, match=match):
        HOOKS.build(dict(type='mmext.AdaptationGuardHook', **options))


def test_another_train_loop(tmp_path):
    from ..tiny_training import build
    runner = build(tmp_path, hooks=(dict(type='mmext.AdaptationGuardHook'), ))
    with pytest.raises(ConfigError, match='TestTimeAdaptLoop'):
        runner.train()
