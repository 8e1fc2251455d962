# Copyright (c) mmext contributors. All rights reserved.
"""Models: a host-free core and one rim per host toolbox."""
from mmext.registry import import_rim
from . import uncertainty  # noqa: F401
from . import adapters, distillers, lipschitz, prompts, teachers  # noqa: F401

import_rim(
    __name__,
    dict(classification='mmpretrain', segmentation='mmseg', depth='mmseg'))
