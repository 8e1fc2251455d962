# The stream on which settings for CamVid are chosen, none of whose frames is
# scored: fog, night, rain and snow made from the first 68 frames of 0016E5,
# which the source models were not trained on, with another random state, by
#   python tools/dataset_converters/camvid_weather.py \
#       --src $MMEXT_CAMVID --out data/camvid_weather_tune \
#       --sequence 0016E5 --stop 0.223 --salt 1
# One round; the views are those of the base.
_base_ = ['./camvid_weather_sequence_252x336.py']

# the stream to adapt to
train_dataloader = dict(
    dataset=dict(
        rounds=1,
        domains=dict(
            _delete_=True,
            **{
                name: dict(
                    type='mmext.CamVidDataset',
                    data_root=f'data/camvid_weather_tune/{name}_2',
                    sequences=('0016E5', ),
                    test_mode=True,
                    pipeline={{_base_.tta_pipeline}})
                for name in ('fog', 'night', 'rain', 'snow')
            })))

# ``tools/test.py``: the same frames once, one view, no adaptation
test_dataloader = dict(
    dataset=dict(
        domains=dict(
            _delete_=True,
            **{
                name: dict(
                    type='mmext.CamVidDataset',
                    data_root=f'data/camvid_weather_tune/{name}_2',
                    sequences=('0016E5', ),
                    test_mode=True,
                    pipeline={{_base_.test_pipeline}})
                for name in ('fog', 'night', 'rain', 'snow')
            })))
test_evaluator = dict(domains=['fog', 'night', 'rain', 'snow'])
