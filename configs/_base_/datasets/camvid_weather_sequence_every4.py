# Every fourth frame of camvid_weather_sequence.py.
_base_ = ['./camvid_weather_sequence.py']

train_dataloader = dict(
    dataset=dict(
        domains=dict(
            dusk=dict(every=4),
            fog=dict(every=4),
            night=dict(every=4),
            rain=dict(every=4),
            snow=dict(every=4))))
test_dataloader = dict(
    dataset=dict(
        domains=dict(
            dusk=dict(every=4),
            fog=dict(every=4),
            night=dict(every=4),
            rain=dict(every=4),
            snow=dict(every=4))))
