# Copyright (c) mmext contributors. All rights reserved.
"""Train what BiCross is compared with, and test all of it on the target."""
import json
import os.path as osp
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from mmext.utils.comparison import (RunFolder, mean_of, option_arguments,
                                    run_digest, std_of)
from mmext.utils.config_check import check_options
from mmext.utils.config_io import load_config, merge_options
from mmext.utils.io import write_json
from mmext.utils.preflight import preflight
from mmext.utils.user_error import UserError


class Stage(NamedTuple):
    """One training: a config with settings, and the one it starts from.

    Args:
        kind (str): ``'stage1'`` (from scratch), ``'stage2'`` or
            ``'stage3'``.
        config (str): The config.
        options (dict): Settings to override in it. Defaults to {}.
        variant (str): Name of the settings, part of the folder's name.
            Defaults to ''.
        source (Stage, optional): What it starts from. Defaults to None.
    """

    kind: str
    config: str
    options: dict = {}
    variant: str = ''
    source: Optional['Stage'] = None

    @property
    def name(self) -> str:
        """str: Name of its folder."""
        stem = Path(self.config).stem
        return f'{stem}-{self.variant}' if self.variant else stem

    def load(self, seed: Optional[int] = None) -> Config:
        """The config as a run with this seed has it."""
        cfg = load_config(self.config)
        merge_options(cfg, self.all_options(seed))
        return cfg

    def all_options(self, seed: Optional[int]) -> dict:
        """The settings of a run."""
        options = dict(self.options)
        if seed is not None:
            options['randomness.seed'] = seed
        return options

    def chain(self) -> List['Stage']:
        """All that must be trained for it, in order."""
        return [*(self.source.chain() if self.source else []), self]


def check_stages(rows: Dict[str, Stage]) -> None:
    """Refuse what cannot run before the first run takes its hour.

    Args:
        rows (dict[str, Stage]): Label of each row, and its last stage.

    Raises:
        UserError: If a config cannot be read or run, or two trainings would
            share a folder.
    """
    known: Dict[str, Stage] = {}
    for row in rows.values():
        for stage in row.chain():
            if known.setdefault(stage.name, stage) != stage:
                raise UserError(
                    f'{stage.config} and {known[stage.name].config} with '
                    f'other settings would both write to {stage.name}. '
                    'Rename one, or the variant.')
    for stage in known.values():
        check_options(stage.config, stage.options)
        cfg = stage.load()
        # what it starts from is yet to be trained
        cfg.load_from = None
        if 'teacher_ckpt' in cfg.model:
            cfg.model.teacher_ckpt = None
        preflight(cfg, 'train')
        preflight(cfg, 'test')


def check_metrics(rows: Dict[str, Stage], metrics: Sequence[str]) -> None:
    """Refuse scores that the test of a row cannot give.

    Args:
        rows (dict[str, Stage]): Label of each row, and its last stage.
        metrics (Sequence[str]): Names of scores.

    Raises:
        UserError: If one is unknown. Where a metric does not tell its
            ``names``, as :class:`mmext.DepthMetric` does, any may be right.
    """
    for label, stage in rows.items():
        cfg = stage.load()
        init_default_scope(cfg.get('default_scope') or 'mmseg')
        given = cfg.test_evaluator
        if isinstance(given, dict):
            given = given.get('metrics') or given
        known: List[str] = []
        for metric in Evaluator(given).metrics:
            if not hasattr(metric, 'names'):
                break
            known += metric.names
        else:
            wrong = [name for name in metrics if name not in known]
            if wrong:
                raise UserError(
                    f'{label} is not scored by {wrong[0]!r}. Choose --metrics '
                    f'among {", ".join(sorted(known))}.')


