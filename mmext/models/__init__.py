# Copyright (c) mmext contributors. All rights reserved.
"""Models: a host-free core and one rim per host toolbox."""
from mmext.registry import import_rim
from . import adapters, prompts, teachers, uncertainty  # noqa: F401

import_rim(__name__, dict(classification='mmpretrain', segmentation='mmseg'))
