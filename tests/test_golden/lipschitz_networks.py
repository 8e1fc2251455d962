# Copyright (c) mmext contributors. All rights reserved.
"""Checks of recorded networks: outputs, certificates, attacks."""
import math
from typing import List

import pytest
import torch
from torch import Tensor, nn

from mmext.models.lipschitz import boxes, certificates, losses
from mmext.models.lipschitz.attacks import pgd_attack
from mmext.models.lipschitz.bound_heads import BoundMLP
from mmext.models.lipschitz.bounds import Bounds
from mmext.models.lipschitz.certifier import Certifier
from mmext.models.lipschitz.networks import (BODIES, DistanceNet, MLPFeature,
                                             build_network)
from mmext.models.lipschitz.p_norm import distance_modules, p_norm, set_p
from mmext.models.lipschitz.rounding import RoundingTracker
from .lipschitz_nets import (decide, layer_numbers, means_of, pure_net,
                             put_means, rows)
from .lipschitz_runs import (F64, PGD_EPS_INDEX, PGD_STEPS, PLAIN, RUNS, Run,
                             check)
from .recorded import Recorded, number

# mlp_net ---------------------------------------------------------------------


@check('mlp_net')
def pure_training(data: Recorded, run: Run) -> None:
    """Property 7: passes in train mode, and the objective's gradients."""
    net = pure_net(data)
    x, y = data['x'], data['label']
    for key, p in data.match(r'train_p(.+)_logits'):
        put_means(net, torch.zeros_like(means_of(net)))
        steps = len(data.raw(key))
        logits, means = [], []
        with p_norm(net.train(), number(p)):
            for t in range(steps):
                logits.append(net(x.roll(t, 0)))
                means.append(means_of(net))
        data.close(torch.stack(logits), key)
        data.close(torch.stack(means), f'train_p{p}_running_mean')
    to_eval_weights(data, net)
    eps = data.number('train_eps')
    for key, mix in data.match(r'hinge([\d_]+)_loss'):
        net.zero_grad()
        with p_norm(net.train(), 8.):
            logits = net(x)
        data.close(logits, f'hinge{mix}_train_logits')
        residual = certificates.lipschitz_residual(logits, y, eps)
        loss = losses.hinge_loss(residual, number(mix))
        data.close(loss, key)
        loss.backward()
        compare_gradients(data, net, f'hinge{mix}_g')
    data.close(means_of(net), 'pgd_running_mean')


def to_eval_weights(data: Recorded, net: DistanceNet) -> None:
    """The trained means, and the class layer that evaluation uses."""
    for key, p in data.match(r'train_p(.+)_running_mean'):
        put_means(net, data[key][-1])
    for key, i in data.match(r'L(\d+)_weight_eval'):
        with torch.no_grad():
            net.head.fc.weight.copy_(rows(data[key]))
    net.eval()


def parametric(net: nn.Module) -> List[nn.Module]:
    """Layers with a weight, in order of execution."""
    return [m for m in net.modules() if hasattr(m, 'weight')]


def compare_gradients(data: Recorded, net: nn.Module, prefix: str) -> None:
    for i, layer in enumerate(parametric(net)):
        data.close(rows(layer.weight.grad), f'{prefix}L{i}_weight')
        if layer.bias is not None:
            data.close(layer.bias.grad, f'{prefix}L{i}_bias')


def at_eval(data: Recorded) -> DistanceNet:
    net = pure_net(data)
    to_eval_weights(data, net)
    return net


