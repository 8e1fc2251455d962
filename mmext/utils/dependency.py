# Copyright (c) mmext contributors. All rights reserved.
"""Optional dependencies: is a host there, and what to install if not."""
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec

# Import name -> (distributions that provide it, extra of mmext, if any).
_PROVIDERS = {
    'mmengine': ('onedl-mmengine or mmengine', 'onedl'),
    'mmcv': ('onedl-mmcv or mmcv', 'onedl'),
    'mmpretrain': ('onedl-mmpretrain or mmpretrain', 'onedl'),
    'mmseg': ('onedl-mmsegmentation or mmsegmentation', 'onedl'),
    'cv2': ('opencv-python', None),
    'timm': ('timm', 'depth'),
    'onnx': ('onnx', 'export'),
    'onnxruntime': ('onnxruntime', 'export'),
}


def has(module: str) -> bool:
    """Whether the top-level ``module`` can be found, without importing it."""
    return find_spec(module) is not None


def missing_message(module: str, needed_by: str) -> str:
    """The sentence that tells a user which package and extra to install.

    Of a package that is not known here nobody can say who provides it: the
    name may be misspelt, and another project's or nobody's.
    """
    if module not in _PROVIDERS:
        near = get_close_matches(module, _PROVIDERS, n=1, cutoff=0.75)
        hint = f'Did you mean {near[0]!r}?' if near else \
            'Check the name, or install the package that it comes from.'
        return f'{needed_by} needs the package {module!r}, which is not ' \
            f'installed. {hint}'
    package, extra = _PROVIDERS[module]
    remedy = f"pip install 'mmext[{extra}]'" if extra else \
        f'pip install {package}'
    stock = ", or 'mmext[openmmlab]' for the original packages" \
        if extra == 'onedl' else ''
    return (f'{needed_by} needs the package {module!r} ({package}), which is '
            f'not installed. Install it with: {remedy}{stock}.')


def require(module: str, needed_by: str):
    """Import and return ``module``.

    Args:
        module (str): Import name, such as ``'mmseg'``.
        needed_by (str): What asks for it, for the message.

    Raises:
        ImportError: If it is absent; names the package and the extra.
    """
    if not has(module.split('.')[0]):
        raise ImportError(missing_message(module.split('.')[0], needed_by))
    return import_module(module)
