# Copyright (c) mmext contributors. All rights reserved.
"""Shims for the differences between the two supported stacks."""
from .utils.safe_globals import install_safe_globals

__all__ = ['install_safe_globals', 'install_shims']


def install_shims() -> None:
    """Install every shim; calling it again changes nothing."""
