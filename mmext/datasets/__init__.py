# Copyright (c) mmext contributors. All rights reserved.
"""Data sets, streams and samplers."""
from . import data_help, domain_sequence, samplers  # noqa: F401
