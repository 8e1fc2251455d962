# Copyright (c) mmext contributors. All rights reserved.
"""Options of the split that are refused."""
import pytest

pytest.importorskip('mmpretrain')

from mmext.models.adapters.split_options import SplitOptions
from mmext.utils.user_error import ConfigError
from ...tiny_classifiers import adaptformer, build


@pytest.mark.stack_subset
@pytest.mark.parametrize('key', ['split_bias', 'tie_indices', 'fixed_mask'])
def test_a_text_for_a_switch(key):
    """Any text is True: ``'no'`` would switch the option on."""
    for text in ('no', 'False', ''):
        with pytest.raises(ConfigError, match=f'{key} is True or False'):
            SplitOptions(**{key: text})
    assert getattr(SplitOptions(**{key: 0}), key) is False
    assert getattr(SplitOptions(**{key: 1}), key) is True


@pytest.mark.parametrize('options, key', [
    (dict(adapter=adaptformer(fixed_mask='no')), 'fixed_mask'),
    (dict(targets=[dict(pattern='layers.0', split_bias='no')]), 'split_bias'),
    (dict(tie_indices='no'), 'tie_indices'),
])
def test_a_text_for_a_switch_of_a_model(options, key):
    with pytest.raises(ConfigError, match=f"{key} .*the text 'no'"):
        build(**options)
