# Copyright (c) mmext contributors. All rights reserved.
import json
import logging
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mmengine.registry import METRICS
from mmengine.structures import BaseDataElement, PixelData

from mmext.evaluation.domain_iou import DomainIoUMetric, label_histogram
from tests.processes import run_together

pytestmark = pytest.mark.stack_subset
CLASSES = ('road', 'car', 'sky', 'truck')


def metric(**kwargs):
    built = METRICS.build(dict(type='mmext.DomainIoUMetric', **kwargs))
    built.dataset_meta = dict(classes=CLASSES)
    return built


def sample(pred, label=None, domain=None, round=None, **meta):
    built = dict(pred_sem_seg=dict(data=torch.as_tensor(pred)), **meta)
    if label is not None:
        built['gt_sem_seg'] = dict(data=torch.as_tensor(label))
    if domain is not None:
        built.update(domain=domain, round=round)
    return built


def random_frames(count, seed, size=(7, 9), classes=len(CLASSES)):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        pred = torch.randint(0, classes, (1, *size), generator=generator)
        label = torch.randint(0, classes, (1, *size), generator=generator)
        ignored = torch.rand(1, *size, generator=generator) < 0.1
        yield pred, label.masked_fill(ignored, 255)


def direct(frames, classes=len(CLASSES)):
    """Per-class pixel counts, pixel by pixel."""
    inter, union, label_area = (np.zeros(classes, int) for _ in range(3))
    correct = total = 0
    for pred, label in frames:
        for p, t in zip(pred.flatten().tolist(), label.flatten().tolist()):
            if t == 255:
                continue
            total += 1
            correct += p == t
            label_area[t] += 1
            for c in range(classes):
                inter[c] += p == c and t == c
                union[c] += p == c or t == c
    iou = [100 * i / u for i, u in zip(inter, union) if u]
    acc = [100 * i / n for i, n in zip(inter, label_area) if n]
    return dict(
        mIoU=np.mean(iou), mAcc=np.mean(acc), aAcc=100 * correct / total)


def test_property_35_equals_a_direct_count():
    frames = list(random_frames(4, 0))
    m = metric()
    m.process(None, [sample(p, t) for p, t in frames])
    result, expected = m.evaluate(4), direct(frames)
    for name, value in expected.items():
        assert result[f'r1/all/{name}'] == pytest.approx(value, abs=1e-9)
    assert result['mIoU'] == result['r1/mIoU'] == result['all/mIoU']
    assert not any('forgetting' in key for key in result)


def test_equals_the_metric_of_mmseg():
    IoUMetric = pytest.importorskip('mmseg.evaluation').IoUMetric
    ours, theirs = metric(), IoUMetric()
    theirs.dataset_meta = ours.dataset_meta
    frames = [sample(p, t) for p, t in random_frames(4, 2, size=(33, 40))]
    ours.process(None, frames)
    theirs.process(None, frames)
    expected = theirs.evaluate(4)
    result = ours.evaluate(4)
    for name in ('mIoU', 'mAcc', 'aAcc'):
        assert round(result[f'r1/all/{name}'], 2) == expected[name]


def test_absent_classes_are_ignored_in_the_mean():
    """Property 35, second half."""
    m = metric()
    m.process(None, [sample([[0, 0], [1, 1]], [[0, 0], [1, 255]])])
    report = m.report()['rounds']['r1']['all']
    assert report['IoU'] == dict(road=100., car=100., sky=None, truck=None)
    assert report['mIoU'] == 100. and report['mAcc'] == 100.
    # A class that is only predicted has an IoU of 0, but no accuracy.
    m.process(None, [sample([[2]], [[0]])])
    report = m.report()['rounds']['r1']['all']
    assert report['IoU']['sky'] == 0.
    assert report['mAcc'] == pytest.approx((200 / 3 + 100) / 2)


def test_rounds_domains_and_forgetting():
    m = metric(domains=['fog', 'night'])
    right, wrong = [[0, 1]], [[1, 0]]
    half = [[0, 0]]  # road 1/2, car 0
    m.process(None, [
        sample(half, right, 'night', 1),
        sample(right, right, 'fog', 1),
        sample(wrong, right, 'fog', 2),
        sample(half, right, 'night', 2)
    ])
    result = m.evaluate(4)
    assert list(m.report()['rounds']['r1']) == ['fog', 'night']
    assert result['r1/fog/mIoU'] == 100 and result['r2/fog/mIoU'] == 0
    assert result['r1/night/mIoU'] == 25 and result['r1/mIoU'] == 62.5
    assert result['r2/mIoU'] == 12.5 and result['mIoU'] == 37.5
    assert result['fog/mIoU'] == 50 and result['night/mIoU'] == 25
    assert result['fog/forgetting'] == 100
    assert result['night/forgetting'] == 0
    report = m.report()
    assert report['forgetting'] == dict(fog=100, night=0)
    assert report['domains'] == dict(fog=50, night=25)
    assert report['rounds']['r1']['fog']['frames'] == 1
    json.dumps(report, allow_nan=False)


