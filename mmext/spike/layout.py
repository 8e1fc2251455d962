# Copyright (c) mmext contributors. All rights reserved.
"""Does a file of bits look like pictures? Finds wrong sizes and orders.

A .dat file has no header, so a wrong height, width or bit order gives no
error but noise. Neighbouring pixels of a real picture are alike, though, and
ticks that follow each other show the same scene.
"""
from typing import List, Optional

import numpy as np

_BITS = 1 << 20
_FEWEST = 1 << 18
_MIN_LAG = 24
_GAPS = (4, 6, 8, 10)
_ROWS = 1 << 15
_PARTS = 8


def bits_reversed(spikes: np.ndarray) -> bool:
    """Whether groups of 8 pixels seem to be in the wrong order.

    Compares the step from each group's last pixel to the next group's first
    one, with the step that reversed groups would have.

    Args:
        spikes (np.ndarray): (T, H, W) of 0 and 1, ``H W`` a multiple of 8.

    Returns:
        bool: True if reversed groups fit clearly better.
    """
    groups = spikes.mean(0, dtype=np.float32).reshape(-1, 8)
    given = np.abs(groups[1:, 0] - groups[:-1, 7]).mean()
    turned = np.abs(groups[1:, 7] - groups[:-1, 0]).mean()
    return bool(turned < 0.8 * given)


def _peaks(signals: np.ndarray, high: int) -> np.ndarray:
    """How far the autocorrelation sticks out of its surroundings.

    Args:
        signals (np.ndarray): (N, C).
        high (int): Largest lag.

    Returns:
        np.ndarray: (high + 1,), 0 below the smallest lag that is looked at.
    """
    signals = signals.astype(np.float32)
    signals -= signals.mean(0)
    energy = float((signals**2).sum())
    out = np.zeros(high + 1, np.float32)
    if energy == 0 or high < _MIN_LAG:
        return out
    size = 1 << int(2 * len(signals) - 1).bit_length()
    power = (np.abs(np.fft.rfft(signals, size, 0))**2).sum(1)
    likeness = np.fft.irfft(power, size)[:high + max(_GAPS) + 1] / energy
    lags = np.arange(_MIN_LAG, high + 1)
    around = np.mean([likeness[lags - g] + likeness[lags + g]
                      for g in _GAPS], 0) / 2
    out[_MIN_LAG:] = likeness[lags] - around
    return out


def row_length(bits: np.ndarray, width: int) -> Optional[int]:
    """Length of a picture's rows if it is clearly not ``width``.

    Pixels one row apart are alike, so the autocorrelation of all pixels in
    a row has peaks at multiples of the width.

    Args:
        bits (np.ndarray): Pixels in the order of the file, flat.
        width (int): Supposed length.

    Returns:
        int, optional: The likely length; None if ``width`` fits or nothing
        can be said.
    """
    high = min(4096, len(bits) // 64)
    if not _MIN_LAG <= width <= high:
        return None
    peak = _peaks(bits[:, None], high)
    best = float(peak.max())
    # Chance alone gives 1 / sqrt(n).
    if best < 6 / np.sqrt(len(bits)):
        return None
    likely = _first(peak, 0.6 * best)
    if abs(likely - width) <= 2:
        return None
    multiple = abs(width - round(width / likely) * likely) <= 2
    if peak[width - 2:width + 3].max() > 0.6 * best and not multiple:
        return None
    return likely


def _first(score: np.ndarray, least: float) -> int:
    """Top of the first hill that reaches ``least``."""
    first = int(np.argmax(score >= least))
    return first + int(np.argmax(score[first:first + 4]))


def frame_height(rows: np.ndarray, height: int) -> Optional[int]:
    """Rows of a picture if they are clearly not ``height``.

    As for rows: the same row of the next ticks is alike, or, in dim light,
    just unlike, since a pixel that fired waits. A moving scene shifts this
    by the rows that it moves in a tick, so a few rows are no finding.

    Args:
        rows (np.ndarray): (N, C) brightness of parts of every row, rows of
            all ticks one after the other.
        height (int): Supposed number of rows in a tick.

    Returns:
        int, optional: The likely number, within a few rows; None if
        ``height`` fits or nothing can be said.
    """
    high = min(2048, len(rows) // 16)
    if not _MIN_LAG <= height <= high:
        return None
    size = np.abs(_peaks(rows, 8 * high))
    noise = float(np.median(size[_MIN_LAG:]))
    slack = 2 + height // 100
    # A hill is as good as its top.
    size = np.max([np.roll(size, k) for k in range(-slack, slack + 1)], 0)
    lags = np.arange(high + 1)
    score = np.mean([size[k * lags] for k in range(1, 9)], 0)
    best = float(score[_MIN_LAG:].max())
    if best < 8 * noise:
        return None
    likely = _first(score, 0.7 * best)
    if abs(likely - height) <= 2 * slack:
        return None
    # A period may be a multiple of the height, as static light repeats
    # itself after some ticks, but then the lags between stick out, too.
    for short, long in ((height, likely), (likely, height)):
        times = round(long / short)
        if times > 1 and abs(long - times * short) <= 2 * slack:
            between = [size[k * short] for k in range(1, 9) if k % times]
            real = np.mean(between) > max(8 * noise, 0.1 * best)
            return likely if real == (short == likely) else None
    return likely


def layout_findings(frames: np.ndarray,
                    height: int,
                    width: int,
                    sizes: bool = True,
                    cure: str = 'the bit order is the other one') -> List[str]:
    """What seems wrong with decoded spikes, in sentences.

    Args:
        frames (np.ndarray): (T, H W) of 0 and 1, pixels in the order of the
            file (rows not flipped).
        height (int): Supposed height.
        width (int): Supposed width.
        sizes (bool): Whether height and width are in doubt.
            Defaults to True.
        cure (str): What to say of reversed groups of 8 pixels. Defaults to
            the bit order, which .dat files are read with.

    Returns:
        list[str]: Findings, empty if all seems well.
    """
    if not frames.any():
        return [
            f'there is no spike in {len(frames)} ticks; the recording is '
            'dark, or the file was never filled'
        ]
    if frames.all():
        return [
            f'every pixel fires in all of {len(frames)} ticks; the light is '
            'too strong, or the file holds no spikes'
        ]
    findings = _size_findings(frames, height, width) if sizes else []
    if not findings and height * width % 8 == 0 and bits_reversed(
            frames.reshape(-1, height, width)):
        findings.append(f'groups of 8 pixels seem to be reversed; {cure}')
    return findings


def _size_findings(frames: np.ndarray, height: int, width: int) -> List[str]:
    findings: List[str] = []
    bits = frames.reshape(-1)
    if len(bits) < _FEWEST:
        return findings
    other = row_length(bits[:_BITS], width)
    if other is not None:
        findings.append(
            f'rows seem to be about {other} pixels long, not {width}')
    length = width if other is None else other
    rows = bits[:len(bits) // length * length].reshape(-1, length)
    parts = np.linspace(0, length, _PARTS + 1).astype(int)[:-1]
    sums = np.add.reduceat(rows[:_ROWS], parts, 1, dtype=np.float32)
    tall = frame_height(sums, height)
    if tall is not None:
        findings.append(f'pictures seem to be about {tall} rows high, not '
                        f'{height}')
    return findings
