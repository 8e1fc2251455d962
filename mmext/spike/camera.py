# Copyright (c) mmext contributors. All rights reserved.
"""The spike camera: light in, spikes out."""
from typing import Any, Dict, Iterable, Iterator, List, Optional, Union

import numpy as np

from mmext.utils.user_error import ConfigError
from .integrators import FixedPoint, FloatingPoint, Scale
from .light import Light, light_from_frames
from .noise import SpikeNoise, sensor_noise

PRECISIONS = ('auto', 'fixed', 'float32', 'float64')
RESETS = ('residual', 'zero')

# The public simulators, as docs/en/user_guides/spikes.md lists them.
PRESETS: Dict[str, Dict[str, Any]] = dict(
    # Full light fires in every tick; the default of this package.
    ideal=dict(),
    # SpikeCV, convert_video.py: grey / 255, one frame a tick.
    spikecv_video=dict(threshold=5., precision='float64'),
    # SpikeCV, convert_img.py: one static picture.
    spikecv_image=dict(
        gain=0.5, start='zero', reset='zero', precision='float64'),
    # SPCS, v2s.py: integer grey levels.
    spcs=dict(threshold=256., full_scale=1., start='zero'),
    # SpikingSIM, the short version: picture / its maximum.
    spikingsim=dict(gain=0.45, full_scale='max', precision='float64'),
    # SpikingSIM in full: 250 comparisons of 0.2 us in a tick. Its first tick
    # has random light, which is a random start of at most one tick's light.
    spikingsim_full=dict(
        gain=250 * 0.00794,
        threshold=2.,
        reset='zero',
        full_scale='max',
        start=250 * 0.00794 / 2,
        substeps=250,
        noise=SpikeNoise(spurious=(140, 50), diffusion=(0.001, 25))),
    # SCSim: the noise that was measured on a camera.
    scsim=dict(noise=sensor_noise()),
)


