# Copyright (c) mmext contributors. All rights reserved.
"""Clean, certified and attacked accuracy of certified classifiers."""
import logging
import os.path as osp
from typing import Any, Dict, List, Optional, Sequence

import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmext.models.lipschitz.boxes import eps_tuple
from mmext.registry import METRICS
from mmext.utils.io import write_json
from mmext.utils.preflight import check_outputs
from mmext.utils.user_error import ConfigError
from .certified_report import (Record, certified_metrics, check_export, finite,
                               format_table, violations, write_plots,
                               write_samples)

# Fields of a sample with one value per eps -> name in a record.
_PER_EPS = dict(
    certified='certified',
    worst_margin='margin',
    attacked='attacked',
    certified_unanimous='unanimous',
    certified_majority='majority')
_CERTIFICATES = ('radius', 'radius_lipschitz', *_PER_EPS.values())


@METRICS.register_module()
class CertifiedAccuracy(BaseMetric):
    r"""How many images are classified right whatever an attacker adds.

    With :math:`y_i` the label, :math:`\hat y_i` the prediction and
    :math:`R_i` the certified radius of an image,

    .. math::
        clean = \tfrac1N\sum[\hat y_i = y_i],\quad
        certified@\epsilon = \tfrac1N\sum[\text{no }\|\delta\|_\infty
        \le\epsilon\text{ changes } \hat y_i = y_i],\quad
        mean\_radius = \tfrac1N\sum[\hat y_i = y_i] R_i

    All accuracies are in percent; eps and radii are in pixel units of images
    in [0, 1]. The model puts the certificates into its predictions, as
    ``mmext.LipschitzClassifier`` and ``mmext.CertifiedEnsemble`` do with
    ``test_cfg=dict(certify=dict(eps=[...]))``. Reported are, as far as the
    samples have the fields (EPS is '0.1', '8/255', ...):

    - **clean**: accuracy without an attack.
    - **certified@EPS**: from ``certified``.
    - **lipschitz@EPS**: from ``radius_lipschitz``, the margin rule alone.
    - **attacked@EPS**: accuracy under the attack, from ``attacked``.
    - **mean_radius**, **median_radius**: of ``certified_radius``, 0 where
      the prediction is wrong.
    - **violations**: number of samples whose certificate an attack (or a
      wrong clean prediction) refutes. Anything but 0 is a bug.
    - **unanimous@EPS**, **majority@EPS**, **member_mean/...** and
      **member_best/...**: of ensembles.

    Duplicates that a distributed sampler pads with are dropped by the
    collection of :class:`~mmengine.evaluator.BaseMetric`.

    Args:
        eps (Sequence[float | str], optional): Radii in pixel units that the
            model certifies. Defaults to None: the samples say it
            (``certify_eps``).
        out_dir (str, optional): Folder of ``certified_accuracy.png``,
            ``radius_histogram.png`` and ``certified.json``. Defaults to
            None, which writes none.
        export (str, optional): File of one line per image, ``*.csv`` or
            ``*.jsonl``; below ``out_dir`` unless absolute. Defaults to None.
        bins (int): Bars of the histogram. Defaults to 50.
        collect_device (str): As in BaseMetric. Defaults to 'cpu'.
        prefix (str, optional): As in BaseMetric. Defaults to None, 'cert'.

    Example:
        >>> test_evaluator = [
        ...     dict(type='Accuracy', topk=1),
        ...     dict(type='mmext.CertifiedAccuracy',
        ...          out_dir='work_dirs/certified', export='samples.csv')
        ... ]
        >>> default_hooks = dict(checkpoint=dict(
        ...     save_best='cert/certified@8/255', rule='greater'))
    """

    default_prefix = 'cert'

    def __init__(self,
                 eps: Optional[Sequence[float]] = None,
                 out_dir: Optional[str] = None,
                 export: Optional[str] = None,
                 bins: int = 50,
                 collect_device: str = 'cpu',
                 prefix: Optional[str] = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if eps is not None:
            eps = [*eps_tuple(eps)]
        if export is not None:
            check_export(export)
        self.eps: Optional[List[float]] = eps
        self.out_dir = out_dir
        self.export = export
        self.bins = bins

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep a plain record of each prediction.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): Predictions with ``gt_label`` and
                ``pred_label`` (or ``pred_score`` of shape (C, )); optionally
                ``certified``, ``worst_margin``, ``attacked`` and
                ``certify_eps`` of shape (E, ), ``certified_radius`` and
                ``radius_lipschitz`` scalars; of ensembles
                ``certified_unanimous``, ``certified_majority`` (E, ),
                ``member_correct`` (K, ) and ``member_certified`` (K, E).

        Raises:
            ConfigError: If a label is missing, the number of radii does not
                fit, or there are no certificates for ``eps``.
            UserError: With the first batch, if ``out_dir`` or ``export``
                cannot be written.
        """
        if not self.results and is_main_process():
            check_outputs(
                {'out_dir of CertifiedAccuracy': self.out_dir},
                {'export of CertifiedAccuracy': self._export_path()})
        for sample in data_samples:
            self.results.append(self._record(sample, len(self.results)))

    def _record(self, sample: Any, index: int) -> Record:
        name = str(_get(sample, 'img_path') or f'sample {index}')
        label = _first(_get(sample, 'gt_label'))
        if label is None:
            raise ConfigError(
                f'{name}: expected a gt_label, but the sample has none. '
                'Certified accuracy is defined for labelled images; use '
                'mmext.CertifiedClassificationInferencer for others.')
        record: Record = dict(
            index=_get(sample, 'sample_idx'),
            image=_get(sample, 'img_path'),
            label=int(label),
            predicted=_predicted(sample, name),
            eps=self._eps_of(sample, name))
        for field in ('certified_radius', 'radius_lipschitz'):
            value = _first(_get(sample, field))
            record[field.replace('certified_', '')] = \
                None if value is None else float(value)
        for field, key in _PER_EPS.items():
            record[key] = self._per_eps(sample, field, record, name)
        if self.eps and all(record[key] is None for key in _CERTIFICATES):
            raise ConfigError(
                f'{name}: CertifiedAccuracy expects certificates at '
                f'eps={self.eps}, but the prediction has none. Set '
                'model.test_cfg.certify.eps of a mmext.LipschitzClassifier '
                'or mmext.CertifiedEnsemble; eps of the metric may be left '
                'out.')
        for field, key in (('member_correct', 'members'),
                           ('member_certified', 'member_certified')):
            record[key] = _plain(_get(sample, field))
        return record

    def _eps_of(self, sample: Any, name: str) -> List[float]:
        """Radii of a sample; they must be those of the metric."""
        own = _plain(_get(sample, 'certify_eps'))
        if own is None:
            return list(self.eps or ())
        own = [float(e) for e in own]
        if self.eps is not None and not _equal(own, self.eps):
            raise ConfigError(
                f'{name}: CertifiedAccuracy expects eps={self.eps}, but the '
                f'model certified {own}. Leave eps out of the metric, or set '
                'it as in model.test_cfg.certify.eps.')
        return own

    @staticmethod
    def _per_eps(sample: Any, field: str, record: Record,
                 name: str) -> Optional[list]:
        values = _plain(_get(sample, field))
        if values is None:
            return None
        values = values if isinstance(values, list) else [values]
        if len(values) != len(record['eps']):
            raise ConfigError(
                f'{name}: expected one value of {field} for each of the '
                f'{len(record["eps"])} radii {record["eps"]}, but got '
                f'{len(values)}. Set CertifiedAccuracy(eps=[...]) to '
                'model.test_cfg.certify.eps.')
        return values

    def compute_metrics(self, results: List[Record]) -> Dict[str, float]:
        """Turn the records of all images into metrics, and write files.

        Args:
            results (list[Record]): The records, duplicates dropped.

        Returns:
            dict[str, float]: See the class.

        Raises:
            ConfigError: If the images were certified at different radii.
        """
        if not results:
            return {}
        eps = results[0]['eps']
        if not all(_equal(record['eps'], eps) for record in results):
            raise ConfigError('Expected all images to be certified at the '
                              f'same radii, but got {eps} and others.')
        records = [
            dict(r, index=i if r['index'] is None else r['index'])
            for i, r in enumerate(results)
        ]
        metrics = certified_metrics(records, eps)
        print_log(format_table(metrics, eps), logger='current')
        self._report_violations(records)
        for write in (self._write_samples, self._write_report):
            try:
                write(records, metrics, eps)
            except OSError as error:  # the numbers took long to get
                print_log(
                    f'Results of CertifiedAccuracy are not written: {error}',
                    logger='current',
                    level=logging.ERROR)
        return metrics

    @staticmethod
    def _report_violations(records: Sequence[Record]) -> None:
        refuted = violations(records)
        if refuted:
            shown = [
                records[i]['image'] or records[i]['index'] for i in refuted[:5]
            ]
            print_log(
                f'{len(refuted)} certificates were refuted, the first of '
                f'{shown}. The certificate or the attack is broken: do not '
                'use these numbers.',
                logger='current',
                level=logging.ERROR)

    def _export_path(self) -> Optional[str]:
        if self.export is None:
            return None
        return osp.join(self.out_dir or '', self.export)

    def _write_samples(self, records: List[Record], metrics: Dict[str, float],
                       eps: Sequence[float]) -> None:
        path = self._export_path()
        if path is not None:
            write_samples(path, records, eps)
            print_log(f'Certificates of each image: {path}', logger='current')

    def _write_report(self, records: List[Record], metrics: Dict[str, float],
                      eps: Sequence[float]) -> None:
        if self.out_dir is not None:
            write_json(
                osp.join(self.out_dir, 'certified.json'),
                dict(
                    eps=list(eps),
                    images=len(records),
                    metrics={
                        k: finite(v)
                        for k, v in metrics.items()
                    }))
            files = write_plots(self.out_dir, records, metrics, eps, self.bins)
            print_log(f'Plots: {", ".join(files)}', logger='current')


def _get(sample: Any, field: str) -> Any:
    """A field of a data sample or of its dict, or None."""
    if isinstance(sample, dict):
        return sample.get(field)
    return getattr(sample, field, None)


def _plain(value: Any) -> Any:
    """Numbers and lists instead of tensors, which keep no graph or GPU."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _first(value: Any) -> Any:
    value = _plain(value)
    return value[0] if isinstance(value, list) and value else value


def _predicted(sample: Any, name: str) -> int:
    label = _first(_get(sample, 'pred_label'))
    if label is not None:
        return int(label)
    score = _get(sample, 'pred_score')
    if score is None:
        raise ConfigError(
            f'{name}: expected pred_label or pred_score, but the sample has '
            'neither. Evaluate the predictions of a classifier.')
    return int(torch.as_tensor(score).argmax())


def _equal(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= 1e-7 for x, y in zip(a, b))
