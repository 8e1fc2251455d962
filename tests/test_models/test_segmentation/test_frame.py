# Copyright (c) mmext contributors. All rights reserved.
"""Frames from batches, and the choice of the reference view."""
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.dataset import pseudo_collate  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from mmext.models.segmentation import Frame, View  # noqa: E402
from ...toy_models import MEAN, STD, build_toy  # noqa: E402
from .common import make_frame  # noqa: E402


def packed(size=(32, 48), flip=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(
        0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    meta = dict(
        img_shape=size, ori_shape=(64, 96), flip=flip,
        flip_direction='horizontal' if flip else None)
    return dict(inputs=image, data_samples=SegDataSample(metainfo=meta))


def several(views):
    return dict(
        inputs=[v['inputs'] for v in views],
        data_samples=[v['data_samples'] for v in views])


def test_plain_batch():
    """A plain test pipeline: one view, normalised once, RGB."""
    one = packed()
    frame = Frame.from_batch(
        pseudo_collate([one]), build_toy().data_preprocessor)
    assert len(frame.views) == 1 and frame.ori_shape == (64, 96)
    mean = torch.tensor(MEAN)[:, None, None]
    std = torch.tensor(STD)[:, None, None]
    expected = (one['inputs'].flip(0).float() - mean) / std
    assert torch.allclose(frame.views[0].x[0], expected, atol=1e-5)


def test_batch_of_views():
    """TestTimeAug: as many views, in order, of their own size."""
    views = [
        packed((16, 24)), packed((16, 24), True), packed(),
        packed(flip=True)
    ]
    frame = Frame.from_batch(
        pseudo_collate([several(views)]), build_toy().data_preprocessor)
    assert [v.size for v in frame.views] == [(16, 24)] * 2 + [(32, 48)] * 2
    assert [v.flip_dims for v in frame.views] == [(), (-1, )] * 2
    assert frame.reference(2) == 2


@pytest.mark.parametrize('views', [False, True])
def test_more_than_one_frame(views):
    """Property 45: a batch of two frames is refused with a reason."""
    item = (lambda s: several([packed(seed=s), packed(seed=s)])) if views \
        else (lambda s: packed(seed=s))
    with pytest.raises(ValueError, match='batch_size=1'):
        Frame.from_batch(
            pseudo_collate([item(0), item(1)]),
            build_toy().data_preprocessor)


def test_preprocessor_pads_the_view_only():
    """Property 20: padding is known, so that labels stay aligned."""
    from mmseg.registry import MODELS
    preprocessor = MODELS.build(
        dict(type='SegDataPreProcessor', mean=MEAN, std=STD,
             bgr_to_rgb=True, test_cfg=dict(size_divisor=32)))
    frame = Frame.from_batch(
        pseudo_collate([packed((40, 50))]), preprocessor)
    view = frame.views[0]
    assert view.x.shape[-2:] == (64, 64)
    assert view.size == (40, 50)


def test_reference_must_be_unique():
    """Several unmirrored views: the index must be given."""
    frame = make_frame()
    with pytest.raises(ValueError, match='reference_view') as error:
        frame.reference()
    assert '2: 48x32' in str(error.value)
    assert make_frame(ratios=(1., )).reference() == 0


@pytest.mark.parametrize('index', [1, 3, 17, -1])
def test_reference_must_not_be_mirrored(index):
    """A mirrored or missing view cannot be the reference."""
    with pytest.raises(ValueError, match='must be an unmirrored view'):
        make_frame().reference(index)


@pytest.mark.parametrize('direction, dims', [
    ('horizontal', (-1, )), ('vertical', (-2, )), ('diagonal', (-2, -1)),
    (None, (-1, )),
])
def test_flip_directions(direction, dims):
    """Axes of each kind of mirror."""
    view = View(torch.zeros(1, 3, 4, 6),
                dict(flip=True, flip_direction=direction))
    assert view.flip_dims == dims
    assert View(view.x, dict(flip=False)).flip_dims == ()
    assert view.size == (4, 6)
