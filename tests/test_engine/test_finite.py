import pytest
import torch

from msvit_mm.engine import NonFiniteError
from msvit_mm.ops.finite import first_nonfinite


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_bad_loss_stops_the_run(make_runner, call, tmp_path, value):
    def spoil(runner):
        runner.model.loss = runner.model.layer.weight.sum() * value

    with pytest.raises(NonFiniteError, match=r'iteration 8: wanted finite losses, got loss_toy = .*iter_6\.pth'):
        make_runner(hooks=[call(7, spoil)]).train()
    assert not (tmp_path / 'run' / 'iter_9.pth').exists()
    weights = torch.load(tmp_path / 'run' / 'iter_6.pth', weights_only=False)['state_dict']
    assert first_nonfinite(weights) is None


def test_bad_weights_are_not_saved(make_runner, call, tmp_path):
    def spoil(runner):
        runner.model.layer.weight.register_hook(lambda gradient: gradient * float('nan'))

    with pytest.raises(
        NonFiniteError, match=r'checkpoint of iteration 3: .* in state_dict.layer.weight; not saved, no'
    ):
        make_runner(hooks=[call(2, spoil)]).train()
    assert not list((tmp_path / 'run').glob('*.pth*'))


def test_a_score_that_is_no_number_is_never_best(make_runner, tmp_path):
    make_runner(scores=[float('nan'), 1.0, float('nan'), 0.5]).train()
    assert [path.name for path in (tmp_path / 'run').glob('best*')] == ['best_acc_iter_6.pth']


def test_first_nonfinite():
    fine = dict(
        a=torch.ones(2), b=[torch.tensor(1), 'nan', None, 3], c=torch.ones(2, device='meta'), d=torch.ones(1).bool()
    )
    assert first_nonfinite(fine) is None
    assert first_nonfinite(fine | dict(e=dict(f=torch.tensor([1, -torch.inf])))) == 'e.f'
    assert first_nonfinite(dict(z=torch.tensor([complex(1, torch.nan)]))) == 'z'
