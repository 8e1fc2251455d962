# Copyright (c) mmext contributors. All rights reserved.
"""The stages that most tests look at or go on from."""
import pytest

from ..bicross_runs import write_stages


@pytest.fixture(scope='session')
def stages(tmp_path_factory):
    """All three stages, two iterations each, four of the last."""
    # not before the tests have asked for the hosts
    from .stage_runs import drive
    folder = tmp_path_factory.mktemp('bicross')
    whole = write_stages(folder)
    drive(whole, '--work-dir', folder / 'work')
    return folder
