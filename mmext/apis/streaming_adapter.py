# Copyright (c) mmext contributors. All rights reserved.
"""Adapt on frames that are handed over one at a time."""
import os
import os.path as osp
import sys
import tempfile
from copy import deepcopy
from itertools import count
from typing import Any, List, Optional, Sequence, Union

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from mmext.engine.loops import TestTimeAdaptLoop
from mmext.registry import DATASETS, LOOPS
from mmext.utils.config_io import load_config
from mmext.utils.config_paths import dataset_class, dataset_leaves
from mmext.utils.config_types import is_adaptation, type_name
from mmext.utils.dependency import require
from mmext.utils.launch import drop_removed_hooks
from mmext.utils.preflight import check_checkpoint, check_outputs
from mmext.utils.user_error import BadFileError, ConfigError, UserError


@DATASETS.register_module()
class LiveFrame:
    """A data set of one image, which is replaced from outside.

    Args:
        pipeline (list[dict]): Its transforms; the first takes an array.
        shape (Sequence[int]): Height, width and channels; the image is black
            until :attr:`image` is set.
        metainfo (dict): Classes and palette.
    """

    def __init__(self, pipeline: List[dict], shape: Sequence[int],
                 metainfo: dict) -> None:
        self.metainfo = metainfo
        self.pipeline = Compose(pipeline)
        self.image = np.zeros(tuple(shape), np.uint8)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return self.pipeline(
            dict(
                img=self.image.copy(),
                seg_fields=[],
                reduce_zero_label=False,
                sample_idx=0))


_NUMBERS = count()  # one for each adapter of this process

# Channels of a picture by the `color_type` of LoadImageFromFile; 'unchanged'
# is whatever the files are.
_CHANNELS = dict(
    color=3,
    color_ignore_orientation=3,
    grayscale=1,
    grayscale_ignore_orientation=1)


class _Endless:
    """Positions of a stream whose end is not known: always its one image."""

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> int:
        return 0


@LOOPS.register_module()
class OpenStreamLoop(TestTimeAdaptLoop):
    """A :class:`TestTimeAdaptLoop` that waits for its frames.

    :meth:`run` gets everything ready and returns; each call of
    :meth:`run_iter` then is one step. It scores nothing. Made by
    :class:`StreamingAdapter`.
    """

    def run(self) -> nn.Module:
        """Hand the loaded source to the method."""
        self.sampler.indices = _Endless()
        self.runner.call_hook('before_train')
        self._start()
        self.runner.call_hook('before_train_epoch')
        return self.runner.model


def live_pipeline(pipeline: List[dict]) -> List[dict]:
    """A pipeline for images in memory, without labels.

    Args:
        pipeline (list[dict]): Of a data set: it starts with loading a file,
            and may have ``TestTimeAug`` with views.

    Returns:
        list[dict]: The same, from ``results['img']``.

    Raises:
        ConfigError: If it does not start with ``LoadImageFromFile``.
    """
    pipeline = deepcopy(pipeline)
    first = dict(pipeline[0]) if pipeline else {}
    if type_name(first.get('type')) != 'LoadImageFromFile':
        raise ConfigError(
            'StreamingAdapter feeds images into a pipeline that starts with '
            f'LoadImageFromFile, but it starts with {first.get("type")!r}. '
            'Use a config whose stream reads image files.')
    kept = {k: v for k, v in first.items() if k == 'to_float32'}
    pipeline[0] = dict(type='mmseg.LoadImageFromNDArray', **kept)
    return _without_labels(pipeline)


def _without_labels(steps: list) -> list:
    """Leave out what loads labels, also in the branches of TestTimeAug."""
    kept = []
    for step in steps:
        if isinstance(step, (list, tuple)):
            branch = _without_labels(list(step))
            kept += [branch] if branch else []
            continue
        name = type_name(step.get('type'))
        if name.startswith(('LoadAnnotations', 'LoadDepth')):
            continue
        if 'transforms' in step:
            step = dict(step, transforms=_without_labels(step['transforms']))
        kept.append(step)
    return kept


def _leaf(dataset: dict) -> dict:
    """The first config that has a pipeline, below wrappers and domains."""
    for _, leaf in dataset_leaves(dataset, 'train_dataloader.dataset'):
        if 'pipeline' in leaf:
            return leaf
    raise ConfigError(
        'No pipeline in train_dataloader.dataset, so it is not known how to '
        'make views of a frame. Give the config of an adaptation run, such as '
        'configs/svdp/cityscapes_acdc.py.')


