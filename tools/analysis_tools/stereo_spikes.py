# Copyright (c) mmext contributors. All rights reserved.
r"""Spikes of a real stereo pair, rebuilt pictures, and depth from them.

A camera slides from the left lens towards the right one. With the pair's true
disparity every view on its way has exact light and exact depth, so the errors
of playback and interval are known for near and far surfaces, at any speed.
For the pair that the documentation shows, from the scikit-image package
(14 MB)::

    pip download --no-deps -d downloads scikit-image==0.26.0
    python -m zipfile -e downloads/scikit_image-0.26.0-*.whl downloads
    pair=downloads/skimage/data/motorcycle
    python tools/analysis_tools/stereo_spikes.py ${pair}_left.png \
        --right ${pair}_right.png --disparity ${pair}_disp.npz \
        --focal 994.978 --baseline 193.001 --offset 31.086 \
        --out work_dirs/stereo
"""
import argparse
import os
from itertools import product
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import cv2
import numpy as np

from mmext.spike import (PRESETS, SpikeCamera, StereoSlide, View,
                         depth_from_disparity, grey, interval, picture_errors,
                         playback, read_disparity, read_picture, resize_spikes,
                         to_uint8, write_picture)
from mmext.utils.io import write_json
from mmext.utils.user_error import ConfigError, run_tool
from mmext.visualization.depth_pictures import colour, colour_depth, grid

# Pixels across, for three pictures.
WIDTH, COLUMNS = 900, 3
METHODS = (playback, interval)
PARTS = ('all', 'near', 'far')
FILES = ('left', 'right', 'disparity', 'config', 'checkpoint')
# Titles and pictures.
Cells = List[Tuple[str, np.ndarray]]


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_pair(parser)
    add = parser.add_argument
    add('--out',
        required=True,
        help='The folder to write stereo.json and stereo.jpg to.')
    add('--places',
        type=float,
        nargs='+',
        default=[0.25, 0.5, 0.75],
        help='Where to look, as shares of the baseline; errors are means '
        'over them (0.25 0.5 0.75).')
    add('--speeds',
        type=float,
        nargs='+',
        default=[0., 1., 4., 16.],
        help='Of the camera, in metres a second; each is tried (0 1 4 16).')
    add('--ticks-per-second',
        type=float,
        default=20000.,
        help='Of the spike camera (20000).')
    add('--half-windows',
        type=int,
        nargs='+',
        default=[4, 8, 16, 32, 64],
        help='Ticks on each side to rebuild from; each number is tried (4 8 '
        '16 32 64).')
    add('--presets',
        nargs='+',
        choices=sorted(PRESETS),
        default=['ideal', 'spikecv_video', 'scsim'],
        help='The cameras to simulate (ideal spikecv_video scsim).')
    add('--config', help='A depth model for spikes, to try on them.')
    add('--checkpoint', help='Its checkpoint.')
    add('--seed', type=int, default=0, help='Seed of start and noise (0).')
    return parser.parse_args(argv)


