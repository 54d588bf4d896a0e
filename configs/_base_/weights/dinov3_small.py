"""What DINOv3's ViT-S/16 has beyond DeiT-S, and its weights, behind a licence: the file is yours to fetch."""

dinov3 = dict(
    num_registers=4,
    rope=dict(temperature=100.0),
    layer_scale_init_value=1e-5,
    norm_cfg=dict(type='LN', eps=1e-5),
    init_cfg=dict(
        _delete_=True, type='Pretrained', checkpoint='vit_small_patch16_dinov3.lvd1689m.safetensors', convert=True
    ),
)
