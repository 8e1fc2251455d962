# Copyright (c) mmext contributors. All rights reserved.
"""MoSA under the stock Runner: draws, log, resume, EMA, compile."""
import copy
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo.testing
from torch.utils.data import Dataset

pytest.importorskip('mmpretrain')

from mmengine.hooks import Hook  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

from mmext.engine.hooks import MoSAHook  # noqa: E402
from mmext.registry import MODELS  # noqa: E402
from mmext.utils.user_error import ConfigError  # noqa: E402
from ...test_models.test_adapters.common import equal  # noqa: E402
from ...tiny_classifiers import adaptformer, build, vit  # noqa: E402
from ...toy_runs import quick_runner  # noqa: E402


class Images(Dataset):
    """Ten images of five classes."""

    metainfo = dict(classes=tuple('abcde'))

    def __len__(self):
        return 10

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(
            inputs=torch.randn(3, 16, 16, generator=generator),
            data_samples=DataSample().set_gt_label(index % 5))


class Watch(Hook):
    """Note the indices of every iteration and what validation saw."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.tables, self.seen = [], []

    def after_train_iter(self, runner, *args, **kwargs):
        self.tables.append(MoSAHook.model_of(runner).drawing.table.clone())

    def after_val_iter(self, runner, batch_idx, data_batch=None,
                       outputs=None):
        self.seen += [s.pred_score.clone() for s in outputs]


def runner(folder, length=4, model=None, hooks=(), resume=False,
           optim=None, load_from=None, **options):
    watch = Watch()
    torch.manual_seed(0)
    model = model or dict(
        dict(type='mmext.MoSAModel', module=vit(), adapter=adaptformer(),
             split='both'), **options)
    loader = dict(batch_size=5, num_workers=0, dataset=Images())
    hooks = [dict(type='mmext.MoSAHook', interval=2), *hooks]
    made = Runner(
        model, str(folder),
        train_dataloader=dict(
            loader, sampler=dict(type='InfiniteSampler', shuffle=False)),
        train_cfg=dict(by_epoch=False, max_iters=length, val_interval=2),
        val_dataloader=dict(
            loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(), val_evaluator=dict(type='Accuracy'),
        optim_wrapper=dict(
            dict(optimizer=dict(type='AdamW', lr=0.02)), **(optim or {})),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=2),
            checkpoint=dict(type='CheckpointHook', by_epoch=False,
                            interval=2)),
        log_processor=dict(by_epoch=False),
        custom_hooks=[*hooks, watch],
        visualizer=dict(type='Visualizer', vis_backends=[],
                        name=f'{folder}'.replace('/', '_')),
        randomness=dict(seed=3),
        experiment_name=str(folder).replace('/', '_'),
        default_scope='mmpretrain', resume=resume, load_from=load_from)
    made.watch = watch
    return made


def train(*args, **kwargs):
    with quick_runner():
        made = runner(*args, **kwargs)
        made.train()
    return made


def state(made):
    return copy.deepcopy(made.model.state_dict())


def test_a_plain_model_is_refused(tmp_path):
    """A hook cannot create parameters: the message has the five lines."""
    with quick_runner(), pytest.raises(ConfigError) as error:
        runner(tmp_path, model=vit()).train()
    text = str(error.value)
    assert 'ImageClassifier' in text and "type='mmext.MoSAModel'" in text
    assert len(text.split('\n\n')[1].splitlines()) == 5


def test_a_host_without_a_head_is_refused(tmp_path):
    """mmpretrain has DINOv2 without one; nothing is trained until then."""
    headless = dict(vit(), head=None)
    with quick_runner(), pytest.raises(ConfigError, match='head=dict'):
        runner(tmp_path, model=dict(
            type='mmext.MoSAModel', module=headless,
            adapter=adaptformer())).train()
    for passes in (1, 2):
        model = build(headless, num_passes=passes)
        x = torch.zeros(2, 3, 16, 16, dtype=torch.double)
        with pytest.raises(ConfigError, match='head=dict'):
            model.loss(x, [DataSample().set_gt_label(0)] * 2)
        assert model.eval()(x)[0].shape == (2, 16)  # features


def test_draws_and_log(tmp_path):
    """New indices in every iteration; counts and norms are logged."""
    made = train(tmp_path)
    tables = made.watch.tables
    assert len(tables) == 4
    assert len({tuple(t.flatten().tolist()) for t in tables}) > 1
    scalars = made.message_hub.log_scalars
    for key in ('loss_kl', 'mosa/activations_max', 'mosa/update_norm_0',
                'mosa/update_norm_3'):
        values = scalars[f'train/{key}'].data[0]
        assert len(values) >= 2, key
    for i, entry in enumerate((tables[:2], tables[2:])):
        counts = [torch.bincount(column, minlength=4)
                  for column in torch.cat(entry).T]
        for name, value in (('min', min(c.min() for c in counts)),
                            ('max', max(c.max() for c in counts))):
            logged = scalars[f'train/mosa/activations_{name}'].data[0]
            assert logged[i] == int(value)
        for k in range(4):
            logged = scalars[f'train/mosa/activations_{k}'].data[0]
            assert logged[i] == sum(int(c[k]) for c in counts)
    assert scalars['train/mosa/update_norm_0'].data[0].max() > 0


def test_how_far_each_module_moved():
    model, hook = build(split='both'), MoSAHook()
    hook._start_entry(model)
    far = torch.zeros(4, dtype=torch.float64)
    with torch.no_grad():
        for layer in model.split_layers().values():
            for k in (1, 3):
                mine = layer.owner == k
                layer.weight += 0.5 * k * mine
                far[k] += (0.5 * k)**2 * mine.sum()
    norms = hook._update_norms(model)
    assert [norms[f'update_norm_{k}'] for k in range(4)] == pytest.approx(
        far.sqrt().tolist())


def test_each_micro_batch_is_drawn(tmp_path):
    """Trap E15: new modules for every part of an accumulated step."""
    made = train(tmp_path, optim=dict(accumulative_counts=2))
    tables = {tuple(t.flatten().tolist()) for t in made.watch.tables}
    assert len(tables) > 2


@pytest.mark.parametrize('options', [
    dict(), dict(storage='replicated', inactive='skip'),
    dict(inactive='skip', split_bias=True)
])
def test_resume_is_exact(tmp_path, options):
    """Property 25: 2k steps are k steps, a resume and k steps; weights,
    masks, moments and the generator of the draws."""
    hooks = (dict(type='mmext.RNGStateHook'), )
    whole = train(tmp_path / 'whole', hooks=hooks, **options)
    train(tmp_path / 'part', length=2, hooks=hooks, **options)
    resumed = train(tmp_path / 'part', hooks=hooks, resume=True, **options)
    assert equal(state(whole), state(resumed))
    assert all(torch.equal(a, b) for a, b in zip(
        whole.watch.tables[2:], resumed.watch.tables))
    first, second = (r.optim_wrapper.optimizer.state_dict()['state']
                     for r in (whole, resumed))
    for index, moments in first.items():
        for key, value in moments.items():
            assert torch.equal(value, second[index][key])


@pytest.mark.parametrize('change', [
    dict(num_modules=3), dict(split='up'), dict(storage='replicated'),
    dict(adapter=adaptformer(bottleneck=5)),
    dict(granularity='row')
])
def test_resume_with_other_options(tmp_path, change):
    """Refused before anything is loaded, with the differing option."""
    train(tmp_path, length=2)
    made = runner(tmp_path, resume=True, **change)
    before = state(made)
    with quick_runner(), pytest.raises(ConfigError) as error:
        made.train()
    assert list(change)[0] in str(error.value)
    assert equal(state(made), before)


def test_resume_without_the_state_of_draws(tmp_path):
    """The draws would silently start again; nothing is loaded."""
    train(tmp_path, length=2)
    path = tmp_path / 'iter_2.pth'
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint['mosa']
    torch.save(checkpoint, path)
    with pytest.raises(ConfigError, match='without MoSAHook'):
        train(tmp_path, resume=True)


def test_runner_compiles(tmp_path):
    """Property 32: ``compile=`` of a config draws and trains as without."""
    torch._dynamo.reset()
    plain = train(tmp_path / 'plain', length=2)
    with quick_runner():
        made = runner(tmp_path / 'compiled', length=2)
        counter = torch._dynamo.testing.CompileCounter()
        made.cfg.compile = dict(backend=counter)
        made.train()
    assert counter.frame_count and counter.op_count > 20
    assert not torch.equal(*made.watch.tables)
    assert all(torch.equal(a, b) for a, b in zip(
        plain.watch.tables, made.watch.tables))
    for key, value in state(plain).items():
        torch.testing.assert_close(
            state(made)[key], value, rtol=1e-3, atol=1e-4)


def test_runner_initialisation_changes_nothing(tmp_path):
    """Property 30: the Runner calls ``init_weights`` after insertion."""
    torch.manual_seed(0)
    made = runner(tmp_path, optim=dict(optimizer=dict(type='SGD', lr=0.)))
    before = state(made)
    with quick_runner():
        made.train()
    assert equal(state(made), before)
    ups = [v for k, v in before.items() if k.endswith('up.weight')]
    assert ups and not any(v.any() for v in ups)


def merged(model):
    model = copy.deepcopy(model)
    model.merge()
    return {k: v for k, v in model.state_dict().items() if '.mosa.' in k}


def test_ema(tmp_path):
    """Property 29: ``merge(EMA)`` is ``EMA(merge)``, and validation under
    the hook predicts with merged EMA weights."""
    momentum = 0.3
    made = runner(tmp_path, length=2, hooks=(
        dict(type='mmengine.EMAHook', momentum=momentum), ))
    averages, expected = [], {}

    class Average(Hook):

        def after_train_iter(self, runner, *args, **kwargs):
            now = merged(runner.model)
            for key, value in now.items():
                if not averages:
                    expected[key] = value.clone()
                else:
                    expected[key].lerp_(value, momentum)
            averages.append(1)

    made.register_hook(Average(), priority='VERY_LOW')
    with quick_runner():
        made.train()
    hook = next(h for h in made.hooks if type(h).__name__ == 'EMAHook')
    ema = hook.ema_model.module
    for key, value in merged(ema).items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6)
    inputs = torch.stack([Images()[i]['inputs'] for i in range(10)])
    with torch.no_grad():
        scores = ema.eval()(inputs).softmax(1)
        other = made.model.eval()(inputs).softmax(1)
    seen = torch.stack(made.watch.seen)
    torch.testing.assert_close(seen, scores)
    assert not torch.allclose(seen, other)


def test_compiled_backbone_follows_the_indices():
    """Property 32: compiled or not, the same output for the same indices;
    other indices need no new graph."""
    from mmengine.registry import init_default_scope
    init_default_scope('mmpretrain')
    torch._dynamo.reset()
    model = MODELS.build(
        dict(type='mmext.MoSAModel', module=vit(), adapter=adaptformer(),
             split='both'))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    block = model.train().backbone.layers[0]
    for module in block.modules():
        if hasattr(module, 'drop_prob'):
            # A numpy number here breaks the graph of the plain host too.
            module.drop_prob = 0.
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(block, backend=counter, fullgraph=True)
    x = torch.randn(4, 5, 16)
    results = []
    for k in range(4):
        model.set_indices(torch.full((2, 4), k))
        torch.testing.assert_close(compiled(x), block(x))
        results.append(block(x).detach())
    assert counter.frame_count == 1
    assert not torch.equal(results[0], results[1])


def test_layer_wise_decay(tmp_path):
    """mmpretrain's constructor decays an adapter with its block."""
    made = runner(tmp_path, length=1, optim=dict(
        optimizer=dict(type='AdamW', lr=0.02, weight_decay=0.01),
        constructor='LearningRateDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.5)))
    made.optim_wrapper = made.build_optim_wrapper(made.optim_wrapper)
    names = {id(p): n for n, p in made.model.named_parameters()}
    rates = {names[id(p)]: group['lr']
             for group in made.optim_wrapper.param_groups
             for p in group['params'] if id(p) in names}
    first = rates['backbone.layers.0.mosa.default.up.weight']
    second = rates['backbone.layers.1.mosa.default.up.weight']
    assert second == pytest.approx(2 * first)


@pytest.mark.parametrize('merged_flavour', [True, False])
def test_export(tmp_path, merged_flavour):
    """The adapters are written after training and load into a new model."""
    from mmext.models.adapters.checkpoint import load_adapter
    made = runner(tmp_path, length=2)
    hook = next(h for h in made.hooks if isinstance(h, MoSAHook))
    hook.export, hook.export_merged = 'adapter', merged_flavour
    with quick_runner():
        made.train()
    other = runner(tmp_path / 'other').model
    backbone = {k: v for k, v in state(made).items() if '.mosa.' not in k}
    other.load_state_dict(backbone, strict=False)
    # A merged adapter has other options than the model, so another name.
    name = load_adapter(other, tmp_path / 'adapter',
                        name='final' if merged_flavour else None)
    other.set_active(name)
    inputs = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            other.eval()(inputs), made.model.eval()(inputs))


def test_export_of_averaged_weights(tmp_path):
    """What is written are the weights that were validated and saved."""
    from mmext.models.adapters.checkpoint import read_adapter
    made = runner(tmp_path, length=2, hooks=(
        dict(type='mmengine.EMAHook', momentum=0.3), ))
    hook = next(h for h in made.hooks if isinstance(h, MoSAHook))
    hook.export, hook.export_merged = 'adapter', False
    with quick_runner():
        made.train()
    saved = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    tensors = read_adapter(tmp_path / 'adapter')[1]
    key = 'backbone.layers.0.mosa.{}up.weight'
    written = tensors[key.format('')]
    own = key.format('default.')
    assert torch.equal(written, saved['state_dict'][own])
    assert not torch.equal(written, state(made)[own])
    assert torch.equal(saved['ema_state_dict']['module.' + own],
                       state(made)[own])


def test_a_step_that_amp_leaves_out():
    """Property 19: its draws do not count for the step after it."""
    model, hook = build(split='both', inactive='skip'), MoSAHook()
    made = SimpleNamespace(model=model)
    split = [p for layer in model.split_layers().values()
             for p in layer.parameters()]
    for gradient, windows in ((None, 1), (1., 2)):
        model.drawing.forget()
        tables = []
        for _ in range(2):
            hook.before_train_iter(made, 0)
            tables.append(model.drawing.table)
            for parameter in split:  # None: cleared without a step
                parameter.grad = None if gradient is None else \
                    torch.full_like(parameter, gradient)
        table = torch.cat(tables[-windows:])
        assert model.drawing.drawn == [
            set(column.tolist()) for column in table.t()
        ]


def test_wrong_interval():
    with pytest.raises(ConfigError, match='at least 1'):
        MoSAHook(interval=0)
