# Copyright (c) mmext contributors. All rights reserved.
"""Spike recordings in, depth out."""
import os
import os.path as osp
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.infer import BaseInferencer
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmext.models.depth import BiCrossDepthEstimator
from mmext.models.distillers.hand_over import load_weights
from mmext.registry import INFERENCERS, register_depth
from mmext.spike import open_spikes, write_depth_png, write_picture
from mmext.spike.arrays import as_bits, check_cube
from mmext.spike.depth_files import check_scale, tell_clipped
from mmext.spike.options import check_options
from mmext.spike.preview import preview
from mmext.spike.sources import list_recordings
from mmext.utils.arguments import (check_names, check_number, is_count,
                                   is_positive)
from mmext.utils.config_build import model_config
from mmext.utils.config_io import load_config
from mmext.utils.config_paths import dataset_leaves
from mmext.utils.config_types import type_name
from mmext.utils.preflight import check_outputs
from mmext.utils.result_names import result_names
from mmext.utils.user_error import BadFileError, ConfigError
from mmext.visualization.depth_pictures import (SPIKES_TITLE, colour_depth,
                                                depth_panel)

# Steps of a test pipeline that load what a recording does not have.
_LOADERS = ('LoadImageFromFile', 'LoadDepth', 'LoadDepthAnnotation',
            'LoadSpikeFromFile', 'RenderStreetWorldSpikes')


