# Copyright (c) mmext contributors. All rights reserved.
"""Recordings of spikes in .dat, .npy and .npz files.

A .dat file has no header: ticks follow each other, each has ``H W / 8``
bytes, rows of the stored picture from top to bottom, pixels from left to
right, least significant bit first. Cameras store pictures upside down.
"""
import os
import sys
import warnings
import zipfile
from contextlib import ExitStack
from typing import List, Optional, Tuple

import numpy as np

from mmext.utils.io import PathLike, atomic_file
from mmext.utils.user_error import BadFileError, ConfigError, MissingFileError
from .array_files import (array_names, check_spike_array, choose_array,
                          damage_reported, map_npy, read_content, read_header)
from .arrays import (as_bits, check_bit_order, frame_size, pack_frames,
                     repair_big_endian, unpack_frames)
from .layout import layout_findings

SUFFIXES = ('.dat', '.npy', '.npz')
_CHECKED_TICKS = 128


class SpikeRecording:
    """Spikes in a file, read tick by tick through a memory map.

    Args:
        path (str): The file, for messages.
        shape (tuple[int, int, int]): Ticks, height and width.
        flipud (bool): Whether rows are stored bottom to top.
        repair (bool): Whether :func:`~mmext.spike.repair_big_endian` is
            needed.
    """

    # Whether height and width are a guess of the user.
    headerless = False

    def __init__(self, path: str, shape: Tuple[int, int, int], flipud: bool,
                 repair: bool) -> None:
        self.path, self.flipud, self.repair = path, flipud, repair
        self.shape = tuple(int(n) for n in shape)

    def __len__(self) -> int:
        return self.shape[0]

    def _stored(self, begin: int, end: int) -> np.ndarray:
        """Ticks as they are stored, (T, H, W) of 0 and 1."""
        raise NotImplementedError

    def read(self, begin: int = 0, length: Optional[int] = None) -> np.ndarray:
        """Some ticks.

        Args:
            begin (int): First tick. Defaults to 0.
            length (int, optional): How many. Defaults to None: all that
                follow.

        Returns:
            np.ndarray: (length, H, W) uint8 of 0 and 1, upright.

        Raises:
            BadFileError: If the file has fewer ticks, or other values.
        """
        end = len(self) if length is None else begin + length
        if begin < 0 or end <= begin or end > len(self):
            raise BadFileError(
                f'Expected ticks {begin} to {end - 1}, but {self.path} has '
                f'{len(self)} ticks of {self.shape[1]} x {self.shape[2]} '
                'pixels. Ask for fewer, or record longer.')
        spikes = self._stored(begin, end)
        if self.repair:
            return np.ascontiguousarray(repair_big_endian(spikes))
        if self.flipud:
            spikes = spikes[:, ::-1]
        return np.ascontiguousarray(spikes)

    def findings(self, ticks: int = _CHECKED_TICKS) -> List[str]:
        """What seems wrong with size, bit order or content, in sentences.

        Args:
            ticks (int): How many ticks to look at. Defaults to 128.

        Returns:
            list[str]: Sentences without a full stop; empty if all seems
            well.
        """
        spikes = self._stored(0, min(ticks, len(self)))
        cure = {} if self.headerless else dict(
            cure='read it with repair=True (Respike)')
        if self.repair:
            spikes = repair_big_endian(spikes)
            cure = dict(cure='read it without repair=True')
        return layout_findings(
            spikes.reshape(len(spikes), -1),
            *self.shape[1:],
            sizes=self.headerless,
            **cure)


class _Dat(SpikeRecording):
    headerless = True

    def __init__(self, path: str, size: Tuple[int, int], bitorder: str,
                 flipud: bool, repair: bool) -> None:
        height, width = size
        self.tick_bytes = height * width // 8
        found = os.path.getsize(path)
        ticks, rest = divmod(found, self.tick_bytes)
        need = (f'{height} x {width} pixels need {self.tick_bytes} bytes a '
                f'tick, and {path} has {found} bytes')
        if not ticks:
            raise BadFileError(
                f'Expected at least one tick, but {need}. The file is '
                'truncated, or height and width are wrong.')
        if rest:
            warnings.warn(
                f'{need}: {rest} bytes are left after {ticks} ticks and are '
                'ignored. The file is truncated, or height and width are '
                'wrong.')
        super().__init__(path, (ticks, height, width), flipud, repair)
        self.bitorder = bitorder
        self.map = np.memmap(path, np.uint8, 'r', shape=found)

    def _stored(self, begin: int, end: int) -> np.ndarray:
        data = self.map[begin * self.tick_bytes:end * self.tick_bytes]
        data = np.asarray(data).reshape(end - begin, self.tick_bytes)
        return unpack_frames(data, self.shape[1:], self.bitorder)


