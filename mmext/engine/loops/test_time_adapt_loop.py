# Copyright (c) mmext contributors. All rights reserved.
"""Test-time adaptation as a train loop."""
import logging
import os.path as osp
from typing import Any, Dict, Optional, Sequence, Union

from mmengine.dist import (all_gather_object, get_rank, get_world_size,
                           is_main_process)
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from mmext.registry import LOOPS, TASK_UTILS
from mmext.utils.arguments import as_tuple
from mmext.utils.dependency import require
from mmext.utils.io import atomic_save, safe_load, tensors_digest
from mmext.utils.user_error import ConfigError, MissingFileError
from ..hooks.adaptation_state_hook import AdaptationStateHook
from ..hooks.mean_teacher_hook import MeanTeacherHook
from .adaptation_report import StreamStatistics, prediction_path, write_report
from .idle_hooks import warn_of_idle_hooks
from .precision import check_optim_wrapper, device_clock, step_precision
from .stream_files import check_files, read_frames
from .stream_loader import (check_arguments, check_stream, split_stream,
                            stream_dataloader)

SOURCE_FILE = 'adaptation_source.pth'


@LOOPS.register_module()
class TestTimeAdaptLoop(BaseLoop):
    """Predict, then adapt, one frame of a stream at a time.

    A train loop, so the stock Runner builds the optimizer, loads the source
    (``load_from``), logs, saves and resumes. The data set is a
    :class:`~mmext.datasets.DomainSequence`; any other is taken as a single
    domain. Predictions made before each update are scored.

    With several processes every process adapts its own copy on its own part
    of the stream, without exchanging gradients; only the counts of the
    metric are added up.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The stream, one frame per batch.
        method (dict): Config of the adaptation method, such as
            ``dict(type='mmext.SVDP')``.
        reset (str): When everything returns to the source: ``'never'``
            (continual adaptation), ``'domain'`` or ``'round'``.
            Defaults to ``'never'``.
        evaluator (dict | list): Metric config(s). Defaults to None, that
            of the method's task: ``dict(type='mmext.DomainIoUMetric')``, or
            ``dict(type='mmext.DomainDepthMetric')`` for depth.
        autocast (str, optional): Let the networks compute in
            ``'bfloat16'`` or ``'float16'``; weights, optimizer, EMA,
            uncertainty, softmax and loss stay in single precision. A method
            that learns in float16 needs an ``AmpOptimWrapper``, whose scaler
            keeps small gradients. Defaults to None.
        save_predictions (bool): Write every prediction as a PNG (labels, or
            depth times 256 in 16 bits) below ``work_dir/predictions``.
            Defaults to False.
        source_ignore (Sequence[str]): Regular expressions of checkpoint keys
            that the model may lack. Defaults to ``('^auxiliary_head',)``.
        allow_random_source (bool): Run without ``load_from``, for tests.
            Defaults to False.

    Raises:
        ConfigError: For a batch size other than 1, an unknown ``reset`` or
            ``autocast``, float16 without a scaler, a method without a type,
            a model with another number of classes than the stream, or a
            missing source.
        MissingFileError: For pictures or labels that are not there, before
            the first frame.

    Examples:
        >>> train_cfg = dict(
        ...     type='mmext.TestTimeAdaptLoop',
        ...     method=dict(type='mmext.SVDP', reference_view=4),
        ...     reset='never')
    """

    __test__ = False  # not a test class, whatever its name suggests
    #: The processes of a run do not step together: one may have fewer frames,
    #: and be done, while another goes on. So hooks must not exchange anything
    #: between processes while a stream runs.
    independent_ranks = True

    def __init__(self,
                 runner: Runner,
                 dataloader: Union[DataLoader, dict],
                 method: dict,
                 reset: str = 'never',
                 evaluator: Union[dict, Sequence[dict], None] = None,
                 autocast: Optional[str] = None,
                 save_predictions: bool = False,
                 source_ignore: Sequence[str] = ('^auxiliary_head', ),
                 allow_random_source: bool = False) -> None:
        check_arguments(method, reset, autocast)
        super().__init__(runner, stream_dataloader(dataloader))
        self.reset = reset
        self.autocast = autocast
        self.source_ignore = as_tuple(source_ignore)
        self.save_predictions = save_predictions
        self.allow_random_source = allow_random_source
        self.stream = self.dataloader.dataset
        self.sampler = self.dataloader.sampler
        self.sampler.indices = split_stream(self.stream, reset,
                                            get_world_size(), get_rank())
        self.method = TASK_UTILS.build(method)
        if evaluator is None:
            evaluator = dict(self.method.task.evaluator)
        self.evaluator = runner.build_evaluator(evaluator)
        self.evaluator.dataset_meta = self.stream.metainfo
        check_stream(self.stream, self.model)
        check_files(self.stream)
        self.visits = StreamStatistics()
        self.source_path = str(runner._load_from)
        self.source_digest = ''
        # For hooks that watch the run: what the method said of the last
        # frame, how often everything returned to the source, and whether
        # they need the source.
        self.last_result: Any = None
        self.resets = 0
        self.keep_source = reset != 'never'
        self._iter = 0
        self._done = 0
        self._epoch = 0
        self.stop_training = False
        self._prepare()

    # What the Runner and its hooks read -----------------------------------

    @property
    def max_iters(self) -> int:
        """int: Frames in this process's part of the stream."""
        return len(self.sampler.indices)

    @property
    def max_epochs(self) -> int:
        """int: The stream is one epoch."""
        return 1

    @property
    def iter(self) -> int:
        """int: Frames processed so far."""
        return self._iter

    @property
    def epoch(self) -> int:
        """int: 0 while the stream runs, then 1."""
        return self._epoch

    @property
    def model(self) -> nn.Module:
        """nn.Module: The student, without a distributed wrapper."""
        model = self.runner.model
        return model.module if is_model_wrapper(model) else model

    # Before the optimizer exists ------------------------------------------

    def _prepare(self) -> None:
        """Let the method create parameters, and register the hooks."""
        frame_type = require('mmext.models.segmentation', 'TestTimeAdaptLoop')
        first = self.dataloader.collate_fn([self.stream[0]])
        self.Frame = frame_type.Frame
        frame = self.Frame.from_batch(first, self.model.data_preprocessor)
        view = frame.views[frame.reference(self.method.reference_view)]
        self.method.prepare(self.model, view.size, self.runner.seed or 0,
                            view.x.size(1))
        if self.method.needs_teacher:
            options = dict(self.method.teacher_options(), update='manual')
            self.teacher_hook = MeanTeacherHook(**options)
            self.runner.register_hook(self.teacher_hook)
        else:
            self.teacher_hook = None
        self.state_hook = AdaptationStateHook(self, frame_type.PROMPT,
                                              self.source_ignore)
        self.runner.register_hook(self.state_hook)
        warn_of_idle_hooks(self.runner.hooks)

    # The run ---------------------------------------------------------------

    def run(self) -> nn.Module:
        """Adapt over the stream, from where a resumed run left off."""
        self.runner.call_hook('before_train')
        self._start()
        self.runner.call_hook('before_train_epoch')
        self.sampler.start = self._iter
        for batch in read_frames(self):
            self.run_iter(batch)
            if self.stop_training:
                break
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.metrics = self._finish()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_iter(self, batch: dict) -> None:
        """Predict one frame, adapt on it, score the prediction."""
        position = self._iter
        self.runner.call_hook(
            'before_train_iter', batch_idx=position, data_batch=batch)
        visit = self.stream.visit_at(self.sampler.indices[position])
        self._enter(position, visit)

        device = next(self.model.parameters()).device
        started = device_clock(device)
        frame = self.Frame.from_batch(batch, self.model.data_preprocessor)
        with step_precision(self.autocast, device):
            result = self.method.step(frame, self.runner.optim_wrapper)
        seconds = device_clock(device) - started
        self.last_result = result

        sample = frame.samples[0].clone()
        self.method.task.attach(sample, result.labels)
        self.evaluator.process([sample], batch)
        self.visits.add(visit, result, seconds)
        if result.skipped:
            print_log(
                f'No update on {sample.metainfo.get("img_path", position)}: '
                f'{result.skipped}.',
                logger='current',
                level=logging.WARNING)
        if self.save_predictions:
            self._save_prediction(sample, visit)
        # Hooks may save now, before the Runner's counter moves on.
        self._done = position + 1
        self.runner.call_hook(
            'after_train_iter',
            batch_idx=position,
            data_batch=batch,
            outputs=self.visits.finite_log(result))
        self._iter += 1
        if self._is_last_of_visit(position, visit):
            self.visits.log_visit(visit, self.evaluator.metrics)

    # Pieces ----------------------------------------------------------------

    def _start(self) -> None:
        """Hand loaded weights, teacher and source to the method."""
        state = self.state_hook.state
        if not self.state_hook.loaded and not self.allow_random_source:
            raise ConfigError(
                'Adaptation starts from a trained source model, but '
                '`load_from` is not set. Set load_from to the checkpoint of '
                '`model`.')
        check_optim_wrapper(self.runner.optim_wrapper, self.autocast,
                            self.method.adapt)
        teacher = self.teacher_hook.teacher if self.teacher_hook else None
        if state is not None:
            self.state_hook.load_prompts(teacher)
        source = self._source(state)
        self.method.start(self.model, teacher, source)
        if state is not None:
            self._load_state(state)

    def _source(self, state: Optional[dict]) -> Optional[dict]:
        """The source weights: kept beside the checkpoints for a resume."""
        if not (self.method.needs_source or self.keep_source):
            return None
        if state is None:
            source = {
                key: value.detach().clone()
                for key, value in self.model.state_dict().items()
            }
            self.source_digest = tensors_digest(source)
            if is_main_process():
                atomic_save(source, osp.join(self.runner.work_dir,
                                             SOURCE_FILE))
            return source
        folders = [self.runner.work_dir]
        if self.runner._load_from:
            folders.insert(0, osp.dirname(str(self.runner._load_from)))
        paths = [osp.join(folder, SOURCE_FILE) for folder in folders]
        path = next((p for p in paths if osp.isfile(p)), None)
        if path is None:
            raise MissingFileError(
                f'Resuming needs the source weights, {SOURCE_FILE}, which '
                'the first run wrote beside its checkpoints. Looked for: '
                f'{", ".join(osp.abspath(p) for p in paths)}. Copy the file '
                'there, or start again without --resume.')
        device = next(self.model.parameters()).device
        source = safe_load(path, map_location=device)
        self.source_digest = tensors_digest(source)
        if self.source_digest != state['source_digest']:
            raise ConfigError(
                f'{path} holds other source weights than the run to be '
                'resumed was started from. Restore the original file, or '
                'start again without --resume.')
        own = paths[-1]
        if is_main_process() and osp.abspath(path) != osp.abspath(own):
            # The next resume finds it beside the checkpoints of this run.
            atomic_save(source, own)
        return source

    def _enter(self, position: int, visit: Any) -> None:
        """Resets that happen before the first frame of a visit."""
        if position == 0:
            return
        before = self.stream.visit_at(self.sampler.indices[position - 1])
        if before == visit:
            return
        if self.reset == 'domain' or (self.reset == 'round'
                                      and before.round != visit.round):
            self.method.reset(self.runner.optim_wrapper)
            self.resets += 1
        elif self.method.reset_optimizer == 'domain':
            self.method.reset_optimizer_state(self.runner.optim_wrapper)

    def _is_last_of_visit(self, position: int, visit: Any) -> bool:
        indices = self.sampler.indices
        return position + 1 == len(indices) or self.stream.visit_at(
            indices[position + 1]) != visit

    def _finish(self) -> Dict[str, float]:
        """Score the stream and write the report."""
        frames = sum(all_gather_object(self.visits.frames()))
        metrics = self.evaluator.evaluate(len(self.stream))
        self.runner.visualizer.add_scalars(
            {
                k: v
                for k, v in metrics.items() if isinstance(v, (int, float))
            },
            step=self._iter)
        if is_main_process():
            write_report(self, metrics, frames)
        return metrics

    def _save_prediction(self, sample: Any, visit: Any) -> None:
        cv2 = require('cv2', 'save_predictions')
        path = prediction_path(
            self.runner.work_dir, visit,
            sample.metainfo.get('img_path') or f'{self._iter:06d}')
        picture = self.method.task.picture(sample)
        encoded = cv2.imencode('.png', picture)[1].tobytes()
        self.visits.write(path, encoded)

    # Saving and resuming ---------------------------------------------------

    def state_dict(self) -> dict:
        """Position, generators, counts: all that a resume needs."""
        return dict(
            position=self._done,
            frames=len(self.stream),
            world_size=get_world_size(),
            method=self.method.name,
            method_state=self.method.state_dict(),
            source_path=self.source_path,
            source_digest=self.source_digest,
            resets=self.resets,
            statistics=self.visits.state_dict(),
            metrics=[
                m.state_dict() if hasattr(m, 'state_dict') else None
                for m in self.evaluator.metrics
            ])

    def check_state(self, state: dict) -> None:
        """Refuse to resume from the checkpoint of another run.

        Args:
            state (dict): ``checkpoint['adaptation']``.

        Raises:
            ConfigError: If stream, method or number of processes differ, or
                there are several processes.
        """
        for what, now in (('frames', len(self.stream)),
                          ('method', self.method.name), ('world_size',
                                                         get_world_size())):
            if state[what] != now:
                raise ConfigError(
                    f'The checkpoint belongs to another run: its {what} is '
                    f'{state[what]!r}, this config has {now!r}. Resume with '
                    'the config of the interrupted run.')
        if get_world_size() > 1:
            raise ConfigError(
                'An adaptation run of several processes cannot be resumed: '
                'each process adapts a model of its own and only the first '
                'is saved. Start again without --resume.')

    def _load_state(self, state: dict) -> None:
        self._iter = self._done = state['position']
        self.resets = state.get('resets', 0)
        # Checkpoints of older versions do not say it.
        self.source_path = state.get('source_path', 'unknown')
        self.method.load_state_dict(state['method_state'])
        self.visits.load_state_dict(state['statistics'])
        for metric, saved in zip(self.evaluator.metrics, state['metrics']):
            if saved is None:
                print_log(
                    f'{type(metric).__name__} has no state_dict: it scores '
                    'only the frames after the resume.',
                    logger='current',
                    level=logging.WARNING)
            else:
                metric.load_state_dict(saved)
