from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from msvit_mm.engine import GateSaturationHook
from msvit_mm.gates import EdgeGate, StaticGate


def warnings(ratios, gate=None, phase='learn'):
    gate = StaticGate() if gate is None else gate
    model = SimpleNamespace(gate_phase=phase, backbone=SimpleNamespace(gate=gate))
    runner = SimpleNamespace(model=model, logger=MagicMock(), iter=0)
    hook = GateSaturationHook(patience=5)
    for runner.iter, ratio in enumerate(ratios):
        hook.after_train_iter(runner, runner.iter, outputs=dict(coarse_ratio=torch.tensor(ratio)))
    return [call.args[0] for call in runner.logger.warning.call_args_list]


@pytest.mark.parametrize('ratio, side, cause', [(1.0, 'coarse', 'outweighs the task'), (0.0, 'fine', 'too weak')])
def test_a_gate_that_chooses_nothing_is_named_once_each_time(ratio, side, cause):
    (message,) = warnings([0.5] + [ratio] * 20)
    assert f'all {side} for 5 iterations, up to 6' in message and cause in message
    assert len(warnings([ratio] * 7 + [0.5] + [ratio] * 7)) == 2


def test_what_is_no_reason_to_warn():
    assert not warnings([1.0, 1.0, 1.0, 0.9] * 5)
    assert not warnings([0.0, 1.0] * 10)
    assert not warnings([1.0] * 20, phase='warmup')
    assert not warnings([1.0] * 20, gate=EdgeGate())
    assert not warnings([1.0] * 20, gate=StaticGate().requires_grad_(False))
