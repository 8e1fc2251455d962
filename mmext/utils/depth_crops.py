# Copyright (c) mmext contributors. All rights reserved.
"""The rectangles and limits in which depth is trained and scored."""
import numbers
from typing import Any, Optional, Tuple

from .user_error import ConfigError

CROPS = ('garg', 'eigen', 'nyu', None)
# Shares of height and width: top, bottom, left, right. Those of Garg et al.
# (arXiv 1603.04992) and of Eigen et al. (arXiv 1406.2283), for KITTI.
_SHARES = dict(
    garg=(0.40810811, 0.99189189, 0.03594771, 0.96405229),
    eigen=(0.3324324, 0.91351351, 0.0359477, 0.96405229))
# Of 480 x 640 pixels, of Eigen et al.
_NYU_SIZE, _NYU = (480, 640), (45, 471, 41, 601)


def check_crop(crop: Optional[str], name: str = 'crop') -> Optional[str]:
    """The crop, if there is one of that name.

    Args:
        crop (str, optional): Of ``CROPS``.
        name (str): What the message calls it. Defaults to 'crop'.

    Raises:
        ConfigError: If it is unknown.
    """
    if crop not in CROPS:
        raise ConfigError(
            f'Expected {name} to be one of {CROPS}, but got {crop!r}.')
    return crop


def check_depths(min_depth: Any,
                 max_depth: Any,
                 where: str,
                 no_limit: bool = False) -> None:
    """Refuse what are no two depths, the second beyond the first.

    Args:
        min_depth (float): In metres, above 0.
        max_depth (float): In metres; may be infinite.
        where (str): Whose they are, for the message.
        no_limit (bool): Whether ``max_depth`` may be None.
            Defaults to False.

    Raises:
        ConfigError: If they are none.
    """
    given = [min_depth]
    if max_depth is not None or not no_limit:
        given.append(max_depth)
    good = all(
        isinstance(one, numbers.Real) and not isinstance(one, bool)
        for one in given)
    steps = zip([0, *given], given)
    if not good or not all(low < high for low, high in steps):  # NaN neither
        none = ', max_depth also None' if no_limit else ''
        raise ConfigError(
            f'Expected min_depth and max_depth of {where} to be numbers of '
            f'metres, 0 < min_depth < max_depth{none}, but got {min_depth!r} '
            f'and {max_depth!r}.')


def crop_box(crop: Optional[str],
             height: int,
             width: int,
             scale_nyu: bool = False) -> Tuple[int, int, int, int]:
    """The rectangle of a crop on a grid.

    Args:
        crop (str, optional): 'garg' (Garg et al., for KITTI), 'eigen' (Eigen
            et al., for KITTI), 'nyu' (rows 45 to 471 and columns 41 to 601 of
            480 x 640 pixels) or None, everything.
        height (int): Rows of the grid.
        width (int): Columns.
        scale_nyu (bool): Whether 'nyu' is scaled to grids of another size
            instead of being refused there. Defaults to False.

    Returns:
        tuple[int]: Top, bottom, left and right; bottom and right are the
        first that are outside.

    Raises:
        ConfigError: If the crop is unknown or does not fit the grid.
    """
    if check_crop(crop) is None:
        return 0, height, 0, width
    if crop == 'nyu':
        if (height, width) == _NYU_SIZE:
            return _NYU
        if not scale_nyu:
            raise ConfigError(
                "crop='nyu' is for images of 480 x 640 pixels, but got "
                f"{height} x {width}. Use 'garg', 'eigen' or None.")
        return (round(_NYU[0] * height / _NYU_SIZE[0]),
                round(_NYU[1] * height / _NYU_SIZE[0]),
                round(_NYU[2] * width / _NYU_SIZE[1]),
                round(_NYU[3] * width / _NYU_SIZE[1]))
    top, bottom, left, right = _SHARES[crop]
    return (int(top * height), int(bottom * height), int(left * width),
            int(right * width))
