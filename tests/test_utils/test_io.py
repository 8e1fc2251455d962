# Copyright (c) mmext contributors. All rights reserved.
import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from mmext.utils.io import (CheckpointError, UnsafeCheckpointError,
                            atomic_save, atomic_write, check_checkpoint,
                            safe_load, sha256_file, tensors_digest, write_json)

pytestmark = pytest.mark.stack_subset


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path, )


def _mmengine_checkpoint():
    from mmengine.logging import HistoryBuffer
    history = HistoryBuffer([1., 2., 3.], [1, 1, 1])
    return dict(
        meta=dict(
            epoch=1,
            iter=3,
            seed=None,
            dataset_meta=dict(
                classes=('a', 'b'), palette=[[0, 0, 0], [1, 1, 1]])),
        state_dict=dict(weight=torch.arange(4.)),
        message_hub=dict(
            log_scalars=dict(loss=history),
            runtime_info=dict(
                best=np.float64(1.5), count=np.int64(3), flag=np.bool_(True)),
            resumed_keys=dict(loss=True)),
        optimizer=dict(
            state={0: dict(step=torch.tensor(3.))},
            param_groups=[dict(lr=0.1, betas=(0.9, 0.99))]))


@pytest.mark.parametrize('zipped', [True, False])
def test_pickle_bomb_is_refused_and_named(tmp_path, zipped):
    mark = tmp_path / 'executed'
    path = tmp_path / 'bomb.pth'
    torch.save(
        dict(state_dict=Bomb(mark)),
        path,
        _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError) as caught:
        safe_load(path)
    assert not mark.exists()
    assert str(path) in str(caught.value)
    assert 'posix.mkdir' in str(caught.value)
    assert 'MMEXT_TRUST_CHECKPOINT=1' in str(caught.value)


def test_trust_variable_opts_in(tmp_path, monkeypatch):
    mark = tmp_path / 'executed'
    torch.save(Bomb(mark), tmp_path / 'own.pth')
    monkeypatch.setenv('MMEXT_TRUST_CHECKPOINT', '0')
    with pytest.raises(UnsafeCheckpointError):
        safe_load(tmp_path / 'own.pth')
    monkeypatch.setenv('MMEXT_TRUST_CHECKPOINT', '1')
    safe_load(tmp_path / 'own.pth')
    assert mark.exists()


def test_getattr_serves_history_buffer_only(tmp_path):

    class Getattr:

        def __reduce__(self):
            return getattr, (np.ndarray, 'tofile')

    torch.save(Getattr(), tmp_path / 'a.pth')
    with pytest.raises(UnsafeCheckpointError, match='builtins.getattr'):
        safe_load(tmp_path / 'a.pth')


def test_mmengine_checkpoint_loads(tmp_path):
    torch.save(_mmengine_checkpoint(), tmp_path / 'a.pth')
    loaded = safe_load(tmp_path / 'a.pth')
    hub = loaded['message_hub']
    assert hub['log_scalars']['loss'].mean() == 2.
    assert hub['log_scalars']['loss'].statistics('max') == 3.
    assert hub['runtime_info'] == dict(best=1.5, count=3, flag=True)
    assert torch.equal(loaded['state_dict']['weight'], torch.arange(4.))


def _rename_in_zip(source, target, old, new):
    """Rewrite a module name inside the pickle of a torch file."""
    with zipfile.ZipFile(source) as old_zip, \
            zipfile.ZipFile(target, 'w', zipfile.ZIP_STORED) as new_zip:
        for item in old_zip.infolist():
            data = old_zip.read(item)
            if item.filename.endswith('data.pkl'):
                assert old in data
                data = data.replace(old, new)
            new_zip.writestr(item.filename, data)


@pytest.mark.parametrize('major', [1, 2])
def test_checkpoints_of_both_numpy_versions_load(tmp_path, major):
    names = {1: b'cnumpy.core.multiarray\n', 2: b'cnumpy._core.multiarray\n'}
    torch.save(_mmengine_checkpoint(), tmp_path / 'own.pth')
    own = 2 if int(np.__version__.split('.')[0]) >= 2 else 1
    path = tmp_path / 'a.pth'
    _rename_in_zip(tmp_path / 'own.pth', path, names[own], names[major])
    hub = safe_load(path)['message_hub']
    assert hub['log_scalars']['loss'].current() == 3.


@pytest.mark.parametrize('size', [0, 1, 100, 400, -1])
def test_truncated_file_is_named(tmp_path, size):
    torch.save(_mmengine_checkpoint(), tmp_path / 'a.pth')
    data = (tmp_path / 'a.pth').read_bytes()
    path = tmp_path / 'cut.pth'
    path.write_bytes(data[:size])
    with pytest.raises(CheckpointError, match='cut.pth'):
        safe_load(path)


