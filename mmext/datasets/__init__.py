# Copyright (c) mmext contributors. All rights reserved.
"""Data sets, streams and samplers."""
