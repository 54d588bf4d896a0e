"""Two processes have the loss and the gradient of one process with the same global batch, however they execute.

The processes compute their layers again in the backward pass, the one process does not. In double precision, since
the layer norm of a class token that is almost 0 magnifies what rounding makes of the order of sums.
"""

import copy
import sys
from unittest import mock

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.nn.parallel import DistributedDataParallel

import msvit_mm
from msvit_mm.backbones import MSViT, region
from msvit_mm.engine.calibration import calibrate_gate

MODEL = dict(
    type='GatedEncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor'),
    backbone=dict(
        type='MSViT',
        arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
        img_size=(64, 96),
        counterfactual_share=1.0,
        gate=dict(type='ScaleGate', sample_size=4, hidden_dims=8),
    ),
    decode_head=dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3, norm_cfg=None),
    gate_loss=dict(type='BatchShapingLoss', coarse_ratio=0.6),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
TOKEN_HEAD = dict(
    type='MixedScaleMaskTransformerHead',
    in_channels=32,
    channels=32,
    embed_dims=32,
    num_layers=1,
    num_heads=2,
    num_classes=3,
)
MODES = [*MSViT.train_executions, 'tokens']


def build(mode, with_cp=False):
    assert msvit_mm.__version__
    init_default_scope('mmseg')
    torch.manual_seed(0)
    config = copy.deepcopy(MODEL)
    config['backbone']['with_cp'] = with_cp
    if mode == 'tokens':
        config['backbone']['out_type'] = 'tokens'
        config['decode_head'] = TOKEN_HEAD
    else:
        config['backbone']['train_execution'] = mode
    model = MODELS.build(config)
    model.decode_head.dropout = torch.nn.Identity()
    return model.double().train()


def global_batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 64, 96, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (4, 1, 64, 96), generator=generator)
    return images, [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


def loss_and_gradients(model, images, samples):
    """The summed loss, and every gradient; the gate's noise is left out, since processes draw different noise."""
    decide = region.decide
    with mock.patch.object(region, 'decide', lambda x, tiling, tau, noise, *rest: decide(x, tiling, tau, False, *rest)):
        losses = model(images, samples, mode='loss')
    loss = sum(value for name, value in losses.items() if 'loss' in name)
    loss.backward()
    return loss.detach(), {n.removeprefix('module.'): p.grad for n, p in model.named_parameters()}


def calibrate(part=slice(None)):
    """The threshold that part of the images brings about in this process."""
    images, samples = global_batch()
    batches = [dict(inputs=[x.float()], data_samples=[y]) for x, y in zip(images[part], samples[part], strict=True)]
    return calibrate_gate(build('packed').float().eval(), batches, 'coarse_ratio', 0.4, with_decoder=False)


def run_process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    images, samples = global_batch()
    part = slice(2 * rank, 2 * rank + 2)
    results = {
        mode: loss_and_gradients(DistributedDataParallel(build(mode, with_cp=True)), images[part], samples[part])
        for mode in MODES
    }
    results['calibration'] = calibrate(part)
    torch.save(results, f'{folder}/{rank}.pt')


@pytest.mark.slow
def test_two_processes_equal_one(run_in_two_processes, tmp_path):
    run_in_two_processes(__file__)

    processes = [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]
    assert [process['calibration'] for process in processes] == [calibrate()] * 2
    for mode in MODES:
        loss, gradients = loss_and_gradients(build(mode), *global_batch())
        parts = [process[mode] for process in processes]
        torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, loss, rtol=1e-9, atol=1e-9)
        assert gradients['backbone.gate.layers.0.weight'].abs().max() > 0
        for _, part in parts:
            if mode == 'trimmed':  # which regions the task teaches the gate depends on the batch mates
                part, gradients = ({n: g for n, g in x.items() if '.gate.' not in n} for x in (part, gradients))
            torch.testing.assert_close(part, gradients, rtol=1e-8, atol=1e-9)


if __name__ == '__main__':
    run_process(int(sys.argv[1]), sys.argv[2])
