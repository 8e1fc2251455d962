# Copyright (c) mmext contributors. All rights reserved.
"""Image in, label and certified radius out."""
import logging
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import (Any, Callable, Dict, Iterator, List, Optional, Sequence,
                    Tuple, Union)

import cv2
import numpy as np
import torch
from mmcv.image import imread, imwrite
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmpretrain.apis import ImageClassificationInferencer
from mmpretrain.apis.base import InputType, ModelType
from mmpretrain.registry import TRANSFORMS
from mmpretrain.structures import DataSample

from mmext.evaluation.certified_report import eps_name
from mmext.models.classification.certify_options import CertifyOptions
from mmext.registry import INFERENCERS
from mmext.utils.arguments import check_number
from mmext.utils.config_io import load_config
from mmext.utils.preflight import check_outputs
from mmext.utils.result_names import result_names
from mmext.utils.user_error import (BadFileError, ConfigError,
                                    MissingFileError, UserError)
from .certified_model import (certified_model, load_certified,
                              prepare_certified, warn_resampling)

# What a user most often asks for when neither config nor call says it.
_EPS = (2 / 255, 8 / 255)
Eps = Union[float, str, Sequence[Union[float, str]]]
_IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.ppm', '.pgm', '.tif', '.tiff',
           '.webp')