@pytest.mark.parametrize('content', [b'hello world', b'PK\3\4'])
def test_foreign_file_is_named(tmp_path, content):
    path = tmp_path / 'foreign.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='foreign.pth'):
        safe_load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.pth'):
        safe_load(tmp_path / 'nothing.pth')


@pytest.mark.parametrize('content, part', [
    ([1, 2], 'it is a list'),
    (torch.zeros(3), 'it is a Tensor'),
    (dict(state_dict=None), 'its state_dict is a NoneType'),
])
def test_what_is_no_checkpoint_is_named(tmp_path, content, part):
    """By the helper, and by mmengine's loader."""
    from mmengine.runner import CheckpointLoader
    path = str(tmp_path / 'x.pth')
    torch.save(content, path)
    for load in (lambda: check_checkpoint(safe_load(path), path),
                 lambda: CheckpointLoader.load_checkpoint(path)):
        with pytest.raises(CheckpointError, match=part) as caught:
            load()
        assert path in str(caught.value)
    sound = dict(weight=torch.zeros(1))
    assert check_checkpoint(sound, path) is sound


def test_safetensors_round_trip(tmp_path):
    tensors = dict(
        a=torch.randn(3, 2).half(), b=torch.arange(4), c=torch.ones(2, 2).t())
    path = tmp_path / 'a.safetensors'
    atomic_save(tensors, path)
    loaded = safe_load(path)
    assert tensors_digest(loaded) == tensors_digest(tensors)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match='a.safetensors'):
        safe_load(path)


def test_atomic_save_leaves_one_file_with_the_usual_mode(tmp_path):
    path = tmp_path / 'deep' / 'a.pth'
    atomic_save(dict(a=1), path)
    atomic_save(dict(a=2), path)
    assert safe_load(path) == dict(a=2)
    (tmp_path / 'plain').touch()
    assert path.stat().st_mode == (tmp_path / 'plain').stat().st_mode
    assert os.listdir(path.parent) == ['a.pth']


def test_links_and_devices_are_written_through(tmp_path):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link.pth').symlink_to('real/a.pth')
    atomic_save(dict(a=1), tmp_path / 'link.pth')
    assert (tmp_path / 'link.pth').is_symlink()
    assert safe_load(tmp_path / 'real' / 'a.pth') == dict(a=1)
    reader, writer = os.pipe()
    atomic_write(f'/dev/fd/{writer}', b'through')
    assert os.read(reader, 100) == b'through'
    os.close(reader), os.close(writer)


def test_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / 'a.pth'
    atomic_save(dict(a=1), path)
    with pytest.raises(Exception, match='pickle'):
        atomic_save(dict(a=lambda: None), path)
    assert safe_load(path) == dict(a=1)
    assert os.listdir(tmp_path) == ['a.pth']


def test_kill_during_save_keeps_a_readable_file(tmp_path):
    script = ('import sys, torch\n'
              'from mmext.utils.io import atomic_save\n'
              'for step in range(1000000):\n'
              '    atomic_save(dict(x=torch.full((200000, ), step)),'
              ' sys.argv[1])\n'
              '    print(step, flush=True)\n')
    path = tmp_path / 'a.pth'
    process = subprocess.Popen(
        [sys.executable, '-c', script, str(path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(safe_load(path)['x'].unique()) == 1


def test_text_json_and_hashes(tmp_path):
    atomic_write(tmp_path / 'a.txt', 'ü')
    assert (tmp_path / 'a.txt').read_bytes() == 'ü'.encode()
    atomic_write(tmp_path / 'abc', b'abc')
    assert sha256_file(tmp_path / 'abc') == (
        'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
    write_json(tmp_path / 'a.json', dict(x=np.float32(1.5), y=torch.ones(2)))
    assert json.loads((tmp_path / 'a.json').read_text()) == dict(
        x=1.5, y=[1., 1.])
    with pytest.raises(ValueError):
        write_json(tmp_path / 'a.json', dict(x=float('nan')))


def test_digest_sees_values_names_types_and_not_order():
    base = dict(a=torch.ones(2), b=torch.zeros((), dtype=torch.bfloat16))
    same = dict(reversed(list(base.items())))
    assert tensors_digest(base) == tensors_digest(same)
    others = [
        dict(base, a=torch.full((2, ), 1 + 1e-7)),
        dict(base, a=torch.ones(2).double()),
        dict(base, a=torch.ones(2, 1)),
        dict(base, c=torch.ones(0)),
        dict(c=base['a'], b=base['b']),
    ]
    digests = {tensors_digest(d) for d in [base, *others]}
    assert len(digests) == 6
