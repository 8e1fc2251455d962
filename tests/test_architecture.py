# Copyright (c) mmext contributors. All rights reserved.
"""The rules of docs/en/architecture.md, read off the import statements."""
import ast
import functools
from pathlib import Path
from typing import AbstractSet, Dict, FrozenSet, Iterator, List, Set, Tuple

import pytest

pytestmark = pytest.mark.stack_subset
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmext'
HOSTS = {'mmpretrain', 'mmseg'}
HOST_FREE = [
    'models/adapters', 'models/prompts', 'models/teachers',
    'models/uncertainty', 'models/distillers', 'models/lipschitz', 'spike',
    'datasets/streetworld'
]
# What a host-free folder may not import: mmcv belongs to the hosts.
FORBIDDEN = HOSTS | {'mmcv', 'timm'}
MAX_LINES = 600


def _files() -> List[Path]:
    return sorted(
        p for p in PACKAGE.rglob('*.py')
        if '.mim' not in p.relative_to(PACKAGE).parts)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {_module(path): path for path in _files()}


def _statements(tree: ast.AST, top_only: bool) -> Iterator[ast.AST]:
    """Import statements; inside functions too unless ``top_only``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not top_only:
                yield from _statements(node, top_only)
        else:
            yield from _statements(node, top_only)


@functools.lru_cache(maxsize=None)
def _imports(path: Path, top_only: bool = False) -> FrozenSet[str]:
    """Absolute names of what a file imports."""
    module = _module(path)
    package = module.split('.')
    if path.name != '__init__.py':
        package = package[:-1]
    names = set()
    for node in _statements(ast.parse(path.read_text()), top_only):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        base = node.module or ''
        if node.level:
            start = package[:len(package) - node.level + 1]
            base = '.'.join([*start, base] if base else start)
        names |= {f'{base}.{alias.name}' for alias in node.names} | {base}
    return frozenset(names)


def _top(names: AbstractSet[str]) -> Set[str]:
    return {name.split('.')[0] for name in names}


def test_the_package_was_found():
    assert len(MODULES) > 20 and 'mmext.compat' in MODULES


@pytest.mark.parametrize('folder', HOST_FREE)
def test_host_free_folders_import_no_host(folder):
    bad = {
        str(path.relative_to(ROOT)): sorted(_top(_imports(path)) & FORBIDDEN)
        for path in (PACKAGE / folder).rglob('*.py')
        if _top(_imports(path)) & FORBIDDEN
    }
    assert not bad


def _reached(module: str, seen: Set[str]) -> Set[str]:
    """Modules of mmext that importing ``module`` imports, all the way."""
    for name in _local(MODULES[module]):
        if name not in seen:
            seen.add(name)
            _reached(name, seen)
    return seen


def _local(path: Path) -> Set[str]:
    """Modules of mmext that are imported while ``path`` is imported."""
    return {
        name
        for name in _imports(path, top_only=True)
        if name in MODULES and name != _module(path)
    }


@pytest.mark.parametrize('folder', HOST_FREE)
def test_host_free_folders_reach_no_host_through_others(folder):
    for path in (PACKAGE / folder).rglob('*.py'):
        for module in _reached(_module(path), set()):
            hosts = _top(_imports(MODULES[module], top_only=True)) & FORBIDDEN
            assert not hosts, f'{path} reaches {hosts} through {module}'


def test_every_other_file_imports_at_most_one_host():
    bad = {
        name: hosts
        for name, path in MODULES.items()
        if len(hosts := _top(_imports(path)) & HOSTS) > 1
    }
    assert not bad


def _edges() -> Dict[str, Set[str]]:
    """Imports between modules, without a package's own ``__init__``.

    Importing ``a.b`` runs ``a/__init__`` first; that a package imports its
    parts, and a part a neighbour by its full name, is no circle.
    """
    edges = {}
    for module, path in MODULES.items():
        edges[module] = {
            name
            for name in _local(path) if not module.startswith(name + '.')
        }
    return edges


def _circle(edges: Dict[str, Set[str]]) -> Tuple[str, ...]:
    """A path that comes back to its start, or nothing."""
    done: Set[str] = set()

    def visit(module: str, trail: Tuple[str, ...]) -> Tuple[str, ...]:
        if module in trail:
            return trail[trail.index(module):] + (module, )
        if module in done:
            return ()
        for name in sorted(edges[module]):
            found = visit(name, trail + (module, ))
            if found:
                return found
        done.add(module)
        return ()

    for module in sorted(edges):
        found = visit(module, ())
        if found:
            return found
    return ()


def test_there_is_no_import_circle():
    assert not _circle(_edges())


def test_the_circle_finder_finds_circles():
    assert _circle(dict(a={'b'}, b={'c'}, c={'b'})) == ('b', 'c', 'b')
    assert not _circle(dict(a={'b', 'c'}, b={'c'}, c=set()))


def test_library_does_not_import_tests_or_tools():
    for name, path in MODULES.items():
        assert not _top(_imports(path)) & {'tests', 'tools'}, name


def test_no_file_is_too_long():
    long = {
        name: count
        for name, path in MODULES.items()
        if (count := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert not long


def test_names_that_one_stack_lacks_are_not_used():
    gone = {
        'mmengine.version_info', 'mmcv.version_info', 'mmseg.version_info',
        'mmseg.digit_version', 'mmseg.models.builder.build_loss'
    }
    bad = {
        name: sorted(_imports(path) & gone)
        for name, path in MODULES.items() if _imports(path) & gone
    }
    assert not bad


def test_library_does_not_print_or_use_tqdm():
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        calls = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert 'print' not in calls, name
        assert 'tqdm' not in _top(_imports(path)), name


def test_every_file_carries_the_header():
    header = '# Copyright (c) mmext contributors. All rights reserved.\n'
    for folder in ('mmext', 'tools', 'tests'):
        for path in (ROOT / folder).rglob('*.py'):
            if '.mim' in path.parts or 'tests/data' in path.as_posix():
                continue
            text = path.read_text()
            assert not text or text.startswith(header), path
