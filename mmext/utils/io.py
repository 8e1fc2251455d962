# Copyright (c) mmext contributors. All rights reserved.
"""Reading checkpoints safely, writing files atomically, hashing them."""
import hashlib
import json
import logging
import os
import pickle
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Callable, Iterator, List, Mapping, Union
from urllib.error import URLError

import torch
from mmengine.logging import print_log
from torch import Tensor

from .safe_globals import install_safe_globals
from .user_error import MissingFileError, UserError

PathLike = Union[str, 'os.PathLike[str]']

TRUST_VARIABLE = 'MMEXT_TRUST_CHECKPOINT'


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read; the message names the file."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint asks for a global that may execute code."""


def trust_checkpoints() -> bool:
    """Whether the user opted in to unsafe pickles by the environment."""
    return os.environ.get(TRUST_VARIABLE, '') == '1'


def safe_load(path: Union[PathLike, IO[bytes]],
              map_location: Any = 'cpu') -> Any:
    """Load a checkpoint without ever executing code from it.

    Torch files are read with ``weights_only=True`` and the short list of
    :func:`~mmext.utils.safe_globals.install_safe_globals`; there is no
    fall-back to the unsafe pickle. Files named ``*.safetensors`` are read
    with safetensors. To load a file that you wrote yourself and that holds
    other objects, set ``MMEXT_TRUST_CHECKPOINT=1``: the file may then
    execute any code.

    Args:
        path (str or PathLike or binary file): The file.
        map_location: As in :func:`torch.load`. Defaults to 'cpu'.

    Returns:
        Any: What was saved, usually a dict.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeCheckpointError: If the file needs a global that is not
            allowed; the message names the file and each such global.
        CheckpointError: If the file is empty, truncated or no checkpoint.
    """
    if isinstance(path, (str, os.PathLike)):
        name = os.path.abspath(os.path.expanduser(os.fspath(path)))
        if not os.path.isfile(name):
            raise MissingFileError(
                f'Expected a checkpoint file, but there is none at {name}.')
        if os.path.getsize(name) == 0:
            raise CheckpointError(
                f'The checkpoint {name} is empty (0 bytes); the write was '
                'probably interrupted. Delete it and use an older one.')
        if name.endswith('.safetensors'):
            return _load_safetensors(name, map_location)
        source: Any = name
    else:
        name = str(getattr(path, 'name', '<memory>'))
        source = path
    return _load_torch(source, name, map_location)


def _load_torch(source: Any, name: str, map_location: Any) -> Any:
    if trust_checkpoints():
        print_log(
            f'{TRUST_VARIABLE}=1: {name} is loaded without protection and '
            'may execute code.',
            logger='current',
            level=logging.WARNING)
        return torch.load(source, map_location, weights_only=False)
    with _explained(name, source):
        return torch.load(source, map_location, weights_only=True)


def check_checkpoint(checkpoint: Any, where: PathLike) -> dict:
    """Refuse a file that is no checkpoint: no dict, or none of weights.

    Args:
        checkpoint (Any): What :func:`safe_load` gave.
        where (str or PathLike): The file, for the message.

    Returns:
        dict: ``checkpoint``.

    Raises:
        CheckpointError: If it, or its ``state_dict``, is something else.
    """
    found = checkpoint
    if isinstance(checkpoint, Mapping):
        found = checkpoint.get('state_dict', checkpoint)
        if isinstance(found, Mapping):
            return checkpoint  # type: ignore[return-value]
    part = 'its state_dict' if found is not checkpoint else 'it'
    raise CheckpointError(
        f'{where} is no checkpoint: expected a dict of weights, alone or '
        f'under state_dict, but {part} is a {type(found).__name__}. Use a '
        'file that a training wrote.')


def load_checkpoint_file(path: PathLike) -> dict:
    """:func:`safe_load` of a file that :func:`check_checkpoint` accepts.

    Args:
        path (str or PathLike): As mmengine writes it, or a state dict.

    Returns:
        dict: The checkpoint.

    Raises:
        CheckpointError: If it cannot be read, or is no checkpoint.
    """
    return check_checkpoint(safe_load(path), path)


def safe_load_url(load_url: Callable, url: str, *args: Any,
                  **kwargs: Any) -> Any:
    """Call torch's ``load_state_dict_from_url`` with protection.

    Args:
        load_url (Callable): ``torch.hub.load_state_dict_from_url``, which
            loads without protection by default.
        url (str): Address of the checkpoint.
        *args, **kwargs: Other arguments of ``load_url``.

    Returns:
        Any: What was saved.

    Raises:
        UnsafeCheckpointError, CheckpointError: As :func:`safe_load`.
    """
    if trust_checkpoints():
        return load_url(url, *args, **dict(kwargs, weights_only=False))
    with _explained(url):
        return load_url(url, *args, **dict(kwargs, weights_only=True))


@contextmanager
def _explained(name: str, source: Any = None) -> Iterator[None]:
    """Turn torch's failures into errors that name the file."""
    install_safe_globals()
    try:
        yield
    except pickle.UnpicklingError as error:
        refused = _refused_globals(source, str(error))
        if not refused:
            raise CheckpointError(_unreadable(name, error)) from error
        raise UnsafeCheckpointError(
            f'Refused to load {name}: it asks for {", ".join(refused)}, '
            'which may execute code. Expected tensors, numbers, text and '
            "mmengine's HistoryBuffer only. Convert the file to plain "
            'tensors or safetensors; only if you wrote it yourself, set '
            f'{TRUST_VARIABLE}=1 to load it all the same.') from error
    except (FileNotFoundError, ConnectionError, CheckpointError, URLError):
        raise
    except (EOFError, OSError, RuntimeError, ValueError, KeyError, IndexError,
            TypeError, AttributeError, AssertionError) as error:
        if isinstance(error, RuntimeError) and 'CUDA' in str(error):
            raise
        raise CheckpointError(_unreadable(name, error)) from error


