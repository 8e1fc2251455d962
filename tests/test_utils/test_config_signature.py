# Copyright (c) mmext contributors. All rights reserved.
"""What is known of arguments where a class hands others elsewhere."""
import pytest

from mmext.utils.config_check import check_config
from mmext.utils.config_signature import accepted_arguments


class Loader:
    """Hands what it does not know to something else than its base."""

    def __init__(self, on: bool = True, level: int = 1, **options):
        self.options = dict(options)


def test_own_arguments_are_known_beside_any_others():
    accepted = accepted_arguments(Loader)
    assert accepted.names is None
    assert accepted.switches == {'on'} and accepted.numbers == {'level'}


@pytest.mark.parametrize('options, words', [
    (dict(allow_silent='no'), ["'allow_silent'", "the text 'no'"]),
    (dict(length='long'), ["'length'", "the text 'long'"]),
    (dict(allow_silent=False, length=64, size=(4, 6)), []),
])
def test_texts_in_a_loader_of_spikes(options, words):
    pytest.importorskip('mmseg')
    step = dict(type='mmext.LoadSpikeFromFile', **options)
    cfg = dict(
        default_scope='mmseg',
        model=dict(type='mmext.SpikeSE'),
        tta_pipeline=[step])
    found = [
        str(one) for one in check_config(cfg, build=False)
        if 'LoadSpikeFromFile' in str(one)
    ]
    assert len(found) == bool(words), found
    assert all(word in line for line in found for word in words), found
    assert all(line.startswith('error') for line in found)