@check('mlp_net')
def pure_certificates(data: Recorded, run: Run) -> None:
    """Properties 13 and 15: logits, residuals and decisions at each eps."""
    net, x, y = at_eval(data), data['x'], data['label']
    for key, p in data.match(r'eval_logits_p(.+)'):
        with p_norm(net, number(p)):
            data.close(net(x), key)
    logits = net(x)
    found = []
    for j, eps in enumerate(data.raw('eps_list_normalised').tolist()):
        lipschitz = decide(data, net.lipschitz_residual(x, y, eps),
                           f'e{j}_lip')
        data.near(
            certificates.lipschitz_residual(logits, y, eps),
            data[f'e{j}_lip_res'])
        box = boxes.eps_box(x, eps)
        interval = decide(data, net.residual(box, y), f'e{j}_ibp')
        box = boxes.eps_box(x, eps, data['down'], data['up'])
        residual = net.residual(box, y)
        clamped = decide(data, residual, f'e{j}_ibpclamp')
        data.equal(residual.argmax(1) == y, f'e{j}_official_cert')
        assert interval[lipschitz].all() and clamped[interval].all()
        assert (logits.argmax(1) == y)[clamped].all()
        found.append((eps, clamped))
    found.sort(key=lambda pair: pair[0])
    for (_, smaller), (_, larger) in zip(found, found[1:]):
        assert smaller[larger].all()


@check('mlp_net')
def user_units(data: Recorded, run: Run) -> None:
    """Property 13: the same from a pixel radius, mean and std."""
    net, x, y = at_eval(data), data['x'], data['label']
    mean, stds = (data[key].double().cpu() for key in ('mean', 'std'))
    data.near((1 - mean) / stds, data['up'])
    data.near((0 - mean) / stds, data['down'])
    if not bool((stds == stds.max()).all()):
        return  # a recorded radius is no radius in pixels then
    std = float(stds.max())
    certifier = Certifier(net.body, net.head, mean, std, sound_rounding=False)
    for j, eps in enumerate(data.raw('eps_list_normalised').tolist()):
        found = certifier.residual(x, y, eps * std)
        data.close(found.value, f'e{j}_ibpclamp_res')
        data.equal(found.certified(y), f'e{j}_ibpclamp_cert')
        found = certifier.residual(x, y, eps * std, 'lipschitz')
        data.close(found.value, f'e{j}_lip_res')
        # The slack for rounding costs none of these decisions.
        sound = Certifier(net.body, net.head, mean, std)
        data.equal(
            sound.residual(x, y, eps * std).certified(y),
            f'e{j}_ibpclamp_cert')


@check('mlp_net')
def pure_layers(data: Recorded, run: Run) -> None:
    """Property 8: value and interval after each layer."""
    net, x = at_eval(data), data['x']
    radii = data.raw('eps_list_normalised').tolist()
    layers = distance_modules(net)
    outputs: List[Bounds] = []
    hooks = [
        m.register_forward_hook(lambda m, args, out: outputs.append(out))
        for m in layers
    ]
    for _, j in data.match(r'e(\d+)_layer0_out'):
        outputs.clear()
        net(boxes.eps_box(x, radii[int(j)], data['down'], data['up']))
        assert len(outputs) == data.count(rf'e{j}_layer\d+_out')
        for i, out in enumerate(outputs):
            for name, value in zip(('out', 'lower', 'upper'), out):
                data.close(value, f'e{j}_layer{i}_{name}')
    for hook in hooks:
        hook.remove()


@check('mlp_net', [run for run in RUNS if run.dtype == F64])
def attacked(data: Recorded, run: Run) -> None:
    """Property 14: the recorded attack, which breaks no certificate.

    In float64 only: a rounding turns the sign of a gradient.
    """
    net, x, y = at_eval(data), data['x'], data['label']
    put_means(net, data['pgd_running_mean'])
    eps = data.raw('eps_list_normalised').tolist()[PGD_EPS_INDEX]
    box = data['down'], data['up']
    data.close(net(x), 'pgd_clean_logits_pinf')
    residual = net.residual(boxes.eps_box(x, eps, *box), y)
    certified = certificates.certified(residual, y)
    data.equal(certified, 'pgd_cert_at_moved_buffers')
    for key, p in data.match(r'pgd_p(.+)_x'):
        with p_norm(net, number(p)):
            found = pgd_attack(
                net,
                x,
                y,
                eps,
                box,
                steps=PGD_STEPS,
                restarts=1,
                loss='ce',
                step_size=eps / 4,
                random_start=False,
                keep='last')
            data.close(found, key)
            data.close(net(found), f'pgd_p{p}_logits')
        assert (net(found).argmax(1) == y)[certified].all()


