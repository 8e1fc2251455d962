# Copyright (c) mmext contributors. All rights reserved.
"""Switches, of which Python would take any text for True."""
from dataclasses import dataclass

import numpy as np
import pytest

from mmext.utils.arguments import as_switch, set_switches
from mmext.utils.user_error import ConfigError

pytestmark = pytest.mark.stack_subset


@pytest.mark.parametrize('value, switch', [(True, True), (False, False),
                                           (1, True), (0, False),
                                           (np.bool_(False), False),
                                           (np.int64(1), True)])
def test_switches_and_the_numbers_0_and_1(value, switch):
    assert as_switch('x', value) is switch


@pytest.mark.parametrize(
    'value', ['no', 'False', 'True', '0', '', None, 2, 0.0, [], [True], {}])
def test_what_is_no_switch(value):
    with pytest.raises(ConfigError, match=r'a\.x is True or False') as error:
        as_switch('a.x', value)
    assert repr(value) in str(error.value)
    assert ('the text' in str(error.value)) == isinstance(value, str)


@dataclass(frozen=True)
class Options:
    name: str = 'no'
    on: bool = True

    def __post_init__(self):
        set_switches(self, 'place.')


def test_switches_of_a_frozen_dataclass():
    assert Options(on=0).on is False and Options(name='no').name == 'no'
    with pytest.raises(ConfigError, match=r"place\.on .*the text 'no'"):
        Options(on='no')
