# Copyright (c) mmext contributors. All rights reserved.
"""Train and test methods of parameter-efficient tuning to compare them."""
import json
from pathlib import Path
from statistics import median
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from mmengine.config import Config
from mmengine.logging import print_log

from mmext.models.adapters import save_adapter
from mmext.models.adapters.report import adapter_report
from mmext.utils.comparison import (RunError, RunFolder, mean_of,
                                    option_arguments, run_digest, std_of)
from mmext.utils.config_check import check_options
from mmext.utils.config_io import load_config, merge_options
from mmext.utils.config_paths import checkpoints, find_checkpoint
from mmext.utils.io import write_json
from mmext.utils.launch import is_tuned
from mmext.utils.preflight import preflight
from mmext.utils.user_error import UserError
from .adapters import build_tuned

RATE = 'optim_wrapper.optimizer.lr'


class Method(NamedTuple):
    """One row of the table: a config with settings."""

    config: str
    variant: str
    options: dict

    def load(self,
             rate: Optional[float] = None,
             seed: Optional[int] = None) -> Config:
        """The config as a run with this rate and seed has it."""
        cfg = load_config(self.config)
        merge_options(cfg, self.all_options(rate, seed))
        return cfg

    def all_options(self, rate: Optional[float], seed: Optional[int]) -> dict:
        """The settings of a run; a seed is that of run, masks and draws."""
        options = dict(self.options)
        if rate is not None:
            options[RATE] = rate
        if seed is not None:
            options.update({'randomness.seed': seed, 'model.seed': seed})
        return options

    def folder(self, root: Path, rate: float, seed: int) -> Path:
        """Folder of a run."""
        return root / Path(self.config).stem / self.variant / \
            f'lr{rate:g}' / f'seed{seed}'


def check_method(method: Method, chooses: bool) -> None:
    """Refuse what cannot run before the first run takes its hours.

    Args:
        method (Method): The method.
        chooses (bool): Whether its rate is chosen on validation images.

    Raises:
        UserError: If the config cannot be read or run, does not fit the
            settings, has no ``MoSAModel``, or its data or weights are
            missing.
    """
    check_options(method.config, method.options)
    cfg = method.load()
    if not is_tuned(cfg.get('model')):
        raise UserError(
            f'{method.config} has another model than mmext.MoSAModel. Only '
            'that can be compared here; its adapter may be '
            'FullFineTune, LinearProbe or another baseline.')
    if chooses and not (cfg.get('val_dataloader')
                        and cfg.get('val_evaluator')):
        raise UserError(
            f'{method.config} has no validation set, on which --lr-grid '
            'would choose. Add val_dataloader and val_evaluator, never the '
            'test set.')
    if chooses and cfg.val_dataloader.dataset == cfg.get(
            'test_dataloader', {}).get('dataset'):
        raise UserError(
            f'{method.config} validates on its test set, on which no rate '
            'must be chosen. Point val_dataloader at images of their own.')
    preflight(cfg, 'train')
    preflight(cfg, 'test')