@register_depth(INFERENCERS)
class SpikeDepthInferencer(BaseInferencer):
    """Depth, and its uncertainty, from spike recordings.

    Recordings are read, cropped and resized as the test pipeline of the
    config says; what it loads besides spikes is left out.

    Args:
        model (str | Config | nn.Module): A config (its path) with a
            :class:`mmext.BiCrossDepthEstimator` for spikes, or such a model,
            whose ``cfg`` is its config.
        weights (str, optional): Its checkpoint, which a config needs.
            Defaults to None, for a model that has its weights.
        device (str, optional): Defaults to None, the best there is.
        **spike_options: Arguments of :func:`mmext.spike.open_spikes`:
            ``size=(250, 400)`` for .dat files, ``bitorder``, ``flipud``,
            ``repair``; and of :class:`mmext.LoadSpikeFromFile`, such as
            ``allow_silent=True``. They replace those of the config's test
            pipeline, which replace the ``spike_options`` of its data set.
            Doubts about size and bit order are warnings; ``check=False``
            does not look.

    Raises:
        ConfigError: If the model predicts no depth or takes no spikes, or
            the checkpoint is not given, or does not fit it.

    Example:
        >>> inferencer = SpikeDepthInferencer(
        ...     'configs/bicross/my_stage3.py', 'stage3.pth',
        ...     size=(250, 400))
        >>> inferencer('drive.dat', every=400, out_dir='depth')
    """

    preprocess_kwargs = {'begin', 'every'}
    visualize_kwargs = {'out_dir', 'depth_scale', 'max_depth'}

    def __init__(self,
                 model: Union[str, Config, nn.Module],
                 weights: Optional[str] = None,
                 device: Optional[str] = None,
                 **spike_options) -> None:
        self._built = model if isinstance(model, nn.Module) else None
        if self._built is not None:
            model = getattr(model, 'cfg', None)
            if model is None:
                raise ConfigError(
                    'Expected a model whose cfg is its config, for the test '
                    'pipeline. Pass the config and the checkpoint instead.')
        elif weights is None:
            raise ConfigError(
                'Expected the checkpoint of the config as weights, but got '
                'none: a network without it predicts random depth. Give what '
                'stage 2 or 3 has written, or a model that has its weights.')
        cfg = load_config(model) if isinstance(model, str) else model
        init_default_scope(cfg.get('default_scope') or 'mmseg')
        self.spike_options = spike_options
        super().__init__(cfg, weights, device, show_progress=False)

    # Set-up ------------------------------------------------------------------

    def _init_model(self,
                    cfg: Config,
                    weights: Optional[str],
                    device: str = 'cpu') -> nn.Module:
        model = self._built
        if model is None:
            # the data preprocessor of the top level, too, as in the runner
            model = MODELS.build(model_config(cfg, pretrained=True))
        self._check_model(model)
        if weights is not None:
            load_weights(model, weights)
        model.cfg = cfg
        return model.to(device).eval()

    @staticmethod
    def _check_model(model: nn.Module) -> None:
        # of stages 2 and 3 the config has the estimator in a wrapper
        estimator = getattr(model, 'estimator', model)
        if not isinstance(estimator, BiCrossDepthEstimator):
            raise ConfigError(
                'Expected a config with a mmext.BiCrossDepthEstimator, or '
                'with a stage of BiCross, but its model is a '
                f'{type(model).__name__}, which predicts no depth from '
                'spikes. Use the config and checkpoint of stage 2 or 3.')

    def _init_pipeline(self, cfg: Config) -> Compose:
        dataset = self._dataset(cfg)
        steps = list(dataset.get('pipeline') or [])
        loaders = [
            step for step in steps if _name(step) == 'LoadSpikeFromFile'
        ]
        channels = self._channels()
        load = dict(loaders[0]) if loaders else dict(length=channels)
        load['type'] = 'mmext.LoadSpikeFromFile'
        load.pop('jitter', None)
        self._load = Compose([dict(load, **self.spike_options)])
        loader = self._load.transforms[0]
        options = dict(dataset.get('spike_options') or {}, **loader.options)
        check_options(options, 'spike_options of the data set')
        # Once for a recording, not for every window.
        self._check = options.pop('check', True)
        loader.options, self.length = options, loader.length
        rest = [step for step in steps if _name(step) not in _LOADERS]
        rest = [step for step in rest if not _name(step).startswith('Pack')]
        return Compose(
            [*rest, dict(type='mmext.PackDepthInputs', keys='spike')])

    @staticmethod
    def _dataset(cfg: Config) -> dict:
        """Config of the data set whose pipeline recordings go through."""
        for name in ('test_dataloader', 'val_dataloader'):
            dataset = (cfg.get(name) or {}).get('dataset')
            leaves = [leaf for _, leaf in dataset_leaves(dataset, name)]
            # Without a type it is no leaf, but a pipeline is all we need.
            for leaf in [*leaves, dataset or {}]:
                if leaf.get('pipeline'):
                    return leaf
        return {}

    def _channels(self) -> int:
        """Ticks that the network takes."""
        model = getattr(self.model, 'estimator', self.model)
        channels = getattr(model.backbone, 'in_channels', 128)
        temporal = getattr(model, 'temporal', None)
        if temporal is not None:
            channels = getattr(temporal, 'in_channels', 128)
        if channels == 3:
            raise ConfigError(
                'Expected a model for spikes, but its backbone takes images '
                '(in_channels=3). Use the config and checkpoint of stage 2 '
                'or 3.')
        return channels

    # Run ---------------------------------------------------------------------

    def __call__(self, inputs: Any, *args, **kwargs) -> dict:
        """Depth of recordings.

        Args:
            inputs (Any): A path or folder, an array or tensor (T, H, W), or
                a list of these.
            *args, **kwargs: See ``BaseInferencer``, :meth:`preprocess` and
                :meth:`visualize`.

        Returns:
            dict: See :meth:`postprocess`.

        Raises:
            ConfigError: If an option is unknown or wrong, before anything is
                computed.
            UserError: If nothing can be written to ``out_dir``.
        """
        known = {'return_datasamples', 'batch_size'
                 } | self.preprocess_kwargs | self.visualize_kwargs
        check_names(
            kwargs, sorted(known), 'SpikeDepthInferencer',
            'Nothing is shown on the screen: out_dir is where pictures are '
            f'written to. It takes {", ".join(sorted(known))}.')
        check_scale(kwargs.get('depth_scale', 256.), 'depth_scale')
        max_depth = kwargs.get('max_depth', 80.)
        if not is_positive(max_depth):
            raise ConfigError('Expected max_depth to be a positive number of '
                              f'metres, but got {max_depth!r}.')
        check_outputs(dict(out_dir=kwargs.get('out_dir')))
        return super().__call__(inputs, *args, **kwargs)

    def _inputs_to_list(self, inputs: Any) -> List[Any]:
        """Recordings: files of folders, and arrays as they are."""
        if not isinstance(inputs, (list, tuple)):
            inputs = [inputs]
        found: List[Any] = []
        for one in inputs:
            if isinstance(one, torch.Tensor):
                one = one.detach().cpu()
                one = (one.float() if one.is_floating_point() else one).numpy()
            if isinstance(one, np.ndarray):
                found.append(check_cube(one))
            elif not isinstance(one, (str, os.PathLike)):
                raise ConfigError(
                    'Expected a path, a folder, an array or tensor (T, H, W), '
                    f'or a list of these, but got {type(one).__name__}. Put '
                    'what a generator gives into a list.')
            else:
                path = osp.expanduser(os.fspath(one))
                found += list_recordings(path) if osp.isdir(path) else [path]
        return found

    def preprocess(self,
                   inputs: Sequence[Any],
                   batch_size: int = 1,
                   begin: int = 0,
                   every: Optional[int] = None) -> Iterator[dict]:
        """Batches of the windows of all recordings.

        Args:
            inputs (Sequence): Paths and arrays (T, H, W) of 0 and 1.
            batch_size (int): Windows of a batch; they need one size.
                Defaults to 1.
            begin (int): First tick. Defaults to 0.
            every (int, optional): A window every so many ticks.
                Defaults to None: one window.

        Yields:
            dict: Input of ``model.test_step``.

        Raises:
            ConfigError: If ``batch_size``, ``begin`` or ``every`` is none.
        """
        check_number('batch_size', batch_size, 1, whole=True)
        if not is_count(begin, 0):
            raise ConfigError('Expected begin to be a tick, counted from 0, '
                              f'but got {begin!r}.')
        if every is not None and not is_count(every):
            raise ConfigError('Expected every to be a positive whole number '
                              f'of ticks, but got {every!r}.')
        self._shown: List[dict] = []
        windows = self._windows(inputs, begin, every)
        for chunk in self._get_chunk_data(windows, batch_size):
            if chunk:
                yield self.collate_fn(chunk)

    def _windows(self, inputs: Sequence[Any], begin: int,
                 every: Optional[int]) -> Iterator[dict]:
        names = result_names(inputs)
        options = dict(self._load.transforms[0].options, check=self._check)
        for one, name in zip(inputs, names):
            array = isinstance(one, np.ndarray)
            ticks = len(one if array else open_spikes(one, **options))
            if ticks - begin < self.length:
                raise BadFileError(
                    f'Expected at least {self.length} ticks from {begin} on, '
                    f'but {name if array else one} has {ticks}. Choose an '
                    'earlier begin, or record longer.')
            starts = range(begin, ticks - self.length + 1, every
                           or ticks) or [begin]
            for start in starts:
                if array:
                    results = self._of_array(one, start, name)
                else:
                    results = self._load(
                        dict(spike_path=one, spike_begin=start))
                # a picture: the spikes of a long recording fill the memory
                self._shown.append(
                    dict(
                        name=f'{name}_{start:06d}',
                        picture=preview(results['spike'], stretch=True)))
                yield self.pipeline(results)

    def _of_array(self, array: np.ndarray, start: int,
                  name: str) -> Dict[str, Any]:
        window = array[start:start + self.length]
        spikes = as_bits(window, f' in {name}').astype(np.uint8)
        self._load.transforms[0].check(spikes, start, name)
        shape = spikes.shape[1:]
        return dict(
            spike=spikes, spike_begin=start, ori_shape=shape, img_shape=shape)

    def forward(self, inputs: dict, **kwargs) -> List[Any]:
        """Predictions of a batch, which do not stay on the device."""
        return [sample.cpu() for sample in super().forward(inputs, **kwargs)]

    def visualize(self,
                  inputs: list,
                  preds: List[Any],
                  out_dir: str = '',
                  depth_scale: float = 256.,
                  max_depth: float = 80.) -> List[np.ndarray]:
        """Pictures of spikes, depth and uncertainty; files if asked for.

        Args:
            inputs (list): The recordings.
            preds (list[SegDataSample]): Of the windows.
            out_dir (str): Folder for ``NAME_TICK_depth.png`` (16 bits),
                ``_colour.png`` and ``_panel.png``, with the names of
                :func:`~mmext.utils.result_names.result_names`.
                Defaults to '', none.
            depth_scale (float): Stored value of a metre: 256 or, indoor,
                1000. Depth above 65535 / depth_scale is stored as that,
                with a warning. Defaults to 256.
            max_depth (float): Depth of the coldest colour. Defaults to 80.

        Returns:
            list[np.ndarray]: (H', W', 3) uint8, B G R.
        """
        pictures = []
        for shown, sample in zip(self._shown, preds):
            one = _maps(sample)
            near = max_depth / 80
            pictures.append(
                depth_panel(
                    shown['picture'],
                    pred=one['depth'],
                    uncertainty=one.get('uncertainty'),
                    min_depth=near,
                    max_depth=max_depth,
                    image_title=SPIKES_TITLE))
            if out_dir:
                start = osp.join(osp.expanduser(out_dir), shown['name'])
                write_depth_png(f'{start}_depth.png', one['depth'],
                                depth_scale)
                write_picture(f'{start}_colour.png',
                              colour_depth(one['depth'], near, max_depth))
                write_picture(f'{start}_panel.png', pictures[-1])
        if out_dir:
            tell_clipped((_maps(sample)['depth'] for sample in preds),
                         depth_scale)
        return pictures

    def postprocess(self,
                    preds: List[Any],
                    visualization: Optional[List[np.ndarray]] = None,
                    return_datasample: bool = False,
                    **kwargs) -> dict:
        """Results of all windows.

        Returns:
            dict: ``predictions``: data samples, or dicts of ``name`` (with
            the first tick), ``begin``, ``depth`` and, if the model has it,
            ``uncertainty``, each (H, W) float32; ``visualization``.
        """
        if not return_datasample:
            preds = [
                dict(
                    name=shown['name'],
                    begin=sample.metainfo.get('spike_begin', 0),
                    **_maps(sample))
                for shown, sample in zip(self._shown, preds)
            ]
        return dict(predictions=preds, visualization=visualization)


def _name(step: Any) -> str:
    return type_name(
        step.get('type') if isinstance(step, dict) else type(step))


def _maps(sample: Any) -> Dict[str, np.ndarray]:
    fields = dict(depth='pred_depth_map', uncertainty='pred_uncertainty_map')
    return {
        key: sample.get(field).data[0].float().cpu().numpy()
        for key, field in fields.items() if field in sample
    }
