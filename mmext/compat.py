# Copyright (c) mmext contributors. All rights reserved.
"""Shims for the differences between the two supported stacks.

The OneDL packages (``onedl-mmengine``, ...) and the original OpenMMLab ones
share their import names and differ in details. Each shim is one function
that says what breaks without it, and calling it twice changes nothing.
``import mmext`` calls :func:`install_shims`; :func:`patch_cpu_distributed`
is called by ``tools/train.py`` and ``tools/test.py`` only.

Nothing here imports torch or a host: a module that needs a patch and is not
loaded yet is patched when it is first imported.
"""
import atexit
import os
import sys
import time
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Callable, Dict, List, Optional, Tuple

from .utils.dependency import has
from .utils.safe_globals import install_safe_globals
from .utils.versions import check_versions, installed_version, stack

__all__ = [
    'check_versions', 'install_safe_globals', 'install_shims',
    'map_config_packages', 'patch_checkpoint_loading',
    'patch_checkpoint_saving', 'patch_cpu_distributed',
    'patch_inferencer_config', 'patch_package_lookup', 'provide_depth_scope',
    'stack'
]


class _PatchOnImport(MetaPathFinder):
    """Run a function on a module right after its first import."""

    def __init__(self) -> None:
        self.patches: Dict[str, Callable[[ModuleType], None]] = {}

    def find_spec(self,
                  fullname: str,
                  path: Any = None,
                  target: Any = None) -> Optional[ModuleSpec]:
        if fullname not in self.patches:
            return None
        others = (f for f in sys.meta_path if f is not self)
        found = (f.find_spec(fullname, path, target) for f in others)
        spec = next((s for s in found if s is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.patches[fullname](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_ON_IMPORT = _PatchOnImport()


def _patch(module: str, function: Callable[[ModuleType], None]) -> None:
    """Apply ``function`` to ``module`` now, or when it gets imported."""
    loaded = sys.modules.get(module)
    # While a module executes itself it is listed but incomplete.
    if loaded is not None and not getattr(loaded.__spec__, '_initializing',
                                          False):
        function(loaded)
        return
    _ON_IMPORT.patches[module] = function
    if _ON_IMPORT not in sys.meta_path:
        sys.meta_path.insert(0, _ON_IMPORT)


def map_config_packages() -> None:
    """Let configs inherit ``mmseg::``, ``mmpretrain::`` and ``mmext::``.

    mmengine looks a package up in a fixed table from module to distribution.
    Without this, ``mmext::`` is refused everywhere, and ``mmseg::`` fails on
    OneDL, whose distribution is called ``onedl-mmsegmentation``. mmengine
    also stamps the package's name as ``_scope_`` on what is inherited; our
    configs keep the host's scope, so for ``mmext::`` it is left out, or the
    host's types in them would not be found.
    """
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE
    for module in ('mmpretrain', 'mmseg'):
        if has(module) and installed_version(
                MODULE2PACKAGE.get(module, '') or module) is None:
            MODULE2PACKAGE[module] = module
    MODULE2PACKAGE['mmext'] = 'mmext'
    original = Config._get_cfg_path
    if hasattr(original, 'mmext'):
        return

    def _get_cfg_path(cfg_path: str,
                      filename: str) -> Tuple[str, Optional[str]]:
        path, scope = original(cfg_path, filename)
        return path, None if scope == 'mmext' else scope

    _get_cfg_path.mmext = True  # type: ignore[attr-defined]
    Config._get_cfg_path = staticmethod(_get_cfg_path)


def patch_package_lookup() -> None:
    """Let mmengine find packages without ``pkg_resources``.

    mmengine 0.10.7 needs ``pkg_resources``, which setuptools 82 removed:
    without this every ``pkg::`` base dies there with ``No module named
    'pkg_resources'``. It also does not find packages that are installed
    editable, such as ``mmext::`` in a checkout. OneDL needs no patch.
    """
    import mmengine.config.config as config
    import mmengine.utils as utils
    import mmengine.utils.package_utils as package_utils
    if installed_version('onedl-mmengine') or hasattr(
            package_utils.is_installed, 'mmext'):
        return

    def module_of(package: str) -> Optional[ModuleSpec]:
        from mmengine.config.utils import MODULE2PACKAGE
        modules = {name: module for module, name in MODULE2PACKAGE.items()}
        name = modules.get(package, package)
        return find_spec(name) if name.isidentifier() else None

    def is_installed(package: str) -> bool:
        spec = module_of(package)
        return installed_version(package) is not None or (
            spec is not None and spec.origin is not None)

    def get_installed_path(package: str) -> str:
        spec = module_of(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(
                f'Expected an installed package, but there is no {package!r}.')
        return os.path.dirname(spec.origin)

    for function in (is_installed, get_installed_path):
        function.mmext = True  # type: ignore[attr-defined]
        for module in (package_utils, utils, config):
            setattr(module, function.__name__, function)


class _TorchWithSafeLoad(ModuleType):
    """``torch`` as mmengine's checkpoint module sees it: a safe ``load``."""

    def __init__(self, torch: ModuleType, load: Callable) -> None:
        super().__init__('torch')
        self.__dict__.update(_torch=torch, load=load)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


def _patch_checkpoint_module(module: ModuleType) -> None:
    if isinstance(module.torch, _TorchWithSafeLoad):
        return
    from .utils.checkpoint_schemes import register_schemes
    from .utils.io import (check_checkpoint, safe_load, safe_load_url,
                           trust_checkpoints)
    register_schemes(module)

    def load(f: Any, map_location: Any = None, **_: Any) -> Any:
        found = safe_load(f, map_location)
        if not trust_checkpoints():
            # Hooks read a checkpoint before anything else looks at it.
            check_checkpoint(
                found, f if not hasattr(f, 'read') else
                getattr(f, 'name', '<memory>'))
        return _without_config_code(found)

    def load_url(url: str, *args: Any, **kwargs: Any) -> Any:
        return _without_config_code(
            safe_load_url(original, url, *args, **kwargs))

    original = module.load_url
    module.load_url = load_url
    module.torch = _TorchWithSafeLoad(module.torch, load)
    if hasattr(module, '_safe_torch_load'):
        module._safe_torch_load = load


def _without_config_code(checkpoint: Any) -> Any:
    """Drop ``meta['config']``, which ``Runner.resume`` would execute."""
    from mmengine.logging import print_log

    from .utils.io import trust_checkpoints
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict) and 'config' in meta \
            and not trust_checkpoints():
        del meta['config']
        print_log(
            "The checkpoint's meta['config'] was dropped: resuming would "
            'execute it as Python code.',
            logger='current')
    return checkpoint


def patch_checkpoint_loading() -> None:
    """Let every checkpoint loader of mmengine use :func:`safe_load`.

    Without it mmengine 0.10.7 cannot resume its own checkpoints under
    torch >= 2.6, OneDL's mmengine falls back to the unsafe pickle when the
    safe one refuses, both load from the web without protection, and
    ``Runner.resume`` executes a config found in ``meta['config']``. The
    opt-out is ``MMEXT_TRUST_CHECKPOINT=1``.
    """
    _patch('mmengine.runner.checkpoint', _patch_checkpoint_module)


def _patch_hook_module(module: ModuleType) -> None:
    from .utils.checkpoint_saving import (put, put_text, remove_last,
                                          save_checkpoint_with_step)
    hook = module.CheckpointHook
    if hook._save_checkpoint_with_step is save_checkpoint_with_step:
        return
    hook._save_checkpoint_with_step = save_checkpoint_with_step
    hook._save_best_checkpoint = remove_last(hook._save_best_checkpoint)
    from mmengine.fileio import LocalBackend
    LocalBackend.put, LocalBackend.put_text = put, put_text


def patch_checkpoint_saving() -> None:
    """Make every checkpoint that a Runner writes atomic.

    Without it a kill while mmengine writes leaves half a file under the
    final name, and with ``max_keep_ckpts=1`` no whole file at all, because
    the old one is removed before the new one is written.
    """
    _patch('mmengine.hooks.checkpoint_hook', _patch_hook_module)


def _patch_infer_module(module: ModuleType) -> None:
    original = module.BaseInferencer._init_model
    if hasattr(original, 'mmext'):
        return

    def _init_model(self,
                    cfg: Any,
                    weights: Optional[str],
                    device: str = 'cpu') -> Any:
        from .utils.io import TRUST_VARIABLE, trust_checkpoints
        if not cfg and not trust_checkpoints():
            raise ValueError(
                f'Expected a config for {weights}, but none was given. The '
                'config text inside a checkpoint is Python code and is not '
                'executed. Name the config file, or set '
                f'{TRUST_VARIABLE}=1 for a checkpoint that you wrote.')
        return original(self, cfg, weights, device)

    _init_model.mmext = True  # type: ignore[attr-defined]
    module.BaseInferencer._init_model = _init_model


def patch_inferencer_config() -> None:
    """Keep inferencers from executing the config text in a checkpoint.

    Without it ``BaseInferencer(model=None, weights=FILE)`` runs a string
    from the file as a Python config, whatever ``weights_only`` says.
    """
    _patch('mmengine.infer.infer', _patch_infer_module)


class _DepthScope(MetaPathFinder, Loader):
    """``mmdepth.registry`` in memory: what :mod:`mmext.registry` provides."""

    NAMES = ('mmdepth', 'mmdepth.registry')

    def find_spec(self,
                  fullname: str,
                  path: Any = None,
                  target: Any = None) -> Optional[ModuleSpec]:
        if fullname not in self.NAMES:
            return None
        return ModuleSpec(fullname, self, is_package=fullname == 'mmdepth')

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == 'mmdepth.registry':
            from .registry import DEPTH_REGISTRIES
            vars(module).update(DEPTH_REGISTRIES)


def provide_depth_scope() -> None:
    """Let ``mmdepth.X`` and ``default_scope='mmdepth'`` be found.

    mmengine imports ``SCOPE.registry`` when it meets a scope. There is no
    mmdepth package; without this the look-up fails unless something has
    imported :mod:`mmext.registry` before, and every build warns. The finder
    is the last one asked, so a real package of that name would win.
    """
    if not any(isinstance(one, _DepthScope) for one in sys.meta_path):
        sys.meta_path.append(_DepthScope())


def _leave_process_group() -> None:
    from torch import distributed
    if distributed.is_initialized():
        distributed.destroy_process_group()
        # DDP may keep the group and its threads alive. A thread that then
        # drops the tensor of a finished collective asks for the interpreter
        # lock, and asking while the interpreter ends is an abort. Here the
        # lock is free for it.
        time.sleep(0.5)


def patch_cpu_distributed() -> None:
    """Let ``torchrun`` train on a machine without an accelerator.

    Without it ``init_dist`` calls ``torch.cuda.set_device`` (absent in a CPU
    build), asks for NCCL, and the Runner gives
    ``MMDistributedDataParallel`` a GPU index as ``device_ids``. With it the
    backend becomes gloo and the model stays on the CPU. Does nothing where
    CUDA is available. Call it before the Runner is built. The group is left
    when the interpreter ends, with time for gloo's threads to let go of their
    last tensors: otherwise they abort the process now and then, after all
    its work is done.
    """
    import torch
    if torch.cuda.is_available():
        return
    import mmengine.dist.utils as dist_utils
    from mmengine.model import MMDistributedDataParallel

    if hasattr(dist_utils, 'mmext_cpu'):
        return
    dist_utils.mmext_cpu = True
    torch.cuda.set_device = lambda device: None

    def with_gloo(function: Callable) -> Callable:

        def initialise(backend: str, *args: Any, **kwargs: Any) -> Any:
            atexit.register(_leave_process_group)
            return function('gloo' if backend == 'nccl' else backend, *args,
                            **kwargs)

        return initialise

    for name in ('_init_dist_pytorch', '_init_dist_mpi', '_init_dist_slurm'):
        setattr(dist_utils, name, with_gloo(getattr(dist_utils, name)))
    original = MMDistributedDataParallel.__init__

    def __init__(self, module: Any, *args: Any, **kwargs: Any) -> None:
        if all(p.device.type == 'cpu' for p in module.parameters()):
            kwargs.update(device_ids=None, output_device=None)
        original(self, module, *args, **kwargs)

    MMDistributedDataParallel.__init__ = __init__


def install_shims() -> None:
    """Install every shim; calling it again changes nothing."""
    check_versions()
    if not has('mmengine'):
        return
    shims: List[Callable[[], None]] = [
        map_config_packages, patch_package_lookup, patch_checkpoint_loading,
        patch_checkpoint_saving, patch_inferencer_config, provide_depth_scope
    ]
    for shim in shims:
        shim()
