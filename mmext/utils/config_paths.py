# Copyright (c) mmext contributors. All rights reserved.
"""The files and folders that a config names, and which are missing."""
import copy
import inspect
import os
import os.path as osp
import re
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS

from .config_signature import accepted_arguments, is_foreign
from .config_types import resolve, type_name, typed_dicts

_PACKAGE = Path(__file__).resolve().parents[1]
# How the names of files of weights end.
_WEIGHTS = ('.pth', '.pt', '.th', '.tar', '.ckpt', '.bin', '.pkl', '.npz',
            '.safetensors')
# Where a config names what an earlier run has trained.
_TRAINED = re.compile(r'model\.(teacher_ckpt|members\[\d+\]\.checkpoint)')
# Keys of a dataset config under which it holds other datasets.
_WRAPPED = ('dataset', 'datasets', 'domains', 'source', 'target')


def dataset_leaves(dataset: Any, path: str) -> Iterator[Tuple[str, dict]]:
    """Yield the datasets that read files, through all wrappers.

    ``ConcatDataset`` nests them under ``datasets``, ``RepeatDataset`` under
    ``dataset``, ``mmext.DomainSequence`` under ``domains``.

    Args:
        dataset (dict): Config of a dataset, list or dict of such configs.
        path (str): Where it stands in the config.

    Yields:
        tuple[str, dict]: Path and config of each innermost dataset.
    """
    if isinstance(dataset, (list, tuple)):
        for i, item in enumerate(dataset):
            yield from dataset_leaves(item, f'{path}[{i}]')
        return
    if not isinstance(dataset, dict):
        return
    inner = [key for key in _WRAPPED if dataset.get(key)]
    if not inner and 'type' in dataset:
        yield path, dataset
        return
    for key in inner if 'type' in dataset else dataset:
        yield from dataset_leaves(dataset[key], f'{path}.{key}')


def is_remote(path: str, backend_args: Optional[dict] = None) -> bool:
    """Whether a path is read through a network back-end."""
    backend = (backend_args or {}).get('backend', 'local')
    return '://' in str(path) or backend not in ('local', 'disk')


def checkpoint_place(path: str) -> str:
    """Where a checkpoint has to lie: an absolute path, or a URL.

    Args:
        path (str): A URL, a path, or ``mmext://GROUP/NAME`` for weights that
            ship with the package:
            ``mmext/datasets/GROUP/weights/NAME.safetensors``.
    """
    path = str(path)
    if path.startswith('mmext://'):
        group, _, name = path[len('mmext://'):].partition('/')
        return str(_PACKAGE / 'datasets' / group / 'weights' /
                   f'{name}.safetensors')
    return path if is_remote(path) else osp.abspath(osp.expanduser(path))


def find_checkpoint(path: str) -> Optional[str]:
    """Find a checkpoint file.

    Args:
        path (str): See :func:`checkpoint_place`. A relative path is looked
            up in the working directory, then in the folder that holds the
            package.

    Returns:
        str, optional: What to load, or ``None`` if there is no such file.
        A ``mmext://`` name stays one, for mmengine's loader knows it.
    """
    place = checkpoint_place(path)
    if is_remote(place):
        return place
    if is_remote(path):
        return str(path) if osp.isfile(place) else None
    for candidate in (place, _PACKAGE.parent / osp.expanduser(str(path))):
        if osp.isfile(candidate):
            return str(candidate)
    return None


def missing_data(dataset: Any, leaf: dict) -> List[str]:
    """Paths of one dataset that do not exist or are empty folders.

    Args:
        dataset (Dataset, optional): The dataset, built with ``lazy_init``;
            it knows the defaults of its class. Without it the config is
            read.
        leaf (dict): Its config.

    Returns:
        list[str]: Absolute paths. Empty for data behind a network back-end
        and for classes that download what is missing.
    """

    def value(name: str, default: Any = None) -> Any:
        found = getattr(dataset, name, None)
        return leaf.get(name, default) if found is None else found

    if value('download', False):
        return []
    found = dataset_class(leaf) if dataset is None else None
    if found is not None and is_foreign(found):
        # Only its class knows what a user's own prefixes are joined with.
        leaf = {
            key: item
            for key, item in leaf.items()
            if key not in ('data_prefix', 'ann_file')
        }
    backend_args = value('backend_args')
    # a built dataset has joined its paths with the root already
    root = '' if dataset is not None else value('data_root') or ''
    prefix = value('data_prefix') or {}
    # of several kinds of files a dataset may say which it reads
    read = getattr(dataset, 'prefixes_read', prefix)
    prefixes = [prefix] if isinstance(prefix, str) else \
        [p for key, p in prefix.items() if isinstance(p, str) and key in read]
    wanted = [osp.join(root, p) for p in prefixes if p] or \
        [value('data_root')]
    if value('ann_file') and isinstance(value('ann_file'), str):
        wanted.append(osp.join(root, value('ann_file')))
    missing = []
    for path in dict.fromkeys(p for p in wanted if p):
        path = osp.expanduser(path)
        if is_remote(path, backend_args) or osp.isfile(path):
            continue
        if not osp.isdir(path) or not _has_entry(path):
            missing.append(osp.abspath(path))
    return missing


