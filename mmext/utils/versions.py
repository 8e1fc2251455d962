# Copyright (c) mmext contributors. All rights reserved.
"""Which of the two stacks is installed, and whether its versions can work.

Nothing here imports torch or a host.
"""
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Dict, Optional, Tuple

# Distribution -> (lowest version, first version too high). setup.cfg has the
# same ranges; a test compares them.
ONEDL = {
    'onedl-mmengine': ('0.10.12', '0.11'),
    'onedl-mmcv': ('2.3.6', '2.4'),
    'onedl-mmpretrain': ('1.3.6', '1.4'),
    'onedl-mmsegmentation': ('1.4.2', '1.5'),
}
OPENMMLAB = {
    'mmengine': ('0.10.7', '0.11'),
    'mmcv': ('2.1', '2.2'),
    'mmpretrain': ('1.2', '1.3'),
    'mmsegmentation': ('1.2.2', '1.3'),
}
# The same modules under other distribution names.
_VARIANTS = {
    'mmengine-lite': 'mmengine',
    'mmcv-lite': 'mmcv',
    'mmcv-full': 'mmcv'
}
# Below 2.6 ``torch.load(weights_only=True)`` can be made to execute code
# (CVE-2025-32434), so no checkpoint could be called safe.
_TORCH = ('2.6', None)


def installed_version(distribution: str) -> Optional[str]:
    """Version of a distribution, None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> Tuple[int, ...]:
    numbers = [int(n) for n in re.findall(r'\d+', text.split('+')[0])[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))


def _installed(names: Dict[str, Tuple[str, str]]) -> Dict[str, str]:
    names = [*names, *(v for v, name in _VARIANTS.items() if name in names)]
    return {
        n: found
        for n in names if (found := installed_version(n)) is not None
    }


def stack() -> Optional[str]:
    """'onedl', 'openmmlab', or None without any host installed."""
    if _installed(ONEDL):
        return 'onedl'
    return 'openmmlab' if _installed(OPENMMLAB) else None


def check_versions() -> None:
    """Stop with the remedy when the installed packages cannot work together.

    Without it, two stacks in one environment overwrite each other's files,
    and a version outside the supported range fails later with an unrelated
    message.

    Raises:
        ImportError: If packages of both stacks are installed, or a version
            is outside its range.
    """
    onedl, openmmlab = _installed(ONEDL), _installed(OPENMMLAB)
    if onedl and openmmlab:
        everything = ' '.join([*onedl, *openmmlab])
        raise ImportError(
            'Expected the packages of one stack, but both are installed: '
            f'{", ".join(onedl)} (OneDL) and {", ".join(openmmlab)} '
            '(OpenMMLab). They install the same modules and overwrite each '
            f"other's files. Run: pip uninstall -y {everything}; then "
            "pip install 'mmext[onedl]' or pip install 'mmext[openmmlab]'.")
    bounds = dict(ONEDL, **OPENMMLAB, torch=_TORCH)
    for variant, name in _VARIANTS.items():
        bounds[variant] = bounds[name]
    torch = installed_version('torch')
    found = dict(onedl, **openmmlab, **(dict(torch=torch) if torch else {}))
    wrong = [(name, given, *bounds[name]) for name, given in found.items()
             if not _within(given, *bounds[name])]
    if wrong:
        expected = [
            f'{name}>={low}' + (f',<{high}' if high else '')
            for name, _, low, high in wrong
        ]
        given = ', '.join(f'{name} {given}' for name, given, *_ in wrong)
        raise ImportError(
            f'Expected {"; ".join(expected)}, but {given} is installed. '
            'Run: pip install ' + ' '.join(f"'{item}'" for item in expected))


def _within(given: str, low: str, high: Optional[str]) -> bool:
    return _numbers(given) >= _numbers(low) and (
        high is None or _numbers(given) < _numbers(high))