def test_a_domain_is_scored_as_a_whole_not_per_frame():
    frames = list(random_frames(5, 3))
    together, split = metric(), metric()
    together.process(None, [sample(p, t, 'fog', 1) for p, t in frames])
    for p, t in frames:
        split.process(None, [sample(p, t, 'fog', 1)])
    assert together.evaluate(5) == split.evaluate(5)
    assert together.evaluate(5)['r1/fog/mIoU'] == pytest.approx(
        direct(frames)['mIoU'])


@settings(deadline=None)
@given(
    st.integers(1, 6).flatmap(lambda c: st.tuples(
        st.just(c), arrays(np.int64, (4, 5), elements=st.integers(0, c - 1)),
        arrays(np.uint8, (4, 5), elements=st.sampled_from([*range(c), 255])))))
def test_histogram_properties(drawn):
    classes, pred, label = drawn
    inter, union, pred_area, label_area = label_histogram(
        torch.from_numpy(pred), torch.from_numpy(label), classes, 255)
    counted = int((label != 255).sum())
    assert int(label_area.sum()) == int(pred_area.sum()) == counted
    assert (inter <= torch.minimum(pred_area, label_area)).all()
    assert (union == pred_area + label_area - inter).all()
    assert int(inter.sum()) == int(((pred == label) & (label != 255)).sum())
    order = np.random.default_rng(0).permutation(pred.size)
    shuffled = label_histogram(
        torch.from_numpy(pred.ravel()[order]),
        torch.from_numpy(label.ravel()[order]), classes, 255)
    assert (shuffled == torch.stack([inter, union, pred_area,
                                     label_area])).all()


def test_accepts_data_samples_and_any_layout():
    frames = list(random_frames(1, 5))
    pred, label = frames[0]
    element = BaseDataElement(metainfo=dict(domain='fog', round=2))
    element.pred_sem_seg = PixelData(data=pred)
    element.gt_sem_seg = PixelData(data=label)
    expected = None
    for one in (element, element.to_dict(),
                sample(pred[0].to(torch.uint8), label[0].numpy(), 'fog', 2)):
        m = metric()
        m.process(None, [one])
        result = m.evaluate(1)
        expected = expected or result
        assert result == expected and 'r2/fog/mIoU' in result


def test_single_pixel_frames_keep_their_shape():
    m = metric()
    m.process(None, [sample([[[1]]], [[[1]]]), sample([[1, 1]], [[1, 1]])])
    assert m.evaluate(2)['mIoU'] == 100


def test_clear_errors():
    m = metric(domains=['fog'])
    with pytest.raises(ValueError, match=r'a\.png.*\(2, 2\).*\(1, 2\)'):
        m.process(
            None,
            [sample([[0, 0], [0, 0]], [[0, 0]], 'fog', 1, img_path='a.png')])
    with pytest.raises(ValueError, match=r'a\.png.*label.*0\.\.3.*\[33\]'):
        m.process(None, [sample([[0]], [[33]], 'fog', 1, img_path='a.png')])
    colours = [[[0, 0, 0]], [[0, 0, 0]]]  # (2, 1, 3)
    with pytest.raises(ValueError, match=r'colour picture.*labelTrainIds'):
        m.process(None, [sample([[0], [0]], colours, 'fog', 1)])
    with pytest.raises(ValueError, match=r'predicted class.*\[7\]'):
        m.process(None, [sample([[7]], [[3]], 'fog', 1)])
    with pytest.raises(ValueError, match="'pred_sem_seg'"):
        m.process(
            None,
            [dict(gt_sem_seg=dict(data=torch.zeros(1, 1)), domain='fog')])
    with pytest.raises(ValueError, match="'night'.*domains"):
        m.process(None, [sample([[0]], [[0]], 'night', 1)])
    with pytest.raises(ValueError, match='dataset_meta'):
        DomainIoUMetric().process(None, [sample([[0]], [[0]])])


def test_unlabelled_frames_are_skipped():
    m = metric()
    m.process(None, [sample([[0]], None), sample([[0]], [[0]])])
    assert m.evaluate(2)['mIoU'] == 100
    assert m.report()['unlabelled'] == 1
    assert m.report()['rounds']['r1']['all']['frames'] == 1