class _Array(SpikeRecording):

    def __init__(self, path: str, array: np.ndarray, flipud: bool,
                 repair: bool) -> None:
        super().__init__(path, array.shape, flipud, repair)
        self.array = array

    def _stored(self, begin: int, end: int) -> np.ndarray:
        spikes = np.asarray(self.array[begin:end])
        low, high = spikes.min(), spikes.max()
        if not (low >= 0 and high <= 1):
            raise BadFileError(
                f'Expected spikes of 0 and 1 in {self.path}, but found values '
                f'from {low} to {high} in ticks {begin} to {end - 1}. Store '
                'the spikes themselves, not counts, grey levels or -1/+1.')
        return spikes.astype(np.uint8, copy=False)


class _Packed(SpikeRecording):
    """Bits that :func:`write_spikes` put into an .npz file."""

    def __init__(self, path: str, bits: np.ndarray, shape, flipud: bool,
                 repair: bool) -> None:
        super().__init__(path, shape, flipud, repair)
        self.bits = bits

    def _stored(self, begin: int, end: int) -> np.ndarray:
        _, height, width = self.shape
        return np.unpackbits(
            self.bits[begin:end], 1,
            count=height * width).reshape(end - begin, height, width)


def open_spikes(path: PathLike,
                size: Optional[Tuple[int, int]] = None,
                ticks: Optional[int] = None,
                bitorder: str = 'little',
                flipud: Optional[bool] = None,
                repair: bool = False,
                key: Optional[str] = None,
                check: bool = False) -> SpikeRecording:
    """Open a recording without reading it.

    Args:
        path (str or PathLike): A .dat, .npy or .npz file.
        size (tuple[int, int], optional): Height and width; needed for .dat,
            compared with the others. Defaults to None.
        ticks (int, optional): How many ticks the file must have; without it
            any number is fine. Defaults to None.
        bitorder (str): Of a .dat file, 'little' or 'big'.
            Defaults to 'little', which is right for cameras. The others
            have none, and refuse 'big'.
        flipud (bool, optional): Whether rows are stored bottom to top.
            Defaults to None: yes for .dat, no for the others.
        repair (bool): Turn .npy cubes of Respike upright, see
            :func:`~mmext.spike.repair_big_endian`. Defaults to False.
        key (str, optional): Array of an .npz file, which is needed if it has
            several. Defaults to None.
        check (bool): Look at the content, and warn if size or bit order
            seem wrong. Defaults to False.

    Returns:
        SpikeRecording: Has a ``shape`` and ``read(begin, length)``.

    Raises:
        MissingFileError: If there is no such file.
        ConfigError: If a .dat file comes without its size, another file with
            a bit order, the size is no height and width, or an .npz file has
            no such array or several.
        BadFileError: If the file is damaged, or has another size.

    Examples:
        >>> recording = open_spikes('drive.dat', size=(250, 400))
        >>> spikes = recording.read(begin=1000, length=128)
    """
    name = os.path.expanduser(os.fspath(path))
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f'Expected a file of {SUFFIXES}, but got {name}.')
    check_bit_order(bitorder, name)
    size = None if size is None else frame_size(size)
    if not os.path.isfile(name):
        raise MissingFileError(
            f'Expected a recording of spikes, but there is none at {name}.')
    flip = suffix == '.dat' if flipud is None else flipud
    if suffix == '.dat':
        recording = _Dat(name, _dat_size(name, size), bitorder, flip, repair)
    elif suffix == '.npy':
        recording = _Array(name, map_npy(name), flip, repair)
    else:
        recording = _open_npz(name, key, flip, repair)
    if size is not None and recording.shape[1:] != size:
        raise BadFileError(
            f'Expected {size[0]} x {size[1]} pixels, but {name} has '
            f'{recording.shape[1]} x {recording.shape[2]}. Correct the size, '
            'or use another file.')
    if ticks is not None and len(recording) != ticks:
        kind = 'truncated' if len(recording) < ticks else 'oversized'
        raise BadFileError(
            f'Expected {ticks} ticks, but {name} has {len(recording)}: it is '
            f'{kind}, or height and width are wrong.')
    if check:
        for finding in recording.findings():
            warnings.warn(f'{name}: {finding}.')
    return recording


def _dat_size(name: str, size: Optional[Tuple[int, int]]) -> Tuple[int, int]:
    if size is None:
        raise ConfigError(
            f'{name} has no header: pass the height and width of its '
            'pictures, such as size=(250, 400).')
    if size[0] * size[1] % 8:
        raise ConfigError(
            'Expected a height and width whose product is a multiple of 8, '
            f'but got {size[0]} x {size[1]} for {name}.')
    return size


def _open_npz(name: str, key: Optional[str], flip: bool,
              repair: bool) -> SpikeRecording:
    with damage_reported(name), zipfile.ZipFile(name) as archive:
        if key is None and set(array_names(archive)) == {'bits', 'shape'}:
            return _open_packed(name, archive, flip, repair)
        member = choose_array(name, archive, key)
        return _Array(name, _member(name, archive, member), flip, repair)