@INFERENCERS.register_module()
class CertifiedClassificationInferencer(ImageClassificationInferencer):
    """Classify images and say how far each prediction is safe.

    The radius needs no label: within it, in the l-infinity norm of the
    pixels that the network sees, no change of the image alters the predicted
    class. A test pipeline that resizes makes it a statement about the
    resized image.

    Files are read in the channel order of the config's data set: the order
    of OpenCV if its test pipeline loads files, red first if the data set
    holds arrays (MNIST, CIFAR); in grey for a network of one channel. Arrays
    are taken as they are.

    Args:
        model (BaseModel | str | Config): A config with a
            ``mmext.LipschitzClassifier`` or ``mmext.CertifiedEnsemble`` (its
            path or its name in the model zoo), or such a model.
        pretrained (str, optional): Checkpoint of a finished training.
            Defaults to None, for a model that has its weights.
        device (str | torch.device, optional): Defaults to None, the CPU.
        classes (Sequence[str], optional): Names of the classes. Defaults to
            None, those in the checkpoint.
        eps (float | str | Sequence[float | str], optional): Radii in pixel
            units of images in [0, 1] to say yes or no to, such as 0.1,
            ``'8/255'`` or a list. Defaults to None: ``test_cfg.certify``
            of the config, else 2/255 and 8/255.
        radius_steps (int): Halvings by which interval bounds refine the
            radius. Defaults to 10.

    Raises:
        UserError: If the model gives no certificates, or the checkpoint does
            not fit or was saved before p was infinite.

    Examples:
        >>> inferencer = CertifiedClassificationInferencer(
        ...     'configs/lipschitz/liplenet++_mnist.py', 'epoch_400.pth')
        >>> inferencer('seven.png', show_dir='certified')
        [{'pred_label': 7, 'certified_radius': 0.31, ...}]
    """

    visualize_kwargs: set = {'show', 'show_dir', 'wait_time', 'scale'}

    def __init__(self,
                 model: ModelType,
                 pretrained: Optional[str] = None,
                 device: Optional[Any] = None,
                 classes: Optional[Sequence[str]] = None,
                 eps: Optional[Eps] = None,
                 radius_steps: int = 10) -> None:
        if isinstance(model, BaseModel):
            if getattr(model, '_config', None) is None:
                raise UserError(
                    'A model for the inferencer needs its config, for the '
                    'test pipeline. Pass the config and the checkpoint '
                    'instead, or set model._config.')
            prepare_certified(model)
            if pretrained:
                prepare_certified(model, load_certified(model, pretrained))
        else:
            cfg = model if isinstance(model, Config) else load_config(model)
            model = certified_model(cfg, pretrained)
        self._warned = False
        self._certify(model, eps, radius_steps)
        meta = getattr(model, '_dataset_meta', None) or {}
        super().__init__(
            model,
            pretrained=None,
            device=device,
            classes=classes or meta.get('classes'))

    @staticmethod
    def _certify(model: BaseModel, eps: Optional[Eps],
                 radius_steps: int) -> None:
        """Switch certificates of the predicted class on."""
        options = model.certify
        if options is None or eps is not None:
            asked = CertifyOptions.from_cfg(
                dict(certify=dict(eps=_EPS if eps is None else eps)))
            options = asked if options is None else replace(
                options, eps=asked.eps)
        model.certify = replace(
            options, radius=True, radius_steps=radius_steps, attack=None)

    def __call__(self, inputs: InputType, *args: Any, **kwargs: Any) -> list:
        """See the base class; a ``show_dir`` is tried before anything is
        computed.

        Raises:
            UserError: If no picture can be written to ``show_dir``.
            ConfigError: If ``batch_size`` is no positive whole number.
        """
        # (return_datasamples, batch_size, ...), as the base class has them
        batch_size = args[1] if len(args) > 1 else kwargs.get('batch_size', 1)
        check_number('batch_size', batch_size, 1, whole=True)
        check_outputs(dict(show_dir=kwargs.get('show_dir')))
        return super().__call__(inputs, *args, **kwargs)

    def _init_pipeline(self, cfg: Config) -> Callable:
        warn_resampling(cfg)
        steps = list(cfg.test_dataloader.dataset.pipeline)
        self._loads_files = bool(steps) and \
            str(steps[0].get('type')).endswith('LoadImageFromFile')
        if self._loads_files:
            steps = steps[1:]
        return Compose([TRANSFORMS.build(step) for step in steps])

    def _read(self, image: InputType) -> np.ndarray:
        """An image as the data set of the config would deliver it."""
        if isinstance(image, np.ndarray):
            return self._checked(image)
        if not Path(image).is_file():
            raise MissingFileError(f'There is no image {image}.')
        order = dict(channel_order='bgr' if self._loads_files else 'rgb')
        if self._channels() == 1:
            order = dict(flag='grayscale')
        try:
            found = imread(str(image), **order)
        except cv2.error:  # an empty file
            found = None
        if found is None:
            raise BadFileError(f'{image} cannot be read as an image.')
        return found

    def _checked(self, image: np.ndarray) -> np.ndarray:
        """An array with the channels and the values of an image."""
        channels = self._channels()
        if image.dtype.kind not in 'biuf' or image.ndim not in (2, 3) or (
                image.ndim == 3 and image.shape[2] not in (1, channels)):
            raise ConfigError(
                'Expected an array of numbers, (H, W) or (H, W, '
                f'{channels}), but got {image.dtype} of shape {image.shape}.')
        if image.dtype.kind != 'f':
            return image
        if not np.isfinite(image).all():
            raise ConfigError('Expected an array of finite numbers, but it '
                              'holds nan or an infinity.')
        white = self.model.certify.pixel_range
        if white > 1 and 0 < image.max(initial=0) <= 1 and not self._warned:
            self._warned = True
            print_log(
                'An array of floats has no value above 1, but white is '
                f'{white:g}: it is taken as a nearly black image. Multiply '
                f'images in [0, 1] by {white:g}.',
                logger='current',
                level=logging.WARNING)
        return image

    def _input_size(self) -> Tuple[int, int, int]:
        model = self.model
        if hasattr(model, 'members'):
            model = model.members[0]
        return model.backbone.input_size

    def _channels(self) -> int:
        return self._input_size()[0]

    def _check_size(self, pixels: torch.Tensor, name: Any) -> None:
        """Refuse an image that the network does not take, by its name."""
        if getattr(self.model.data_preprocessor, 'pad_size_divisor', 1) > 1:
            return  # the network sees another size, and will say so
        size, own = tuple(pixels.shape[-2:]), self._input_size()[1:]
        if size != own:
            raise ConfigError(
                f'{name} has {size[0]} x {size[1]} pixels after the test '
                'pipeline (height x width), but the network was built for '
                f'images of {own[0]} x {own[1]}. Leave it out, or crop or pad '
                'it; resizing changes what a pixel radius means.')

    def preprocess(self,
                   inputs: List[InputType],
                   batch_size: int = 1) -> Iterator[dict]:
        """Load images and put them through the test pipeline.

        Args:
            inputs (list[str | ndarray]): Files or arrays.
            batch_size (int): Images in a batch. Defaults to 1.

        Yields:
            dict: A batch.

        Raises:
            ConfigError: If an image has another size than the network's; it
                is named.
        """

        def load(index: int, image: InputType) -> dict:
            pixels = self._read(image)
            item = self.pipeline(
                dict(
                    img=pixels,
                    img_shape=pixels.shape[:2],
                    ori_shape=pixels.shape[:2]))
            self._check_size(
                item['inputs'],
                f'array {index}' if isinstance(image, np.ndarray) else image)
            return item

        chunks = self._get_chunk_data(map(load, count(), inputs), batch_size)
        yield from map(default_collate, chunks)

    def _inputs_to_list(self, inputs: InputType) -> list:
        """Files of a folder that are no images are passed over.

        Raises:
            MissingFileError: If a folder has no images.
            ConfigError: If there is something else than paths and arrays.
        """
        if isinstance(inputs, (str, Path)) and Path(inputs).is_dir():
            found = sorted(
                str(path) for path in Path(inputs).iterdir()
                if path.suffix.lower() in _IMAGES)
            if not found:
                raise MissingFileError(f'The folder {inputs} has no images.')
            return found
        if isinstance(inputs, Path):
            inputs = str(inputs)
        inputs = super()._inputs_to_list(inputs)
        for one in inputs:
            if not isinstance(one, (str, Path, np.ndarray)):
                raise ConfigError(
                    'CertifiedClassificationInferencer takes paths, folders '
                    f'and arrays, but got {type(one).__name__}. '
                    'numpy.asarray(...) makes an array (H, W, C) of a PIL '
                    'image, and of a tensor of this shape.')
        return inputs

    def visualize(self,
                  ori_inputs: List[InputType],
                  preds: List[DataSample],
                  show: bool = False,
                  wait_time: float = 0,
                  scale: Optional[int] = None,
                  show_dir: Optional[str] = None) -> Optional[list]:
        """Draw label, radius and decisions below each image.

        Args:
            ori_inputs (list[str | ndarray]): Files or arrays.
            preds (list[DataSample]): Their predictions.
            show (bool): Show the pictures in a window. Defaults to False.
            wait_time (float): Seconds that each stays; 0 is forever.
                Defaults to 0.
            scale (int, optional): Enlarge each pixel to a square of this
                side. Defaults to None: so that the picture is about 256 wide.
            show_dir (str, optional): Folder for the pictures, which have
                the files' names; files that share one get the folders where
                they part. Defaults to None.

        Returns:
            list[ndarray] | None: Pictures (H, W, 3), red first.
        """
        if not show and show_dir is None:
            return None
        pictures = []
        names = result_names(ori_inputs, 'images', '')
        for name, image, sample in zip(names, ori_inputs, preds):
            pixels = image if isinstance(image, np.ndarray) else \
                imread(str(image), channel_order='rgb')
            picture = draw_certificate(pixels, self.lines(sample), scale)
            if show_dir is not None:
                imwrite(picture[..., ::-1],
                        str(Path(show_dir).expanduser() / f'{name}.png'))
            if show:
                from mmengine.visualization import Visualizer
                Visualizer.get_instance('certified').show(
                    picture, wait_time=wait_time)
            pictures.append(picture)
        return pictures

    def lines(self, sample: DataSample) -> List[str]:
        """What is written below a picture."""
        result = self._result(sample)
        label = str(result['pred_label'])
        if 'pred_class' in result:
            label += f' ({result["pred_class"]})'
        decided = [
            f'{eps_name(eps)}: {"certified" if yes else "no"}'
            for eps, yes in zip(result['eps'], result['certified'])
        ]
        return [
            label, f'radius {result["certified_radius"]:.4f} = '
            f'{result["certified_radius_255"]:.1f}/255', *decided
        ]

    def _result(self, sample: DataSample) -> Dict[str, Any]:
        score = sample.pred_score
        label = int(sample.pred_label)
        radius = float(sample.certified_radius)
        result = dict(
            pred_label=label,
            pred_score=float(score[label]),
            pred_scores=score.detach().cpu().numpy(),
            certified_radius=radius,
            certified_radius_255=255 * radius,
            eps=torch.as_tensor(sample.certify_eps).tolist(),
            certified=sample.certified.tolist())
        if self.classes is not None:
            result['pred_class'] = self.classes[label]
        return result

    def postprocess(self,
                    preds: List[DataSample],
                    visualization: Optional[list],
                    return_datasamples: bool = False) -> list:
        """Turn predictions into plain dicts.

        Args:
            preds (list[DataSample]): Predictions.
            visualization (list, optional): Not used.
            return_datasamples (bool): Return ``preds``. Defaults to False.

        Returns:
            list[dict]: ``pred_label``, ``pred_score``, ``pred_scores``,
            ``pred_class``, ``certified_radius`` (pixel units of [0, 1]),
            ``certified_radius_255`` (the same in grey levels), ``eps`` and
            ``certified``, a decision for each.
        """
        if return_datasamples:
            return preds
        return [self._result(sample) for sample in preds]


def draw_certificate(image: np.ndarray,
                     lines: Sequence[str],
                     scale: Optional[int] = None) -> np.ndarray:
    """An enlarged image with lines of text below it.

    Args:
        image (ndarray): (H, W), (H, W, 1) or (H, W, 3), uint8.
        lines (Sequence[str]): The text.
        scale (int, optional): Side of a pixel. Defaults to None: so that
            the picture is about 256 wide, never smaller than it is.

    Returns:
        ndarray: (H', W', 3) uint8.
    """
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] == 1:
        image = np.repeat(image, 3, 2)
    scale = scale or max(1, round(256 / image.shape[1]))
    image = image.repeat(scale, 0).repeat(scale, 1)
    width = max(image.shape[1], 9 * max(map(len, lines)) + 8)
    canvas = np.full((image.shape[0] + 18 * len(lines) + 6, width, 3), 255,
                     np.uint8)
    canvas[:image.shape[0], :image.shape[1]] = image
    for i, line in enumerate(lines):
        cv2.putText(canvas, line, (4, image.shape[0] + 15 + 18 * i),
                    cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas
