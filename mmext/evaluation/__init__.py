# Copyright (c) mmext contributors. All rights reserved.
"""Metrics."""
from . import certified_accuracy  # noqa: F401
from . import depth_metric  # noqa: F401
from . import domain_depth  # noqa: F401
from . import domain_iou  # noqa: F401
