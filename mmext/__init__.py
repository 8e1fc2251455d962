# Copyright (c) mmext contributors. All rights reserved.
"""Four research methods as plug-ins for the OpenMMLab toolboxes.

Importing this package is cheap: it checks the versions of the hosts that are
installed and installs the shims of :mod:`mmext.compat`, nothing more.
"""
from .compat import install_shims
from .version import __version__

install_shims()

__all__ = ['__version__']
