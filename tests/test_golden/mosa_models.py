# Copyright (c) mmext contributors. All rights reserved.
"""The model of a recorded file of MoSA: built, filled, run and read."""
import torch
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample

from mmext.engine.optimizers import BertAdamW
from mmext.models.adapters import SplitLinear
from mmext.models.adapters.functional import module_masks
from mmext.registry import MODELS
from .mosa_files import METAS, arrays, entries

SPLIT = dict(down='up', up='down', none='both')


def host_config(meta):
    if meta['kind'] == 'swin':
        last = len(meta['depths']) - 1
        width = meta['hidden'] * 2**last
        return dict(
            type='ImageClassifier',
            backbone=dict(
                type='SwinTransformer',
                arch=dict(
                    embed_dims=meta['hidden'],
                    depths=meta['depths'],
                    num_heads=meta['heads']),
                img_size=meta['img'],
                patch_size=meta['patch'],
                window_size=meta['window'],
                out_indices=(last, ),
                drop_path_rate=0.,
                stage_cfgs=dict(
                    block_cfgs=dict(ffn_ratio=meta.get('mlp_ratio', 4)))),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead',
                num_classes=meta['classes'],
                in_channels=width))
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(
                embed_dims=meta['hidden'],
                num_layers=meta['layers'],
                num_heads=meta['heads'],
                feedforward_channels=meta['mlp']),
            img_size=meta['img'],
            patch_size=meta['patch']),
        head=dict(
            type='LinearClsHead',
            num_classes=meta['classes'],
            in_channels=meta['hidden']))


def adapter_config(meta):
    if meta['kind'] == 'mosl':
        return dict(
            type='LoRA',
            rank=meta['r'],
            scale=meta['scalar'],
            targets=meta['mode'],
            o_reads='input')
    # Swin has one style, whatever its file says.
    style = 'AdaptFormer' if meta['kind'] == 'swin' else meta['style']
    options = dict(type=style, bottleneck=meta['r'], drop_rate=0.)
    if style == 'AdaptFormer':
        options['scale'] = meta['scalar']
    return options


def host_key(key):
    """Our name of a recorded weight of the host."""
    name = key[len('w/'):]
    return f'head.fc{name[len("head"):]}' if name.startswith('head.') else \
        f'backbone.{name}'


def build(name, storage='compact', **kwargs):
    meta, data = METAS[name], arrays(name)
    init_default_scope('mmpretrain')
    options = dict(
        adapter=adapter_config(meta),
        num_modules=meta['N'],
        split=SPLIT.get(meta['share'], 'both'),
        storage=storage,
        split_bias=not meta.get('bias_shared_mask', True),
        loss=dict(
            kl_weight=meta['reg_weight'],
            aux_ce_weight=meta['add_weight'],
            deep_weight=0.01 * meta['reg_weight'] *
            meta.get('deepreg', False)))
    options.update(kwargs)
    model = MODELS.build(
        dict(type='mmext.MoSAModel', module=host_config(meta), **options))
    model.double()
    weights = {host_key(k): data[k] for k in data if k.startswith('w/')}
    result = model.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    missing = [k for k in result.missing_keys if '.mosa.' not in k]
    assert all('relative_position_index' in k or 'attn_mask' in k
               for k in missing)
    return model


def place_of(meta, block, part):
    """Our path of the layer that a recorded name means."""
    if meta['kind'] != 'mosl':
        return f'backbone.{block}.mosa.default.{part}'
    letter = part.split('.')[0]
    layer = 'proj' if letter == 'o' else 'qkv'
    return f'backbone.{block}.attn.{layer}.mosa.default.{part}'


def locate(model, meta, block, part):
    return model.module.get_submodule(place_of(meta, block, part))