def _add_pair(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('left', help='The left picture of a rectified pair.')
    add('--right',
        help='The right picture: fills what the left one does not show, and '
        'tells how well the view from its place is drawn.')
    add('--disparity',
        required=True,
        help='True disparity of the left picture: .npz, .npy, .pfm or 16-bit '
        '.png.')
    add('--key', help='The array to read from an .npz file.')
    add('--disparity-scale',
        type=float,
        default=256.,
        help='Stored value of one pixel in a .png disparity (256).')
    add('--focal', type=float, required=True, help='Focal length in pixels.')
    add('--baseline',
        type=float,
        required=True,
        help='Distance of both lenses in millimetres.')
    add('--offset',
        type=float,
        default=0.,
        help='Distance of both principal points in pixels, doffs of the '
        'Middlebury data (0).')


class Scene(NamedTuple):
    """The pair, and what is the same at all speeds."""
    slide: StereoSlide
    args: argparse.Namespace
    middle: float  # disparity from which on a surface is near
    reach: int  # ticks around a place
    estimator: Any = None

    def depth(self, view: View) -> np.ndarray:
        args = self.args
        return depth_from_disparity(view.disparity, args.focal, args.baseline,
                                    args.offset)

    def masks(self, view: View) -> Dict[str, np.ndarray]:
        """Pixels whose depth is known."""
        known = self.depth(view) > 0
        near = known & (view.disparity >= self.middle)
        return dict(all=known, near=near, far=known & ~near)

    def step(self, speed: float) -> float:
        """Share of the baseline that the camera goes in one tick."""
        args = self.args
        return speed / args.ticks_per_second / (args.baseline / 1000)


def open_scene(args: argparse.Namespace) -> Scene:
    """Read the pair and check the options."""
    if args.ticks_per_second <= 0 or min(args.half_windows) < 1:
        raise ConfigError('Expected a positive number of ticks a second and '
                          'positive half windows.')
    if bool(args.config) != bool(args.checkpoint):
        raise ConfigError('Expected a --config with its --checkpoint, or '
                          'neither of them.')
    disparity = read_disparity(args.disparity, args.disparity_scale, args.key)
    right = None if args.right is None else grey(read_picture(args.right))
    slide = StereoSlide(grey(read_picture(args.left)), disparity, right)
    depth = depth_from_disparity(disparity, args.focal, args.baseline,
                                 args.offset)
    if not (depth > 0).any():
        raise ConfigError(
            'Expected a positive disparity plus offset somewhere, but the '
            f'largest is {np.nanmax(disparity) + args.offset:g}. Check '
            '--offset, and the sign of the disparity.')
    reach, estimator = max(args.half_windows), None
    if args.config:
        from mmext.apis.spike_depth_inferencer import SpikeDepthInferencer
        estimator = SpikeDepthInferencer(args.config, args.checkpoint)
        reach = max(reach, -(-estimator.length // 2))
    middle = float(np.median(disparity[depth > 0]))
    return Scene(slide, args, middle, reach, estimator)


def rebuild(scene: Scene, seen: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Errors of both methods with every window."""
    truth, rows = seen['view'].picture / 255, []
    masks = scene.masks(seen['view'])
    for method, half in product(METHODS, scene.args.half_windows):
        rate = method(seen['spikes'], scene.reach, half) * seen['scale']
        row = dict(seen['shared'], method=method.__name__, half_window=half)
        rows.append(row)
        for part, mask in masks.items():
            if mask.any():
                row[part] = picture_errors(np.clip(rate, 0, 1), truth, mask)
    return rows


def fitted_depth(scene: Scene, spikes: np.ndarray, view: View) -> np.ndarray:
    """Predicted depth times the ratio of the medians of truth and itself."""
    # Here, since mmext.evaluation needs a host toolbox and the rest does not.
    from mmext.evaluation.depth_measures import align
    length = scene.estimator.length
    begin = scene.reach - length // 2
    found = scene.estimator(spikes[begin:begin + length])
    pred = found['predictions'][0]['depth'].astype(np.float64)
    truth = scene.depth(view)
    known = truth > 0
    fitted = align(pred[known], truth[known].astype(np.float64), 'median')
    return np.maximum(pred * (fitted.sum() / pred[known].sum()), 1e-3)


def depth_errors(scene: Scene, pred: np.ndarray,
                 view: View) -> Dict[str, Dict[str, float]]:
    """AbsRel, RMSE and d1 of all, near and far pixels."""
    from mmext.evaluation.depth_measures import depth_sums, measures
    truth, result = scene.depth(view).astype(np.float64), {}
    for part, mask in scene.masks(view).items():
        if mask.any():
            found = measures(depth_sums(pred[mask], truth[mask]))
            result[part] = {k: found[k] for k in ('abs_rel', 'rmse', 'd1')}
    return result


def look(scene: Scene, place: float, speed: float) -> Iterator[Dict[str, Any]]:
    """What every camera sees at one place and speed.

    Yields:
        dict: ``view``, ``spikes``, ``scale`` of its rates, and ``shared``,
        what rows of results tell of it.
    """
    view, step = scene.slide.view(place), scene.step(speed)
    if not scene.masks(view)['all'].any():
        raise ConfigError(
            f'Expected known depth in the view at {place:g} of the baseline, '
            'but there is none. Choose --places from 0 to 1.')
    frames, ticks, key = scene.slide.frames_around(place, step, scene.reach)
    for preset in scene.args.presets:
        # A running camera has any accumulator.
        camera = SpikeCamera.from_preset(
            preset, seed=scene.args.seed, saturation='clip', start='random')
        spikes = camera.expose_frames(frames, ticks_per_frame=ticks)
        begin = key - scene.reach
        yield dict(
            view=view,
            spikes=spikes[begin:begin + 2 * scene.reach + 1],
            scale=camera.grey_per_rate,
            shared=dict(
                camera=preset,
                speed=speed,
                pixels_per_tick=step * scene.slide.fastest))


def mean_rows(found: List[List[dict]]) -> List[dict]:
    """Rows of all places as one, errors as means."""
    result = []
    for rows in zip(*found):
        row = dict(rows[0])
        for part in PARTS:
            parts = [one[part] for one in rows if part in one]
            row.pop(part, None)
            if parts:
                row[part] = {
                    key: float(np.mean([one[key] for one in parts]))
                    for key in parts[0]
                }
        result.append(row)
    return result


def measure(scene: Scene) -> Dict[str, List[dict]]:
    """Rows of rebuilt pictures and of depth, means over the places."""
    result: Dict[str, List[dict]] = dict(rows=[], depth=[])
    for speed in scene.args.speeds:
        pictures: List[List[dict]] = []
        depths: List[List[dict]] = []
        for place in scene.args.places:
            pictures.append([])
            depths.append([])
            for seen in look(scene, place, speed):
                pictures[-1] += rebuild(scene, seen)
                if scene.estimator is not None:
                    pred = fitted_depth(scene, seen['spikes'], seen['view'])
                    errors = depth_errors(scene, pred, seen['view'])
                    depths[-1].append(dict(seen['shared'], **errors))
        result['rows'] += mean_rows(pictures)
        result['depth'] += mean_rows(depths)
    return result


def constant_depth(scene: Scene) -> Dict[str, Dict[str, float]]:
    """Errors of one depth for all pixels, the median of the truth."""
    found = []
    for place in scene.args.places:
        view = scene.slide.view(place)
        truth = scene.depth(view)
        pred = np.full(truth.shape, np.median(truth[truth > 0]), np.float64)
        found.append([depth_errors(scene, pred, view)])
    return mean_rows(found)[0]


def right_errors(scene: Scene) -> Dict[str, float]:
    """The view from the right lens against the picture taken there."""
    view = scene.slide.view(1.)
    known = scene.masks(view)['all']
    return dict(
        picture_errors(view.picture / 255, scene.slide.right / 255, known),
        share=float(known.mean()))


def best_rows(rows: List[dict]) -> List[dict]:
    """Of each camera, speed and method the row of the highest PSNR."""
    best: Dict[tuple, dict] = {}
    for row in rows:
        key = (row['speed'], row['camera'], row['method'])
        if key not in best or row['all']['psnr'] > best[key]['all']['psnr']:
            best[key] = row
    return list(best.values())


def tell(result: Dict[str, Any]) -> None:
    """Print the best windows, and depth."""
    print('PSNR in dB, best window\n'
          'm/s    pixels/tick  camera         method    half window'
          '   all  near   far')
    for row in best_rows(result['rows']):
        shown = [f'{row[p]["psnr"]:6.1f}' if p in row else '' for p in PARTS]
        print(f'{row["speed"]:<7g}{row["pixels_per_tick"]:<13.3f}'
              f'{row["camera"]:<15}{row["method"]:<10}'
              f'{row["half_window"]:>11}{"".join(shown)}')
    for row in result['depth']:
        print(f'{row["speed"]:g} m/s, {row["camera"]}: AbsRel '
              f'{row["all"]["abs_rel"]:.3f}')
    if result['depth']:
        print('one depth for all pixels: AbsRel '
              f'{result["constant_depth"]["all"]["abs_rel"]:.3f}')


def draw(scene: Scene, rows: List[dict]) -> np.ndarray:
    """The middle place at the highest speed, a line for each camera."""
    places, speed = scene.args.places, max(scene.args.speeds)
    best = {
        (r['camera'], r['method']): r
        for r in best_rows(rows) if r['speed'] == speed
    }
    first: Cells = []
    depth: Cells = []
    lines: Cells = []
    for seen in look(scene, places[len(places) // 2], speed):
        view, spikes, scale = seen['view'], seen['spikes'], seen['scale']
        truth, name = scene.depth(view), seen['shared']['camera']
        limits = np.percentile(truth[truth > 0], (1, 99))
        if not first:
            first = _truth_cells(scene, seen, limits)
        if scene.estimator is not None:
            pred = fitted_depth(scene, spikes, view)
            error = depth_errors(scene, pred, view)['all']['abs_rel']
            depth.append((f'depth from {name}, AbsRel {error:.2f}',
                          colour_depth(pred, *limits)))
        lines.append(
            (f'spikes of one tick, {name}', spikes[scene.reach] * 255))
        for method in METHODS:
            row = best[name, method.__name__]
            rate = method(spikes, scene.reach, row['half_window'])
            lines.append(
                (f'{method.__name__}, w = {row["half_window"]}, '
                 f'{row["all"]["psnr"]:.1f} dB', to_uint8(rate * scale)))
    blank = ('', np.full_like(first[0][1], 255))
    depth += [blank] * (-len(depth) % COLUMNS)
    return grid([(title, _small(cell))
                 for title, cell in first + depth + lines], COLUMNS)


def _truth_cells(scene: Scene, seen: Dict[str, Any],
                 limits: np.ndarray) -> Cells:
    """The frame, its depth, and where the longest window blurs it."""
    picture, half = seen['view'].picture, max(scene.args.half_windows)
    blurred = playback(seen['spikes'], scene.reach, half) * seen['scale']
    error = np.abs(np.clip(blurred, 0, 1) - picture / 255)
    speed = seen['shared']['speed']
    return [(f'frame, at {speed:g} m/s', picture),
            (f'true depth, {limits[0]:.1f} to {limits[1]:.1f} m',
             colour_depth(scene.depth(seen['view']), *limits)),
            (f'error of playback, w = {half}, 0 to 0.3',
             colour(error, 0, 0.3, 'inferno'))]


def _small(picture: np.ndarray) -> np.ndarray:
    """As wide as a column; bare spikes stay black and white."""
    width = min(picture.shape[1], WIDTH // COLUMNS)
    size = round(picture.shape[0] * width / picture.shape[1]), width
    if picture.ndim == 2 and np.isin(picture, (0, 255)).all():
        return resize_spikes(picture, size)
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


def main(argv=None) -> int:
    args = parse_args(argv)
    cv2.setNumThreads(1)
    scene = open_scene(args)
    result = measure(scene)
    if scene.estimator is not None:
        result['constant_depth'] = constant_depth(scene)
    if args.right is not None:
        result['right_view'] = right_errors(scene)
    tell(result)
    settings = {
        key: os.path.basename(value) if key in FILES and value else value
        for key, value in vars(args).items() if key != 'out'
    }
    write_json(
        os.path.join(args.out, 'stereo.json'),
        dict(settings=settings, near_from=scene.middle, **result))
    write_picture(
        os.path.join(args.out, 'stereo.jpg'), draw(scene, result['rows']))
    return 0


if __name__ == '__main__':
    run_tool(main)
