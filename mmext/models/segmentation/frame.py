# Copyright (c) mmext contributors. All rights reserved.
"""One frame of a stream as its normalised views."""
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Tuple

from torch import Tensor

from mmext.utils.user_error import ConfigError


@dataclass
class View:
    """One resized, possibly mirrored, normalised picture of a frame.

    Args:
        x (Tensor): Network input, shape (1, C, H, W); may carry padding on
            the right and at the bottom.
        meta (dict): Metainfo of its data sample.
    """
    x: Tensor
    meta: Dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width without padding."""
        return tuple(self.meta.get('img_shape', self.x.shape[-2:])[:2])

    @property
    def flip_dims(self) -> Tuple[int, ...]:
        """Axes along which the view is mirrored."""
        if not self.meta.get('flip', False):
            return ()
        direction = self.meta.get('flip_direction', 'horizontal')
        return dict(
            horizontal=(-1, ), vertical=(-2, ),
            diagonal=(-2, -1))[direction or 'horizontal']


@dataclass
class Frame:
    """A frame of the stream: its views, and the sample to be scored.

    Args:
        views (list[View]): In the order of the pipeline.
        ori_shape (tuple[int, int]): Height and width of the original image,
            or of the part of it that the views show (``crop_box``).
        samples (list): Data samples of the views, host objects.
    """
    views: List[View]
    ori_shape: Tuple[int, int]
    samples: List[Any] = field(default_factory=list)

    @classmethod
    def from_batch(cls, batch: dict, preprocessor: Callable) -> 'Frame':
        """Normalise a collated batch that holds exactly one frame.

        The preprocessor runs as in testing: in training it would pad the
        image but not the label, which would then be misaligned.

        Args:
            batch (dict): ``inputs`` and ``data_samples`` of one frame, from a
                plain test pipeline or from ``TestTimeAug``.
            preprocessor (Callable): The model's data preprocessor.

        Raises:
            ValueError: If the batch holds more than one frame.
        """
        inputs, samples = batch['inputs'], batch['data_samples']
        if not isinstance(inputs[0], (list, tuple)):
            inputs, samples = [inputs], [samples]
        if any(len(view) != 1 for view in inputs):
            raise ValueError(
                f'Test-time adaptation takes one frame at a time, but the '
                f'batch holds {len(inputs[0])}. Set '
                f'train_dataloader.batch_size=1.')
        views = []
        for view, sample in zip(inputs, samples):
            data = preprocessor(
                dict(inputs=list(view), data_samples=list(sample)), False)
            views.append(
                View(data['inputs'], dict(data['data_samples'][0].metainfo)))
        ori_shape = tuple(views[0].meta['ori_shape'][:2])
        if views[0].meta.get('crop_box') is not None:
            ori_shape = tuple(views[0].meta['crop_box'][2:])
        return cls(views, ori_shape, [sample[0] for sample in samples])

    def reference(self, index: Optional[int] = None) -> int:
        """Index of the reference view, which must not be mirrored.

        Args:
            index (int, optional): The configured index; None means the only
                unmirrored view.

        Raises:
            ConfigError: If the choice is impossible or not unique.
        """
        plain = [i for i, v in enumerate(self.views) if not v.flip_dims]
        listing = ', '.join(
            f'{i}: {v.size[1]}x{v.size[0]}{" mirrored" * bool(v.flip_dims)}'
            for i, v in enumerate(self.views))
        if index is None and len(plain) == 1:
            return plain[0]
        if index is None:
            raise ConfigError(
                f'The pipeline yields {len(plain)} unmirrored views, so '
                f'`reference_view` must say which one is the reference '
                f'(ratio 1.0). Views: {listing}.')
        if index not in plain:
            raise ConfigError(
                f'reference_view={index} must be an unmirrored view of the '
                f'pipeline. Views: {listing}.')
        return index
