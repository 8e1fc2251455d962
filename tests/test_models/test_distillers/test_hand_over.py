# Copyright (c) mmext contributors. All rights reserved.
"""Which weights may go from one stage to the next: H12."""
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmext.models.distillers import check_weights, load_weights
from mmext.utils.user_error import ConfigError, MissingFileError
from tests.tiny_depth import depth_model
from ..test_depth.stage_models import TICKS, adapter


def test_h12_what_may_be_handed_over(tmp_path):
    """H12: RGB into spikes: one key; wrong files say what they are."""
    rgb = depth_model(seed=4, losses=True)
    path = str(tmp_path / 'rgb.pth')
    torch.save(dict(state_dict=rgb.state_dict()), path)
    model = depth_model(losses=True, in_channels=TICKS)
    stem = f'backbone.{model.backbone.stem_key}'
    before = model.state_dict()[stem].clone()
    assert load_weights(model, path, new_stem=True) == [stem]
    for key, value in model.state_dict().items():
        assert torch.equal(value,
                           before if key == stem else rgb.state_dict()[key])
    left = load_weights(model, path, new_stem=True, stem='inflate')
    assert left == [stem]
    mean = rgb.state_dict()[stem].mean(1)
    for moment in model.state_dict()[stem].unbind(1):
        assert torch.equal(moment, mean)
    with pytest.raises(ConfigError, match=r'RGB \(3 channels\).*spikes'):
        load_weights(model, path)
    with pytest.raises(ConfigError, match='Stage 2 makes'):
        load_weights(adapter(), path)
    with pytest.raises(MissingFileError, match='none.pth'):
        load_weights(model, str(tmp_path / 'none.pth'))
    with pytest.raises(ConfigError, match='weights are not in it'):
        check_weights(model, dict(fc=torch.zeros(3)), 'a file')
    spoilt = {key: value.clone() for key, value in rgb.state_dict().items()}
    for key, bad in ((stem, float('nan')), (list(spoilt)[-1], float('inf'))):
        spoilt[key].view(-1)[-1] = bad
        with pytest.raises(ConfigError, match='hold NaN or infinity'):
            check_weights(model, spoilt, 'a file', new_stem=True)
    wide = {
        k: v.repeat_interleave(2, 0) if v.dim() else v
        for k, v in model.state_dict().items()
    }
    with pytest.raises(ConfigError, match='another network'):
        check_weights(model, wide, 'a file', new_stem=True)


def test_temporal_modules_are_not_left_out(tmp_path):
    """New in the step from RGB to spikes only, never dropped."""
    temporal = dict(type='mmext.SpikeSE', channels=TICKS)
    rgb = depth_model(seed=4, losses=True)
    spikes = depth_model(losses=True, in_channels=TICKS)
    squeezed = depth_model(losses=True, in_channels=TICKS, temporal=temporal)
    assert check_weights(squeezed, rgb.state_dict(), 'rgb', new_stem=True)
    check_weights(squeezed, squeezed.state_dict(), 'same')
    with pytest.raises(ConfigError, match="such as 'temporal"):
        check_weights(squeezed, spikes.state_dict(), 'spikes')
    with pytest.raises(ConfigError, match='Set `temporal`'):
        check_weights(spikes, squeezed.state_dict(), 'squeezed')
