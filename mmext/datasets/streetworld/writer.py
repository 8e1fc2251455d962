# Copyright (c) mmext contributors. All rights reserved.
"""Writes splits in the folder layouts of Cityscapes and ACDC."""
import json
import os
import os.path as osp
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import cv2
import numpy as np

from .camera import Drive, Intrinsics
from .plan import FrameSpec, plan
from .renderer import Frame, StreetWorld
from .weather import apply_weather

MANIFEST = 'streetworld.json'
FORMAT = 1  # raised when the same settings give other pictures
DEPTH_SCALE = 256.  # written depth is uint16, metres times this


class Part(NamedTuple):
    """One split of one domain and how many frames it has."""
    domain: str
    split: str
    frames: int
    per_town: Optional[int] = None

    @property
    def key(self) -> str:
        """str: Name in the manifest."""
        return f'{self.domain}/{self.split}'


def _dump(path: str, content: Dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=osp.dirname(path), suffix='.tmp')
    with os.fdopen(handle, 'w') as file:
        json.dump(content, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, path)


def frame_paths(part: Part, spec: FrameSpec) -> Tuple[str, str, str]:
    """Image, label and depth file of a frame, relative to the root.

    Args:
        part (Part): Clear parts take Cityscapes' names, all others ACDC's.
        spec (FrameSpec): The frame.

    Returns:
        tuple[str, str, str]: Three relative paths.
    """
    town, name = spec.sequence, spec.name
    if part.domain == 'clear':
        return (f'leftImg8bit/{part.split}/{town}/{name}_leftImg8bit.png',
                f'gtFine/{part.split}/{town}/{name}_gtFine_labelTrainIds.png',
                f'depth/{part.split}/{town}/{name}_depth.png')
    sub = f'{part.domain}/{part.split}/{town}/{name}'
    return (f'rgb_anon/{sub}_rgb_anon.png', f'gt/{sub}_gt_labelTrainIds.png',
            f'depth/{sub}_depth.png')


def write_frame(root: str, part: Part, spec: FrameSpec, frame: Frame,
                depth: bool) -> None:
    """Write one frame's PNG files.

    Args:
        root (str): Data root.
        part (Part): Where the frame belongs.
        spec (FrameSpec): Its town and time.
        frame (Frame): The pictures.
        depth (bool): Whether to write depth (uint16, metres times 256,
            0 for the sky) as well.
    """
    image, labels, metres = (
        osp.join(root, p) for p in frame_paths(part, spec))
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    jobs: List[Tuple[str, np.ndarray]] = [(image, frame.image),
                                          (labels, frame.labels)]
    if depth:
        scaled = np.round(frame.depth * DEPTH_SCALE).clip(0, 65535)
        jobs.append((metres, scaled.astype(np.uint16)))
    for path, array in jobs:
        os.makedirs(osp.dirname(path), exist_ok=True)
        if not cv2.imwrite(path, array, fast):
            raise OSError(f'could not write {osp.abspath(path)}: is the disk '
                          'full or the folder read-only?')


class Writer:
    """Writes parts once and remembers, in a manifest, what is complete.

    Args:
        root (str): Folder to write to.
        size (tuple[int, int]): Height and width. Defaults to (256, 512).
        seed (int): Which world. Defaults to 0.
        strength (float): How bad the weather is. Defaults to 1.
        depth (bool): Write depth files too. Defaults to False.

    Raises:
        ValueError: If the folder holds frames of other settings.
    """

    def __init__(self,
                 root: str,
                 size: Tuple[int, int] = (256, 512),
                 seed: int = 0,
                 strength: float = 1.,
                 depth: bool = False) -> None:
        self.root = root
        self.intrinsics = Intrinsics(*size)
        self.settings = dict(
            format=FORMAT,
            size=list(size),
            seed=int(seed),
            strength=float(strength),
            depth=bool(depth))
        self._path = osp.join(root, MANIFEST)
        self._parts: Dict[str, Dict[str, int]] = {}
        self._open()

    def _open(self) -> None:
        if osp.isfile(self._path):
            with open(self._path) as file:
                try:
                    held = json.load(file)
                except ValueError as error:
                    raise ValueError(
                        f'{osp.abspath(self._path)} is damaged ({error}). '
                        'Choose another --out, or remove that folder to '
                        'write it anew.') from None
            if held.get('settings') != self.settings:
                raise ValueError(
                    f'{osp.abspath(self._path)} was written with the '
                    f'settings {held.get("settings")}, now asked for: '
                    f'{self.settings}. Choose another --out, or remove that '
                    'folder to write it anew.')
            self._parts = held['parts']
            return
        for known in ('leftImg8bit', 'rgb_anon'):
            if osp.isdir(osp.join(self.root, known)):
                raise ValueError(
                    f'{osp.abspath(self.root)} holds {known}/ but no '
                    f'{MANIFEST}: these are not frames of this tool. Choose '
                    'another --out.')

    def complete(self, part: Part) -> bool:
        """Whether a part was written in full, with as many frames."""
        held = self._parts.get(part.key)
        if held is None or not held['complete']:
            return False
        wanted = dict(
            frames=part.frames, per_town=part.per_town, complete=True)
        if held != wanted:
            raise ValueError(
                f'{osp.abspath(self.root)} holds {part.key} with '
                f'{held["frames"]} frames ({held["per_town"]} a town), asked '
                f'for: {part.frames} ({part.per_town} a town). Choose '
                'another --out, or remove that folder to write it anew.')
        return True

    def write(self,
              part: Part,
              advance: Optional[Callable[[], None]] = None) -> int:
        """Write a part unless it is complete.

        Args:
            part (Part): What to write.
            advance (Callable, optional): Called after each frame.
                Defaults to None.

        Returns:
            int: Frames written; 0 if the part was there.
        """
        if self.complete(part):
            return 0
        os.makedirs(self.root, exist_ok=True)
        self._note(part, False)
        world, seed = None, self.settings['seed']
        for spec in plan(part.domain, part.split, part.frames, part.per_town,
                         seed):
            if world is None or world.seed != spec.town:
                world = StreetWorld(spec.town, self.intrinsics, Drive())
            frame = world.render(spec.t, part.domain in ('night', 'dusk'))
            frame = apply_weather(
                frame,
                part.domain,
                strength=self.settings['strength'],
                seed=seed)
            write_frame(self.root, part, spec, frame, self.settings['depth'])
            if advance is not None:
                advance()
        self._note(part, True)
        return part.frames

    def _note(self, part: Part, complete: bool) -> None:
        self._parts[part.key] = dict(
            frames=part.frames, per_town=part.per_town, complete=complete)
        _dump(self._path, dict(settings=self.settings, parts=self._parts))