def test_no_label_at_all_gives_no_score(caplog):
    m = metric()
    m.process(None, [sample([[0]], None, 'fog', 1)])
    with caplog.at_level(logging.WARNING):
        assert m.evaluate(1) == {}
    assert m.report()['rounds'] == {} and m.report()['mIoU'] is None


def test_only_ignored_pixels_give_no_number():
    m = metric()
    m.process(None, [sample([[0]], [[255]], 'fog', 1)])
    assert m.evaluate(1) == {}
    assert m.report()['rounds']['r1']['fog']['mIoU'] is None


def test_evaluate_starts_anew_compute_does_not():
    m = metric()
    m.process(None, [sample([[0]], [[1]])])
    assert m.compute()['mIoU'] == 0
    m.process(None, [sample([[0]], [[0]])])
    assert m.evaluate(2)['mIoU'] == pytest.approx(25)
    assert m.report()['mIoU'] == pytest.approx(25)
    m.process(None, [sample([[0]], [[0]])])
    assert m.evaluate(1)['mIoU'] == 100
    m.reset()
    assert m.report()['rounds'] == {}


def test_prefix():
    m = metric(prefix='stream')
    m.process(None, [sample([[0]], [[0]])])
    assert m.evaluate(1)['stream/mIoU'] == 100


def test_resumed_equals_uninterrupted():
    frames = list(random_frames(6, 8))
    whole, first, second = metric(), metric(), metric()
    tagged = [
        sample(p, t, ('fog', 'night')[i % 2], 1 + i // 3)
        for i, (p, t) in enumerate(frames)
    ] + [sample([[0]], None, 'fog', 1)]
    whole.process(None, tagged)
    first.process(None, tagged[:4])
    saved = first.state_dict()
    first.process(None, tagged[:1])  # must not reach what was saved
    second.load_state_dict(saved)
    second.process(None, tagged[4:])
    assert second.report() == whole.report()
    assert second.evaluate(7) == whole.evaluate(7)


def test_refuses_the_state_of_other_classes():
    m = metric()
    m.process(None, [sample([[0]], [[0]])])
    other = metric()
    other.dataset_meta = dict(classes=('a', 'b'))
    with pytest.raises(ValueError, match=r'\(4, 2\).*\(4, 4\)'):
        other.load_state_dict(m.state_dict())


def test_memory_does_not_grow():
    m = metric()
    for p, t in random_frames(20, 1):
        m.process(None, [sample(p, t, 'fog', 1)])
    assert len(m.results) == 0 and len(m.state_dict()['visits']) == 1


def test_warns_about_a_sampler_that_pads(monkeypatch):
    said = []
    monkeypatch.setattr('mmext.evaluation.domain_metric.print_log',
                        lambda text, **_: said.append(text))
    m = metric()
    m.process(None, [sample([[0]], [[0]])] * 3)
    m.evaluate(3)
    assert not any('pad' in text for text in said)
    m.evaluate(2)
    assert any('3 frames of a data set of 2' in text for text in said)


_WORKER = textwrap.dedent('''
    import json, sys, torch
    import torch.distributed as dist
    sys.path.insert(0, sys.argv[4])
    from test_domain_iou import metric, random_frames, sample
    rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    dist.init_process_group('gloo', init_method='file://' + store, rank=rank,
                            world_size=2)
    m = metric()
    frames = [sample(p, t, ('fog', 'night')[i > 2], 1)
              for i, (p, t) in enumerate(random_frames(5, 11))]
    # Unequal shares: 4 frames and 1.
    for frame in frames[:4] if rank == 0 else frames[4:]:
        m.process(None, [frame])
    result = m.evaluate(5)
    with open(out, 'w') as file:
        json.dump([result, m.report()], file)
    dist.destroy_process_group()
''')


def test_two_processes_of_unequal_length(tmp_path):
    import os.path as osp
    here = osp.dirname(osp.abspath(__file__))
    outs = [str(tmp_path / f'{rank}.json') for rank in range(2)]
    run_together([[
        sys.executable, '-c', _WORKER, rank, tmp_path / 'store', outs[rank],
        here
    ] for rank in range(2)])
    single = metric()
    single.process(None, [
        sample(p, t, ('fog', 'night')[i > 2], 1)
        for i, (p, t) in enumerate(random_frames(5, 11))
    ])
    expected = [single.evaluate(5), single.report()]
    for out in outs:
        with open(out) as file:
            assert json.load(file) == expected
