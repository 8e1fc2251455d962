# Copyright (c) mmext contributors. All rights reserved.
"""The version of mmext, the one place where it is written."""
__version__ = '0.1.0'
