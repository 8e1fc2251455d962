# Copyright (c) mmext contributors. All rights reserved.
import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import mmext
from tests.processes import run, run_python

ROOT = Path(__file__).resolve().parents[1]


def _setup_module():
    spec = importlib.util.spec_from_file_location('mmext_setup',
                                                  ROOT / 'setup.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _project(root):
    (root / 'configs' / 'svdp').mkdir(parents=True)
    (root / 'configs' / 'svdp' / 'a.py').write_text('a = 1\n')
    (root / 'tools' / '__pycache__').mkdir(parents=True)
    (root / 'tools' / '__pycache__' / 'x.pyc').touch()
    (root / 'tools' / 'train.py').write_text('')
    (root / 'model-index.yml').write_text('Import: []\n')
    (root / 'mmext').mkdir()


def test_editable_install_links(tmp_path):
    _project(tmp_path)
    setup = _setup_module()
    # From nothing, again, and over a stale copy.
    for prepare in (lambda *_: None, setup.link_mim, setup.copy_mim):
        prepare(tmp_path, tmp_path / 'mmext')
        setup.link_mim(tmp_path, tmp_path / 'mmext')
        mim = tmp_path / 'mmext' / '.mim'
        assert sorted(p.name for p in mim.iterdir()) == [
            'configs', 'model-index.yml', 'tools'
        ]
        assert all(not os.path.isabs(os.readlink(path))
                   for path in mim.iterdir())
    (tmp_path / 'configs' / 'svdp' / 'new.py').touch()
    assert (mim / 'configs' / 'svdp' / 'new.py').is_file()
    # What the links point to must survive clearing them.
    setup._clear(mim)
    assert (tmp_path / 'configs' / 'svdp' / 'a.py').is_file()


def test_links_fall_back_to_copies(tmp_path, monkeypatch):
    _project(tmp_path)

    def refused(*args, **kwargs):
        raise OSError('A required privilege is not held by the client')

    monkeypatch.setattr(Path, 'symlink_to', refused)
    _setup_module().link_mim(tmp_path, tmp_path / 'mmext')
    copied = tmp_path / 'mmext' / '.mim'
    assert (copied / 'configs' / 'svdp' / 'a.py').read_text() == 'a = 1\n'
    assert not list(copied.rglob('*.pyc'))


def test_model_index_and_metafiles():
    """mmengine reads all of them at each ``mmext::`` look-up."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    listed = sorted(index['Import'])
    assert listed == sorted(
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / 'configs').glob('*/metafile.yml'))
    for name in listed:
        meta = yaml.safe_load((ROOT / name).read_text())
        collections = {c['Name'] for c in meta['Collections']}
        for model in meta['Models']:
            assert model['Name'] == model['Name'].lower()
            assert model['In Collection'] in collections
            assert (ROOT / model['Config']).is_file()


def test_version_is_written_once():
    assert f'## [{mmext.__version__}]' in (ROOT / 'CHANGELOG.md').read_text(
    ) or '[Unreleased]' in (ROOT / 'CHANGELOG.md').read_text()
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == mmext.__version__


@pytest.mark.slow
def test_wheel_and_sdist_are_complete(tmp_path):
    """Build both from the files under version control, unpack, look."""
    source = tmp_path / 'source'
    source.mkdir()
    archive = subprocess.run(['git', 'archive', 'HEAD'],
                             cwd=ROOT,
                             check=True,
                             capture_output=True).stdout
    (tmp_path / 'source.tar').write_bytes(archive)
    with tarfile.open(tmp_path / 'source.tar') as tar:
        tar.extractall(source, filter='data')
    tracked = {
        path.relative_to(source).as_posix()
        for path in source.rglob('*') if path.is_file()
    }
    pip = [sys.executable, '-m', 'pip', '--quiet']
    code = ('import setuptools.build_meta as b; '
            f'b.build_sdist({str(tmp_path)!r})')
    run_python(code, cwd=source)
    sdist = next(tmp_path.glob('*.tar.gz'))
    with tarfile.open(sdist) as tar:
        names = {n.partition('/')[2] for n in tar.getnames()}
    for folder in ('configs/', 'tools/', 'mmext/'):
        assert {n for n in tracked if n.startswith(folder)} <= names
    # The wheel is built from the sdist, as an index or a packager does.
    run(*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', tmp_path,
        sdist)
    wheel = next(tmp_path.glob('*.whl'))
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    expected = {
        'mmext/.mim/' + name
        for name in tracked
        if name.startswith(('configs/', 'tools/')) or name == 'model-index.yml'
    } | {name
         for name in tracked if name.startswith('mmext/')}
    assert expected <= names
    installed = tmp_path / 'installed'
    run(*pip, 'install', '--no-deps', '--target', installed, wheel)
    code = (f'import sys; sys.path.insert(0, {str(installed)!r}); '
            'import mmext, pathlib; p = pathlib.Path(mmext.__file__).parent; '
            f'assert str(p).startswith({str(installed)!r}), p; '
            'assert (p / ".mim/configs/svdp/cityscapes_acdc.py").is_file(); '
            'assert (p / ".mim/tools/train.py").is_file()')
    run(sys.executable, '-I', '-S', '-c', code)
