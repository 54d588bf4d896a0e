"""Tiny instances of MSViT by name, on which ``tests/conformance`` proves laws."""

from typing import Any

ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
WORDS = dict(arch=ARCH, img_size=(64, 96), gate=dict(type='ScaleGate', initial_ratio=0.5))
LEVELS = dict(out_indices=[0, 1], pre_norm=True, qkv_bias=False, layer_scale_init_value=0.1, final_norm=False)
EXAMPLES: dict[str, dict[str, Any]] = {
    'plain': WORDS,
    'no class token': WORDS | dict(with_cls_token=False),
    'region scope': WORDS | dict(with_cls_token=False, attention_scope='region'),
    'patch 8': WORDS | dict(patch_size=8),
    'levels': WORDS | LEVELS,
    'three scales': WORDS | dict(patch_sizes=(8, 16, 32), out_indices=[0, 1]),
    'three scales, coarse pixels and detail': WORDS
    | dict(patch_sizes=(8, 16, 32), coarse_embedding='own', detail=dict(hidden_dims=8)),
    'registers and rotary positions': WORDS
    | dict(num_registers=4, rope=dict(temperature=100.0), layer_cfgs=dict(ffn_type='swiglu_fused'))
    | dict(layer_scale_init_value=0.1, out_indices=[0, 1]),
    'mask gradient': WORDS | dict(train_execution='masked', gate_gradient='both'),
    'coarse pixels and detail': WORDS
    | dict(coarse_embedding='own', detail=dict(hidden_dims=8, levels=(0, 1)), out_indices=[0, 1]),
    'merging with registers and rotary positions': WORDS
    | dict(merge=dict(type='MutualPairs', before=(0, 1)), out_indices=[0, 1])
    | dict(num_registers=2, rope=dict(temperature=100.0)),
    'merging and exits': WORDS
    | dict(
        merge=dict(type='Bipartite', before=(1,), proportional_attention=True),
        exits=dict(layers=(1,), num_classes=3, threshold=0.4, keep_per_class=1, train_share=1.0),
    ),
}
