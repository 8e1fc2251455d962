# Copyright (c) mmext contributors. All rights reserved.
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

from mmext import registry
from tests.processes import run_python

pytestmark = pytest.mark.stack_subset
ROOT = Path(__file__).resolve().parents[1]

_KINDS = {
    'HOOKS': [
        'RNGStateHook', 'InvalidLossHook', 'AtomicCheckpointHook', 'MoSAHook'
    ],
    'MODELS': ['MoSAModel'],
    'OPTIMIZERS': ['BertAdamW'],
    'LOOPS': ['TestTimeAdaptLoop'],
    'TASK_UTILS': ['SVDP', 'CoTTA', 'Tent'],
    'DATASETS': ['ACDCDataset', 'DomainSequence'],
    'METRICS': ['DomainIoUMetric', 'CertifiedAccuracy'],
}

# As tools of a host do: no ``import mmext``, no custom_imports.
_RESOLVE = '''
import sys
sys.path.insert(0, {root!r})
import tests.conftest
for name in [n for n in sys.modules if n.startswith('mmext')]:
    del sys.modules[name]
import mmengine.registry as root
for registry in vars(root).values():
    if isinstance(registry, root.Registry):
        registry._children.pop('mmext', None)
import {host}.registry as host
from mmengine.registry import DefaultScope
DefaultScope.get_instance('test', scope_name={host!r})
for kind, names in {kinds!r}.items():
    for name in names:
        found = getattr(host, kind).get('mmext.' + name)
        assert found.__name__ == name, (kind, name, found)
'''


@pytest.mark.parametrize('host', ['mmseg', 'mmpretrain'])
def test_types_resolve_from_a_host_without_custom_imports(host):
    code = _RESOLVE.format(root=str(ROOT), host=host, kinds=_KINDS)
    run_python(code)


def test_parents_are_the_roots_of_mmengine():
    """A child of a host's registry could not be seen from the other host."""
    import mmengine.registry as root
    ours = [
        r for r in vars(registry).values() if isinstance(r, registry.Registry)
    ]
    assert len(ours) > 10
    for one in ours:
        assert one.scope == 'mmext' and one.parent in vars(root).values()
        assert one._locations


def test_misspelt_name_is_told_from_a_missing_package():
    with pytest.raises(KeyError, match='Did you mean RNGStateHook'):
        registry.HOOKS.get('mmext.RNGStateHok')
    assert registry.HOOKS.get('mmext.RNGStateHook') is not None


def _site_without(folder: Path, *packages: str) -> Path:
    """A copy of site-packages, made of links, that lacks some packages."""
    site = Path(find_spec('mmengine').origin).parents[1]
    folder.mkdir()
    for path in site.iterdir():
        name = path.name.lower().replace('_', '-')
        if not name.startswith(packages) and 'mmext' not in name:
            (folder / path.name).symlink_to(path)
    return folder


_SEGMENTATION = ('mmseg', 'onedl-mmseg')
_CLASSIFICATION = ('mmpretrain', 'onedl-mmpretrain')


def _run(tmp_path: Path, missing: tuple, code: str):
    site = _site_without(tmp_path / 'site', *missing)
    start = ('import sys; '
             f'sys.path[:0] = [{str(ROOT)!r}, {str(site)!r}]\n')
    # -S: without the real site-packages. Torch finds its libraries itself.
    return subprocess.run([sys.executable, '-I', '-S', '-c', start + code],
                          capture_output=True,
                          text=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))


def test_missing_host_names_package_and_extra(tmp_path):
    result = _run(
        tmp_path, _SEGMENTATION + _CLASSIFICATION, '''
from mmengine.registry import HOOKS, TASK_UTILS
from importlib.util import find_spec
assert find_spec('mmseg') is None
# What needs no host works without it.
assert HOOKS.get('mmext.RNGStateHook') is not None
try:
    TASK_UTILS.get('mmext.SVDP')
except ImportError as error:
    sys.exit('told: ' + str(error))
''')
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith('told: '), result.stderr[-3000:]
    assert 'mmext.SVDP' in message and "'mmseg'" in message
    assert 'mmsegmentation' in message
    assert "pip install 'mmext[onedl]'" in message


def test_missing_mmengine_names_package_and_extra(tmp_path):
    missing = ('mmengine', 'onedl-mmengine', 'mmcv', 'onedl-mmcv')
    result = _run(
        tmp_path, _SEGMENTATION + _CLASSIFICATION + missing, '''
import mmext
try:
    import mmext.registry
except ImportError as error:
    sys.exit('told: ' + str(error))
''')
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith('told: '), result.stderr[-3000:]
    assert 'onedl-mmengine' in message
    assert "pip install 'mmext[onedl]'" in message


def test_default_scope_stays_the_hosts():
    """mmext defines no scope of its own for unprefixed names."""
    DefaultScope.get_instance('scope', scope_name='mmengine')
    from mmext.utils import register_all_modules
    register_all_modules(init_default_scope=True)
    assert DefaultScope.get_current_instance().scope_name == 'mmengine'


@pytest.mark.parametrize('error', [ImportError, RuntimeError])
def test_a_broken_host_is_noted(error, tmp_path, monkeypatch):
    """What does not need it goes on; torchvision raises RuntimeError."""
    package = tmp_path / 'broken_rim'
    package.mkdir()
    (package / '__init__.py').write_text('')
    (package / 'part.py').write_text(f'raise {error.__name__}("no nms")')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, '_SKIPPED', {})
    assert registry.import_rim('broken_rim', dict(part='torch')) == []
    assert 'no nms' in registry._SKIPPED['broken_rim.part']
