"""Meet before the training what its first validation would meet after it."""

import logging

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, ValLoop, autocast

from .random_state import get_random_states, set_random_states


@HOOKS.register_module()
class SanityCheckHook(Hook):
    """Validate the first image before the first iteration, and throw the numbers away.

    Otherwise a metric without such a word, a ``save_best`` that no metric gives, or an image that the model cannot take
    ends a training only when ``val_interval`` iterations have passed. Random states and logs stay as they were.

    Raises:
        ValueError: If ``save_best`` names what no metric of ``val_evaluator`` gives.
    """

    priority = 'LOW'

    def before_train(self, runner: Runner) -> None:
        loop = runner.val_loop
        if not isinstance(loop, ValLoop):
            return  # none, or one that knows best what it does
        states, level = get_random_states(), runner.logger.level
        runner.logger.setLevel(logging.WARNING)
        runner.model.eval()
        try:
            loader = loop.dataloader
            batch = loader.collate_fn([loader.dataset[0]])
            with torch.no_grad(), autocast(enabled=loop.fp16):
                samples = runner.model.val_step(batch)
            loop.evaluator.process(data_samples=samples, data_batch=batch)
            metrics = loop.evaluator.evaluate(1)
        finally:
            set_random_states(states)
            runner.logger.setLevel(level)
            runner.model.train()
        for hook in runner.hooks:
            names = (hook.save_best or []) if isinstance(hook, CheckpointHook) else []
            if unknown := [name for name in names if name != 'auto' and name not in metrics]:
                raise ValueError(f"save_best: wanted one of {', '.join(metrics)}, got '{unknown[0]}'.")
