"""One image is validated before the training, which goes on as if it had not been."""

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.runner import ValLoop
from torch import nn

from msvit_mm.engine import SanityCheckHook


class Host(nn.Module):
    """A model that draws numbers when it predicts."""

    def val_step(self, batch):
        assert not self.training and not torch.is_grad_enabled()
        return [torch.rand(3) for _ in batch]


@pytest.fixture
def runner():
    """A runner of four images, whose metrics remember what they saw."""
    seen = []
    loop = ValLoop.__new__(ValLoop)
    loop.fp16 = False
    loop.dataloader = SimpleNamespace(dataset=[5, 6, 7, 8], collate_fn=list)
    loop.evaluator = SimpleNamespace(
        process=lambda data_samples, data_batch: seen.append((len(data_samples), data_batch)),
        evaluate=lambda size: dict(mIoU=0.0, aAcc=0.0),
    )
    logger = MMLogger.get_current_instance()
    return SimpleNamespace(val_loop=loop, model=Host().train(), logger=logger, hooks=[], seen=seen)


def test_validates_the_first_image_and_changes_nothing(runner):
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    runner.logger.setLevel(logging.ERROR)
    SanityCheckHook().before_train(runner)
    assert runner.seen == [(1, [5])]
    assert torch.equal(torch.rand(2), wanted)
    assert runner.model.training
    assert runner.logger.level == logging.ERROR


def test_best_of_what_no_metric_gives(runner):
    runner.hooks = [CheckpointHook(save_best=['aAcc', 'mIoU'])]
    SanityCheckHook().before_train(runner)
    runner.hooks = [CheckpointHook(save_best='auto')]
    SanityCheckHook().before_train(runner)
    runner.hooks = [CheckpointHook(save_best='mAcc')]
    with pytest.raises(ValueError, match="save_best: wanted one of mIoU, aAcc, got 'mAcc'"):
        SanityCheckHook().before_train(runner)


def test_without_a_validation(runner):
    runner.val_loop = None
    SanityCheckHook().before_train(runner)
    assert runner.seen == []
