# Copyright (c) mmext contributors. All rights reserved.
import math

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmcv.image import imread, imwrite
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmext.apis import certified_inferencer, certified_model
from mmext.models.lipschitz.bounds import CertificationError
from mmext.registry import INFERENCERS
from mmext.utils.user_error import (BadFileError, ConfigError,
                                    MissingFileError, UserError)
from ..test_models.test_classification.lip_models import (CLASSES, SIZE,
                                                          classifier, finished,
                                                          images, predict)

NAMES = ('a', 'b', 'c', 'd')
EPS = [0., 0.02, 0.5]


def config(model, pipeline=()):
    return Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            test_dataloader=dict(
                dataset=dict(pipeline=[*pipeline,
                                       dict(type='PackInputs')]))))


def save(path, model, **extra):
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(dataset_meta=dict(classes=NAMES)),
            **extra), path)
    return str(path)


@pytest.fixture
def trained(tmp_path):
    """A model that is at p = inf, its config and its checkpoint."""
    init_default_scope('mmpretrain')
    cfg = classifier(certify=dict(eps=EPS, radius_steps=8))
    model = finished(cfg)
    return model, config(cfg), save(
        tmp_path / 'last.pth', model, lp_norm=math.inf)


def build(model, pretrained=None, **options):
    return INFERENCERS.build(
        dict(type='mmext.CertifiedClassificationInferencer', model=model,
             pretrained=pretrained, **options))


def write_images(folder, batch):
    folder.mkdir()
    paths = [str(folder / f'{i}.png') for i in range(len(batch['inputs']))]
    for path, pixels in zip(paths, batch['inputs']):
        imwrite(pixels[0].numpy(), path)
    (folder / 'notes.txt').write_text('no image')
    return paths


def test_files_arrays_and_folders(trained, tmp_path):
    """Radii are those of the model, whatever form the images have."""
    model, cfg, checkpoint = trained
    batch = images(5)
    paths = write_images(tmp_path / 'images', batch)
    inferencer = build(cfg, checkpoint, radius_steps=8)
    results = inferencer(str(tmp_path / 'images'), batch_size=2)
    batch['data_samples'] = [s.new() for s in batch['data_samples']]
    for sample in batch['data_samples']:
        del sample.gt_label
    expected = predict(model, batch)
    assert len(results) == 5
    for result, sample in zip(results, expected):
        radius = float(sample.certified_radius)
        assert result['certified_radius'] == pytest.approx(radius, abs=1e-9)
        assert result['certified_radius_255'] == pytest.approx(255 * radius)
        assert result['pred_label'] == int(sample.pred_label)
        assert result['pred_class'] == NAMES[result['pred_label']]
        assert result['eps'] == EPS
        assert result['certified'] == [e <= radius for e in EPS]
    assert any(r['certified_radius'] > 0 for r in results)
    for inputs in (paths, [p[0].numpy() for p in batch['inputs']]):
        again = inferencer(inputs)
        assert [r['certified_radius'] for r in again] == pytest.approx(
            [r['certified_radius'] for r in results], abs=1e-9)
    sample, = inferencer(paths[0], return_datasamples=True)
    assert float(sample.certified_radius) == pytest.approx(
        results[0]['certified_radius'])


def test_a_radius_holds(trained):
    """Property 14, label-free: no pixel change within it matters."""
    _, cfg, checkpoint = trained
    inferencer = build(cfg, checkpoint)
    pixels = images(6)['inputs'][:, 0].numpy()
    rng = np.random.default_rng(0)
    for image, result in zip(pixels, inferencer(list(pixels))):
        steps = int(result['certified_radius_255'])
        for _ in range(20):
            noise = rng.integers(-steps, steps + 1, image.shape)
            moved = (image.astype(int) + noise).clip(0, 255).astype(np.uint8)
            assert inferencer([moved])[0]['pred_label'] == \
                result['pred_label']


