# Copyright (c) mmext contributors. All rights reserved.
"""What all data sets of RGB, spikes and depth have in common."""
import fnmatch
import logging
import os
import os.path as osp
from typing import Any, Dict, List, Optional, Sequence

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmext.spike import open_spikes
from mmext.spike.depth_files import check_scale
from mmext.spike.options import check_options
from mmext.spike.sources import natural_key
from mmext.utils.arguments import as_tuple
from mmext.utils.user_error import ConfigError
from ..data_help import (DataHelp, UnreadableSampleError, missing_data_error,
                         unreadable_sample_error)
from ..transforms.depth_loading import LoadDepth, LoadSpikeFromFile

#: What to run instead of a public data set that is not there.
DEPTH_ALTERNATIVE = (
    "train_dataloader = dict(dataset=dict(\n"
    "    type='mmext.StreetWorldDepthDataset', frames=100,\n"
    "    pipeline=[dict(type='mmext.RenderStreetWorldSpikes'),\n"
    "              dict(type='mmext.PackDepthInputs')]))")

#: Some depth of every scene is between these, in metres.
PLAUSIBLE_DEPTH = (0.5, 200.)

# What pictures may end with, the likeliest first.
PICTURE_ENDS = ('.jpg', '.png', '.jpeg')

# Modality -> key of the item and of data_prefix.
KEYS = dict(rgb='img_path', spike='spike_path', depth='depth_map_path')


def depth_help(layout: str, source: str) -> DataHelp:
    """A `DataHelp` whose alternative are the embedded street scenes.

    Args:
        layout (str): The expected folders.
        source (str): Where to get the data, and the spikes.
    """
    return DataHelp(
        layout, source, DEPTH_ALTERNATIVE,
        'Without it, embedded street scenes do, which need no files:')


#: How spikes are made for data sets that have RGB only.
SPIKE_SOURCE = """
Spikes are simulated, folder by folder, with
python tools/dataset_converters/video_to_spikes.py \\
    --folder RGB_FOLDER --window 128 --ticks-per-frame 16 --out SPIKE_FOLDER
A window of 375 x 1242 pixels takes 60 MB; with --suffix .npz, and
spike_suffix='.npz' of the data set, at most 7.5 MB."""


