# Copyright (c) mmext contributors. All rights reserved.
import math

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')
onnx = pytest.importorskip('onnx')
runtime = pytest.importorskip('onnxruntime')

from mmengine.registry import init_default_scope

from mmext.apis.certified_model import certified_model
from mmext.apis.lip_onnx import check_onnx, export_onnx, lip_onnx
from mmext.models.lipschitz.bound_heads import DistanceHead
from mmext.models.lipschitz.bounds import BoundFlatten
from mmext.models.lipschitz.layers import LpDistConv2d, LpDistLinear
from mmext.models.lipschitz.networks import DistanceBody
from mmext.models.lipschitz.onnx_graph import GraphBuilder, add_network, finish
from mmext.models.lipschitz.p_norm import set_p
from mmext.registry import MODELS
from mmext.utils.user_error import UserError
from ..test_models.test_classification.lip_models import (classifier, finished,
                                                          mlp_head)
from ..tool_fixtures import tool


def lenet(**options):
    return classifier(
        body=dict(type='mmext.LipLeNet', in_channels=3, img_size=20,
                  input_pad=(2, 1, 1, 2), input_pad_value=-0.5, hidden=24),
        data_preprocessor=dict(mean=[100., 90., 80.], std=[60., 50., 70.],
                               to_rgb=True), **options)


CASES = dict(
    lenet=lenet(),
    perceptron=lenet(head=mlp_head()),
    mlp=classifier(),
    sort=classifier(
        body=dict(type='mmext.LipMLP', in_channels=1, img_size=6, depth=2,
                  width=24 / 1024, sort=dict(rho=0.7, truncate=4))),
    sort_conv=classifier(
        body=dict(type='mmext.LipConv', img_size=8, width=2 / 32, hidden=24,
                  sort=dict(rho=0.7)),
        data_preprocessor=dict(mean=[100.] * 3, std=[60.] * 3)))


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('cells', [1 << 20, 500])
def test_onnxruntime_agrees_with_torch(name, cells, tmp_path):
    """Also where the outputs are cut into chunks."""
    model = finished(CASES[name])
    path = tmp_path / 'net.onnx'
    export_onnx(model, path, cells)
    error = check_onnx(path, model, images=3)
    # Distances are exact; only sums of the other layers may round.
    assert error == 0 if name in ('lenet', 'mlp') else error < 1e-5
    kinds = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert {'Sub', 'Abs'} <= kinds and 'If' not in kinds
    assert not any(node.domain for node in onnx.load(str(path)).graph.node)


def test_chunks_bound_the_memory():
    model = finished(CASES['lenet'])
    inferred = onnx.shape_inference.infer_shapes(lip_onnx(model, 30000))
    sizes = {
        value.name: math.prod(d.dim_value for d in
                              value.type.tensor_type.shape.dim[1:])
        for value in inferred.graph.value_info
    }
    cells = [sizes[node.output[0]] for node in inferred.graph.node
             if node.op_type == 'Abs']
    assert len(cells) > 8 and max(cells) <= 30000


class Grouped(DistanceBody):
    """What no shipped network has: groups, dilation, stride."""

    def build_layers(self):
        self.layers.add_module(
            'conv', LpDistConv2d(4, 6, 3, stride=2, padding=2, dilation=2,
                                 groups=2))
        self.layers.add_module('flatten', BoundFlatten())
        self.layers.add_module('fc', LpDistLinear(6 * 4 * 5, 9, groups=3))
        self._shape = (9, )


def test_groups_dilation_and_stride(tmp_path):
    torch.manual_seed(0)
    body, head = Grouped((4, 7, 9)), DistanceHead(9, 3)
    x = torch.randn(2, 4, 7, 9)
    expected = head(body(x))  # moves the running means
    expected = head.eval()(body.eval()(x))
    graph = GraphBuilder(64)
    made = finish(graph, add_network(graph, body, head, 'images'), (4, 7, 9))
    session = runtime.InferenceSession(made.SerializeToString())
    found, = session.run(None, dict(images=x.numpy()))
    np.testing.assert_array_equal(found, expected.detach().numpy())


def test_ensemble_is_averaged(tmp_path):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    other = classifier('mlp', data_preprocessor=dict(mean=[50.], std=[90.]))
    ensemble = MODELS.build(
        dict(type='mmext.CertifiedEnsemble', train='joint',
             members=[dict(model=classifier(), weight=1.),
                      dict(model=other, weight=3.)])).eval()
    set_p(ensemble, math.inf)
    export_onnx(ensemble, tmp_path / 'two.onnx')
    assert check_onnx(tmp_path / 'two.onnx', ensemble) < 1e-5
    ensemble.trained_p = 20.
    with pytest.raises(UserError, match='saved at p = 20'):
        lip_onnx(ensemble)


def test_options_of_the_preprocessor(tmp_path):
    """Grey images are not turned, as in torch; padding is refused."""
    grey = finished(
        classifier(
            data_preprocessor=dict(mean=[50.], std=[90.], to_rgb=True)))
    assert grey.backbone.input_size[0] == 1
    export_onnx(grey, tmp_path / 'grey.onnx')
    assert check_onnx(tmp_path / 'grey.onnx', grey) == 0
    model = finished(lenet())
    model.data_preprocessor.pad_size_divisor = 32
    with pytest.raises(UserError, match='input_pad'):
        lip_onnx(model)


def test_tool_and_user_errors(tmp_path, capsys, monkeypatch):
    from mmengine.config import Config

    # Most configs have the preprocessor beside the model.
    beside = lenet()
    shared = beside.pop('data_preprocessor')
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=beside,
            data_preprocessor=shared))
    cfg.dump(str(tmp_path / 'net.py'))
    model = finished(lenet())
    for name, p in (('last', math.inf), ('half', 20.)):
        torch.save(dict(state_dict=model.state_dict(), lp_norm=p),
                   tmp_path / f'{name}.pth')
    monkeypatch.chdir(tmp_path)
    export = tool('deployment/export_lip_onnx')
    export.main(['net.py', 'last.pth', 'net.onnx', '--cells', '4000'])
    out = capsys.readouterr().out
    assert 'net.onnx' in out and 'difference to torch: 0' in out
    with pytest.raises(UserError, match='saved at p = 20'):
        export.main(['net.py', 'half.pth', 'half.onnx'])
    assert not (tmp_path / 'half.onnx').exists()
    for argv in (['net.py', 'last.pth'], ['net.py', '--cells', '9', 'a.pt']):
        with pytest.raises(SystemExit):  # what is left out is the checkpoint
            export.parse_args(argv)
        assert argv[-1] in capsys.readouterr().err
    for argv, given in ((['c', 'w', '--cells', '9', 'a.onnx'], 'w'),
                        (['c', '--cells', '9', 'none', 'a.onnx'], None),
                        (['c', 'a.onnx', '--no-check'], None)):
        args = export.parse_args(argv)
        assert (args.checkpoint, args.out) == (given, 'a.onnx')
    with pytest.raises(UserError, match='no weights'):
        export.main(['net.py', 'none.onnx'])
    assert not (tmp_path / 'none.onnx').exists()
    model = certified_model(cfg, 'last.pth')
    with pytest.raises(UserError, match='training mode'):
        lip_onnx(model.train())
    set_p(model.eval(), 8.)
    with pytest.raises(UserError, match='p = 8'):
        lip_onnx(model)
    with pytest.raises(UserError, match='cells'):
        GraphBuilder(0)
