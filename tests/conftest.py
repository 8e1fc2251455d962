# Copyright (c) mmext contributors. All rights reserved.
"""What every test needs: data folders, a clean mmengine, working hosts."""
import functools
import importlib
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Callable, List

# Two runs add in the same order only with the same number of threads, and
# tiny models gain nothing from more than one. Set before torch is imported.
os.environ.setdefault('OMP_NUM_THREADS', '1')

# Without --gpu tests run on the CPU. mmengine asks for devices when it is
# imported, and processes of pytest-xdist do not have the option in argv.
if '--gpu' in sys.argv:
    os.environ['MMEXT_TEST_GPU'] = '1'
if not os.environ.get('MMEXT_TEST_GPU'):
    os.environ['CUDA_VISIBLE_DEVICES'] = ''

import mmengine.runner.runner  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


class _MmcvExtStub(ModuleType):
    """Stands in for mmcv's compiled ops: importable, fails when called.

    The original mmseg imports ``mmcv.ops``, which needs ``mmcv._ext``; there
    is no build of it for a current torch. The models under test call none of
    its operators. Dunder names raise, as ``inspect.getmodule`` asks for them.
    """

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(
                f'{name} is a compiled operator of mmcv; this environment '
                'has mmcv-lite and a stub that serves imports only.')

        return missing


def _install_mmcv_ext_stub() -> None:
    """On the original packages with mmcv-lite only; OneDL needs none."""
    from mmext.compat import stack
    if stack() == 'openmmlab' and find_spec('mmcv._ext') is None:
        stub = _MmcvExtStub('mmcv._ext')
        stub.__file__ = __file__
        stub.__spec__ = ModuleSpec('mmcv._ext', None)
        sys.modules['mmcv._ext'] = stub


_LIBRARIES = []


def _cure_torchvision() -> None:
    """Make torchvision importable when its compiled part does not fit torch.

    A CUDA build of torchvision on a CPU build of torch dies with ``operator
    torchvision::nms does not exist``. mmpretrain uses its Python parts only,
    so declaring the two operators is enough.
    """
    if torch.version.cuda is not None or find_spec('torchvision') is None:
        return
    try:
        importlib.import_module('torchvision')
    except RuntimeError as error:
        if 'torchvision::nms' not in str(error):
            raise
        for name in [n for n in sys.modules if n.startswith('torchvision')]:
            del sys.modules[name]
        library = torch.library.Library('torchvision', 'DEF')
        for name in ('nms', 'qnms'):
            library.define(f'{name}(Tensor dets, Tensor scores, '
                           'float iou_threshold) -> Tensor')
        _LIBRARIES.append(library)


# Each Runner logs the compilers and libraries, a second of subprocesses.
mmengine.runner.runner.collect_env = functools.cache(
    mmengine.runner.runner.collect_env)
_install_mmcv_ext_stub()
_cure_torchvision()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--gpu',
        action='store_true',
        help='let the tests see a GPU; without it all of them run on the '
        'CPU, where results are the same bits every time (see above)')


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """What is marked for a GPU is skipped where none is seen."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason='needs a GPU, and --gpu')
    for item in items:
        if item.get_closest_marker('gpu'):
            item.add_marker(skip)


def _folder(variable: str, default: str, what: str) -> Path:
    path = Path(os.environ.get(variable) or ROOT / default).resolve()
    if not path.is_dir():
        pytest.skip(f'{what}: no folder {path}; set {variable} to it')
    return path


@pytest.fixture(scope='session')
def golden_root() -> Path:
    """The folder that holds svdp/, mosa/, lipschitz/ and bicross/."""
    return _folder('MMEXT_GOLDEN', '../shared/golden', 'reference arrays')


@pytest.fixture(scope='session')
def recorded_arrays(golden_root: Path) -> Callable[..., dict]:
    """Reads a file of the reference arrays, e.g. ('lipschitz', 'ema.npz').

    Numbers become tensors, texts stay as they are.
    """

    def read(*name: str) -> dict:
        path = golden_root.joinpath(*name)
        if not path.is_file():
            pytest.skip(f'reference arrays: no file {path}')
        with np.load(path) as file:
            arrays = {key: np.asarray(file[key]) for key in file}
        return {
            key: array if array.dtype.kind == 'U' else torch.from_numpy(array)
            for key, array in arrays.items()
        }

    return read


@pytest.fixture(scope='session')
def camvid_root() -> Path:
    """CamVid: images/SEQ/NAME.jpg and labels/SEQ/NAME.png."""
    return _folder('MMEXT_CAMVID', '../shared/data/camvid', 'CamVid')


@pytest.fixture(autouse=True)
def clean_mmengine():
    """Give each test its own scope, logger, message hub and visualizer."""
    yield
    if 'mmengine' not in sys.modules:
        return
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    managers = [DefaultScope, MessageHub, MMLogger]
    visualization = sys.modules.get('mmengine.visualization')
    if visualization is not None:
        managers.append(visualization.Visualizer)
    for manager in managers:
        manager._instance_dict.clear()