def _unreadable(name: str, error: BaseException) -> str:
    return (f'Cannot read the checkpoint {name}: it is truncated, damaged or '
            f'not a checkpoint ({type(error).__name__}: {error}). Use an '
            'older checkpoint or fetch the file again.')


def _refused_globals(source: Any, message: str) -> List[str]:
    """Names of the globals that made torch refuse the file."""
    names = set(
        re.findall(r'GLOBAL ([\w.]+)', message) +
        re.findall(r'blocked module ([\w.]+)', message) + re.findall(
            r'Trying to (?:call|load|instantiate)\D*?'
            r'([\w]+\.[\w.]+\w)', message))
    if isinstance(source, str):
        try:
            names.update(
                torch.serialization.get_unsafe_globals_in_checkpoint(source))
        except (RuntimeError, ValueError, pickle.UnpicklingError):
            # Only zip files can be listed; the message has the first name.
            pass
    return sorted(names)


def _load_safetensors(name: str, map_location: Any) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    # A callable (mmengine passes one) maps storages; safetensors has none.
    device = 'cpu' if map_location is None or callable(map_location) \
        else str(map_location)
    try:
        return load_file(name, device=device)
    except SafetensorError as error:
        raise CheckpointError(_unreadable(name, error)) from error


@contextmanager
def atomic_file(path: PathLike) -> Iterator[IO[bytes]]:
    """A binary file that appears under ``path`` complete or not at all."""
    given = Path(os.path.expanduser(os.fspath(path)))
    if given.exists() and not given.is_file():
        # A device or a pipe must not be replaced.
        with open(given, 'wb') as file:
            yield file
        return
    # Through a link the file itself is replaced, as open() would write it.
    target = Path(os.path.realpath(given))
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=target.parent, prefix=f'.{target.name}.', suffix='.tmp')
    try:
        with os.fdopen(handle, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; give the mode that open() would.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows cannot open folders and needs not."""
    if os.name != 'posix':
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_save(obj: Any, path: PathLike) -> None:
    """Save ``obj`` so that a kill leaves the old file or the whole new one.

    The bytes go to a temporary file in the same folder, which is flushed to
    the disk and then renamed over ``path``; the folder is flushed too.

    Args:
        obj (Any): Anything for :func:`torch.save`; a flat dict of tensors
            if ``path`` ends in ``.safetensors``.
        path (str or PathLike): The file. Missing folders are created.
    """
    if os.fspath(path).endswith('.safetensors'):
        from safetensors.torch import save
        tensors = {key: value.contiguous() for key, value in obj.items()}
        atomic_write(path, save(tensors))
        return
    with atomic_file(path) as file:
        torch.save(obj, file)


def atomic_write(path: PathLike, content: Union[str, bytes]) -> None:
    """Write text (UTF-8) or bytes to ``path`` as :func:`atomic_save` does."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: PathLike, obj: Any) -> None:
    """Write ``obj`` as indented JSON, atomically.

    Numpy and torch scalars and arrays become numbers and lists. ``nan`` and
    infinities are refused, as no other JSON reader accepts them.

    Raises:
        ValueError: If ``obj`` holds a value that is not finite.
    """
    text = json.dumps(
        obj, indent=2, ensure_ascii=False, allow_nan=False, default=_jsonable)
    atomic_write(path, text + '\n')


def _jsonable(value: Any) -> Any:
    if hasattr(value, 'tolist'):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f'Expected a number, text, list, dict, array or tensor '
                    f'for JSON, but got {type(value)}.')


def sha256_file(path: PathLike) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def check_md5(path: PathLike, prefix: str) -> None:
    """Refuse a file whose MD5 does not begin as published.

    Args:
        path (str or PathLike): The file.
        prefix (str): First hexadecimal digits; empty accepts every file.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If its MD5 is another one.
    """
    if not os.path.isfile(path):
        raise MissingFileError(f'There is no file {os.fspath(path)}.')
    digest = hashlib.md5()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    if not digest.hexdigest().startswith(prefix.lower()):
        raise CheckpointError(
            f'The MD5 of {os.fspath(path)} is {digest.hexdigest()}, expected '
            f'{prefix}... It is another file, or was damaged; fetch it '
            'again, or pass the MD5 of the file that you mean.')


def tensors_digest(state_dict: Mapping[str, Any]) -> str:
    """SHA-256 of names, types, shapes and bytes of (nested) tensors.

    Two dicts have the same digest exactly if they hold the same values
    under the same keys, in any order and on any device.

    Args:
        state_dict (Mapping): Tensors, numbers and text, lists and nested
            mappings of these.

    Returns:
        str: 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    _update_digest(digest.update, '', state_dict)
    return digest.hexdigest()


def _update_digest(update: Callable[[bytes], None], key: str,
                   value: Any) -> None:
    if isinstance(value, Mapping):
        update(f'{key}:{{{len(value)}}};'.encode())
        for name in sorted(value, key=str):
            _update_digest(update, f'{key}/{name}', value[name])
    elif isinstance(value, (list, tuple)):
        update(f'{key}:[{len(value)}];'.encode())
        for index, item in enumerate(value):
            _update_digest(update, f'{key}/{index}', item)
    elif isinstance(value, Tensor):
        update(f'{key}:{value.dtype}{tuple(value.shape)};'.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        update(flat.view(torch.uint8).numpy().tobytes())
    else:
        update(f'{key}:{value!r};'.encode())
