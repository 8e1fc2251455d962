# Copyright (c) mmext contributors. All rights reserved.
"""What a real spike camera does beside integrating light."""
import math
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from mmext.utils.user_error import ConfigError

# Photons above which counts are drawn as normal numbers.
_MANY = 1000


@dataclass(frozen=True)
class SpikeNoise:
    """Strengths of all effects; everything off by default.

    All values are fractions of the threshold, of full light or of the
    responsivity, so they combine with any gain. With light ``I``, gain
    ``eta`` and threshold ``theta``, tick ``n`` of pixel ``p`` adds::

        r_n (dark_p + resp_p * shot_n * eta I_n),
        shot_n = Poisson(m) / m,  m = int(photons * I_n)

    with ``r_n = refractory`` right after a spike and 1 elsewhere, and
    compares with ``theta * cap_p * (1 + offset_p + read_n)``.

    Args:
        dark (tuple[float, float]): Mean and standard deviation over pixels
            of the dark current, thresholds a tick. Defaults to (0, 0).
        responsivity_std (float): Relative spread of pixels' responsivity.
            Defaults to 0.
        capacitance_std (float): Relative spread of pixels' capacitance.
            Defaults to 0.
        threshold_std (float): Relative spread of pixels' thresholds.
            Defaults to 0.
        read_std (float): Relative spread of a threshold from tick to tick.
            Defaults to 0.
        photons (float, optional): Photons of full light in one tick; None
            means no shot noise. Defaults to None.
        refractory (float): Share of the light that the first tick after a
            spike gathers, below 1 as the reset takes time. Defaults to 1.
        spurious (tuple[float, float], optional): Mean and standard deviation
            of the ticks from one spurious spike of a pixel to its next.
            Defaults to None.
        diffusion (tuple[float, float], optional): Width of the uniform
            changes of light, and mean of the Poisson distributed sub-steps
            between them; needs a camera with sub-steps. Defaults to None.
    """
    dark: Tuple[float, float] = (0., 0.)
    responsivity_std: float = 0.
    capacitance_std: float = 0.
    threshold_std: float = 0.
    read_std: float = 0.
    photons: Optional[float] = None
    refractory: float = 1.
    spurious: Optional[Tuple[float, float]] = None
    diffusion: Optional[Tuple[float, float]] = None

    def __post_init__(self) -> None:
        stds = (self.dark[1], self.responsivity_std, self.capacitance_std,
                self.threshold_std, self.read_std)
        if min(stds) < 0 or not 0 <= self.refractory <= 1:
            raise ConfigError(
                'Expected standard deviations of at least 0 and a refractory '
                f'share from 0 to 1, but got {self}.')
        if self.photons is not None and self.photons <= 0:
            raise ConfigError('Expected a positive number of photons or '
                              f'None, but got {self.photons}.')


class NoiseState:
    """The constants of all pixels and the noise of the next tick.

    Random numbers are drawn tick by tick for the whole picture, in a fixed
    order, so a stream is the same in whatever pieces it is made.

    Args:
        noise (SpikeNoise): The strengths.
        shape (tuple[int, int]): Height and width.
        dtype (np.dtype): Of the accumulator.
        seed: Seed of ``np.random.default_rng``.
    """

    def __init__(self, noise: SpikeNoise, shape: Tuple[int, int],
                 dtype: np.dtype, seed) -> None:
        self.noise = noise
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        normal = self._normal
        self.dark = normal(shape, *noise.dark)
        self.responsivity = normal(shape, 1, noise.responsivity_std)
        self.capacitance = normal(shape, 1, noise.capacitance_std)
        self.offset = normal(shape, 1, noise.threshold_std)
        self.fired = np.zeros(shape, bool)
        if noise.spurious is not None:
            # A pixel is anywhere between two of its spurious spikes.
            self.wait = np.ceil(noise.spurious[0] *
                                self.rng.random(shape)).astype(np.int32)

    def _normal(self, shape, mean: float, std: float) -> np.ndarray:
        if not std:
            return np.full(shape, mean, self.dtype)
        return self.rng.normal(mean, std, shape).astype(self.dtype)

    def photocurrent(self, light: np.ndarray) -> np.ndarray:
        """Light times responsivity and shot noise."""
        current = light * self.responsivity
        if self.noise.photons is not None:
            current *= self._shot(np.floor(light * self.noise.photons))
        return current

    def _shot(self, mean: np.ndarray) -> np.ndarray:
        """Poisson numbers over their means; 0 where the mean is 0.

        Above a mean of ``_MANY`` they are normal for all that one bit a tick
        can tell, and drawn ten times faster.
        """
        shot = self.rng.standard_normal(mean.shape, dtype=self.dtype)
        shot /= np.sqrt(np.maximum(mean, 1))
        shot += 1
        few = mean < _MANY
        if few.any():
            counts = self.rng.poisson(mean[few])
            shot[few] = counts / np.maximum(mean[few], 1)
        return shot

    def increment(self, light: np.ndarray, gain: float,
                  threshold: float) -> np.ndarray:
        """What one tick adds to the accumulator."""
        step = self.photocurrent(light)
        step *= gain
        step += threshold * self.dark
        if self.noise.refractory < 1:
            step[self.fired] *= self.noise.refractory
        return step

    def threshold(self, threshold: float) -> np.ndarray:
        """The threshold of every pixel in one tick."""
        factor = self.offset
        if self.noise.read_std:
            factor = factor + self.noise.read_std * self.rng.standard_normal(
                factor.shape, dtype=self.dtype)
        return threshold * self.capacitance * factor

    def finish(self, spikes: np.ndarray) -> None:
        """Note the spikes of a tick, and add the spurious ones."""
        self.fired[...] = spikes
        if self.noise.spurious is None:
            return
        self.wait -= 1
        due = self.wait <= 0
        spikes |= due
        gaps = self.rng.normal(*self.noise.spurious, int(due.sum()))
        self.wait[due] = np.maximum(gaps, 1)


class Diffusion:
    """Small changes of light at random sub-steps of one tick.

    Args:
        state (NoiseState): Gives the strengths and the random numbers.
        shape (tuple[int, int]): Height and width.
    """

    def __init__(self, state: NoiseState, shape: Tuple[int, int]) -> None:
        self.width, self.gap = state.noise.diffusion
        self.rng = state.rng
        self.next = self.rng.poisson(self.gap, shape)

    def add(self, light: np.ndarray, step: int) -> None:
        """Change ``light`` where a change is due at sub-step ``step``."""
        due = self.next == step
        count = int(due.sum())
        if count:
            light[due] += self.width * (self.rng.random(count) - 0.5)
            self.next[due] += np.maximum(self.rng.poisson(self.gap, count), 1)


def sensor_noise() -> SpikeNoise:
    """The measured noise of a spike camera, as published with SCSim.

    The constants are those of Acnext/SCSim (ICME 2024); here they are
    divided by the mean threshold ``C (V_rst - V_ref + V_s)``.
    """
    capacitance, step = 4.348, 0.05
    volts = 3.3 - 2.2 - 0.0076
    threshold = capacitance * volts
    return SpikeNoise(
        dark=(step * 0.4442 / threshold, step * 0.1731 / threshold),
        responsivity_std=0.0584 / 1.0128,
        capacitance_std=0.0128 / capacitance,
        threshold_std=0.0497 / volts,
        read_std=math.hypot(9.644e-9, 0.00636) / volts,
        photons=5e4,
        refractory=0.998)
