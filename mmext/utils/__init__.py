# Copyright (c) mmext contributors. All rights reserved.
"""Small helpers; importing this package imports none of the heavy ones."""
from .setup_env import register_all_modules

__all__ = ['register_all_modules']
