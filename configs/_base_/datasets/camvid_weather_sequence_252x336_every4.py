# Every fourth frame of camvid_weather_sequence_252x336.py.
_base_ = ['./camvid_weather_sequence_252x336.py']

train_dataloader = dict(
    dataset=dict(
        domains={
            name: dict(every=4)
            for name in ('dusk', 'fog', 'night', 'rain', 'snow')
        }))
test_dataloader = dict(
    dataset=dict(
        domains={
            name: dict(every=4)
            for name in ('dusk', 'fog', 'night', 'rain', 'snow')
        }))
