# Copyright (c) mmext contributors. All rights reserved.
"""The files of a stream: are they there, and what if one is not."""
import os
import os.path as osp
from typing import Any, Dict, Iterator, List, Set

from mmengine.dataset import ConcatDataset, RepeatDataset

from mmext.datasets.data_help import UnreadableSampleError
from mmext.datasets.domain_sequence import DomainSequence
from mmext.utils.config_paths import is_remote
from mmext.utils.config_signature import is_foreign
from mmext.utils.user_error import MissingFileError, UserError

# Transforms of the hosts that read a file -> key of its path, what it is.
_READERS = dict(
    LoadImageFromFile=('img_path', 'pictures'),
    LoadAnnotations=('seg_map_path', 'labels'),
    LoadDepthAnnotation=('depth_map_path', 'depth maps'))


def check_files(stream: DomainSequence) -> None:
    """Refuse a stream of which a file lacks, before hours of adaptation.

    The hosts list pictures and derive the names of labels from them, so that
    a missing label would end the run at its frame. Each folder is listed
    once. Files behind a network are not looked for, nor what transforms of a
    user read.

    Args:
        stream (DomainSequence): The stream.

    Raises:
        MissingFileError: For the first domain with missing files.
    """
    for domain, dataset in stream.datasets.items():
        for part in _parts(dataset):
            _check_part(domain, part)


def _check_part(domain: str, dataset: Any) -> None:
    kinds = _read_keys(dataset)
    if not kinds:
        return
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    for key, kind in kinds.items():
        paths = [info.get(key) for info in infos]
        missing = _missing([p for p in paths if isinstance(p, str)])
        if missing:
            named = ''.join(f'    {osp.abspath(p)}\n' for p in missing[:3])
            raise MissingFileError(
                f'The domain {domain!r} lacks {len(missing)} of its '
                f'{len(paths)} {kind}:\n{named}{_remedy(key)}')


def _remedy(key: str) -> str:
    if key == 'img_path':
        return 'Add them, or take them off the list of the data set.'
    return ('Add them, or move their pictures away. To adapt without scores, '
            'leave what loads labels out of the pipeline of every domain.')


def _parts(dataset: Any) -> List[Any]:
    """The data sets that have a pipeline, through mmengine's wrappers."""
    if isinstance(dataset, ConcatDataset):
        return [part for one in dataset.datasets for part in _parts(one)]
    if isinstance(dataset, RepeatDataset):
        return _parts(dataset.dataset)
    return [dataset] if hasattr(dataset, 'get_data_info') else []


def _read_keys(dataset: Any) -> Dict[str, str]:
    """Keys of the paths of local files that the pipeline is sure to read."""
    found: Dict[str, str] = {}
    for step in _steps(getattr(dataset, 'pipeline', None)):
        reader = _READERS.get(type(step).__name__)
        if reader is None or is_foreign(type(step)) or \
                getattr(step, 'file_client_args', None) is not None or \
                getattr(step, 'ignore_empty', False):
            continue
        if not is_remote('', getattr(step, 'backend_args', None)):
            found[reader[0]] = reader[1]
    return found


def _steps(pipeline: Any) -> Iterator[Any]:
    for step in getattr(pipeline, 'transforms', ()):
        # the views of TestTimeAug
        for view in getattr(step, 'subroutines', ()):
            yield from _steps(view)
        yield step


def _missing(paths: List[str]) -> List[str]:
    listed: Dict[str, Set[str]] = {}
    missing = []
    for path in dict.fromkeys(paths):
        folder, name = osp.split(path)
        if is_remote(path):
            continue
        if folder not in listed:
            listed[folder] = set(os.listdir(folder or '.')) if osp.isdir(
                folder or '.') else set()
        # not every file system tells capitals from small letters
        if name not in listed[folder] and not osp.exists(path):
            missing.append(path)
    return missing


def read_frames(loop: Any) -> Iterator[dict]:
    """The batches of a stream, from where the loop stands.

    Args:
        loop (TestTimeAdaptLoop): The loop.

    Yields:
        dict: One frame.

    Raises:
        UnreadableSampleError: If the files of a frame cannot be read; says
            which frame it is and how to go on.
    """
    batches = iter(loop.dataloader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (OSError, UserError) as error:
            raise _unreadable(loop, error) from error
        yield batch


def _unreadable(loop: Any, error: Exception) -> UnreadableSampleError:
    visit = loop.stream.visit_at(loop.sampler.indices[loop.iter])
    # one of a worker process brings its traceback as text
    reason = str(error).rpartition(f'{type(error).__name__}: ')[2].strip()
    return UnreadableSampleError(
        f'Frame {loop.iter + 1} of {loop.max_iters} (round {visit.round}, '
        f'domain {visit.domain}) could not be read: {reason}\nOnce it can be, '
        '--resume goes on from the last checkpoint, if the run has written '
        'one.')
