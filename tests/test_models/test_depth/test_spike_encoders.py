# Copyright (c) mmext contributors. All rights reserved.
import pytest
import torch

pytest.importorskip('mmseg')

from mmext.models.depth import SpikeSE, SpikeUNet, SpikeUSENet
from mmext.utils.user_error import ConfigError
from tests.tiny_depth import depth_model


def small(cls, **kwargs):
    return cls(8, 3, widths=(8, 16, 16), up_widths=(8, 8), **kwargs)


@pytest.mark.stack_subset
def test_se_weighs_each_moment_as_a_whole():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, 7)
    weight = SpikeSE(16, 4)(x) / x
    torch.testing.assert_close(weight, weight[:, :, :1, :1].expand_as(x))
    assert bool((weight > 0).all()) and bool((weight < 1).all())


@pytest.mark.parametrize('cls', [SpikeUNet, SpikeUSENet])
@pytest.mark.parametrize('size', [(16, 16), (13, 22)])
def test_unet_keeps_the_size(cls, size):
    kwargs = dict(reduction=4) if cls is SpikeUSENet else {}
    out = small(cls, **kwargs)(torch.randn(2, 8, *size).sign())
    assert out.shape == (2, 3, *size)


def test_usenet_differs_by_its_attention_only():
    torch.manual_seed(0)
    model = small(SpikeUSENet, reduction=4).eval()
    plain = small(SpikeUNet).eval()
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    assert set(missing.unexpected_keys) == {
        'attention.squeeze.weight', 'attention.excite.weight'
    }
    x = torch.randn(1, 8, 16, 16)
    assert not torch.allclose(model(x), plain(x))
    model.attention = torch.nn.Identity()
    torch.testing.assert_close(model(x), plain(x))


@pytest.mark.parametrize('temporal, channels', [
    (dict(type='mmext.SpikeSE', channels=16), 16),
    (dict(
        type='mmext.SpikeUNet',
        in_channels=16,
        widths=(8, 16),
        up_widths=(8, )), 3),
])
def test_temporal_module_is_part_of_the_estimator(temporal, channels):
    """It is in front of the stem, trains, and is saved."""
    model = depth_model(temporal=temporal, in_channels=channels)
    depth, uncertainty = model.depth_and_uncertainty(
        torch.randn(2, 16, 32, 32).sign())
    (depth.log().mean() + uncertainty.mean()).backward()
    weights = list(model.temporal.parameters())
    assert weights and all(p.grad is not None for p in weights)
    assert any(key.startswith('temporal.') for key in model.state_dict())


def test_bad_settings():
    with pytest.raises(ConfigError, match='channels=10, reduction=16'):
        SpikeSE(10)
    with pytest.raises(ConfigError, match='one number more'):
        SpikeUNet(8, widths=(8, 8), up_widths=(8, 8))
