# Copyright (c) mmext contributors. All rights reserved.
"""What a data sample is called in messages."""
import pytest
from mmengine.structures import BaseDataElement

from mmext.evaluation.sample_fields import sample_name


@pytest.mark.parametrize('kind', [
    lambda **paths: BaseDataElement(metainfo=paths),
    dict,
])
def test_names_of_samples(kind):
    """Those of spikes and depth have no image."""
    spike, depth = dict(spike_path='s.npy'), dict(depth_map_path='d.png')
    assert sample_name(kind(img_path='i.png', **spike, **depth)) == 'i.png'
    assert sample_name(kind(**spike, **depth)) == 's.npy'
    assert sample_name(kind(img_path=None, **depth)) == 'd.png'
    assert 'without img_path' in sample_name(kind(domain='fog'))
