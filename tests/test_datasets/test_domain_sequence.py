# Copyright (c) mmext contributors. All rights reserved.
import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from mmext.datasets.data_help import DataHelp, missing_data_error
from mmext.datasets.domain_sequence import DomainSequence, Visit
from mmext.datasets.samplers import StreamSampler

pytestmark = pytest.mark.stack_subset


class Toy:
    """Counts up from an offset; ``views`` data samples per item."""

    def __init__(self, offset=0, length=3, classes=('a', 'b'), views=0):
        self.offset, self.length, self.views = offset, length, views
        self.metainfo = dict(classes=classes)
        self.initialised = 0

    def full_init(self):
        self.initialised += 1

    def __len__(self):
        return self.length

    def get_data_info(self, index):
        return dict(img_path=f'{self.offset + index}.png')

    def __getitem__(self, index):
        path = dict(img_path=f'{self.offset + index}.png')
        if self.views:
            samples = [
                BaseDataElement(metainfo=path) for _ in range(self.views)
            ]
        else:
            samples = BaseDataElement(metainfo=path)
        return dict(inputs=self.offset + index, data_samples=samples)


def stream(rounds=2, **kwargs):
    return DomainSequence(
        dict(fog=Toy(0, 3, **kwargs), night=Toy(10, 2, **kwargs)), rounds)


def test_property_30_order_and_tags():
    """R rounds visit R x domains in order, each image once per round."""
    dataset = stream(rounds=3)
    assert len(dataset) == 15
    tags = [dataset[i]['data_samples'] for i in range(15)]
    assert [dataset[i]['inputs'] for i in range(15)] == [0, 1, 2, 10, 11] * 3
    assert [t.domain for t in tags] == (['fog'] * 3 + ['night'] * 2) * 3
    assert [t.round for t in tags] == [1] * 5 + [2] * 5 + [3] * 5
    assert [t.stream_index for t in tags] == list(range(15))
    assert dataset.visits[:3] == [
        Visit(1, 'fog', 0, 3),
        Visit(1, 'night', 3, 5),
        Visit(2, 'fog', 5, 8)
    ]


def test_every_view_is_tagged():
    views = stream(views=4)[8]['data_samples']
    assert len(views) == 4
    for view in views:
        assert view.metainfo == dict(
            img_path='10.png', domain='night', round=2, stream_index=8)


def test_get_data_info_and_metainfo():
    dataset = stream()
    info = dataset.get_data_info(9)
    assert info == dict(
        img_path='11.png', domain='night', round=2, stream_index=9)
    assert dataset.metainfo == dict(
        classes=('a', 'b'), domains=('fog', 'night'), rounds=2)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(1, 4))
def test_visits_tile_the_stream(lengths, rounds):
    dataset = DomainSequence(
        {
            f'd{i}': Toy(0, n)
            for i, n in enumerate(lengths)
        }, rounds)
    position = 0
    for visit in dataset.visits:
        assert visit.start == position
        position = visit.stop
    assert position == len(dataset) == rounds * sum(lengths)
    for index in range(len(dataset)):
        visit = dataset.visit_at(index)
        assert visit.start <= index < visit.stop
        assert dataset.visit_at(index - len(dataset)) == visit


@pytest.mark.parametrize('index', [10, -11])
def test_out_of_range(index):
    with pytest.raises(IndexError, match='10 samples'):
        stream()[index]


def test_negative_index_is_tagged_with_its_position():
    assert stream()[-1]['data_samples'].stream_index == 9


def test_lazy_init():
    toy = Toy()
    dataset = DomainSequence(dict(fog=toy), lazy_init=True)
    assert toy.initialised == 0 and dataset.visits == []
    assert len(dataset) == 3 and toy.initialised == 1
    dataset.full_init()
    assert toy.initialised == 1


@pytest.mark.parametrize('rounds', [0, -1, 1.5, True])
def test_refuses_bad_rounds(rounds):
    with pytest.raises(ValueError, match='at least 1'):
        DomainSequence(dict(fog=Toy()), rounds)


def test_refuses_no_domain_and_no_type():
    with pytest.raises(ValueError, match='at least one domain'):
        DomainSequence({})
    with pytest.raises(ValueError, match="'fog'.*'type'"):
        DomainSequence(dict(fog=dict(data_root='x')))


def test_refuses_different_classes():
    with pytest.raises(ValueError, match="'fog'.*'night'"):
        DomainSequence(dict(fog=Toy(), night=Toy(classes=('b', 'a'))))


def test_refuses_a_pipeline_without_data_sample():

    class Bare(Toy):

        def __getitem__(self, index):
            return dict(inputs=index)

    with pytest.raises(TypeError, match='fog.*PackSegInputs'):
        DomainSequence(dict(fog=Bare()))[0]


def test_builds_from_a_config():
    name = 'DomainSequenceToy'
    if DATASETS.get(name) is None:
        DATASETS.register_module(name=name, module=Toy)
    cfg = dict(
        type='mmext.DomainSequence',
        domains=dict(fog=dict(type=name, length=2)),
        rounds=2)
    before = copy.deepcopy(cfg)
    dataset = DATASETS.build(cfg)
    assert cfg == before and len(dataset) == 4


def test_survives_pickling_and_copying():
    for twin in (pickle.loads(pickle.dumps(stream())),
                 copy.deepcopy(stream())):
        assert twin[9]['inputs'] == 11 and twin.visits == stream().visits


# StreamSampler


def test_sampler_in_order_and_from_a_position():
    dataset = stream()
    sampler = DATA_SAMPLERS.build(
        dict(type='mmext.StreamSampler', dataset=dataset, seed=3))
    assert list(sampler) == list(range(10)) and len(sampler) == 10
    sampler.start = 7
    assert list(sampler) == [7, 8, 9] and len(sampler) == 3
    sampler.indices = list(range(0, 10, 2))
    sampler.start = 4
    assert list(sampler) == [8] and len(sampler) == 1
    sampler.start = 9
    assert list(sampler) == [] and len(sampler) == 0
    sampler.set_epoch(3)


@pytest.mark.parametrize('workers', [0, 2])
def test_sampler_in_a_dataloader(workers):
    dataset = stream()
    sampler = StreamSampler(dataset)
    loader = DataLoader(
        dataset,
        batch_size=1,
        sampler=sampler,
        num_workers=workers,
        collate_fn=lambda batch: batch[0])
    assert [b['inputs'] for b in loader] == [0, 1, 2, 10, 11] * 2
    sampler.start = 8
    assert [b['data_samples'].stream_index for b in loader] == [8, 9]


def test_sampler_refuses_shuffling():
    with pytest.raises(ValueError, match='shuffle=False.*shuffle=True'):
        StreamSampler(stream(), shuffle=True)


# DataHelp


def test_missing_data_error_says_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = missing_data_error(
        'ACDC', ['data/acdc', '/elsewhere'],
        DataHelp(layout='acdc/\n  rgb_anon/', source='Ask the owner.'))
    assert isinstance(error, FileNotFoundError)
    text = str(error)
    for part in ('ACDC is missing', str(tmp_path / 'data' / 'acdc'),
                 '/elsewhere', 'rgb_anon/', 'Ask the owner.',
                 'python tools/dataset_converters/streetworld.py',
                 'python tools/train.py configs/svdp/streetworld.py'):
        assert part in text
    assert 'is empty' in str(
        missing_data_error(
            'ACDC', 'x', DataHelp('l', 's', 'other'), problem='is empty'))
