# Copyright (c) mmext contributors. All rights reserved.
"""Hooks, loops and optimizers for stock mmengine runners."""
from . import hooks, loops, optimizers  # noqa: F401
