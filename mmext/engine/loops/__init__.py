# Copyright (c) mmext contributors. All rights reserved.
"""Loops that stock runners drive."""
from .test_time_adapt_loop import TestTimeAdaptLoop

__all__ = ['TestTimeAdaptLoop']