class PeftComparison:
    """Runs of a comparison, below one folder.

    Each is ``tools/train.py``, then ``tools/test.py``, in processes of their
    own, in ``CONFIG/[VARIANT/]lrRATE/seedSEED``. What is finished is reused.

    Args:
        root (Path): The folder.
        seeds (Sequence[int]): Seeds of each method; rates are chosen with
            the first.
        metric (str): Name of the score, of which more is better.
        keep_checkpoints (bool): Keep checkpoints that are done with.
            Defaults to False.
        say (Callable): Gets a line for each run. Defaults to mmengine's
            ``print_log``.
    """

    def __init__(self,
                 root: Path,
                 seeds: Sequence[int],
                 metric: str,
                 keep_checkpoints: bool = False,
                 say: Callable[[str], None] = print_log) -> None:
        self.root = root
        self.seeds = list(seeds)
        self.metric = metric
        self.keep_checkpoints = keep_checkpoints
        self.say = say

    def _folder(self, method: Method, rate: float, seed: int,
                report: str) -> RunFolder:
        cfg = method.load(rate, seed)
        digest = run_digest(cfg, seed, _sources(cfg))
        return RunFolder(method.folder(self.root, rate, seed), digest, report)

    def train(self,
              method: Method,
              rate: float,
              seed: int,
              again: bool = False) -> dict:
        """Train, or reuse what was trained; return what was measured.

        Args:
            method (Method): The method.
            rate (float): Learning rate.
            seed (int): Seed of the run, the masks and the draws.
            again (bool): Train again if the checkpoint is gone.
                Defaults to False.

        Returns:
            dict: ``val`` (None without validation), ``step_seconds``,
            ``memory_mb``, ``memory_of`` and ``diverged``.
        """
        cfg = method.load(rate, seed)
        folder = self._folder(method, rate, seed, 'trained.json')
        path = folder.path
        if folder.finished and not (again and _checkpoint(path, cfg) is None):
            if not again:
                self.say(f'reused  {path}')
            return json.loads(folder.report.read_text())
        resume = ['--resume'] if folder.resumable else []
        if not resume:
            # Scores of another run must not be read as those of this one.
            for old in path.glob('*/vis_data/scalars.json'):
                old.unlink()
        folder.start()
        (path / 'tested.json').unlink(missing_ok=True)
        self.say(f'running {path}')
        peak, diverged = 0., False
        try:
            peak = folder.run('train', [
                method.config, '--work-dir', path, *resume, '--cfg-options',
                *option_arguments(method.all_options(rate, seed))
            ], 'log.txt')
        except RunError as error:
            if 'FloatingPointError' not in error.tail:
                raise
            diverged = True
        result = dict(
            diverged=diverged,
            **_logged(path, cfg, self.metric, peak, diverged))
        write_json(folder.report, result)
        return result

    def test(self, method: Method, rate: float, seed: int) -> dict:
        """Test a trained run, or reuse that; return its score and sizes."""
        cfg = method.load(rate, seed)
        folder = self._folder(method, rate, seed, 'tested.json')
        path = folder.path
        if not folder.finished:
            self.train(method, rate, seed, again=True)
            checkpoint = _checkpoint(path, cfg)
            if checkpoint is None:
                raise UserError(
                    f'{path} holds no checkpoint to test. Choose '
                    'default_hooks.checkpoint.interval so that the last '
                    'epoch is saved.')
            (path / 'test').mkdir(exist_ok=True)
            scores = path / 'test' / 'metrics.json'
            folder.run('test', [
                method.config, checkpoint, '--work-dir', path / 'test',
                '--out', scores, '--cfg-options',
                *option_arguments(method.all_options(rate, seed))
            ], 'test/log.txt')
            write_json(
                folder.report,
                dict(
                    checkpoint=checkpoint.name,
                    metrics=json.loads(scores.read_text()),
                    **_sizes(cfg, checkpoint, path / 'adapter.safetensors')))
        result = json.loads(folder.report.read_text())
        if self.metric not in result['metrics']:
            raise UserError(
                f'{path} was not tested by {self.metric!r}. Choose the '
                f'metric among {", ".join(sorted(result["metrics"]))}.')
        return dict(result, test=result['metrics'][self.metric])

    def choose_rate(self, method: Method, rates: Sequence[float]) -> tuple:
        """The rate with the highest validation score, and all scores.

        Raises:
            UserError: If the loss was not finite with any.
        """
        scores: Dict[float, Optional[float]] = {}
        for rate in rates:
            found = self.train(method, rate, self.seeds[0])
            if found['val'] is None and not found['diverged']:
                raise UserError(
                    f'{method.config} ended without a validation. Choose '
                    'train_cfg.val_interval so that the last epoch has one.')
            scores[rate] = found['val']
        known = {rate: s for rate, s in scores.items() if s is not None}
        if not known:
            raise UserError(
                f'{method.config} {method.variant}: the loss became infinite '
                f'with each of the rates {rates}.')
        best = max(known, key=known.__getitem__)
        for rate in set(scores) - {best}:
            self._tidy(method.folder(self.root, rate, self.seeds[0]))
        return best, scores

    def run(self,
            method: Method,
            rates: Sequence[float] = (),
            rate: Optional[float] = None) -> dict:
        """Choose the rate, train and test all seeds, summarise.

        Args:
            method (Method): The method.
            rates (Sequence[float]): Rates to choose from. Defaults to ().
            rate (float, optional): A rate that was chosen before. Defaults
                to None: chosen, or the config's where there is no choice.

        Returns:
            dict: A row of the table; see ``report.json``.
        """
        scores: Dict[float, Optional[float]] = {}
        if rate is None and rates:
            rate, scores = self.choose_rate(method, rates)
        elif rate is None:
            rate = float(method.load().optim_wrapper.optimizer.lr)
        runs = []
        for seed in self.seeds:
            run = dict(self.train(method, rate, seed), seed=seed)
            if not run['diverged']:
                run.update(self.test(method, rate, seed))
            self._tidy(method.folder(self.root, rate, seed))
            runs.append(run)
        return dict(
            config=method.config,
            variant=method.variant,
            options=method.options,
            rate=rate,
            rates={
                f'{key:g}': value
                for key, value in scores.items()
            },
            **_summary(runs))

    def _tidy(self, path: Path) -> None:
        """Remove the checkpoints of a run that is done with."""
        if not self.keep_checkpoints:
            for checkpoint in path.glob('*.pth'):
                checkpoint.unlink()
            (path / 'last_checkpoint').unlink(missing_ok=True)