@check('mlp_net')
def radii_per_channel(data: Recorded, run: Run) -> None:
    """Property 20: a std per channel makes the ball a box."""
    net, x, y = at_eval(data), data['x'], data['label']
    put_means(net, data['pgd_running_mean'])
    box = boxes.eps_box(x, data['aniso_eps'], data['down'], data['up'])
    data.close(net.residual(box, y), 'aniso_res')


@check('mlp_net', PLAIN[:1])
def precision(data: Recorded, run: Run) -> None:
    """Property 18: float32 stays within the bound of its rounding."""
    net, x = at_eval(data), data['x']
    put_means(net, data['pgd_running_mean'])
    exact = net(x)
    data.close(exact, 'pgd_clean_logits_pinf')
    with RoundingTracker() as tracker:
        rounded = net.float()(x.float()).double()
    tau = float(tracker.tau(per_sample=False))
    data.near(tau, data.number('float32_tau_bound'), rtol=1e-5)
    recorded = data['float32_logits']
    exact, rounded = exact.detach(), rounded.detach()
    worst = float((recorded - exact).abs().max())
    assert worst == pytest.approx(data.number('float32_max_abs_err'))
    for logits in (rounded, recorded):
        assert float((logits - exact).abs().max()) <= tau


# hybrid_net ------------------------------------------------------------------


def hybrid_net(data: Recorded) -> DistanceNet:
    """Distance features and the head of linear, tanh, linear."""
    numbers = layer_numbers(data)
    body = [i for i in numbers if data.raw(f'L{i}_weight').ndim == 4]
    first, second = (i for i in numbers if i not in body)
    state = {
        f'body.layers.fc{i + 1}.weight': rows(data[f'L{i}_weight'])
        for i in body
    }
    for name, i in (('fc1', first), ('fc2', second)):
        state.update({
            f'head.{name}.weight': data[f'L{i}_weight'],
            f'head.{name}.bias': data[f'L{i}_bias']
        })
    features = MLPFeature(
        data.raw('x').shape[1:],
        depth=len(body),
        width=len(data.raw('L0_weight')) / 1024)
    hidden, classes = len(data.raw(f'L{first}_bias')), len(
        data.raw(f'L{second}_bias'))
    net = DistanceNet(features, BoundMLP(features.out_features, hidden,
                                         classes))
    missing = net.to(data['x']).load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    put_means(net, data['running_mean'])
    set_p(net, math.inf)
    return net.eval()


@check('hybrid_net')
def hybrid_certificates(data: Recorded, run: Run) -> None:
    """Property 13: from the pixels, and from features plus and minus eps."""
    net, x, y = hybrid_net(data), data['x'], data['label']
    for key, p in data.match(r'eval_logits_p(.+)'):
        with p_norm(net, number(p)):
            data.close(net(x), key)
    ends = data['down'], data['up']
    for j, eps in enumerate(data.raw('eps_list_normalised').tolist()):
        box = boxes.eps_box(x, eps, *ends)
        residual = net.residual(box, y)
        decide(data, residual, f'e{j}_ibpclamp')
        data.equal(residual.argmax(1) == y, f'e{j}_official_cert')
        decide(data, net.lipschitz_residual(x, y, eps), f'e{j}_lipfeat')
        if f'e{j}_feat_out' not in data:
            continue
        feat = net.body(box)
        parts = dict(
            feat=feat, fc1=net.head.fc1(feat), tanh=net.head.hidden(feat))
        for key, name, end in data.match(
                rf'e{j}_(feat|fc1|tanh)_(out|lower|upper)'):
            data.close(getattr(parts[name], dict(out='x').get(end, end)), key)
        logits = net.head(feat)
        naive = certificates.interval_residual(*logits[1:], y)
        data.close(naive, f'e{j}_naive_res')
        # Equal where the two rows of the head differ in all signs.
        rounding = 1e-12 if run.dtype == F64 else 1e-5
        assert (naive >= residual - rounding).all()


