# Copyright (c) mmext contributors. All rights reserved.
"""Names of folders and files that depth data sets have to find."""
import os
from pathlib import Path

import pytest
from mmengine.registry import DATASETS, init_default_scope

pytest.importorskip('mmseg')

from mmext.utils.user_error import MissingFileError
from ..depth_fixtures import COUNT, WRITERS, write_kitti, write_vkitti2


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def found(config):
    data = DATASETS.build(config)
    infos = [data.get_data_info(i) for i in range(len(data))]
    assert all(
        os.path.isfile(info[key]) for info in infos
        for key in ('img_path', 'spike_path', 'depth_map_path'))
    return infos


@pytest.mark.parametrize('name', WRITERS)
def test_signs_of_patterns_and_large_letters(name, tmp_path):
    """A folder is taken as it is called, .PNG as .png."""
    config = WRITERS[name](tmp_path / 'run [x]' / 'a*b?')
    infos = found(config)
    assert len(infos) == (4 if name == 'weather' else COUNT)
    for path in tmp_path.rglob('*.*'):
        if path.is_file() and path.suffix != '.txt':
            path.rename(path.with_suffix(path.suffix.upper()))
    if Path(infos[0]['img_path']).exists():
        pytest.skip('The file system takes .PNG for .png.')
    large = found(config)
    assert len(large) == len(infos)
    for one, other in zip(infos, large):
        for key in ('img_path', 'spike_path', 'depth_map_path'):
            path = Path(one[key])
            assert other[key] == str(path.with_suffix(path.suffix.upper()))


def test_pictures_of_kitti_in_jpeg(tmp_path):
    config = write_kitti(tmp_path)
    for path in (tmp_path / 'raw').rglob('*.png'):
        path.rename(path.with_suffix('.JPG'))
    assert {Path(one['img_path']).suffix for one in found(config)} == {'.JPG'}


def test_hidden_and_missing_files(tmp_path):
    config = write_vkitti2(tmp_path)
    folder = tmp_path / 'Scene01' / 'clone' / 'frames' / 'rgb' / 'Camera_0'
    # what some systems write beside a file on a foreign disk
    (folder / '._rgb_00000.jpg').write_text('')
    assert len(found(config)) == COUNT
    for path in folder.glob('rgb*'):
        path.unlink()
    with pytest.raises(MissingFileError, match='has no such file') as error:
        DATASETS.build(config)
    assert str(folder / '*_*.jpg') in str(error.value)
