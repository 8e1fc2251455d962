# Copyright (c) mmext contributors. All rights reserved.
"""Several domains, visited one after another, as one data set."""
import copy
from bisect import bisect_right
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple, Union

from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.structures import BaseDataElement

from mmext.registry import DATASETS
from mmext.utils.user_error import ConfigError


class Visit(NamedTuple):
    """One pass over one domain: the samples ``start`` to ``stop - 1``.

    ``round`` counts from 1; ``start`` and ``stop`` count in the stream.
    """
    round: int
    domain: str
    start: int
    stop: int


@DATASETS.register_module()
class DomainSequence:
    r"""An ordered stream over domains, repeated for a number of rounds.

    For domains :math:`D_1 \dots D_n` and R rounds the stream is
    :math:`(D_1, \dots, D_n)` R times over, each domain in its own order: the
    protocol of continual test-time adaptation (CoTTA, arXiv 2203.13591,
    Sec. 4: fog, night, rain, snow). It is a map-style data set, so that
    the position of an interrupted run is one index.

    Every domain runs its own pipeline. Each data sample that comes out (one,
    or one per augmented view) is then tagged with the metainfo ``domain``
    (str), ``round`` (int, from 1) and ``stream_index`` (int), which
    ``mmext.DomainIoUMetric`` and the adaptation loop read.

    Args:
        domains (Mapping[str, dict | Dataset]): Domain name -> data set
            config (or a built data set), in the order of the visit. All
            domains must have the same classes.
        rounds (int): How often the sequence is repeated. Defaults to 1.
        lazy_init (bool): Leave the domains uninitialised until the first
            use or :meth:`full_init`. Defaults to False.

    Raises:
        ConfigError: If there is no domain, the number of rounds is not a
            positive integer, or the domains' classes differ.

    Example:
        >>> dataset = dict(
        ...     type='mmext.DomainSequence',
        ...     rounds=3,
        ...     domains=dict(
        ...         fog=dict(type='mmext.ACDCDataset', ...),
        ...         night=dict(type='mmext.ACDCDataset', ...)))
    """

    def __init__(self,
                 domains: Mapping[str, Union[dict, Any]],
                 rounds: int = 1,
                 lazy_init: bool = False) -> None:
        if not domains:
            raise ConfigError(
                'DomainSequence expects at least one domain, but got '
                f'{domains!r}. Give domains=dict(NAME=dict(type=...), ...).')
        if isinstance(rounds, bool) or not isinstance(rounds, int) \
                or rounds < 1:
            raise ConfigError('DomainSequence expects rounds to be an '
                              f'integer of at least 1, but got {rounds!r}.')
        self.rounds = rounds
        self.datasets: Dict[str, Any] = {
            str(name): _build(name, dataset)
            for name, dataset in domains.items()
        }
        self._metainfo = _common_metainfo(self.datasets)
        self.visits: List[Visit] = []
        self._starts: List[int] = []
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """dict: Metainfo of the first domain, with ``domains`` (names in
        order) and ``rounds`` added."""
        return dict(
            self._metainfo, domains=tuple(self.datasets), rounds=self.rounds)

    def full_init(self) -> None:
        """Read the file lists of all domains; harmless when repeated."""
        if self._fully_initialized:
            return
        for dataset in self.datasets.values():
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
        start = 0
        for number in range(1, self.rounds + 1):
            for name, dataset in self.datasets.items():
                stop = start + len(dataset)
                self.visits.append(Visit(number, name, start, stop))
                start = stop
        self._starts = [visit.start for visit in self.visits]
        self._fully_initialized = True

    def __len__(self) -> int:
        """Number of samples in all rounds."""
        self.full_init()
        return self.visits[-1].stop

    def visit_at(self, index: int) -> Visit:
        """The visit that the sample ``index`` of the stream belongs to.

        Args:
            index (int): Position in the stream; negative counts from the
                end.

        Returns:
            Visit: Round, domain and extent.

        Raises:
            IndexError: If the stream has no such sample.
        """
        return self._locate(index)[0]

    def _locate(self, index: int) -> Tuple[Visit, int]:
        """The visit of a sample and its non-negative stream index."""
        size = len(self)
        wrapped = index + size if index < 0 else index
        if not 0 <= wrapped < size:
            raise IndexError(f'The stream has {size} samples, but sample '
                             f'{index} was asked for.')
        # The last visit that starts at or before the index: a domain of
        # length 0 starts where the next one does and is thus skipped.
        return self.visits[bisect_right(self._starts, wrapped) - 1], wrapped

    def get_data_info(self, index: int) -> dict:
        """The data info of a sample, before its pipeline, with the tags.

        Args:
            index (int): Position in the stream.

        Returns:
            dict: A new dict: the domain's data info plus ``domain``,
            ``round`` and ``stream_index``.
        """
        visit, index = self._locate(index)
        info = dict(self.datasets[visit.domain].get_data_info(index -
                                                              visit.start))
        info.update(_tags(visit, index))
        return info

    def __getitem__(self, index: int) -> dict:
        """Run the pipeline of the domain and tag what comes out.

        Args:
            index (int): Position in the stream.

        Returns:
            dict: The pipeline's output, usually ``inputs`` and
            ``data_samples``.

        Raises:
            TypeError: If the pipeline packs no data sample, so that nothing
                can carry the tags.
        """
        visit, index = self._locate(index)
        data = self.datasets[visit.domain][index - visit.start]
        samples = data.get('data_samples') if isinstance(data, dict) else None
        views = samples if isinstance(samples, (list, tuple)) else [samples]
        for view in views:
            if not isinstance(view, BaseDataElement):
                raise TypeError(
                    f"The pipeline of the domain '{visit.domain}' should "
                    "give a dict whose 'data_samples' is a data sample or a "
                    f'list of them, but got {type(view).__name__}. End it '
                    'with PackSegInputs.')
            view.set_metainfo(_tags(visit, index))
        return data

    def __repr__(self) -> str:
        if not self._fully_initialized:
            sizes = ', '.join(self.datasets)
        else:
            sizes = ', '.join(f'{n}: {len(d)}'
                              for n, d in self.datasets.items())
        return f'{type(self).__name__}({sizes}; rounds={self.rounds})'


def _build(name: str, dataset: Union[dict, Any]) -> Any:
    """Build a config in the current default scope; pass a data set on."""
    if not isinstance(dataset, Mapping):
        return dataset
    if 'type' not in dataset:
        raise ConfigError(f"The domain '{name}' should be a data set config "
                          "with a 'type', but got the keys "
                          f'{sorted(dataset)}.')
    # A copy: TestTimeAug replaces the transforms in its config by objects.
    return ROOT_DATASETS.build(copy.deepcopy(dataset))


def _common_metainfo(datasets: Mapping[str, Any]) -> dict:
    """Metainfo of the first domain, once all classes are known to agree."""
    metas = {name: dict(d.metainfo) for name, d in datasets.items()}
    first, *others = metas
    classes = tuple(metas[first].get('classes') or ())
    for name in others:
        theirs = tuple(metas[name].get('classes') or ())
        if theirs != classes:
            raise ConfigError(
                'All domains of a DomainSequence must have the same classes, '
                f"but '{first}' has {classes} and '{name}' has {theirs}. "
                "Give both the same metainfo=dict(classes=...).")
    return metas[first]


def _tags(visit: Visit, index: int) -> dict:
    return dict(domain=visit.domain, round=visit.round, stream_index=index)