def _member(name: str, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """One array of spikes, after its size was checked."""
    info = archive.getinfo(f'{key}.npy')
    with archive.open(info) as file:
        shape, fortran, dtype = read_header(file, name)
        check_spike_array(name, shape, dtype, info.file_size - file.tell())
        return read_content(name, file, shape, fortran, dtype)


def _open_packed(name: str, archive: zipfile.ZipFile, flip: bool,
                 repair: bool) -> SpikeRecording:
    with archive.open('shape.npy') as file:
        shape, fortran, dtype = read_header(file, name)
        good = shape == (3, ) and dtype.kind in 'ui'
        size = tuple(read_content(name, file, shape, fortran,
                                  dtype).tolist()) if good else ()
    if not good or min(size) < 1:
        raise BadFileError(f'Expected ticks, height and width in {name}, but '
                           f'its shape array is {shape} of {dtype}: {size}.')
    info = archive.getinfo('bits.npy')
    with archive.open(info) as file:
        shape, fortran, dtype = read_header(file, name)
        expected = (size[0], (size[1] * size[2] + 7) // 8)
        if shape != expected or dtype != np.uint8 or fortran:
            raise BadFileError(
                f'Expected packed spikes {expected} of uint8 in {name}, but '
                f'found {shape} of {dtype}.')
        found = info.file_size - file.tell()
        if found != expected[0] * expected[1]:
            raise BadFileError(
                f'Expected {expected[0] * expected[1]} bytes of bits in '
                f'{name}, but found {found}. Write the file again.')
        return _Packed(name, read_content(name, file, shape, False, dtype),
                       size, flip, repair)


class SpikeWriter:
    """Write a recording piece by piece; it appears when it is complete.

    A .dat file is written as pieces arrive; .npy and .npz files keep them in
    memory until the end.

    Args:
        path (str or PathLike): A .dat, .npy or .npz file. The suffix decides
            the kind; .npz holds packed bits.
        bitorder (str): Of a .dat file. Defaults to 'little'.
        flipud (bool, optional): Store rows bottom to top. Defaults to None:
            yes for .dat, no for the others, as :func:`open_spikes` has it.

    Examples:
        >>> with SpikeWriter('drive.dat') as writer:
        ...     for piece in camera.stream(light):
        ...         writer.write(piece)
    """

    def __init__(self,
                 path: PathLike,
                 bitorder: str = 'little',
                 flipud: Optional[bool] = None) -> None:
        self.path = os.path.expanduser(os.fspath(path))
        self.suffix = os.path.splitext(self.path)[1].lower()
        if self.suffix not in SUFFIXES:
            raise ConfigError(
                f'Expected a file of {SUFFIXES}, but got {self.path}.')
        check_bit_order(bitorder, self.path)
        self.bitorder = bitorder
        self.flipud = self.suffix == '.dat' if flipud is None else flipud
        self.ticks = 0
        self._stack = ExitStack()
        self._size: Optional[Tuple[int, int]] = None
        self._pieces: List[np.ndarray] = []

    def __enter__(self) -> 'SpikeWriter':
        self._file = self._stack.enter_context(atomic_file(self.path))
        return self

    def write(self, spikes: np.ndarray) -> None:
        """Append ticks.

        Args:
            spikes (np.ndarray): (T, H, W) of 0 and 1.

        Raises:
            ConfigError: If there is another value, or another size than
                before.
        """
        spikes = as_bits(spikes, f' for {self.path}')
        if self._size not in (None, spikes.shape[1:]):
            raise ConfigError(f'Expected pieces of {self._size} pixels for '
                              f'{self.path}, but got {spikes.shape[1:]}.')
        self._size = spikes.shape[1:]
        self.ticks += len(spikes)
        if self.suffix == '.dat':
            self._file.write(
                pack_frames(spikes, self.bitorder, self.flipud).tobytes())
            return
        if self.flipud:
            spikes = spikes[:, ::-1]
        spikes = spikes.astype(np.uint8)
        if self.suffix == '.npz':
            spikes = np.packbits(spikes.reshape(len(spikes), -1), 1)
        self._pieces.append(spikes)

    def __exit__(self, kind, error, trace) -> Optional[bool]:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        return self._stack.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if self._size is None:
            raise ConfigError(f'Expected some spikes for {self.path}.')
        if self.suffix == '.npy':
            np.save(self._file, np.concatenate(self._pieces))
        elif self.suffix == '.npz':
            np.savez_compressed(
                self._file,
                bits=np.concatenate(self._pieces),
                shape=np.array([self.ticks, *self._size]))


def write_spikes(path: PathLike,
                 spikes: np.ndarray,
                 bitorder: str = 'little',
                 flipud: Optional[bool] = None) -> None:
    """Write a whole recording, see :class:`SpikeWriter`.

    Args:
        path (str or PathLike): A .dat, .npy or .npz file.
        spikes (np.ndarray): (T, H, W) of 0 and 1.
        bitorder (str): Of a .dat file. Defaults to 'little'.
        flipud (bool, optional): Store rows bottom to top. Defaults to None.
    """
    with SpikeWriter(path, bitorder, flipud) as writer:
        writer.write(spikes)
