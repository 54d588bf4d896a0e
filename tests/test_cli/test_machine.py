import pytest
import torch
from mmengine.config import Config

from msvit_mm.cli import machine


@pytest.mark.parametrize(
    'device, options, message',
    [
        ('cpu', dict(optim_wrapper=dict(type='AmpOptimWrapper')), "mixed precision: wanted a device of cuda.*'cpu'"),
        ('cpu', dict(device='cuda:0'), "wanted 'cuda:0', got 'cpu'"),
        ('cuda', dict(device='cpu'), "wanted 'cpu', got 'cuda'"),
        ('cpu', dict(compile=True), 'compile: wanted no compilation by the Runner, got True'),
        ('cpu', dict(launcher='mpi'), 'wanted GPUs, got none'),
        ('cuda', dict(launcher='pytorch'), 'wanted a GPU for local rank 2, got 2 GPUs'),
    ],
)
def test_machine_lacks_what_is_wanted(monkeypatch, device, options, message):
    monkeypatch.setattr(machine, 'get_device', lambda: device)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    for name in machine.RENDEZVOUS:
        monkeypatch.setenv(name, '2')
    cfg = Config(dict(launcher='none', optim_wrapper=dict(type='OptimWrapper')))
    machine.check_machine(cfg, train=True)
    cfg.merge_from_dict(options)
    with pytest.raises(ValueError, match=message):
        machine.check_machine(cfg, train=True)


def test_amp_on_a_gpu(monkeypatch):
    monkeypatch.setattr(machine, 'get_device', lambda: 'cuda')
    machine.check_machine(Config(dict(launcher='none', optim_wrapper=dict(type='AmpOptimWrapper'))), train=True)


def test_absent_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    machine.check_device('cpu')
    with pytest.raises(ValueError, match="device: wanted 'cuda', got a machine without CUDA"):
        machine.check_device('cuda')
