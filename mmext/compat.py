# Copyright (c) mmext contributors. All rights reserved.
"""Shims for the differences between the two supported stacks."""


def install_shims() -> None:
    """Install every shim; calling it again changes nothing."""
