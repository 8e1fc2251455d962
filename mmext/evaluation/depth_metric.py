# Copyright (c) mmext contributors. All rights reserved.
"""Errors of depth in metres, and how well its uncertainty knows them."""
import logging
from itertools import chain, zip_longest
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmext.registry import METRICS, register_depth
from mmext.utils.arguments import as_tuple, check_number
from mmext.utils.depth_crops import check_crop, check_depths
from mmext.utils.io import write_json
from mmext.utils.user_error import ConfigError
from .depth_measures import (ALIGNMENTS, MEASURES, UNCERTAINTY_MEASURES, align,
                             crop_mask, depth_sums, measures,
                             uncertainty_measures)
from .sample_fields import get_field, sample_name


@register_depth(METRICS)
class DepthMetric(BaseMetric):
    r"""AbsRel, SqRel, RMSE, RMSElog, log10, SILog, d1 to d3, val_sig.

    Scored are the pixels with ``min_depth < d < max_depth`` inside the crop
    of the full image; predictions are clamped to these limits (NaN counts as
    the lower one). The formulas are in
    :func:`~mmext.evaluation.depth_measures.measures`. The authors of BiCross
    take the mean over images of each image's value (``average='image'``).
    An image without a pixel to score is left out and counted; where there
    is no other, the metrics are NaN, which is never the best.

    For every image a few numbers are kept, not its pixels. The result does
    not depend on batch sizes or the number of processes.

    With ``pred_uncertainty_map`` it adds ``ause``, ``aurg`` and
    ``unc_corr``, see
    :func:`~mmext.evaluation.depth_measures.uncertainty_measures`.

    Args:
        metrics (Sequence[str]): Which to give, of 'abs_rel', 'sq_rel',
            'rmse', 'rmse_log', 'log10', 'silog', 'd1', 'd2', 'd3',
            'val_sig'. Defaults to all.
        min_depth (float): In metres. Defaults to 1e-3.
        max_depth (float): In metres. Defaults to 80; indoor 10.
        crop (str, optional): 'garg', 'eigen', 'nyu' or None.
            Defaults to 'garg'.
        average (str): 'image', the mean of the images' values, or 'pixel',
            all pixels in one pool. Defaults to 'image'.
        align (str, optional): 'median', 'scale_shift' or
            'scale_shift_inverse' fit every prediction to its truth before
            the clamp, for models that give no metres. Defaults to None.
        uncertainty (str, optional): Error of the sparsification curves,
            'abs_rel' or 'rmse'; None to ignore uncertainty maps.
            Defaults to 'abs_rel'.
        steps (int): Points of a sparsification curve. Defaults to 20.
        report_file (str, optional): JSON file for the results, those of each
            image and the mean curves. Defaults to None.
        collect_device (str): 'cpu' or 'gpu', as every metric takes it. It
            makes no difference: what is kept of an image is a few numbers,
            which the processes exchange through their own back-end.
            Defaults to 'cpu'.
        prefix (str, optional): Put before every name, with a '/'.
            Defaults to None.
        collect_dir (str, optional): As ``collect_device``.
            Defaults to None.

    Raises:
        ConfigError: If a setting is unknown.

    Example:
        >>> val_evaluator = dict(
        ...     type='mmext.DepthMetric', max_depth=80., crop='garg')
    """

    # Not None, for which BaseMetric warns: the names are clear without one.
    default_prefix = ''

    def __init__(self,
                 metrics: Sequence[str] = MEASURES,
                 min_depth: float = 1e-3,
                 max_depth: float = 80.,
                 crop: Optional[str] = 'garg',
                 average: str = 'image',
                 align: Optional[str] = None,
                 uncertainty: Optional[str] = 'abs_rel',
                 steps: int = 20,
                 report_file: Optional[str] = None,
                 collect_device: str = 'cpu',
                 prefix: Optional[str] = None,
                 collect_dir: Optional[str] = None) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        check_crop(crop, 'crop of DepthMetric')
        choices = dict(
            average=(average, ('image', 'pixel')),
            align=(align, ALIGNMENTS),
            uncertainty=(uncertainty, ('abs_rel', 'rmse', None)))
        for name, (value, known) in choices.items():
            if value not in known:
                raise ConfigError(f'Expected {name} of DepthMetric to be one '
                                  f'of {known}, but got {value!r}.')
        self.metrics = as_tuple(metrics)
        unknown = [one for one in self.metrics if one not in MEASURES]
        if unknown:
            raise ConfigError(f'DepthMetric knows {", ".join(MEASURES)}, but '
                              f'not {", ".join(unknown)}.')
        check_depths(min_depth, max_depth, 'DepthMetric')
        check_number('steps of DepthMetric', steps, 2, whole=True)
        self.min_depth, self.max_depth = float(min_depth), float(max_depth)
        self.crop, self.average, self.align = crop, average, align
        self.uncertainty, self.steps = uncertainty, steps
        self.report_file = report_file

    @property
    def names(self) -> List[str]:
        """list[str]: All that it can give, with the prefix; those of
        uncertainty come only from a model that predicts it."""
        found = [*self.metrics, 'num_images', 'num_empty']
        if self.uncertainty is not None:
            found += UNCERTAINTY_MEASURES
        prefix = f'{self.prefix}/' if self.prefix else ''
        return [prefix + name for name in found]

    # One image ---------------------------------------------------------------

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Score a batch.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict | SegDataSample]): With
                ``pred_depth_map``, ``gt_depth_map`` (none: counted, not
                scored) and, optionally, ``pred_uncertainty_map``; each (1,
                H, W) or (H, W).

        Raises:
            ConfigError: If maps of a sample differ in size.
        """
        self.results += [self.score(sample) for sample in data_samples]

    def score(self, sample: Any) -> Dict[str, Any]:
        """What is kept of one image.

        Args:
            sample (dict | SegDataSample): See :meth:`process`.

        Returns:
            dict: ``name``, ``state`` ('scored', 'empty' or 'unlabelled'),
            and of a scored one ``sums``, and ``quality`` and ``curves`` of
            its uncertainty.
        """
        result = dict(name=sample_name(sample), state='unlabelled')
        target = self._map(sample, 'gt_depth_map')
        if target is None:
            return result
        pred = self._map(sample, 'pred_depth_map')
        if pred is None or pred.shape != target.shape:
            raise ConfigError(
                f'{sample_name(sample)}: expected a predicted depth of the '
                f'size of the truth, {target.shape}, but got '
                f'{None if pred is None else pred.shape}. Load depth after '
                'the crop in testing, so that it keeps the size of the file, '
                'and predict at ori_shape.')
        mask = self.mask(target)
        if not mask.any():
            return dict(result, state='empty')
        depth, truth = self.clamped(pred, target, mask)
        result.update(state='scored', sums=depth_sums(depth, truth))
        known = self._map(sample, 'pred_uncertainty_map')
        if self.uncertainty is not None and known is not None:
            values = np.nan_to_num(known[mask], nan=np.inf)
            result['quality'], result['curves'] = uncertainty_measures(
                depth, truth, values, self.uncertainty, self.steps)
        return result

    def mask(self, target: np.ndarray) -> np.ndarray:
        """Pixels to score, (H, W) of bool; NaN and infinity are out."""
        inside = (target > self.min_depth) & (target < self.max_depth)
        return inside & crop_mask(self.crop, *target.shape)

    def clamped(self, pred: np.ndarray, target: np.ndarray,
                mask: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Aligned and clamped prediction and truth of the scored pixels."""
        truth = target[mask].astype(np.float64)
        depth = np.nan_to_num(
            pred[mask].astype(np.float64),
            nan=self.min_depth,
            posinf=self.max_depth,
            neginf=self.min_depth)
        depth = align(depth, truth, self.align)
        return depth.clip(self.min_depth, self.max_depth), truth

    @staticmethod
    def _map(sample: Any, field: str) -> Optional[np.ndarray]:
        pixels = get_field(sample, field)
        data = None if pixels is None else get_field(pixels, 'data')
        if data is None:
            return None
        data = torch.as_tensor(data).detach().float().cpu().numpy()
        return data[0] if data.ndim == 3 and len(data) == 1 else data

    # All images --------------------------------------------------------------

    def evaluate(self, size: int) -> Dict[str, float]:
        """Metrics of all images of all processes.

        All processes must call it together, and each gets the result. Unlike
        mmengine's gathering on some versions, shares of different length
        lose nothing.

        Args:
            size (int): Images of the data set; what a sampler appended to
                fill up a process is left out.

        Returns:
            dict[str, float]: The metrics, ``num_images`` scored and
            ``num_empty`` left out.
        """
        parts = all_gather_object(self.results)
        self.results = []
        results = [
            one for one in chain.from_iterable(zip_longest(*parts))
            if one is not None
        ][:size]
        found = self.compute_metrics(results)
        prefix = f'{self.prefix}/' if self.prefix else ''
        return {prefix + key: value for key, value in found.items()}

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """Average what was kept of the images.

        Args:
            results (list[dict]): Of :meth:`score`.

        Returns:
            dict[str, float]: See :meth:`evaluate`; NaN if nothing was
            scored, so that hooks which ask for a metric find it.
        """
        scored = [one for one in results if one['state'] == 'scored']
        counts = dict(
            num_images=len(scored),
            num_empty=sum(one['state'] == 'empty' for one in results))
        self._warn(results, counts)
        if not scored:
            return dict(dict.fromkeys(self.metrics, float('nan')), **counts)
        every = [measures(one['sums']) for one in scored]
        if self.average == 'pixel':
            found = measures(np.sum([one['sums'] for one in scored], 0))
        else:
            found = _mean(every)
        found = {key: found[key] for key in self.metrics}
        judged = [one for one in scored if 'quality' in one]
        if judged:
            found.update(_mean([one['quality'] for one in judged]))
        if self.report_file:
            self._write(dict(found, **counts), scored, every, judged)
        return dict(found, **counts)

    def _warn(self, results: list, counts: Dict[str, int]) -> None:
        for state, why in ((
                'empty', 'no depth between '
                f'{self.min_depth} and {self.max_depth} m inside the crop '
                f'{self.crop!r}'), ('unlabelled', 'no gt_depth_map')):
            names = [one['name'] for one in results if one['state'] == state]
            if names:
                print_log(
                    f'DepthMetric left {len(names)} of {len(results)} images '
                    f'out that have {why}, such as {names[0]}.',
                    logger='current',
                    level=logging.WARNING)
        if not counts['num_images']:
            print_log(
                'DepthMetric has nothing to score: check depth_scale, '
                'max_depth and crop, and that testing loads depth.',
                logger='current',
                level=logging.WARNING)

    def _write(self, found: Dict[str, float], scored: List[dict],
               every: List[Dict[str, float]], judged: List[dict]) -> None:
        report: Dict[str, Any] = dict(
            metrics=found,
            images=[
                dict(values, name=one['name'], **one.get('quality', {}))
                for one, values in zip(scored, every)
            ])
        if judged:
            curves = np.mean([one['curves'] for one in judged], 0)
            report['sparsification'] = dict(
                removed=(np.arange(self.steps) / self.steps).tolist(),
                uncertainty=curves[0].tolist(),
                oracle=curves[1].tolist())
        write_json(self.report_file, report)


def _mean(rows: List[Dict[str, float]]) -> Dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
