# Copyright (c) mmext contributors. All rights reserved.
"""What differs between the configs of two runs."""
import json

from mmengine.config import Config

from mmext.utils.config_changes import changed_options, trained_options

RUN = dict(
    train_cfg=dict(max_iters=2),
    model=dict(type='A', size=(3, 4), teacher_ckpt='a.pth', parts={}),
    custom_hooks=[dict(type='B', rate=0.1),
                  dict(type='C')],
    train_dataloader=dict(num_workers=2, batch_size=4),
    default_hooks=dict(checkpoint=dict(interval=1), logger=dict(interval=1)),
    work_dir='a')


def changes(**options):
    """Against the run before, whose options were written and read."""
    cfg = Config(dict(RUN))
    before = json.loads(json.dumps(trained_options(cfg._cfg_dict)))
    cfg.merge_from_dict(options)
    return changed_options(before, trained_options(cfg._cfg_dict))


def test_what_changes_the_training():
    assert changes() == []
    assert changes(**{'train_cfg.max_iters': 3}) == [
        'train_cfg.max_iters: 2 -> 3'
    ]
    assert changes(**{
        'custom_hooks.0.rate': 0.2,
        'seed': 1
    }) == ['custom_hooks.0.rate: 0.1 -> 0.2', 'seed: nothing -> 1']
    assert changes(**{'model.size': [3, 4]}) == []
    assert changes(**{'model.size': (3,
                                     5)}) == ['model.size: [3, 4] -> [3, 5]']
    # an option of what had none
    assert changes(**{'model.parts.a': None}) == [
        'model.parts: {} -> nothing', 'model.parts.a: nothing -> None'
    ]


def test_what_does_not():
    assert changes(
        work_dir='b',
        load_from='c.pth',
        resume=True,
        val_cfg=None,
        test_dataloader=dict(batch_size=3),
        **{
            'model.teacher_ckpt': 'b.pth',
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'default_hooks.logger.interval': 9,
            'env_cfg.dist_cfg.backend': 'gloo'
        }) == []


def test_functions_and_classes():
    """Their addresses are others in each process."""
    one, two = (trained_options(dict(a=key)) for key in (object(), object()))
    assert one == two
    assert trained_options(dict(a=int)) != trained_options(dict(a=float))