@check('hybrid_net')
def hybrid_training(data: Recorded, run: Run) -> None:
    """The objective of the "++" recipes and its gradients."""
    net, x, y = hybrid_net(data), data['x'], data['label']
    set_p(net.train(), 8.)
    for key, kappa in data.match(r'k([\d_]+)_loss'):
        net.zero_grad()
        features = net.body(x)
        logits = net.head(features)
        residual = net.head.lipschitz_residual(features, y,
                                               data.number('train_eps'))
        k = number(kappa)
        loss = k * losses.cross_entropy_residual(
            residual, y) + (1 - k) * losses.cross_entropy_residual(
                losses.margins(logits, y), y)
        data.close(loss, key)
        data.close(logits, 'train_logits')
        data.close(residual, 'train_res')
        if data.count(rf'k{kappa}_gL\d+_weight'):
            loss.backward()
            compare_gradients(data, net, f'k{kappa}_g')


# arch ------------------------------------------------------------------------


@torch.no_grad()
def fill(net: nn.Module, seed: float) -> None:
    """Weights, identity entries and running means by formula."""
    t = 0

    def wave(like: Tensor, amplitude: float) -> Tensor:
        n = torch.arange(like.numel(), dtype=F64).view(like.shape)
        return amplitude * torch.sin(0.37 * n + 1.1 * t + seed)

    for layer in distance_modules(net):
        weight = layer.weight
        weight.copy_(wave(weight, 1.))
        outputs, inputs = weight.shape[:2]
        if inputs <= outputs:
            for o in range(outputs):
                middle = tuple(k // 2 for k in weight.shape[2:])
                weight[(o, o % inputs, *middle)] = -10.
        t += 1
        if layer.bias is not None:
            layer.bias.copy_(wave(layer.bias, 0.1))
            t += 1
        if layer.mean_shift is not None:
            mean = layer.mean_shift.running_mean
            c = torch.arange(len(mean), dtype=F64)
            mean.copy_(5 + torch.cos(0.5 * c + t))


@check('arch')
def architectures(data: Recorded, run: Run) -> None:
    """Property 12: outputs, bounds and parameter counts."""
    hidden, classes = (int(data.number(k)) for k in ('hidden', 'num_classes'))
    widths = dict(conv=data.number('conv_net_width') / 32)
    seed, eps = data.number('fill_seed'), data.number('bound_eps')
    assert math.isclose(data.number('input_seed_factor'), 0.013 * (1 + seed))
    for name in {name for _, name in data.match(r'(.+)_nparams')}:
        arch = name.replace('_feature', '')
        options = dict(hidden=hidden)
        if arch in widths:
            options['width'] = widths[arch]
        net = BODIES[arch](**options) if name.endswith('_feature') else \
            build_network(arch, classes, **options)
        count = sum(p.numel() for p in net.parameters())
        data.equal(count, f'{name}_nparams')
        fill(net.to(device=run.device, dtype=F64), seed)
        net = net.to(run.dtype).eval()
        images = len(data.raw(f'{name}_lower'))
        n = torch.arange(images * 3 * 32 * 32, dtype=F64)
        x = 2 * torch.sin(data.number('input_seed_factor') * n)
        x = x.view(images, 3, 32, 32).to(run.device, run.dtype)
        for key, p in data.match(rf'{name}_out_p(\w+)'):
            with p_norm(net, number(p)):
                data.close(net(x), key)
        set_p(net, math.inf)
        box = net(Bounds(None, x - eps, x + eps))
        data.close(box.lower, f'{name}_lower')
        data.close(box.upper, f'{name}_upper')
