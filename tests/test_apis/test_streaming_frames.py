# Copyright (c) mmext contributors. All rights reserved.
"""Which frames StreamingAdapter takes, and where it saves."""
import os

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from mmext.apis import StreamingAdapter
from mmext.utils.user_error import UserError
from ..test_engine.test_loops.common import METHODS, adaptation_config
from ..toy_models import toy_config
from ..toy_runs import plain_pipeline, quick_runner

FRAME = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.fixture(scope='module')
def adapter(tmp_path_factory):
    """One that has seen no frame yet."""
    cfg = adaptation_config(tmp_path_factory.mktemp('frames'),
                            METHODS['source'], domains=('fog', ), count=1)
    return StreamingAdapter(cfg)


@pytest.mark.parametrize('frame, message', [
    (FRAME.astype(np.uint16) * 257, 'uint8, .* but got uint16.*frame // 256'),
    (FRAME.astype(np.float32) / 255, 'but got float32.*frame . 255'),
    (FRAME.astype(np.float32), r'Convert it with .astype\(np.uint8\)'),
    (FRAME.astype(np.int64), 'but got int64'),
    (FRAME > 9, 'but got bool'),
    (np.dstack([FRAME, FRAME[..., :1]]), r'W, 3\), .*96, 4\).*RGBA2BGR'),
    (FRAME[..., :1], r'W, 3\), .*96, 1\).*GRAY2BGR'),
    (FRAME[..., 0], r'W, 3\), .*shape \(64, 96\)'),
    (FRAME.transpose(2, 0, 1), r'W, 3\), .*3, 64, 96'),
    (FRAME[:0], r'shape \(0, 96, 3\)'),
    (torch.from_numpy(FRAME), 'but got Tensor'),
    (None, 'but got NoneType'),
])
def test_frames_that_are_no_pictures(adapter, frame, message):
    """They would be adapted to as if they were, to a dark or white scene."""
    with pytest.raises(ValueError, match=f'Expected a frame .*{message}'):
        adapter(frame)


def test_where_it_saves(adapter, tmp_path):
    with quick_runner():
        adapter(FRAME)
    for path in ('', str(tmp_path)):
        with pytest.raises(UserError, match=f'path to be a file .*{path!r}'):
            adapter.save(path)
    # after the first frame, too
    with pytest.raises(ValueError, match='but got float32'):
        adapter(FRAME.astype(np.float32))
    adapter.save(str(tmp_path / 'adapted.pth'))
    assert os.listdir(tmp_path) == ['adapted.pth']


def test_grey_models(tmp_path):
    """Where the config reads grey pictures, grey arrays are frames."""
    model = toy_config(num_classes=19)
    model['backbone']['in_channels'] = 1
    model['data_preprocessor'].update(
        mean=[127.], std=[60.], bgr_to_rgb=False)
    pipeline = plain_pipeline()
    pipeline[0]['color_type'] = 'grayscale'
    cfg = adaptation_config(
        tmp_path, dict(type='mmext.SourceOnly'), domains=('fog', ), count=1,
        model=model, pipeline=pipeline)
    cv2.imwrite(str(tmp_path / 'grey.png'), FRAME[..., 0])
    with quick_runner():
        adapter = StreamingAdapter(cfg)
        with pytest.raises(ValueError, match=r'W, 1\)'):
            adapter(FRAME)
        labels = [
            adapter(frame).labels for frame in (FRAME[..., 0], FRAME[..., :1],
                                                str(tmp_path / 'grey.png'))
        ]
    assert labels[0].shape == (64, 96)
    assert torch.equal(labels[0], labels[1])
    assert torch.equal(labels[0], labels[2])
