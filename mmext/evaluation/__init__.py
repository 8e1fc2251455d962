# Copyright (c) mmext contributors. All rights reserved.
"""Metrics."""
from . import domain_iou  # noqa: F401
