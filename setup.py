# Copyright (c) mmext contributors. All rights reserved.
"""Metadata is in setup.cfg; this file only fills ``mmext/.mim``.

``mim`` and mmengine's ``mmext::`` configs look for configs, tools and the
model index inside the installed package, under ``.mim``. A wheel gets copies;
an editable install gets links, so it never goes stale. A source distribution
holds the folders themselves, and building from it makes the copies.
"""
import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PARTS = ('configs', 'tools', 'model-index.yml')


def _clear(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def copy_mim(root: Path, package: Path) -> None:
    """Copy the parts of ``root`` into ``package/.mim``."""
    target = package / '.mim'
    _clear(target)
    target.mkdir(parents=True)
    for name in PARTS:
        source = root / name
        if source.is_dir():
            shutil.copytree(
                source,
                target / name,
                ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
        elif source.is_file():
            shutil.copy2(source, target / name)


def link_mim(root: Path, package: Path) -> None:
    """Link the parts of ``root`` into ``package/.mim``; copy if links fail."""
    target = package / '.mim'
    _clear(target)
    target.mkdir(parents=True)
    try:
        for name in PARTS:
            if (root / name).exists():
                (target / name).symlink_to(
                    os.path.relpath(root / name, target))
    except OSError:
        # Windows allows links to some users only.
        copy_mim(root, package)


class BuildPy(build_py):
    """``build_py`` that also fills ``.mim``."""

    def run(self) -> None:
        super().run()
        root = Path(__file__).resolve().parent
        if getattr(self, 'editable_mode', False):
            link_mim(root, root / 'mmext')
        else:
            copy_mim(root, Path(self.build_lib) / 'mmext')


if __name__ == '__main__':
    setup(cmdclass=dict(build_py=BuildPy))