def _has_entry(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is not None


def dataset_class(leaf: dict) -> Any:
    """The class of a data set, looked up in the current default scope.

    Args:
        leaf (dict): Config of one dataset.

    Returns:
        type | Callable: ``None`` if the name is not registered.
    """
    return resolve(
        next(typed_dicts(dict(train_dataloader=dict(dataset=leaf)))))[0]


def build_lazy(leaf: dict) -> Any:
    """Build a dataset without reading its data, if its class can.

    Args:
        leaf (dict): Config of one dataset that wraps no other.

    Returns:
        Dataset: Not initialised; ``None`` if the class has no
        ``lazy_init``, in which case only its transforms are built.
    """
    found = dataset_class(leaf)
    if found is None:  # reported with the types
        return None
    leaf = copy.deepcopy(leaf)
    if not takes_lazy_init(found):
        pipeline = leaf.get('pipeline')
        for step in pipeline if isinstance(pipeline, (list, tuple)) else []:
            if isinstance(step, dict):
                TRANSFORMS.build(step)
        return None
    leaf['lazy_init'] = True
    return DATASETS.build(leaf)


def takes_lazy_init(found: Any) -> bool:
    """Whether a data set class can be built without reading its data.

    One that takes any keyword may hand it to a class that does not.
    """
    names = accepted_arguments(found).names
    if names is None:
        return inspect.isclass(found) and issubclass(found, BaseDataset)
    return 'lazy_init' in names


def build_wrapped(dataset: Any) -> Any:
    """Build a data set and all that it wraps without reading data.

    Args:
        dataset (dict): Config of a data set, possibly of a wrapper.

    Returns:
        Dataset: Not initialised; ``None`` if that may read data.
    """
    cfg = _lazy(dataset) if isinstance(dataset, dict) else None
    return None if cfg is None else DATASETS.build(cfg)


def _lazy(node: Any) -> Optional[dict]:
    """A copy with ``lazy_init`` at every depth, if all classes take it."""
    if not isinstance(node, dict) or 'type' not in node:
        return None
    found, _ = resolve(
        next(typed_dicts(dict(train_dataloader=dict(dataset=node)))))
    if found is None or not takes_lazy_init(found):
        return None
    node = dict(copy.deepcopy(node), lazy_init=True)
    inner = [key for key in _WRAPPED if node.get(key)]
    # wrappers of the hosts ask for the length when they are built
    if inner and found.__module__.split('.')[0] not in ('mmengine', 'mmext'):
        return None
    for key in inner:
        value = node[key]
        if isinstance(value, dict) and 'type' in value:
            parts = [_lazy(value)]
            node[key] = parts[0]
        elif isinstance(value, dict):
            parts = [_lazy(one) for one in value.values()]
            node[key] = dict(zip(value, parts))
        else:
            node[key] = parts = [_lazy(one) for one in value]
        if None in parts:
            return None
    return node


def path_findings(cfg: dict) -> List[Tuple[str, str]]:
    """Missing data folders and checkpoints of a whole config.

    Call it inside :func:`mmext.utils.config_types.config_scope`.

    Args:
        cfg (dict): A parsed config whose types all resolve.

    Returns:
        list[tuple[str, str]]: Place in the config and what is missing.
    """
    findings = []
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, dict):
            continue
        for path, leaf in dataset_leaves(
                loader.get('dataset'), f'{split}_dataloader.dataset'):
            try:
                dataset = build_lazy(leaf)
            except Exception:  # reported by build_findings
                dataset = None
            findings += [(path, f'{p} is missing or empty')
                         for p in missing_data(dataset, leaf)]
    for path, checkpoint in checkpoints(cfg):
        if find_checkpoint(checkpoint) is None:
            findings.append(
                (path, f'{checkpoint_place(checkpoint)} is missing'))
    return findings


def checkpoints(node: Any, path: str = '') -> Iterator[Tuple[str, str]]:
    """Yield the checkpoint files that a config names.

    Args:
        node (dict): A config or a part of it.
        path (str): Where it stands in the config. Defaults to ''.

    Yields:
        tuple[str, str]: Place and path of ``load_from``, of every
        ``init_cfg=dict(type='Pretrained', checkpoint=...)``, of every
        ``pretrained`` of a model that looks like a file, of the teacher of
        a distiller and of the members of an ensemble.
    """
    if isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from checkpoints(item, f'{path}[{i}]')
    elif isinstance(node, dict):
        for key, value in node.items():
            place = f'{path}.{key}' if path else str(key)
            if not isinstance(value, str):
                yield from checkpoints(value, place)
            elif value and (place == 'load_from' or
                            (key == 'checkpoint' and is_pretrained(node)) or
                            (key == 'pretrained' and is_weights_file(value)
                             and place.startswith('model'))
                            or _TRAINED.fullmatch(place)):
                yield place, value


def is_pretrained(init_cfg: dict) -> bool:
    """Whether an ``init_cfg`` loads a checkpoint; its type may be a class."""
    return type_name(init_cfg.get('type')) in ('Pretrained', 'PretrainedInit')


def init_cfgs(module: Any) -> List[dict]:
    """What initialises a module of mmengine: one dict, several or none."""
    given = getattr(module, 'init_cfg', None)
    given = given if isinstance(given, (list, tuple)) else [given]
    return [one for one in given if isinstance(one, dict)]


def is_weights_file(value: Any) -> bool:
    """A path of weights or a URL, not the name of a model elsewhere."""
    return isinstance(value, str) and ('://' in value or value.startswith(
        ('/', './', '../', '~')) or osp.splitext(value)[1].lower() in _WEIGHTS)