def put_state(model, name, prefix='adapter'):
    """Load recorded adapters and their masks."""
    meta, data = METAS[name], arrays(name)
    with torch.no_grad():
        for (block, part, kind), value in entries(data, prefix):
            layer = locate(model, meta, block, part)
            value = value.double()
            if not isinstance(layer, SplitLinear):
                getattr(layer, kind).copy_(value)
                continue
            masks = data[f'mask/{block}/{part}.{kind}'].bool()
            put_split(layer, kind, value, masks)


def put_split(layer, kind, value, masks):
    owner = layer.owner_of(kind)
    if owner is None:
        assert masks.all()
        if layer.storage == 'compact':
            layer.bias.copy_(value)
        else:
            for parameter, own in zip(layer.biases, value):
                parameter.copy_(own)
        return
    assert (masks.sum(0) == 1).all()
    owner.copy_(masks.to(torch.uint8).argmax(0))
    if layer.storage == 'replicated':
        for parameter, own in zip(layer.parameters_of(kind), value):
            parameter.copy_(own)
        return
    chosen = value.gather(0, owner.long()[None])[0]
    layer.parameters_of(kind)[0].copy_(chosen)
    # Off their masks all modules hold one common value.
    other = ((owner.long() + 1) % len(value))[None]
    setattr(layer, 'bias_init' if kind == 'bias' else 'init',
            value.gather(0, other)[0].clone())


def head_key(model, kind):
    return getattr(model.head.fc, kind)


def samples(labels):
    return [DataSample().set_gt_label(int(y)) for y in labels]


def choice(meta, table):
    """Recorded indices in the order in which our adapters take them."""
    if meta['kind'] == 'mosl':  # recorded in the order of the mode's letters
        order = sorted(
            range(len(meta['mode'])),
            key=lambda i: 'qkvo'.index(meta['mode'][i]))
        table = table.unflatten(2, (-1, 2))[:, :, order]
    return table.reshape(table.shape[0], -1)


def run_step(model, meta, x, y, table):
    """Both passes with recorded indices; the losses, and the logits."""
    model.train()
    model.set_indices(choice(meta, table))
    logits = []
    handle = model.head.fc.register_forward_hook(
        lambda m, args, out: logits.append(out))
    losses = model(x.double(), samples(y), mode='loss')
    handle.remove()
    total, _ = model.parse_losses(losses)
    return losses, total, torch.cat(logits).chunk(2)


def keep_blocks(model):
    """Lists that the outputs of the transformer's blocks go to."""
    blocks = getattr(model.backbone, 'layers', [])
    hidden = [[] for _ in blocks]
    for block, outputs in zip(blocks, hidden):
        block.register_forward_hook(
            lambda m, args, out, outputs=outputs: outputs.append(out))
    return hidden


def eval_logits(model, x):
    model.eval()
    with torch.no_grad():
        return model(x.double())


def gathered(layer, kind, k=None, grad=False):
    """Values or gradients of a recorded tensor, in the recorded layout."""
    if not isinstance(layer, SplitLinear):
        value = getattr(layer, kind)
        return value.grad if grad else value.detach()
    owner, n = layer.owner_of(kind), layer.num_modules
    if layer.storage == 'replicated':
        values = [(torch.zeros_like(p) if p.grad is None else p.grad)
                  if grad else p.detach() for p in layer.parameters_of(kind)]
        return torch.stack(values)
    parameter = layer.parameters_of(kind)[0]
    value = parameter.grad if grad else parameter.detach()
    if owner is None:
        return value
    init = layer.init_of(kind)
    rest = torch.zeros_like(value) if grad or init is None else init
    return torch.where(module_masks(owner, n), value, rest)


def official(model, meta):
    biases, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (biases if 'bias' in name else others).append(parameter)
    # The format's constants, unless the file has its own.
    options = dict(
        lr=meta['lr'], betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01)
    options.update(meta.get('optimizer', {}))
    return BertAdamW(
        [dict(params=others),
         dict(params=biases, weight_decay=0.)],
        lr=options['lr'],
        betas=options['betas'],
        eps=options['eps'],
        weight_decay=options['weight_decay'])
