# Copyright (c) mmext contributors. All rights reserved.
"""Reading what modules inside a model compute."""
from difflib import get_close_matches
from typing import Any, Dict, List, Optional, Sequence

from mmengine.model import is_model_wrapper
from torch import nn

from mmext.utils.arguments import as_tuple
from mmext.utils.user_error import ConfigError


class _AllRead(Exception):
    """Every tap of one reader was reached; the rest may be left out."""

    def __init__(self, tap: 'FeatureTap') -> None:
        super().__init__('all taps of a FeatureTap were read')
        self.tap = tap


class FeatureTap:
    """Outputs of named modules, within a ``with`` block.

    The features belong to this object, not to a module or a global, so any
    number of taps and models work side by side. They keep their graph.

    Args:
        model (nn.Module): The model; a parallel wrapper is looked through.
        paths (Sequence[str]): Modules by their dotted names, such as
            ``'decode_head.path_4'``.
        stop (bool): End the block when all were read, and save the rest of
            the pass. Defaults to False.

    Raises:
        ConfigError: If there is no module of a name.

    Example:
        >>> with FeatureTap(model, ['decode_head.path_4']) as tap:
        ...     losses = model.loss(inputs, data_samples)
        >>> feature = tap['decode_head.path_4']
    """

    def __init__(self,
                 model: nn.Module,
                 paths: Sequence[str],
                 stop: bool = False) -> None:
        if is_model_wrapper(model):
            model = model.module
        self.model, self.paths, self.stop = model, as_tuple(paths), stop
        self.modules = {path: find_module(model, path) for path in self.paths}
        self.features: Dict[str, Any] = {}
        self._handles: List[Any] = []

    def __enter__(self) -> 'FeatureTap':
        self.features = {}
        self._handles = [
            module.register_forward_hook(self._reader(path))
            for path, module in self.modules.items()
        ]
        return self

    def __exit__(self, kind: Optional[type], error: Optional[BaseException],
                 trace: Any) -> bool:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return isinstance(error, _AllRead) and error.tap is self

    def _reader(self, path: str) -> Any:

        def read(module: nn.Module, args: tuple, output: Any) -> None:
            self.features[path] = output
            if self.stop and len(self.features) == len(self.modules):
                raise _AllRead(self)

        return read

    def __getitem__(self, path: str) -> Any:
        """What the module gave when it was last called.

        Raises:
            KeyError: If it was not called in the block.
        """
        if path not in self.features:
            raise KeyError(
                f'{path!r} has no output: the model did not call that module '
                f'within the block. Read: {sorted(self.features)}.')
        return self.features[path]


def find_module(model: nn.Module, path: str) -> nn.Module:
    """The module of a dotted name.

    Args:
        model (nn.Module): The model.
        path (str): The name, as in ``named_modules``.

    Raises:
        ConfigError: If there is none; the message has the nearest names.
    """
    modules = dict(model.named_modules())
    if path not in modules:
        near = get_close_matches(path, modules, n=3, cutoff=0.4)
        raise ConfigError(
            f'Expected the name of a module of {type(model).__name__}, but '
            f'there is no {path!r}. ' +
            (f'Near: {", ".join(near)}.' if near else
             f'It has {", ".join(n for n, _ in model.named_children())}.'))
    return modules[path]
