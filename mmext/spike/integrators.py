# Copyright (c) mmext contributors. All rights reserved.
"""The two ways to count light: exact fixed point, and floating point."""
from typing import List, Optional, Tuple, Union

import numpy as np

from mmext.utils.user_error import ConfigError
from .light import Light
from .noise import Diffusion, NoiseState, SpikeNoise

# Pixels that are carried through all ticks of a stretch before the next
# ones: their accumulators stay in the cache, and the calls are few.
BLOCK = 1 << 19
_TURN = 1 << 32
_NONE = np.empty(0, np.intp)


class Scale:
    """Turns pictures into light, 1 for full light, and checks them.

    Float pictures are uint8 pictures divided by 255, so that both give the
    same light: their value times 255 is the grey level. Where full light is
    above 255, as for uint16, they are pictures divided by it.

    Args:
        full_scale (float or str): Grey level of full light; 'max' takes the
            largest of the first picture.
    """

    def __init__(self, full_scale: Union[float, str]) -> None:
        self.full_scale = full_scale

    def divisor(self, picture: np.ndarray) -> float:
        """What pictures are divided by, in their own units."""
        is_float = picture.dtype.kind == 'f'
        if self.full_scale == 'max':
            white = 255. if is_float else 1.
            self.full_scale = float(picture.max()) * white or 1.
        full = float(self.full_scale)
        return full / max(255., full) if is_float else full

    def levels(self, picture: np.ndarray) -> Tuple[np.ndarray, float]:
        """The picture in grey levels, flat float64, and that of full light.

        Floats are grey levels again, as float16 and float32 have
        grey / 255 a little too dark or too bright.
        """
        first = self.full_scale == 'max'
        divisor = self.divisor(picture)
        light = picture.reshape(-1).astype(np.float64)
        if picture.dtype.kind != 'f':
            return light, divisor
        light *= float(self.full_scale) / divisor
        level = np.rint(light)
        near = np.finfo(picture.dtype).eps * level
        light = np.where(np.abs(light - level) <= near, level, light)
        if first and self.full_scale <= 255:
            # Full light is the brightest as it is counted, not as it came.
            self.full_scale = float(light.max(initial=0)) or 1.
        return light, float(self.full_scale)

    @staticmethod
    def check(picture: np.ndarray, shape: Tuple[int, int]) -> None:
        """Refuse what is no picture of light."""
        if picture.shape != tuple(shape):
            raise ConfigError(
                f'Expected pictures of shape {tuple(shape)}, but got '
                f'{picture.shape}. Call restart() before another size.')
        kind = picture.dtype.kind
        if kind not in 'uf':
            raise ConfigError(
                'Expected pictures of unsigned integers or floats, but got '
                f'{picture.dtype}. Convert them first.')
        if kind == 'f' and not picture.min(initial=0) >= 0:
            raise ConfigError(
                'Expected light of at least 0, but the picture holds '
                f'{picture.min()}. Clip it, and replace NaN.')

    def float_light(self, picture: np.ndarray, dtype) -> np.ndarray:
        """The picture as light of a floating-point kind."""
        divisor = self.divisor(picture)
        if divisor == 1:
            return picture.astype(dtype)
        return (picture / np.asarray(divisor, dtype)).astype(dtype)


