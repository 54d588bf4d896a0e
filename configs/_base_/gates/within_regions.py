"""What lets a gate learn from whole-image labels: attention within regions, pooling that heeds the few, a late pull.

The mean over all regions hides the few that show the object: a generalised mean does not. And priors that start
bimodal (temperature 0.5) settle the gate before the task has spoken: these start at 1.
"""

within_regions = dict(
    backbone=dict(attention_scope='region', counterfactual_share=1.0),
    neck=dict(type='GeneralizedMeanPooling', p=3.0),
    gate_loss=dict(initial_temperature=1.0),
)
within_regions_hooks = [
    dict(type='GateScheduleHook', warmup=0.3, weights=(2.0, 4.0)),
    dict(type='GateStatisticsHook'),
]