class SpikeCamera:
    r"""Integrate-and-fire camera.

    Tick ``n`` of every pixel is

    .. math::
        V \leftarrow V + \eta I_n, \quad S_n = [V \ge \theta], \quad
        V \leftarrow V - \theta S_n \text{ or } V (1 - S_n)

    one spike a tick at most, with the residual kept or a hard reset. The
    accumulators stay from call to call, so that a long recording can be made
    in pieces: any pieces give the same spikes. Equal arguments and light
    give equal spikes.

    Args:
        gain (float): What full light adds in one tick, ``eta``.
            Defaults to 1.
        threshold (float): ``theta``. Defaults to 1.
        reset (str): 'residual' subtracts the threshold after a spike, 'zero'
            drops the rest. Defaults to 'residual'.
        start (str or float or np.ndarray): First accumulators: 'random' is
            uniform from 0 to the threshold, a number uniform from 0 to that
            share of it, 'zero' 0; an array has them in units of
            ``threshold``. Defaults to 'random'.
        full_scale (float or str): Grey level of full light; 'max' takes the
            maximum of the first picture. Float pictures are uint8 ones
            divided by 255 and give the same light; above 255, as for
            uint16, they are pictures divided by this. Defaults to 255.
        saturation (str): 'error' refuses light of more than one spike a
            tick, 'clip' clips it. Defaults to 'error'.
        substeps (int): Comparisons within one tick. Defaults to 1.
        noise (SpikeNoise or dict, optional): Noise. Defaults to None.
        precision (str): 'fixed' counts exactly in 2**-32 of the threshold
            (without noise, hard reset and sub-steps only), 'float32' and
            'float64' add as the public simulators do, 'auto' takes 'fixed'
            where it can, else float32 with noise and float64 without.
            Defaults to 'auto'.
        seed (int): Seed of start and noise. Defaults to 0.

    Raises:
        ConfigError: If a setting is unusable.

    Examples:
        >>> import numpy as np
        >>> from mmext.spike import SpikeCamera
        >>> camera = SpikeCamera(gain=0.5, start='zero')
        >>> picture = np.full((2, 8), 255, np.uint8)
        >>> camera.expose_frames([picture], ticks_per_frame=4)[:, 0, 0]
        array([0, 1, 0, 1], dtype=uint8)
        >>> noisy = SpikeCamera.from_preset('scsim', seed=3)
    """

    def __init__(self,
                 gain: float = 1.,
                 threshold: float = 1.,
                 reset: str = 'residual',
                 start: Union[str, float, np.ndarray] = 'random',
                 full_scale: Union[float, str] = 255.,
                 saturation: str = 'error',
                 substeps: int = 1,
                 noise: Optional[Union[SpikeNoise, dict]] = None,
                 precision: str = 'auto',
                 seed: int = 0) -> None:
        _choice('reset', reset, RESETS)
        _choice('saturation', saturation, ('error', 'clip'))
        _choice('precision', precision, PRECISIONS)
        if isinstance(start, str):
            _choice('start', start, ('random', 'zero'))
        if not (gain > 0 and threshold > 0 and substeps >= 1):
            raise ConfigError(
                'Expected a positive gain and threshold and at least one '
                f'sub-step, but got {gain}, {threshold} and {substeps}.')
        if isinstance(noise, dict):
            noise = SpikeNoise(**noise)
        if noise is not None and noise.diffusion and substeps == 1:
            raise ConfigError('diffusion needs sub-steps, but substeps=1. '
                              'Pass substeps=250, or no diffusion.')
        exact = noise is None and reset == 'residual' and substeps == 1
        if precision == 'fixed' and not exact:
            raise ConfigError(
                "precision='fixed' is for reset='residual', one sub-step and "
                "no noise. Use 'auto', 'float32' or 'float64'.")
        if precision == 'auto':
            precision = 'fixed' if exact else \
                'float64' if noise is None else 'float32'
        self.gain, self.threshold = float(gain), float(threshold)
        self.reset, self.start = reset, start
        self.full_scale, self.saturation = full_scale, saturation
        self.substeps, self.noise = int(substeps), noise
        self.precision, self.seed = precision, seed
        self._state: Optional[Union[FixedPoint, FloatingPoint]] = None

    @classmethod
    def from_preset(cls, name: str, **options) -> 'SpikeCamera':
        """A public simulator by its name in ``PRESETS``.

        Args:
            name (str): 'ideal', 'spikecv_video', 'spikecv_image', 'spcs',
                'spikingsim', 'spikingsim_full' or 'scsim'.
            **options: Arguments that replace those of the preset.
        """
        _choice('preset', name, tuple(PRESETS))
        return cls(**dict(PRESETS[name], **options))

    @property
    def potential(self) -> Optional[np.ndarray]:
        """np.ndarray: Accumulators, (H, W) float64 in the units of
        ``threshold``; None before the first picture."""
        return None if self._state is None else \
            self._state.level * self.threshold

    @property
    def grey_per_rate(self) -> float:
        """float: Grey level, as a share of 255, behind one spike a tick.

        ``theta / eta * full_scale / 255``: times the rate of a rebuilt
        picture it is the float picture that was shown, or the uint8 one
        divided by 255. With a ``full_scale`` of 'max' it is known after the
        first picture.
        """
        full = self.full_scale
        if full == 'max':
            full = 255. if self._state is None else \
                self._state.scale.full_scale
        return self.threshold / self.gain * full / 255

    def restart(self) -> None:
        """Forget all light: the next picture meets a fresh camera."""
        self._state = None

    def _prepare(self, shape) -> None:
        if self._state is not None:
            return
        start_seed, noise_seed = np.random.SeedSequence(self.seed).spawn(2)
        level = self._start(shape, start_seed)
        scale = Scale(self.full_scale)
        clip = self.saturation == 'clip'
        if self.precision == 'fixed':
            self._state = FixedPoint(level, scale, self.gain / self.threshold,
                                     clip)
            return
        if not isinstance(self.start, np.ndarray):
            level = level * self.threshold
        self._state = FloatingPoint(level, scale, self.gain, self.threshold,
                                    self.reset == 'zero', clip, self.substeps,
                                    self.noise, self.precision, noise_seed)

    def _start(self, shape, seed) -> np.ndarray:
        """First accumulators, in thresholds unless they were given."""
        if isinstance(self.start, np.ndarray):
            start = self.start.astype(np.float64)
            good = start.shape == tuple(shape) and (start >= 0).all() and (
                start < self.threshold).all()
            if not good:
                raise ConfigError(
                    f'Expected a start of shape {tuple(shape)} with values '
                    f'from 0 to below {self.threshold}, but got '
                    f'{start.shape} with {start.min(initial=0)} to '
                    f'{start.max(initial=0)}.')
            return start / self.threshold if self.precision == 'fixed' \
                else start
        share = dict(random=1., zero=0.).get(self.start, self.start) \
            if isinstance(self.start, str) else float(self.start)
        if not 0 <= share <= 1:
            raise ConfigError('Expected a start of at most one threshold, '
                              f'but got {self.start}.')
        return share * np.random.default_rng(seed).random(shape)

    def expose(self,
               light: Iterable[Light],
               out: Optional[np.ndarray] = None) -> np.ndarray:
        """Spikes of some stretches of light.

        Args:
            light (Iterable[Light]): Stretches that follow each other.
            out (np.ndarray, optional): (T, H, W) uint8 array to fill. Using
                one again saves the time that fresh memory takes.
                Defaults to None.

        Returns:
            np.ndarray: (T, H, W) uint8 of 0 and 1.
        """
        stretches: List[Light] = list(light)
        ticks = sum(item.ticks for item in stretches)
        if not stretches:
            raise ConfigError('Expected some light, but got none.')
        shape = stretches[0].first.shape
        if len(shape) != 2:
            raise ConfigError('Expected pictures of shape (H, W), but got '
                              f'{shape}. mmext.spike.grey() makes them.')
        if out is None:
            out = np.empty((ticks, *shape), np.uint8)
        elif (out.shape != (ticks, *shape) or out.dtype != np.uint8
              or not out.flags.c_contiguous):
            raise ConfigError(
                f'Expected a contiguous uint8 array {(ticks, *shape)} for '
                f'the spikes, but got {out.dtype} {out.shape}.')
        self._prepare(shape)
        self._state.expose(stretches, out)
        return out

    def expose_frames(self, frames: Iterable[np.ndarray],
                      **options) -> np.ndarray:
        """Spikes of frames, see :func:`~mmext.spike.light_from_frames`.

        Args:
            frames (Iterable[np.ndarray]): Pictures.
            **options: ``ticks_per_frame``, ``interpolation``, ``lead`` and
                ``tail``.

        Returns:
            np.ndarray: (T, H, W) uint8 of 0 and 1.
        """
        return self.expose(light_from_frames(frames, **options))

    def stream(self,
               light: Iterable[Light],
               ticks: int = 128) -> Iterator[np.ndarray]:
        """Spikes in pieces, for recordings that do not fit in memory.

        Args:
            light (Iterable[Light]): Stretches; read as they are needed.
            ticks (int): Ticks of one piece; the last one may be shorter.
                Defaults to 128.

        Yields:
            np.ndarray: (ticks, H, W) uint8 of 0 and 1.
        """
        if ticks < 1:
            raise ConfigError(f'Expected at least one tick, but got {ticks}.')
        pending: List[Light] = []
        missing = ticks
        for item in light:
            while item.ticks >= missing:
                part, item = item.cut(missing)
                yield self.expose([*pending, part])
                pending, missing = [], ticks
            if item.ticks:
                pending.append(item)
                missing -= item.ticks
        if pending:
            yield self.expose(pending)

    def windows(self, light: Iterable[Light], starts: Iterable[int],
                length: int) -> Iterator[np.ndarray]:
        """Spikes around labelled frames, cut from one running recording.

        The accumulators run through, also between windows.

        Args:
            light (Iterable[Light]): Stretches; read as they are needed.
            starts (Iterable[int]): First ticks of the windows, rising; they
                may overlap.
            length (int): Ticks of one window.

        Yields:
            np.ndarray: (length, H, W) uint8 of 0 and 1.

        Raises:
            ConfigError: If a window reaches beyond the light.
        """
        pieces = self.stream(light, length)
        kept, begin, previous = None, 0, 0
        for start in starts:
            if start < previous:
                raise ConfigError('Expected windows that begin at rising '
                                  f'ticks from 0, but got {start} after '
                                  f'{previous}.')
            previous = start
            while kept is None or begin + len(kept) < start + length:
                piece = next(pieces, None)
                if piece is None:
                    raise ConfigError(
                        f'Expected light for ticks {start} to '
                        f'{start + length - 1}, but it ends before. Give '
                        'more frames, or a tail.')
                if kept is None:
                    kept = piece
                    continue
                useful = max(0, min(start - begin, len(kept)))
                kept = np.concatenate([kept[useful:], piece])
                begin += useful
            yield kept[start - begin:start - begin + length].copy()


def _choice(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ConfigError(f'Expected {name} to be one of {choices}, but got '
                          f'{value!r}.')
