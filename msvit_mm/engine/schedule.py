"""When the gate learns, and how hard its loss pulls."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..ops.checks import check_in

KEY = 'gate_schedule'


@HOOKS.register_module()
class GateScheduleHook(Hook):
    """Warm the backbone up under random decisions, then let the gate learn while the weight of its loss ramps up.

    Phase and weight are functions of the iteration alone, so a resumed run goes on as if never stopped. The weight
    holds ``weights[0]`` until the share ``ramp[0]`` of gate learning, then rises linearly to ``weights[1]`` at
    ``ramp[1]`` and stays. A run resumed with another number of iterations keeps what it has reached: a gate that
    learnt never rests again, and the weight waits until the new schedule has caught up; the log says so.

    Args:
        warmup: Share of all iterations spent on random decisions, in [0, 1).
        weights: Weight of the gate loss before and after the ramp, >= 0.
        ramp: Begin and end of the ramp, shares of the iterations after the warm-up.

    Raises:
        ValueError: If a share is out of range or the ramp runs backwards.
    """

    priority = 'VERY_HIGH'

    def __init__(
        self,
        warmup: float = 0.4,
        weights: tuple[float, float] = (2.0, 8.0),
        ramp: tuple[float, float] = (0.4, 0.9),
    ) -> None:
        check_in('[0, 1)', warmup=warmup)
        if len(ramp) != 2 or not 0 <= ramp[0] < ramp[1] <= 1:
            raise ValueError(f'ramp must be (begin, end) with 0 <= begin < end <= 1, got {ramp}')
        if len(weights) != 2 or not min(weights) >= 0:
            raise ValueError(f'weights must be (first, last), neither negative, got {weights}')
        self.warmup = warmup
        self.weights = weights
        self.ramp = ramp
        self._reached: tuple[str, float] | None = None

    def phase_and_weight(self, iteration: int, max_iters: int) -> tuple[str, float]:
        """Phase (``'warmup'`` or ``'learn'``) and gate-loss weight of an iteration, counted from 0.

        Example:
            >>> hook = GateScheduleHook(warmup=0.5, weights=(0.2, 3.0), ramp=(0.4, 0.9))
            >>> hook.phase_and_weight(10, 100), hook.phase_and_weight(99, 100)
            (('warmup', 0.2), ('learn', 3.0))
        """
        progress = (iteration / max_iters - self.warmup) / (1 - self.warmup)
        rise = (progress - self.ramp[0]) / (self.ramp[1] - self.ramp[0])
        weight = self.weights[0] + (self.weights[1] - self.weights[0]) * min(max(rise, 0.0), 1.0)
        return 'warmup' if progress < 0 else 'learn', weight

    def first_learning_iteration(self, max_iters: int) -> int:
        """The iteration, counted from 0, from which on the gate learns.

        Example:
            >>> GateScheduleHook(warmup=0.4).first_learning_iteration(2500)
            1000
        """
        first = int(self.warmup * max_iters)
        while self.phase_and_weight(first, max_iters)[0] == 'warmup':  # a share of iterations is seldom a whole number
            first += 1
        return first

    def before_train(self, runner: Runner) -> None:
        """Keep phase and weight that a run of another length has reached, and say until when the gate rests."""
        former = runner.message_hub.runtime_info.get(KEY) if runner.iter else None
        max_iters = runner.max_iters
        if isinstance(former, dict):
            self._reached = former['reached'] and tuple(former['reached'])
            if former['max_iters'] != max_iters:
                self._reached = self._kept(runner.iter - 1, former['max_iters'])
                kept, planned = self._reached, self.phase_and_weight(runner.iter, max_iters)
                runner.logger.warning(
                    f'The gate was scheduled for {former["max_iters"]} iterations and now for {max_iters}: at '
                    f'iteration {runner.iter} it is in phase {kept[0]!r} with weight {kept[1]:g}, and keeps them until '
                    f'the new schedule, there at {planned[0]!r} with {planned[1]:g}, has caught up.'
                )
        reached = self._reached and list(self._reached)
        runner.message_hub.update_info(KEY, dict(max_iters=max_iters, reached=reached))
        self._say_that_the_gate_rests(runner)

    def _say_that_the_gate_rests(self, runner: Runner) -> None:
        """Once, lest the untrained choices in the log look broken."""
        gate = getattr(getattr(unwrap(runner.model), 'backbone', None), 'gate', None)
        resting = self._kept(runner.iter, runner.max_iters)[0] == 'warmup'
        if resting and gate is not None and gate.learnable:
            first = self.first_learning_iteration(runner.max_iters)
            runner.logger.info(
                f'GateScheduleHook: the gate rests until iteration {first} of {runner.max_iters}, random choices '
                'decide; until then what it would choose, as the log shows it, means nothing.'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        model = unwrap(runner.model)
        model.gate_phase, weight = self._kept(runner.iter, runner.max_iters)
        if model.gate_loss is not None:
            model.gate_loss.weight = weight

    def _kept(self, iteration: int, max_iters: int) -> tuple[str, float]:
        """Phase and weight of an iteration, not behind what an earlier part of the run has reached."""
        phase, weight = self.phase_and_weight(iteration, max_iters)
        if self._reached is None:
            return phase, weight
        further = max if self.weights[1] >= self.weights[0] else min
        return 'learn' if self._reached[0] == 'learn' else phase, further(weight, self._reached[1])


def unwrap(model: Any) -> Any:
    """The model below a wrapper for distributed training."""
    return model.module if is_model_wrapper(model) else model