class FixedPoint:
    """Noise-free integration with the residual kept, without rounding.

    The accumulator counts 1 / 2**32 of the threshold. Adding wraps around at
    the threshold, which is the reset; there was a spike if the sum became
    smaller than what was added. Light is rounded up once, to 2**-32
    thresholds a tick, and all sums are exact: spikes depend neither on the
    machine nor on how the stream is cut, and after ``n`` ticks of constant
    light their number is ``floor((V_0 + n eta I) / theta)``, also where this
    is just reached (rounding down would fire one tick late there). As the
    light counts up to ``n`` 2**-32 thresholds too much, a spike may come
    early, at most one in 2**32 ticks: for uint8 pictures, ``V_0 = 0`` and
    ``eta = theta`` not within 2**32 / 255 ticks (16 million).

    Args:
        start (np.ndarray): (H, W) float64 accumulators in thresholds, from
            0 to below 1.
        scale (Scale): Reads pictures.
        rate (float): Thresholds that full light adds in one tick.
        clip (bool): Whether light that would fire more than once a tick is
            clipped; otherwise it is an error.
    """

    def __init__(self, start: np.ndarray, scale: Scale, rate: float,
                 clip: bool) -> None:
        self.shape = start.shape
        self.value = np.floor(start * _TURN).astype(np.uint32).reshape(-1)
        self.scale, self.rate, self.clip = scale, rate, clip
        self._last: Tuple[Optional[np.ndarray],
                          Optional[np.ndarray]] = (None, None)

    @property
    def level(self) -> np.ndarray:
        """np.ndarray: Accumulators in thresholds, (H, W) float64."""
        return (self.value / _TURN).reshape(self.shape)

    def _turns(self, picture: np.ndarray) -> np.ndarray:
        """Thresholds a tick in units of 2**-32, flat int64.

        A picture that ends one stretch mostly begins the next one.
        """
        if self._last[0] is not picture:
            self._last = (picture, self._converted(picture))
        return self._last[1]

    def _converted(self, picture: np.ndarray) -> np.ndarray:
        self.scale.check(picture, self.shape)
        if picture.dtype == np.uint8:
            return np.take(self._table(picture), picture.reshape(-1))
        return self._added(*self.scale.levels(picture))

    def _table(self, picture: np.ndarray) -> np.ndarray:
        """What each grey level adds, int64 (256,)."""
        levels = np.arange(256.)
        divisor = self.scale.divisor(picture)
        return self._added(levels, divisor, picture.max(initial=0))

    def _added(self,
               light: np.ndarray,
               divisor: float,
               brightest: Optional[int] = None) -> np.ndarray:
        """Light in units of 2**-32 thresholds a tick, int64.

        Args:
            light (np.ndarray): Any shape, float64.
            divisor (float): The light of full light.
            brightest (int, optional): Place of the most light that occurs.
                Defaults to None: that of the largest.
        """
        turns = light * (self.rate / divisor * _TURN)
        most = turns.max(initial=0) if brightest is None else turns[brightest]
        # Rounding may lift full light of gain = threshold a little.
        if most > _TURN * (1 + 1e-6) and not self.clip:
            raise ConfigError(_saturation_text(most / _TURN))
        # Up, but not for the error of the products, which is below this.
        turns = np.ceil(turns * (1 - 2.**-50))
        return np.minimum(turns, _TURN).astype(np.int64)

    def _constant(self, picture: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """What a picture adds, uint32, and the pixels of full light."""
        if picture.dtype != np.uint8:
            turns = self._turns(picture)
            return turns.astype(np.uint32), np.flatnonzero(turns == _TURN)
        self.scale.check(picture, self.shape)
        table, flat = self._table(picture), picture.reshape(-1)
        full = int(np.searchsorted(table, _TURN))
        bright = np.flatnonzero(flat >= full) if full < 256 else _NONE
        return np.take(table.astype(np.uint32), flat), bright

    def expose(self, stretches: List[Light], out: np.ndarray) -> None:
        """Integrate stretches of light into ``out`` (T, H, W) of 0 and 1."""
        flat = out.reshape(out.shape[0], -1).view(bool)
        tick = 0
        for light in stretches:
            self._stretch(light, flat[tick:tick + light.ticks])
            tick += light.ticks
        # The caller may fill the same array with the next picture.
        self._last = (None, None)

    def _stretch(self, light: Light, out: np.ndarray) -> None:
        slope, full = None, None
        if light.last is None:
            added, bright = self._constant(light.first)
        else:
            first, last = self._turns(light.first), self._turns(light.last)
            # Towards zero, so that light stays between its two pictures.
            slope = np.trunc((last - first) / light.span).astype(np.int64)
            full = first == _TURN
            bright = np.flatnonzero(full & (slope == 0))
            added = (first + slope * light.start).astype(np.uint32)
            slope = slope.astype(np.uint32)
        # Full light adds a whole turn, which is 0 here: such pixels fire and
        # keep their value. A stand-in does so without a wrap for 2**31 ticks.
        kept = self.value[bright]
        self.value[bright], added[bright] = _TURN // 2, _TURN - 1
        for begin in range(0, len(added), BLOCK):
            part = slice(begin, begin + BLOCK)
            self._block(self.value[part], added[part],
                        None if slope is None else slope[part], out[:, part])
        self.value[bright] = kept
        if slope is not None and not light.start and len(out):
            out[0] |= full

    @staticmethod
    def _block(value: np.ndarray, added: np.ndarray,
               slope: Optional[np.ndarray], out: np.ndarray) -> None:
        add, less = np.add, np.less
        for spikes in out:
            add(value, added, value)
            less(value, added, spikes)
            if slope is not None:
                add(added, slope, added)


class FloatingPoint:
    """Integration as the public simulators write it, with noise and resets.

    Args:
        start (np.ndarray): (H, W) float64 accumulators, in the units of
            ``threshold``.
        scale (Scale): Reads pictures.
        gain (float): What full light adds in one tick.
        threshold (float): The threshold.
        hard (bool): Whether a spike sets the accumulator to zero instead of
            subtracting the threshold.
        clip (bool): As in :class:`FixedPoint`.
        substeps (int): Comparisons in one tick; spikes of one tick are one.
        noise (SpikeNoise, optional): Noise.
        dtype (np.dtype): float32 or float64.
        seed: Seed of the noise.
    """

    def __init__(self, start: np.ndarray, scale: Scale, gain: float,
                 threshold: float, hard: bool, clip: bool, substeps: int,
                 noise: Optional[SpikeNoise], dtype, seed) -> None:
        self.shape, self.dtype = start.shape, np.dtype(dtype)
        self.value = start.astype(self.dtype)
        self.scale, self.gain, self.theta = scale, gain, threshold
        self.hard, self.clip, self.substeps = hard, clip, substeps
        self.noise = None if noise is None else NoiseState(
            noise, self.shape, self.dtype, seed)

    @property
    def level(self) -> np.ndarray:
        """np.ndarray: Accumulators in thresholds, (H, W) float64."""
        return self.value.astype(np.float64) / self.theta

    def _light(self, picture: np.ndarray) -> np.ndarray:
        self.scale.check(picture, self.shape)
        light = self.scale.float_light(picture, self.dtype)
        limit = self.theta / self.gain
        most = float(light.max(initial=0))
        # Rounding may lift full light of gain = threshold a little.
        if most > limit * (1 + 1e-6):
            if not self.clip:
                raise ConfigError(_saturation_text(most / limit))
            light = np.minimum(light, self.dtype.type(limit))
        return light

    def expose(self, stretches: List[Light], out: np.ndarray) -> None:
        """Integrate stretches of light into ``out`` (T, H, W) of 0 and 1."""
        spikes = iter(out.view(bool))
        for stretch in stretches:
            first = self._light(stretch.first)
            change = None
            if stretch.last is not None:
                change = self._light(stretch.last) - first
            for j in range(stretch.start, stretch.start + stretch.ticks):
                light = first
                if change is not None:
                    light = first + change * self.dtype.type(j / stretch.span)
                if self.substeps > 1:
                    self._slow_tick(light, next(spikes))
                else:
                    self._tick(light, next(spikes))

    def _tick(self, light: np.ndarray, spikes: np.ndarray) -> None:
        theta = self.theta
        if self.noise is None:
            self.value += self.dtype.type(self.gain) * light
        else:
            self.value += self.noise.increment(light, self.gain, theta)
            theta = self.noise.threshold(theta)
        self._compare(theta, spikes)
        if self.noise is not None:
            self.noise.finish(spikes)

    def _slow_tick(self, light: np.ndarray, spikes: np.ndarray) -> None:
        gain, theta, changes = self.gain / self.substeps, self.theta, None
        spikes[...] = False
        found = np.empty(self.shape, bool)
        if self.noise is not None:
            light = self.noise.increment(light, 1, self.theta / self.gain)
            theta = self.noise.threshold(theta)
            if self.noise.noise.diffusion is not None:
                changes = Diffusion(self.noise, self.shape)
                light = light.copy()
        for step in range(self.substeps):
            if changes is not None:
                changes.add(light, step)
            self.value += self.dtype.type(gain) * light
            self._compare(theta, found)
            spikes |= found
        if self.noise is not None:
            self.noise.finish(spikes)

    def _compare(self, theta, spikes: np.ndarray) -> None:
        """Compare with the threshold, and reset where there is a spike."""
        np.greater_equal(self.value, theta, out=spikes)
        if self.hard:
            np.copyto(self.value, 0, where=spikes)
            return
        np.copyto(self.value, self.value - theta, where=spikes)
        if self.noise is not None:
            # A low threshold in bright light must not store up spikes.
            np.minimum(self.value, theta, out=self.value)


def _saturation_text(times: float) -> str:
    return (
        f'Expected light that fires at most once a tick, but the brightest '
        f'pixel reaches {times:.4g} thresholds a tick. Lower the gain, raise '
        "the threshold, or pass saturation='clip' (--clip of "
        'video_to_spikes.py).')
