# Copyright (c) mmext contributors. All rights reserved.
"""Statistics of a run."""
import pytest

pytest.importorskip('mmseg')

from mmext.datasets.domain_sequence import Visit  # noqa: E402
from mmext.engine.loops.adaptation_report import StreamStatistics  # noqa: E402
from mmext.models.segmentation import StepResult  # noqa: E402


def test_means_are_over_the_frames_that_have_a_value():
    """A frame whose loss is not a number does not pull the mean to zero."""
    visit = Visit(1, 'fog', 0, 3)
    statistics = StreamStatistics()
    for loss, skipped in ((1., ''), (float('nan'), 'spoilt'), (3., '')):
        result = StepResult(None, dict(loss=loss), skipped=skipped)
        statistics.add(visit, result, seconds=0.5)
    resumed = StreamStatistics()
    resumed.load_state_dict(statistics.state_dict())
    for one in (statistics, resumed):
        assert one.means() == {
            'r1/fog':
            dict(loss=2., skipped=1., frames=3., seconds=0.5)
        }
        assert one.seconds_per_frame() == 0.5
