# Copyright (c) mmext contributors. All rights reserved.
"""Seeded parts of a data set, and data sets under one label space."""
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmext.datasets.joint_labels import JointLabelDataset
from mmext.datasets.subset import SubsetDataset, stratified_order

pytestmark = pytest.mark.stack_subset


class Toy:
    """A data set of labels."""

    def __init__(self, labels, classes=('a', 'b', 'c')):
        self.labels = list(labels)
        self.metainfo = dict(classes=classes)

    def full_init(self):
        pass

    def __len__(self):
        return len(self.labels)

    def get_data_info(self, index):
        return dict(gt_label=self.labels[index])

    def __getitem__(self, index):
        return index


# no verdict on the speed of the machine
UNTIMED = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow])
LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80)


@UNTIMED
@given(LABELS, st.integers(0, 3))
def test_order_is_a_permutation_with_proportional_prefixes(labels, seed):
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    sizes = Counter(labels)
    assert {labels[i] for i in order[:len(sizes)]} == set(sizes)
    seen = Counter()
    for length, index in enumerate(order, 1):
        seen[labels[index]] += 1
        for label, size in sizes.items():
            # never more than one ahead of, or behind, its share
            share = seen[label] / size
            others = [seen[x] / sizes[x] for x in sizes]
            assert share - min(others) <= 1 / size + 1e-9, (length, label)
    assert (stratified_order(labels, seed) == order).all()


@UNTIMED
@given(LABELS, st.floats(0.01, 1.0), st.integers(0, 3))
def test_a_fraction_is_nested_and_reaches_every_class(labels, fraction, seed):
    part = SubsetDataset(Toy(labels), fraction=fraction, seed=seed)
    wanted = max(round(fraction * len(labels)), len(set(labels)))
    assert len(part) == wanted
    assert set(part.get_gt_labels()) == set(labels)
    whole = SubsetDataset(Toy(labels), fraction=1.0, seed=seed)
    assert whole.indices == list(range(len(labels)))
    more = SubsetDataset(
        Toy(labels), num_samples=min(wanted + 3, len(labels)), seed=seed)
    assert set(part.indices) <= set(more.indices)


def test_skip_gives_disjoint_balanced_parts():
    """The 800/200 parts of a balanced set, as VTAB-1k has them."""
    labels = np.random.default_rng(0).permutation(np.arange(2000) % 10)
    train = SubsetDataset(Toy(labels), num_samples=800)
    val = SubsetDataset(Toy(labels), num_samples=200, skip=800)
    both = SubsetDataset(Toy(labels), num_samples=1000)
    assert set(Counter(train.get_gt_labels()).values()) == {80}
    assert set(Counter(val.get_gt_labels()).values()) == {20}
    assert not set(train.indices) & set(val.indices)
    assert sorted(train.indices + val.indices) == both.indices
    other = SubsetDataset(Toy(labels), num_samples=800, seed=1)
    assert other.indices != train.indices


def test_subset_hands_through():
    part = SubsetDataset(
        Toy([0, 1, 2, 0, 1, 2]), num_samples=3, lazy_init=True)
    assert not part._fully_initialized
    assert [part[i] for i in range(len(part))] == part.indices
    assert part.get_cat_ids(0) == [part.get_data_info(0)['gt_label']]
    assert part.CLASSES == ('a', 'b', 'c')
    part.metainfo['classes'] = ()
    assert part.metainfo['classes'] == ('a', 'b', 'c')
    assert 'num_samples=3' in repr(part)


@pytest.mark.parametrize('bad', [
    dict(),
    dict(fraction=0.5, num_samples=3),
    dict(fraction=0.),
    dict(fraction=1.5),
    dict(num_samples=0),
    dict(fraction=.5, skip=-1)
])
def test_subset_refuses_bad_settings(bad):
    with pytest.raises(ValueError, match='SubsetDataset expects'):
        SubsetDataset(Toy([0, 1]), **bad)


def test_subset_of_too_few_samples():
    with pytest.raises(ValueError, match='wants 5 samples after the first 2'):
        SubsetDataset(Toy([0, 1] * 3), num_samples=5, skip=2)
    with pytest.raises(ValueError, match='one label an image'):
        SubsetDataset(Toy([[0, 1]]), num_samples=1)


# Joint label space


def test_joint_labels_need_classes():
    with pytest.raises(ValueError, match='at least one'):
        JointLabelDataset({})
    with pytest.raises(ValueError, match="'x' has none"):
        JointLabelDataset(dict(x=Toy([0], classes=())))
    joint = JointLabelDataset(
        dict(x=Toy([0, 2]), y=Toy([1], classes=('d', 'e'))), lazy_init=True)
    assert list(joint.get_gt_labels()) == [0, 2, 4]
    assert joint.get_data_info(2)['task'] == 'y'
    assert '5 classes' in repr(joint)
