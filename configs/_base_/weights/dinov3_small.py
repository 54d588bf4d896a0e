"""What DINOv3's ViT-S/16 has beyond DeiT-S. Its weights stand behind a licence: fetch them, then convert them."""

dinov3 = dict(
    num_registers=4,
    rope=dict(temperature=100.0),
    layer_scale_init_value=1e-5,
    norm_cfg=dict(type='LN', eps=1e-5),
)