class BiCrossComparison:
    """Runs of a comparison, below one folder, ``STAGE/seedSEED`` each.

    Every stage is trained by ``tools/train_bicross.py`` once and serves all
    rows that start from it; every row is tested by ``tools/test.py``. What
    is finished is reused, what was interrupted goes on.

    Args:
        root (Path): The folder.
        seeds (Sequence[int]): Seeds of all rows.
        say (Callable): Gets a line for each run. Defaults to mmengine's
            ``print_log``.
    """

    def __init__(self,
                 root: Path,
                 seeds: Sequence[int],
                 say: Callable[[str], None] = print_log) -> None:
        self.root = root
        self.seeds = list(seeds)
        self.say = say

    def _folder(self, stage: Stage, seed: int, report: str) -> RunFolder:
        """Its folder; the mark covers all stages before it."""
        digest = '-'.join(
            run_digest(part.load(seed), seed) for part in stage.chain())
        return RunFolder(self.root / stage.name / f'seed{seed}', digest,
                         report)

    def train(self, stage: Stage, seed: int) -> dict:
        """Train a stage and those before it, or reuse them.

        Args:
            stage (Stage): The stage.
            seed (int): Its seed.

        Returns:
            dict: ``checkpoint`` and the ``minutes`` it took alone.
        """
        begin = self.train(stage.source, seed) if stage.source else None
        folder = self._folder(stage, seed, 'trained.json')
        if folder.finished:
            found = json.loads(folder.report.read_text())
            if osp.isfile(found['checkpoint']):
                return found
        place = folder.path / stage.kind
        if not folder.known:
            # of other settings: neither finished nor to go on from
            for name in ('finished.json', 'last_checkpoint'):
                (place / name).unlink(missing_ok=True)
        resume = ['--resume'] if (place / 'last_checkpoint').is_file() else []
        folder.start()
        (folder.path / 'tested.json').unlink(missing_ok=True)
        self.say(f'training {folder.path}')
        source = ['--checkpoint', begin['checkpoint']] if begin else []
        started = time.monotonic()
        folder.run('train_bicross', [
            f'--{stage.kind}', stage.config, *source, *resume, '--work-dir',
            folder.path, '--cfg-options',
            *option_arguments(stage.all_options(seed))
        ], 'log.txt')
        note = json.loads((place / 'finished.json').read_text())
        result = dict(
            checkpoint=osp.abspath(note['checkpoint']),
            minutes=(time.monotonic() - started) / 60,
            resumed=bool(resume))
        write_json(folder.report, result)
        return result

    def test(self, stage: Stage, seed: int) -> Dict[str, float]:
        """Scores of a trained stage on the test set of its config."""
        trained = self.train(stage, seed)
        folder = self._folder(stage, seed, 'tested.json')
        if not folder.finished:
            (folder.path / 'test').mkdir(exist_ok=True)
            scores = folder.path / 'test' / 'metrics.json'
            folder.run('test', [
                stage.config, trained['checkpoint'], '--work-dir',
                folder.path / 'test', '--out', scores, '--cfg-options',
                *option_arguments(stage.all_options(seed))
            ], 'test/log.txt')
            found = json.loads(scores.read_text())
            absent = [key for key in found if found[key] != found[key]]
            if absent:
                raise UserError(
                    f'{stage.config} scored nothing ({", ".join(absent)}): '
                    'its test set has no depth in range and inside the crop. '
                    f'See {folder.path / "test" / "log.txt"}.')
            write_json(folder.report, found)
        return json.loads(folder.report.read_text())

    def run(self, stage: Stage) -> dict:
        """Train and test all seeds of a row.

        Args:
            stage (Stage): Its last stage.

        Returns:
            dict: ``mean`` and ``std`` of each score, all ``runs``, and the
            ``minutes`` of all its stages, the mean over the seeds.
        """
        runs = [dict(self.test(stage, seed), seed=seed) for seed in self.seeds]
        minutes = [
            sum(self.train(part, seed)['minutes'] for part in stage.chain())
            for seed in self.seeds
        ]
        scores = sorted(set(runs[0]) - {'seed'})
        return dict(
            config=stage.config,
            options=stage.options,
            stages=[part.name for part in stage.chain()],
            mean={key: mean_of(run[key] for run in runs)
                  for key in scores},
            std={key: std_of(run[key] for run in runs)
                 for key in scores},
            minutes=mean_of(minutes),
            runs=runs)


def gap_closed(score: float, baseline: float, bound: float) -> Optional[float]:
    """Share of the way from a baseline to a bound that a score has gone.

    Args:
        score (float): The score; more or less may be better.
        baseline (float): Score of the baseline.
        bound (float): Score of the bound.

    Returns:
        float or None: 0 at the baseline and 1 at the bound; None where both
        are equal.
    """
    if baseline == bound:
        return None
    return (baseline - score) / (baseline - bound)
