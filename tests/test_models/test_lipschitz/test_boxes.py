# Copyright (c) mmext contributors. All rights reserved.
"""Radii of balls, their units, and the boxes around images."""
import math

import numpy as np
import pytest
import torch

from mmext.models.lipschitz.bounds import CertificationError
from mmext.models.lipschitz.boxes import (check_eps, eps_box, input_box,
                                          per_channel, widened_eps)
from mmext.utils.user_error import ConfigError
from .nets import HIGH, LOW, MEAN, STD, pixels


def test_a_value_out_of_range_stays_in_its_interval():
    """Otherwise its interval is upside down and certifies what is false."""
    x = torch.tensor([[-0.2, 0.5, 1.2]])[..., None, None]
    box = eps_box(x, 0.1, 0., 1.)
    assert (box.lower <= x).all() and (x <= box.upper).all()
    assert box.lower.flatten().tolist() == pytest.approx([-0.2, 0.4, 1.1])
    assert box.upper.flatten().tolist() == pytest.approx([-0.1, 0.6, 1.2])
    # Half a grey level above white passes as rounding, and is in the box.
    white = (torch.full((1, 1, 2, 2), 1.0005) - 0.5) / 0.25
    box = input_box(white, 1e-4, 0.5, 0.25, sound=False)
    assert (box.lower <= white).all() and (white <= box.upper).all()


@pytest.mark.parametrize('eps', [8, -0.1, math.nan, [0.1, 2.]])
def test_eps_in_wrong_units_is_refused(eps):
    with pytest.raises(ValueError, match='Write 8/255, not 8'):
        check_eps(eps)
    with pytest.raises(ValueError, match='Write 8/255, not 8'):
        input_box(pixels(2, (1, 4, 4)), torch.tensor(eps), MEAN, STD)


def test_radii_are_numbers_or_fractions():
    """``--cfg-options`` and JSON give texts."""
    assert check_eps('8/255') == 8 / 255 and check_eps('0.1') == 0.1
    assert check_eps(['2/255', 0.1, 1]) == (2 / 255, 0.1, 1.)
    assert check_eps(np.array([0.25, 0.5])) == (0.25, 0.5)
    assert isinstance(check_eps(np.float32(0.25)), float)
    tensor = torch.tensor([0.1])
    assert check_eps(tensor) is tensor
    x = pixels(2, (1, 4, 4))
    found, expected = (
        input_box(x, eps, MEAN, STD) for eps in ('8/255', 8 / 255))
    assert torch.equal(found.lower, expected.lower)
    for wrong in (None, 'a', '', '8/0', '8/', '1/2/3', [None], dict(eps=0.1)):
        with pytest.raises(ConfigError, match="a fraction such as '8/255'"):
            check_eps(wrong)


def test_images_of_another_normalisation_are_refused():
    x = pixels(2, (1, 4, 4))
    for wrong in (255 * x, x * STD + MEAN + 3.):
        with pytest.raises(CertificationError, match='outside the valid'):
            input_box(wrong, 0.1, MEAN, STD)
    with pytest.raises(CertificationError, match='divided by 255'):
        input_box(x, 0.1, 255 * MEAN, 255 * STD)
    assert input_box(255 * x, 0.1, MEAN, STD, clamp=False)


def test_rounding_of_the_input_is_covered():
    """eps' takes in the ends of every box computed in float32."""
    x = pixels(50, (3, 8, 8))
    eps = torch.tensor([[0.1 / STD]], dtype=torch.float64)
    for program, times in ((True, 5), (False, 3)):
        wide = widened_eps(eps, x, program)
        size = x.flatten(1).abs().amax(1, keepdim=True).double()
        assert torch.allclose(
            wide, eps * (1 + 2**-22) + times * 2**-24 * size, rtol=1e-12)
    box = input_box(x, 0.1, MEAN, STD, clamp=False)
    assert (box.lower.double() <= x.double() - eps).all()
    assert (box.upper.double() >= x.double() + eps).all()
    edge = torch.tensor([LOW, HIGH]).view(2, 1, 1, 1)
    box = input_box(edge, 0.1, MEAN, STD)
    assert (box.lower[0] <= LOW).all() and (box.upper[1] >= HIGH).all()
    assert float(box.upper[1] - HIGH) < 1e-5
    each = input_box(x, torch.linspace(0, 1, 50), MEAN, STD, clamp=False)
    width = (each.upper - each.lower).flatten(1).amax(1)
    assert torch.allclose(width, torch.linspace(0, 2 / STD, 50), atol=1e-5)


def test_numbers_for_channels_and_images():
    x = torch.zeros(2, 3, 4, 4)
    assert per_channel(0.1, x).shape == ()
    assert per_channel([1., 2., 3.], x)[:, 0, 0].tolist() == [1., 2., 3.]
    each = torch.tensor([[1.], [2.]], dtype=torch.float64)
    assert (x + per_channel(each, x))[:, 2, 1, 3].tolist() == [1., 2.]
    assert per_channel(each, x).dtype == x.dtype
    assert per_channel(x, x).shape == x.shape
    # one number is rounded once
    assert float(per_channel(0.1, x.double())) == 0.1
    with pytest.raises(ConfigError, match='one per channel'):
        per_channel([1., 2.], x)