def _live_frame(leaf: dict) -> dict:
    """The data set of one frame, with the views of a data set on disk."""
    cls = dataset_class(leaf)
    if cls is None:
        raise ConfigError(
            f'The data set {leaf["type"]!r} of train_dataloader is not '
            'registered, so that the classes are not known. Import the '
            'module that registers it (custom_imports).')
    metainfo = dict(getattr(cls, 'METAINFO', {}))
    metainfo.update(leaf.get('metainfo') or {})
    return dict(
        type='mmext.LiveFrame',
        pipeline=live_pipeline(leaf['pipeline']),
        metainfo=metainfo)


class StreamingAdapter:
    """Test-time adaptation of a camera's or a video's frames.

    Each call predicts one frame, then adapts on it, as
    :class:`TestTimeAdaptLoop` does with a data set: the same stock Runner
    with its hooks (:class:`mmext.AdaptationGuardHook` for one), the same
    method, views and optimizer, from the same config.

    Args:
        config (str | Config): An adaptation config or its path. Its data
            need not exist.
        weights (str, optional): Checkpoint of the source model, or of an
            earlier adaptation. Defaults to None, the config's
            ``load_from``.
        work_dir (str, optional): For logs, and for hooks that write.
            Defaults to None, a temporary folder, and no checkpoints but
            those of :meth:`save`.
        cfg_options (dict, optional): Settings to override in the config.
            Defaults to None.

    Raises:
        ConfigError: If the config is not of an adaptation run, its
            pipeline reads something else than image files, or no source is
            given.
        UserError: If the checkpoint of the source is missing.

    Example:
        >>> import mmcv
        >>> from mmext.apis import StreamingAdapter
        >>> adapter = StreamingAdapter('configs/svdp/cityscapes_acdc.py')
        >>> for image in mmcv.VideoReader('drive.mp4'):
        ...     labels = adapter(image).labels
        >>> adapter.save('adapted.pth')
    """

    def __init__(self,
                 config: Union[str, Config],
                 weights: Optional[str] = None,
                 work_dir: Optional[str] = None,
                 cfg_options: Optional[dict] = None) -> None:
        cfg = load_config(str(config)) if isinstance(
            config,
            (str, os.PathLike)) else Config(deepcopy(config.to_dict()))
        cfg.merge_from_dict(cfg_options or {})
        if not is_adaptation(cfg):
            raise ConfigError(
                'StreamingAdapter takes the config of an adaptation run, '
                "with train_cfg=dict(type='mmext.TestTimeAdaptLoop', ...), "
                'but train_cfg.type is '
                f'{(cfg.get("train_cfg") or {}).get("type")!r}.')
        self._folder = None if work_dir else tempfile.TemporaryDirectory(
            prefix='mmext_stream_')
        self.cfg = self._open(cfg, weights, work_dir or self._folder.name)
        init_default_scope(cfg.get('default_scope') or 'mmseg')
        leaf = _leaf(cfg.train_dataloader.dataset)
        self._frame = _live_frame(leaf)
        self._color_type = leaf['pipeline'][0].get('color_type', 'color')
        self._runner: Optional[Runner] = None
        self._shape: Optional[tuple] = None

    def _open(self, cfg: Config, weights: Optional[str],
              work_dir: str) -> Config:
        """Turn it into that of a run without data on disk and an end."""
        cfg.work_dir = work_dir
        # Runners of one process share visualizers and loggers of one name,
        # which would go on writing to the folder of an adapter that is gone.
        name = cfg.get('experiment_name') or 'stream'
        cfg.experiment_name = f'{name}_{next(_NUMBERS)}'
        if isinstance(cfg.get('visualizer'), dict):
            cfg.visualizer.name = cfg.experiment_name
        cfg.load_from = weights or cfg.get('load_from')
        check_checkpoint(cfg)
        drop_removed_hooks(cfg)
        cfg.resume = False
        cfg.train_cfg.update(
            type='mmext.OpenStreamLoop', evaluator=[], save_predictions=False)
        for key in list(cfg):
            if key.startswith(('val_', 'test_')):
                cfg.pop(key)
        hooks = cfg.setdefault('default_hooks', {})
        hooks['logger'] = None  # It would tell when an endless stream ends.
        if self._folder is not None:
            hooks['checkpoint'] = None
        return cfg

    @property
    def runner(self) -> Runner:
        """Runner: The stock Runner; it exists after the first frame."""
        if self._runner is None:
            raise UserError('The model is built when the first frame has '
                            'come. Call the adapter with an image first.')
        return self._runner

    @property
    def model(self) -> nn.Module:
        """nn.Module: The adapting model."""
        return self.runner.train_loop.model

    def __call__(self, image: Union[np.ndarray, str]) -> Any:
        """Predict one frame, then adapt on it.

        Args:
            image (np.ndarray | str): Array of shape (H, W, 3), uint8, BGR,
                as OpenCV and ``mmcv.VideoReader`` give it; or the path of a
                picture. All frames have one size. Where the pipeline loads
                with another ``color_type``, what that gives.

        Returns:
            StepResult: ``labels`` of shape (H, W), made before the update
            (classes, or depth in metres), ``uncertainty`` where the method
            has one, ``log``, and ``skipped``: why there was no update.

        Raises:
            BadFileError: If the picture cannot be read.
            ValueError: If the array has another shape or type.
        """
        image = self._checked(image)
        if self._runner is None:
            self._runner = self._built()
        loop = self._runner.train_loop
        loop.stream.datasets['live'].image = image
        batch = loop.dataloader.collate_fn([loop.stream[0]])
        loop.run_iter(batch)
        return loop.last_result

    def _checked(self, image: Union[np.ndarray, str]) -> np.ndarray:
        channels = _CHANNELS.get(self._color_type)
        if isinstance(image, (str, os.PathLike)):
            image = self._read(osp.abspath(image))
        elif channels and isinstance(image, np.ndarray) and \
                image.dtype != np.uint8:
            raise ValueError(
                'Expected a frame of uint8, 0 to 255, as files are read, but '
                f'got {image.dtype}. Convert it with .astype(np.uint8), after '
                '(frame * 255).round() if its values are 0 to 1, or frame // '
                '256 if they fill 16 bits.')
        if isinstance(image, np.ndarray) and image.ndim == 2 and channels != 3:
            image = image[..., None]
        if not isinstance(image, np.ndarray) or image.ndim != 3 or \
                not image.size or channels not in (None, image.shape[2]):
            hint = '' if channels != 3 else \
                ' OpenCV makes one of a grey or an RGBA picture: ' \
                'cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), COLOR_RGBA2BGR.'
            raise ValueError('Expected a frame as an array of shape (H, W, '
                             f'{channels or "C"}), but got '
                             f'{_describe(image)}.{hint}')
        if self._shape not in (None, image.shape):
            raise ValueError(
                f'Expected every frame to have the shape of the first, '
                f'{self._shape}, but got {_describe(image)}. Resize it, or '
                'use another StreamingAdapter for another camera.')
        self._shape = image.shape
        return image

    def _read(self, path: str) -> np.ndarray:
        mmcv = require('mmcv', 'StreamingAdapter')
        image = mmcv.imread(path, self._color_type) if osp.isfile(path) \
            else None
        if image is None:
            raise BadFileError(f'{path} does not exist or is not a picture.')
        return image

    def _built(self) -> Runner:
        """Build, load and get ready, by ``Runner.train``."""
        cfg = self.cfg
        cfg.train_dataloader = dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='mmext.StreamSampler'),
            dataset=dict(
                type='mmext.DomainSequence',
                domains=dict(live=dict(self._frame, shape=self._shape))))
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner

    def save(self, path: str) -> None:
        """Write the adapted model, for any config of the plain host.

        The teacher is in ``state_dict``, where the method has one, and the
        student in ``ema_state_dict``, as in the checkpoints of a run.

        Args:
            path (str): File to write; its folder is made.

        Raises:
            UserError: If nothing can be written there.
        """
        runner = self.runner
        if not str(path).strip() or osp.isdir(osp.expanduser(path)):
            raise UserError(f'Expected path to be a file to write, but got '
                            f'{str(path)!r}. Give one such as adapted.pth.')
        check_outputs(files=dict(path=path))
        folder, name = osp.split(osp.abspath(osp.expanduser(path)))
        runner.save_checkpoint(folder, name, by_epoch=False)


def _describe(value: Any) -> str:
    return f'shape {value.shape}' if isinstance(
        value, np.ndarray) else type(value).__name__