def test_pictures(trained, tmp_path):
    _, cfg, checkpoint = trained
    paths = write_images(tmp_path / 'images', images(2))
    inferencer = build(cfg, checkpoint, eps=[8 / 255])
    assert inferencer.lines(
        inferencer(paths[0], return_datasamples=True)[0])[2].startswith(
            '8/255: ')
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='show_dir .*cannot be written'):
        inferencer(paths, show_dir=str(tmp_path / 'file'))
    results = inferencer(paths, show_dir=str(tmp_path / 'shown'), scale=20)
    assert results[0]['eps'] == [8 / 255]
    for eps in ('8/255', 8 / 255):
        assert build(cfg, checkpoint, eps=eps).model.certify.eps == (8 / 255, )
    for i, path in enumerate(paths):
        picture = imread(str(tmp_path / 'shown' / f'{i}.png'))
        assert picture.shape[0] > 20 * SIZE
        source = imread(path).repeat(20, 0).repeat(20, 1)
        assert (picture[:20 * SIZE, :20 * SIZE] == source).all()
        assert (picture[20 * SIZE:] < 128).any()  # text


@pytest.mark.parametrize('normalise', [
    dict(mean=[100.] * 3, std=[60.] * 3),
    dict(mean=[100.], std=[60.]),  # one for all channels
])
def test_channel_order_is_that_of_the_data_set(tmp_path, normalise):
    """Files become what the network was trained on: CIFAR is red first."""
    init_default_scope('mmpretrain')
    body = dict(type='mmext.LipMLP', in_channels=3, img_size=SIZE, depth=2,
                width=24 / 1024)
    cfg = classifier(
        body=body, certify=dict(eps=[0.1]), data_preprocessor=normalise)
    model = finished(cfg)
    red_first = np.random.default_rng(0).integers(
        0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    path = str(tmp_path / 'x.png')
    imwrite(red_first[..., ::-1], path)
    for pipeline, array in (((), red_first), ((dict(
            type='LoadImageFromFile'), ), red_first[..., ::-1])):
        model._config = config(cfg, pipeline)
        results = build(model)([path, array])
        assert results[0]['certified_radius'] == \
            results[1]['certified_radius']
        np.testing.assert_array_equal(results[0]['pred_scores'],
                                      results[1]['pred_scores'])


def test_pipelines_that_make_other_pixels_warn(monkeypatch):
    said = []
    monkeypatch.setattr(certified_model, 'print_log',
                        lambda text, **kwargs: said.append(text))
    for steps in ((), [dict(type='CenterCrop', crop_size=4)]):
        certified_model.warn_resampling(config(classifier(), steps))
    certified_model.warn_resampling(Config(dict(model=classifier())))
    assert not said
    certified_model.warn_resampling(
        config(classifier(), [dict(type='Resize', scale=32)]))
    assert len(said) == 1 and 'has Resize: certificates' in said[0]
    inside = dict(type='RandomApply', prob=1., transforms=dict(
        type='Wrapper', transforms=[dict(type='EfficientNetCenterCrop')]))
    certified_model.warn_resampling(config(classifier(), [inside]))
    assert 'has EfficientNetCenterCrop' in said[1]


def test_ensemble_and_defaults(trained):
    member = dict(model=classifier(), weight=1.)
    init_default_scope('mmpretrain')
    from mmext.registry import MODELS
    ensemble = MODELS.build(
        dict(
            type='mmext.CertifiedEnsemble', train='joint',
            members=[member, dict(member)]))
    ensemble._config = config(dict())
    inferencer = build(ensemble.eval())
    result, = inferencer([images(1)['inputs'][0, 0].numpy()])
    assert result['eps'] == [2 / 255, 8 / 255]
    assert result['pred_scores'].shape == (CLASSES, )


def test_weights_that_are_missing_or_wrong(trained, tmp_path):
    """A random network is never certified."""
    model, cfg, checkpoint = trained
    with pytest.raises(ConfigError, match='no weights to certify'):
        build(cfg)
    model._config = cfg
    state = model.state_dict()
    for given in ({f'x.{key}': value for key, value in state.items()}, {},
                  {key: value * np.nan for key, value in state.items()}):
        path = tmp_path / 'wrong.pth'
        torch.save(dict(state_dict=given), path)
        for one in (cfg, model):
            with pytest.raises(ConfigError, match='wrong.pth is not a sound'):
                build(one, str(path))
    with pytest.raises(ConfigError, match='lp_norm'):
        build(cfg, save(tmp_path / 'p.pth', model, lp_norm='inf'))
    # a member of a loss that learns a scalar, which no prediction reads
    state = dict(state, **{'head.loss_module.scalar': torch.zeros(1)})
    torch.save(state, tmp_path / 'more.pth')
    build(cfg, str(tmp_path / 'more.pth'))


def test_floats_that_look_meant_for_white_1(trained, monkeypatch):
    _, cfg, checkpoint = trained
    said = []
    monkeypatch.setattr(certified_inferencer, 'print_log',
                        lambda text, **kwargs: said.append(text))
    inferencer = build(cfg, checkpoint)
    image = images(1)['inputs'][0, 0].numpy().astype(np.float32)
    inferencer([image, np.zeros_like(image), image.astype(np.uint8) // 255])
    assert not said
    inferencer([image / 255, image / 255])
    assert len(said) == 1 and 'Multiply' in said[0]


def test_pictures_of_files_with_one_name(trained, tmp_path):
    _, cfg, checkpoint = trained
    for name in 'ab':
        write_images(tmp_path / name, images(1))
    build(cfg, checkpoint)([
        str(tmp_path / 'a' / '0.png'), tmp_path / 'b' / '0.png',
        images(1)['inputs'][0, 0].numpy()
    ], show_dir=str(tmp_path / 'shown'))
    assert sorted(path.name for path in (tmp_path / 'shown').iterdir()) == [
        '2.png', 'a_0.png', 'b_0.png'
    ]


def test_user_errors(trained, tmp_path):
    model, cfg, checkpoint = trained
    with pytest.raises(UserError, match='needs its config'):
        build(finished(classifier()))
    with pytest.raises(ValueError, match='pixel units'):
        build(cfg, checkpoint, eps=[8])
    plain = classifier(type='ImageClassifier')
    with pytest.raises(ConfigError, match='LipschitzClassifier'):
        build(config(plain))
    inferencer = build(cfg, checkpoint)
    with pytest.raises(MissingFileError, match='nothing.png'):
        inferencer('nothing.png')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(MissingFileError, match='no images'):
        inferencer(str(tmp_path / 'empty'))
    with pytest.raises(ConfigError, match='array 1 has 7 x 6 .*images of 6'):
        inferencer([
            np.zeros((SIZE, SIZE), np.uint8),
            np.zeros((SIZE + 1, SIZE), np.uint8)
        ], batch_size=2)
    with pytest.raises(ConfigError, match='batch_size .* but got 0'):
        inferencer(np.zeros((SIZE, SIZE), np.uint8), batch_size=0)
    folder = tmp_path / 'folder'
    write_images(folder, images(2))
    imwrite(np.zeros((SIZE, SIZE + 2), np.uint8), str(folder / 'wide.png'))
    with pytest.raises(ConfigError, match='wide.png has 6 x 8') as caught:
        inferencer(str(folder))
    assert str(folder) in str(caught.value)
    for other in (torch.zeros(SIZE, SIZE), None, [None],
                  Image.fromarray(np.zeros((SIZE, SIZE), np.uint8))):
        kind = type(other[0] if isinstance(other, list) else other).__name__
        with pytest.raises(ConfigError, match=f'takes paths.* got {kind}'):
            inferencer(other)
    for name, content in (('zero', b''), ('junk', b'hello')):
        path = tmp_path / f'{name}.png'
        path.write_bytes(content)
        with pytest.raises(BadFileError, match=f'{name}.png cannot be read'):
            inferencer(str(path))
    for array, part in ((np.zeros((SIZE, SIZE, 4), np.uint8), r'\(H, W, 1\)'),
                        (np.array('x'), 'array of numbers'),
                        (np.full((SIZE, SIZE), np.nan), 'finite')):
        with pytest.raises(ConfigError, match=part):
            inferencer([array])
    half = save(tmp_path / 'half.pth', model, lp_norm=12.)
    with pytest.raises(CertificationError, match='p = 12'):
        build(cfg, half)([images(1)['inputs'][0, 0].numpy()])
