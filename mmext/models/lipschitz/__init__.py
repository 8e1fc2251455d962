# Copyright (c) mmext contributors. All rights reserved.
"""Certified l_inf networks of l_p-distance neurons, host-free."""
from . import loss_modules  # noqa: F401
