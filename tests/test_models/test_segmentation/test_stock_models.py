# Copyright (c) mmext contributors. All rights reserved.
"""Every method on every kind of stock mmseg segmentor."""
import pytest
import torch

pytest.importorskip('mmseg')

from mmext.models.segmentation import (SVDP, VDP, BNStats, CoTTA,  # noqa: E402
                                       SourceOnly, Tent)
from mmext.utils.user_error import ConfigError  # noqa: E402
from ...tiny_segmentors import NAMES, build_tiny  # noqa: E402
from .common import REFERENCE, make_frame, snapshot, start  # noqa: E402

BASE = (64, 96)
ORI = (80, 120)
METHODS = dict(
    source=lambda: SourceOnly(reference_view=REFERENCE),
    multi_view=lambda: SourceOnly(
        multi_view=True, reference_view=REFERENCE),
    bn_stats=lambda: BNStats(reference_view=REFERENCE),
    tent=lambda: Tent(reference_view=REFERENCE),
    tent_entropy=lambda: Tent('entropy', reference_view=REFERENCE),
    cotta=lambda: CoTTA(reference_view=REFERENCE),
    vdp=lambda: VDP(reference_view=REFERENCE),
    svdp=lambda: SVDP(sparse_rate=0.01, reference_view=REFERENCE),
    svdp_untrained=lambda: SVDP(
        sparse_rate=0.01, prompt_grad=False, reference_view=REFERENCE))
LEARNS = ('tent', 'tent_entropy', 'cotta', 'vdp', 'svdp', 'svdp_untrained')


@pytest.mark.parametrize('kind', METHODS)
@pytest.mark.parametrize('name', NAMES)
def test_one_step(name, kind):
    """Properties 16, 21: two frames: labels, movement, modes, buffers."""
    model = build_tiny(name)
    method = METHODS[kind]()
    optim = start(method, model, base=BASE)
    before = snapshot(model)
    for seed in range(2):
        result = method.step(make_frame(seed, base=BASE, ori=ORI), optim)
        assert result.labels.shape == ORI
        assert result.labels.dtype == torch.int64
        assert not result.skipped
        assert all(v == v for v in result.log.values())
    after = snapshot(model)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert bool(moved) is (kind in LEARNS)
    assert not moved & {k for k, _ in model.named_buffers()}
    assert not any(m.training for m in model.modules())
    if kind == 'svdp':
        assert result.uncertainty.max() > 0
        assert result.log['prompt_shift'] > 0


@pytest.mark.parametrize('name', NAMES)
def test_uncertainty_passes(name):
    """Properties 1-4: dropout before the classifier, also without one."""
    model = build_tiny(name)
    method = SVDP(sparse_rate=0.01, reference_view=REFERENCE)
    start(method, model, base=BASE)
    teacher = method.teacher.module
    calls = []
    handle = teacher.backbone.register_forward_hook(
        lambda *args: calls.append(1))
    before = [(type(m), m.training, getattr(m, 'p', None))
              for m in teacher.modules()]
    frame = make_frame(base=BASE, ori=ORI)
    u = method.uncertainty(frame.views[REFERENCE], ORI)
    handle.remove()
    assert len(calls) == 1
    assert before == [(type(m), m.training, getattr(m, 'p', None))
                      for m in teacher.modules()]
    assert u.shape == ORI
    assert 0 <= u.min() and 0 < u.max() <= 1 - 1 / 19
    if name == 'fcn':
        assert teacher.decode_head.dropout is None


@pytest.mark.parametrize('name', NAMES)
def test_every_parameter_is_restored(name):
    """Property 27: by role, not by name: MiT's ``in_proj_*`` as well."""
    model = build_tiny(name)
    method = CoTTA(reference_view=REFERENCE, restore_prob=1.)
    start(method, model, base=BASE)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(1.)
    method.restore()
    for key, value in model.named_parameters():
        assert torch.equal(value, method.source[key]), key
    if name == 'segformer':
        assert any('in_proj' in key for key in method.source)


def test_cascade():
    """Cascaded heads: logits of the last stage, dropout in its head."""
    from mmengine.config import ConfigDict
    from mmseg.registry import MODELS

    from ...tiny_segmentors import NORM, tiny_config
    from ...toy_models import init_scope
    init_scope()
    config = tiny_config('fcn')
    first = config['decode_head']
    second = dict(
        first, type='OCRHead', ocr_channels=8, in_channels=64,
        dropout_ratio=0.1)
    for key in ('num_convs', 'concat_input'):
        second.pop(key)
    config.update(
        type='CascadeEncoderDecoder', num_stages=2,
        decode_head=[first, dict(second, norm_cfg=NORM)])
    model = MODELS.build(ConfigDict(config)).eval()
    method = SVDP(sparse_rate=0.01, reference_view=REFERENCE)
    optim = start(method, model, base=BASE)
    result = method.step(make_frame(base=BASE, ori=ORI), optim)
    assert result.labels.shape == ORI and result.uncertainty.max() > 0


@pytest.mark.parametrize('kind', ['source', 'svdp'])
def test_head_with_one_channel(kind):
    """Softmax over one channel would predict class 0 everywhere."""
    model = build_tiny('fcn')
    head = model.decode_head
    head.out_channels = 1
    for heads in (head, torch.nn.ModuleList([build_tiny('fcn').decode_head,
                                             head])):
        model.decode_head = heads
        with pytest.raises(ConfigError, match='out_channels=2'):
            METHODS[kind]().prepare(model, BASE, 0)


def test_head_without_logits():
    """A head that predicts sets of masks is refused with a reason."""
    model = build_tiny('fcn')
    model.decode_head.forward = lambda feats: dict(masks=feats)
    method = CoTTA(reference_view=REFERENCE)
    optim = start(method, model, base=BASE)
    method.pseudo_label = lambda frame, index, network: (torch.zeros(
        ORI, dtype=torch.long), {})
    with pytest.raises(ConfigError, match='returns logits of shape'):
        method.step(make_frame(base=BASE, ori=ORI), optim)
