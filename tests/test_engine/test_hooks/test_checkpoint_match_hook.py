# Copyright (c) mmext contributors. All rights reserved.
"""What is said about a checkpoint that does not fit."""
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmext.engine.hooks import CheckpointMatchHook
from mmext.engine.hooks.checkpoint_match_hook import check_source
from mmext.utils.io import CheckpointError
from mmext.utils.user_error import ConfigError


@pytest.mark.stack_subset
@pytest.mark.parametrize('setting', ['', 'train_cfg.source_ignore'])
def test_a_setting_is_named_where_it_helps_only(setting):
    own = dict(a=torch.zeros(2), b=torch.zeros(3))
    given = dict(own, c=torch.zeros(1))
    cases = [(given, '1 unexpected', bool(setting)),
             (dict(a=own['a']), '1 missing', False),
             (dict(own, b=torch.ones(4)), 'of another shape', False),
             (dict(own, a=torch.full((2, ), torch.nan)), 'not finite', False)]
    for state, problem, named in cases:
        with pytest.raises(ConfigError, match=problem) as caught:
            check_source(own, state, lambda key: False, (), 'x.pth', setting)
        assert ('left over' in str(caught.value)) == named
        assert str(caught.value).endswith('.')
    check_source(own, given, lambda key: False, ('^c', ), 'x.pth', setting)


def test_a_text_is_one_pattern():
    """Not one of each letter, of which ``^`` fits every key."""
    assert CheckpointMatchHook(ignore='^neck').ignore == ('^neck', )
    assert CheckpointMatchHook(ignore=['a', 'b']).ignore == ('a', 'b')
    assert CheckpointMatchHook(optional='^neck').optional == ('^neck', )


def test_keys_that_may_be_missing():
    runner = SimpleNamespace(
        model=nn.ModuleDict(dict(body=nn.Linear(1, 1), loss=nn.Linear(1, 1))),
        _load_from='x.pth')
    given = nn.ModuleDict(dict(body=nn.Linear(1, 1))).state_dict()
    hook = CheckpointMatchHook((), optional=r'^loss\.')
    hook.after_load_checkpoint(runner, dict(state_dict=given))
    hook.after_load_checkpoint(runner, given)
    for state, error in ((dict(), ConfigError),
                         (dict(given, step=3), None),
                         (None, CheckpointError)):
        with (pytest.raises(error, match='x.pth')
              if error else nullcontext()):
            hook.after_load_checkpoint(runner, dict(state_dict=state))