class BaseDepthDataset(BaseDataset):
    """Base of the data sets of RGB, spikes and depth.

    Items have ``img_path``, ``spike_path``, ``depth_map_path`` (those of the
    ``modalities``), ``depth_scale`` and ``spike_options``; start the
    pipeline with ``LoadImageFromFile``, ``mmext.LoadSpikeFromFile``,
    ``mmext.LoadDepth``. A derived class gives :meth:`list_samples` and the
    two attributes for messages.

    When the list is read, missing folders and files are reported with the
    expected layout, and the first sample is opened: a wrong size, bit order
    or kind of depth shows before the first iteration. A sample that cannot
    be read later is an error in testing; in training it is replaced by
    another one, named in the log and counted in :attr:`bad_samples`, up to
    ``max_bad_samples`` in each worker.

    Args:
        modalities (Sequence[str]): Which of 'rgb', 'spike' and 'depth' the
            samples must have. Defaults to all three; leave 'depth' out for a
            target without labels.
        depth_scale (float, optional): Stored value of a metre. Defaults to
            None: that of the data set.
        spike_options (dict, optional): Arguments of
            :func:`mmext.spike.open_spikes`, such as
            ``dict(size=(250, 400))`` for .dat files. They extend those of
            the data set, and ``mmext.LoadSpikeFromFile`` may replace them.
            Defaults to None.
        spike_suffix (str): Ending of the recordings. Defaults to '.npy'.
        drop_incomplete (bool, optional): Leave samples out that lack a
            file, instead of an error. Defaults to None: as the class has it.
        max_bad_samples (int): See above. Defaults to 20.
        **kwargs: See ``mmengine.dataset.BaseDataset``.

    Attributes:
        data_name (str): What the data set is called in messages.
        data_help (DataHelp): Its layout and where to get it.
        bad_samples (int): Unreadable samples that this process replaced.

    Raises:
        ConfigError: If depth_scale or spike_options cannot be right.
        MissingFileError: If folders or files are missing.
        BadFileError: If the first sample is not what it should be.
    """
    METAINFO = dict(task='depth')
    data_name: str
    data_help: DataHelp
    default_scale: Optional[float] = None
    default_spike_options: Dict[str, Any] = {}
    default_prefix: Dict[str, str] = {}
    drop_by_default = False
    splits: Dict[str, Sequence[str]] = {}

    def __init__(self,
                 modalities: Sequence[str] = ('rgb', 'spike', 'depth'),
                 depth_scale: Optional[float] = None,
                 spike_options: Optional[dict] = None,
                 spike_suffix: str = '.npy',
                 drop_incomplete: Optional[bool] = None,
                 max_bad_samples: int = 20,
                 data_prefix: Optional[dict] = None,
                 **kwargs) -> None:
        self.modalities = as_tuple(modalities)
        unknown = [one for one in self.modalities if one not in KEYS]
        if unknown or not self.modalities:
            raise ConfigError("Expected modalities to be some of 'rgb', "
                              f"'spike' and 'depth', but got {modalities!r}.")
        self.depth_scale = self.default_scale if depth_scale is None \
            else depth_scale
        if self.depth_scale is not None:
            check_scale(self.depth_scale, 'depth_scale')
        self.spike_options = dict(self.default_spike_options,
                                  **(spike_options or {}))
        check_options(self.spike_options, 'spike_options')
        self.spike_suffix = spike_suffix
        self.drop_incomplete = self.drop_by_default \
            if drop_incomplete is None else drop_incomplete
        self.max_bad_samples, self.bad_samples = max_bad_samples, 0
        prefix = dict({key: ''
                       for key in KEYS.values()}, **self.default_prefix)
        prefix.update(data_prefix or {})
        super().__init__(data_prefix=prefix, **kwargs)

    @property
    def prefixes_read(self) -> List[str]:
        """list[str]: Keys of ``data_prefix`` that the modalities need."""
        return [KEYS[one] for one in self.modalities]

    # Listing -----------------------------------------------------------------

    def list_samples(self) -> List[dict]:
        """All samples in their order.

        Returns:
            list[dict]: Paths by 'rgb', 'spike' and 'depth', at least those
            of the modalities, and more keys for the items.
        """
        raise NotImplementedError

    def folder(self, modality: str) -> str:
        """Folder of a modality, ``data_root`` and ``data_prefix`` joined."""
        return self.data_prefix[KEYS[modality]]

    def find(self, *parts: str) -> List[str]:
        """Files of a pattern in their natural order.

        Args:
            *parts (str): Folders, whose names are taken as they are, and
                the pattern of the names, to which large letters are as
                small ones.

        Raises:
            MissingFileError: If there is none.
        """
        *folders, pattern = parts
        folder = osp.join(*folders)
        there = osp.isdir(folder or '.')
        names = sorted((name for name in os.listdir(folder or '.')
                        if fnmatch.fnmatchcase(name.lower(), pattern.lower())
                        and not name.startswith('.')),
                       key=natural_key) if there else []
        if not names:
            raise missing_data_error(
                self.data_name,
                osp.join(folder, pattern) if there else folder,
                self.data_help,
                problem='has no such file' if there else 'is missing')
        return [osp.join(folder, name) for name in names]

    def by_name(self, *parts: str, **ends: str) -> List[dict]:
        """Samples whose files have one name in a folder per modality.

        Args:
            *parts (str): Folders below those of the modalities.
            **ends (str): Endings of 'rgb' and 'depth'. Default to any
                picture (.jpg, .png), and .png.
        """
        ends = dict(
            dict(rgb='', depth='.png', spike=self.spike_suffix), **ends)
        lead = self.modalities[0]
        samples = []
        for path in self.find(
                self.folder(lead), *parts, f'*{ends[lead] or ".*g"}'):
            sample = {}
            for one, end in ends.items():
                name = osp.join(self.folder(one), *parts, stem(path))
                found = None if end else first_file(
                    [name + each for each in PICTURE_ENDS])
                sample[one] = found or name + (end or PICTURE_ENDS[0])
            samples.append(dict(sample, **{lead: path}))
        return samples

    @classmethod
    def pick(cls, split: str) -> Sequence[str]:
        """Parts of a split, of the class attribute ``splits``."""
        if split not in cls.splits:
            raise ConfigError(f'Expected a split of {tuple(cls.splits)}, but '
                              f'got {split!r}.')
        return cls.splits[split]

    def read_lines(self) -> List[List[str]]:
        """Columns of the lines of ``ann_file``.

        Raises:
            MissingFileError: If there is no list.
        """
        if not self.ann_file or not osp.isfile(self.ann_file):
            raise missing_data_error(
                self.data_name,
                self.ann_file or '(ann_file is not set)',
                self.data_help,
                problem='has no list of samples')
        with open(self.ann_file) as file:
            return [line.split() for line in file if line.strip()]

    def load_data_list(self) -> List[dict]:
        """Items with the paths of the modalities.

        Returns:
            list[dict]: See the class.
        """
        samples, incomplete = [], []
        for sample in self.list_samples():
            absent = [
                sample.get(one) for one in self.modalities
                if not _is_there(sample, one)
            ]
            (incomplete if absent else samples).append(sample)
            if absent:
                incomplete[-1] = absent[0]
        total = len(samples) + len(incomplete)
        if incomplete and not (self.drop_incomplete and samples):
            raise missing_data_error(
                self.data_name, [str(one) for one in incomplete[:3]],
                self.data_help,
                f'lacks files of {len(incomplete)} of {total} samples. '
                'Add them, name only the modalities that are there, or set '
                'drop_incomplete=True')
        if not samples:
            raise missing_data_error(
                self.data_name, [self.folder(one) for one in self.modalities],
                self.data_help, 'has no samples')
        if incomplete:
            print_log(
                f'{self.data_name}: {len(incomplete)} of {total} samples '
                f'lack a file and are left out, such as {incomplete[0]}.',
                logger='current',
                level=logging.WARNING)
        items = [self._item(sample) for sample in samples]
        self._check_first(items[0])
        return items

    def _item(self, sample: dict) -> dict:
        item = {key: value for key, value in sample.items() if key not in KEYS}
        for one in self.modalities:
            item[KEYS[one]] = sample[one]
        item.update(
            depth_scale=self.depth_scale, spike_options=self.spike_options)
        return item

    def _check_first(self, item: dict) -> None:
        """A systematic mistake shows here; doubts are warnings."""
        if item.get('depth_map_path'):
            self._check_depth(item['depth_map_path'])
        if item.get('spike_path'):
            options = dict(self.spike_options)
            for step in self.pipeline.transforms:
                # As it will read.
                if isinstance(step, LoadSpikeFromFile):
                    options.update(step.options)
                    break
            recording = open_spikes(item['spike_path'], **options)
            for finding in recording.findings():
                print_log(
                    f'{item["spike_path"]}: {finding}.',
                    logger='current',
                    level=logging.WARNING)

    def _check_depth(self, path: str) -> None:
        scale = self.depth_scale
        for step in self.pipeline.transforms:
            if isinstance(step, LoadDepth):
                scale = step.scale or scale
                break
        depth = LoadDepth.read(path, scale)
        depth = depth[depth > 0]
        near, far = PLAUSIBLE_DEPTH
        if len(depth) and (depth.min() > far or depth.max() < near):
            print_log(
                f'The depth of {path} goes from {depth.min():.4g} to '
                f'{depth.max():.4g} m, which no scene does: check '
                f'depth_scale, the stored value of a metre, which is {scale}.',
                logger='current',
                level=logging.WARNING)

    # Reading -----------------------------------------------------------------

    def prepare_data(self, idx: int) -> Optional[dict]:
        """Run the pipeline on one sample.

        Args:
            idx (int): Index of the sample.

        Returns:
            dict, optional: What the pipeline gives; None in training if the
            sample cannot be read, for which mmengine takes another one.

        Raises:
            UnreadableSampleError: In testing, and after
                ``max_bad_samples`` in training; names the files.
            ConfigError: If a setting is wrong.
        """
        try:
            return super().prepare_data(idx)
        except ConfigError:
            raise
        except Exception as error:
            found = self._unreadable(idx, error)
            self.bad_samples += 1
            if self.test_mode or self.bad_samples > self.max_bad_samples:
                raise found from error
            print_log(
                f'{found} Another sample takes its place '
                f'({self.bad_samples} of at most {self.max_bad_samples} '
                'unreadable samples so far).',
                logger='current',
                level=logging.WARNING)
            return None

    def _unreadable(self, idx: int, error: Exception) -> UnreadableSampleError:
        info = self.get_data_info(idx)
        files = {one: info[key] for one, key in KEYS.items() if info.get(key)}
        return unreadable_sample_error(self.data_name, idx, error, files)


def first_file(paths: Sequence[str]) -> Optional[str]:
    """The first of some files that is there, also as .PNG for .png.

    Args:
        paths (Sequence[str]): Where it may be.

    Returns:
        str, optional: Its path, or None.
    """
    for path in paths:
        start, end = osp.splitext(path)
        for one in (path, start + end.upper(), start + end.lower()):
            if osp.isfile(one):
                return one
    return None


def _is_there(sample: Dict[str, Any], modality: str) -> bool:
    """Whether a file is there; its path gets the suffix that it has."""
    found = first_file([sample.get(modality) or ''])
    sample[modality] = found or sample.get(modality)
    return found is not None


def stem(path: str) -> str:
    """Name of a file without its ending."""
    return osp.splitext(osp.basename(path))[0]