def _summary(runs: List[dict]) -> dict:
    """Mean and spread over the seeds that ended."""
    ended = [run for run in runs if not run['diverged']]
    first = ended[0] if ended else {}
    sizes = ('trainable', 'unique', 'stored', 'total', 'saved_bytes',
             'memory_of')
    return dict(
        mean=mean_of(run['test'] for run in ended),
        std=std_of(run['test'] for run in ended),
        val=mean_of(run['val'] for run in ended),
        diverged=len(runs) - len(ended),
        step_seconds=mean_of(run['step_seconds'] for run in ended),
        memory_mb=max((run['memory_mb'] or 0 for run in ended), default=None),
        runs=runs,
        **{key: first.get(key)
           for key in sizes})


def _sources(cfg: Config) -> List[str]:
    found = [path for _, path in checkpoints(cfg.model, 'model')]
    found += [cfg.load_from] if cfg.get('load_from') else []
    return [find_checkpoint(path) or path for path in found]


def _selects(cfg: Config) -> bool:
    """Whether the run keeps its best epoch by validation."""
    hooks = cfg.get('default_hooks') or {}
    return bool((hooks.get('checkpoint') or {}).get('save_best'))


def _logged(path: Path, cfg: Config, metric: str, peak: float,
            diverged: bool) -> dict:
    """Scores, step time and memory that the log of a run holds."""
    scores: Dict[int, float] = {}
    times, memory, known = [], [], set()
    for log in sorted(path.glob('*/vis_data/scalars.json')):
        for number_, line in enumerate(log.read_text().splitlines()):
            entry = json.loads(line)
            if 'loss' in entry:
                memory.append(entry.get('memory', 0))
                # The first entry of a process has its start in it.
                if number_ and 'time' in entry:
                    times.append(entry['time'])
            else:
                known |= set(entry)
                if metric in entry:
                    scores[entry['step']] = entry[metric]
    if known and not scores and not diverged:
        raise UserError(
            f'{path} was validated, but not by {metric!r}. Choose --metric '
            f'among {", ".join(sorted(known - {"step", "time", "data_time"}))}'
            '.')
    val = None
    if scores and not diverged:
        last = scores[max(scores)]
        val = max(scores.values()) if _selects(cfg) else last
    on_gpu = max(memory, default=0)
    return dict(
        val=val,
        step_seconds=median(times) if times else None,
        memory_mb=on_gpu or peak or None,
        memory_of='GPU' if on_gpu else 'process')


def _checkpoint(path: Path, cfg: Config) -> Optional[Path]:
    """What is tested: the best epoch if the config keeps it, else the last."""
    if _selects(cfg):
        best = sorted(path.glob('best_*.pth'), key=lambda p: p.stat().st_mtime)
        return best[-1] if best else None
    note = path / 'last_checkpoint'
    last = path / Path(note.read_text().strip()).name if note.is_file() else \
        path
    return last if last.is_file() else None


def _sizes(cfg: Config, checkpoint: Path, adapter: Path) -> dict:
    """Parameters of a model, and bytes of its merged adapter with head.

    ``trainable`` are the values that training can change.
    """
    model = build_tuned(cfg, checkpoint)
    report = adapter_report(model)
    saved = Path(save_adapter(model, adapter, merged=True))
    return dict(
        trainable=report['adapter']['trained'] + report['head_and_host'],
        unique=report['adapter']['unique'] + report['head_and_host'],
        stored=report['trainable'],
        total=report['total'],
        saved_bytes=saved.stat().st_size)
