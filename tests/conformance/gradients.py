"""Law 6: who gets a gradient, and that it is the right one."""

import math
from collections.abc import Mapping
from functools import partial
from unittest import mock

import torch
from conformance.cases import (
    ODD_SIZE,
    SIZE,
    Case,
    close,
    gate_loss,
    gradients,
    is_equal,
    maps_of,
    need,
    random_images,
    run,
    task_loss,
    tensors_of,
    varied_decisions,
)

from msvit_mm.backbones import GatedBackbone, executions


def law_every_trainable_parameter_learns(case: Case) -> None:
    """In every training execution task and gate loss give each parameter a finite gradient that is not zero."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    assert backbone.gate.learnable
    for execution in backbone.train_executions:
        features, choices = run(backbone, images, None, execution, training=True)
        for name, gradient in gradients(task_loss(features) + gate_loss(choices), backbone).items():
            assert gradient is not None and gradient.isfinite().all() and gradient.any(), f'{execution}: {name}'


def law_a_frozen_gate_rests(case: Case) -> None:
    """It gets no gradient and decides without noise; all else learns."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    backbone.gate.requires_grad_(False)
    assert not backbone.gate.learnable
    wanted, choices = run(backbone, images)
    for execution in backbone.train_executions:
        features, same = run(backbone, images, None, execution, training=True)
        assert is_equal(same.decisions, choices.decisions)
        close(same.gate_values, choices.gate_values, execution)
        close([x.detach() for x in tensors_of(features)], tensors_of(wanted), execution)
        for name, gradient in gradients(task_loss(features) + gate_loss(choices=same), backbone).items():
            assert (gradient is None) == name.startswith('gate.'), f'{execution}: {name}'


def law_given_decisions_keep_the_task_from_the_gate(case: Case) -> None:
    """Under them the task teaches the gate nothing; its own loss still can."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    decisions = varied_decisions(backbone, images)
    for execution in backbone.train_executions:
        features, choices = run(backbone, images, decisions, execution, training=True)
        assert all(x is None or not x.any() for x in gradients(task_loss(features), backbone.gate).values())
        assert gate_loss(choices).requires_grad or backbone.gate_statement != 'gate_values'


def law_the_gate_is_noisy_in_training_alone(case: Case) -> None:
    """Two steps draw other gate values, two predictions none."""
    backbone, images = case.build(), random_images()
    for training in (False, True):
        backbone.train(training)
        first, second = (backbone.forward_gated(images)[1].gate_values for _ in range(2))
        assert is_equal(first, second) != training


def law_zero_reaches_every_parameter_of_the_gate(case: Case) -> None:
    """``zero`` is 0 and gives each parameter of the gate the gradient 0: wrappers want one in every iteration."""
    backbone, images = case.build(), random_images()
    for decisions in (None, varied_decisions(backbone, images)):
        zero = run(backbone, images, decisions, training=True)[1].zero()
        assert zero == 0
        for name, gradient in gradients(zero, backbone.gate).items():
            assert gradient is not None and not gradient.any(), name


def law_a_stated_gate_is_at_work(case: Case) -> None:
    """With a stated outcome the own gate does its work, in every execution: cost and gradient remain its own."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    decisions = run(backbone, images, varied_decisions(backbone, images))[1].decisions
    wanted, choices = run(backbone, images, decisions)
    with backbone.configured(gate=backbone.state_decisions(decisions)):
        for training in (False, True):
            for execution in backbone.train_executions if training else backbone.test_executions:
                features, same = run(backbone, images, None, execution, training)
                assert is_equal(same.decisions, decisions)
                close([x.detach() for x in tensors_of(features)], tensors_of(wanted), execution)
                close(same.costs.total.detach(), choices.costs.total)
                if training:
                    found = gradients(same.zero(), backbone.gate)
                    assert found and all(x is not None for x in found.values())


def law_counterfactuals_of_all_regions_are_the_masked_reference(case: Case) -> None:
    """With a share of 1 the features and all gradients are those of the execution that computes everything."""
    backbone = _counterfactual(case)
    masked, full = (_step(backbone, execution) for execution in ('masked', 'counterfactual'))
    close(full, masked)
    assert all(masked[1][name].any() for name in masked[1])


def law_counterfactuals_of_some_regions_are_unbiased(case: Case) -> None:
    """Over draws that together draw every region once, the mean of the gradient is the gradient with all regions.

    Where a pass draws several times, each draw is proved with all regions in the others: a gradient is linear in every
    draw, and draws are independent.
    """
    backbone, num_draws = _counterfactual(case), 3
    _, full = _step(backbone, 'counterfactual')
    backbone.counterfactual_share = 1 / num_draws
    calls: list[tuple] = []

    def draw(like: torch.Tensor, share: float, varied: int = -1, first: int = 0) -> torch.Tensor:
        assert 0 < share < 1
        drawn = torch.ones_like(like).flatten(1)
        if len(calls) == varied:
            every = math.gcd(drawn.shape[1], num_draws)  # so that no draw has more regions than another
            drawn = drawn.zero_().index_fill(1, torch.arange(first % every, drawn.shape[1], every), 1.0)
        calls.append(tuple(like.shape))
        return drawn.view_as(like)

    def draw_at_all(share: float, varied: int = -1, first: int = 0) -> float:
        calls.append(())
        return num_draws * (first == 0) if len(calls) == varied + 1 else 1.0

    def patch(**words: int) -> mock.Mock:
        calls.clear()
        return mock.patch.multiple(
            executions, draw_regions=partial(draw, **words), draw_at_all=partial(draw_at_all, **words)
        )

    with patch():
        close(_step(backbone, 'counterfactual')[1], full)
    for varied in {0, len(calls) // 2, len(calls) - 1}:
        sums = {name: torch.zeros_like(x) for name, x in full.items()}
        for first in range(num_draws):
            with patch(varied=varied, first=first):
                for name, x in _step(backbone, 'counterfactual')[1].items():
                    sums[name] += x / num_draws
        close(sums, full)


def law_recomputing_changes_no_gradient(case: Case) -> None:
    """``with_cp`` spares memory and changes nothing."""
    backbone = case.build()
    need(hasattr(backbone, 'with_cp'), 'with_cp')
    for execution in backbone.train_executions:
        backbone.with_cp = False
        wanted = _step(backbone, execution)
        backbone.with_cp = True
        close(_step(backbone, execution), wanted, execution)


def law_reduced_precision_has_finite_gradients(case: Case) -> None:
    """Under bfloat16 autocast the gate states in float32, features stay near and gradients finite.

    Weights are near their start: far from it a network may be chaotic, for which no execution is to blame.
    """
    backbone, images = case.build(std=0.05).float(), random_images(ODD_SIZE).float()
    decisions = varied_decisions(backbone, images)
    for execution in backbone.test_executions:
        wanted, _ = run(backbone, images, decisions, execution)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            features, _ = run(backbone, images, decisions, execution)
        for x, y in zip(tensors_of(features), tensors_of(wanted), strict=True):
            assert (x.float() - y).norm() < 0.1 * y.norm(), execution
    for execution in backbone.train_executions:
        with torch.autocast('cpu', dtype=torch.bfloat16):
            features, choices = run(backbone, images, None, execution, training=True)
        assert all(x.dtype in (torch.float32, torch.float64) for x in tensors_of(choices.loss_input()))
        loss = task_loss([x.float() for x in tensors_of(features)]) + gate_loss(choices)
        assert all(x is not None and x.isfinite().all() for x in gradients(loss, backbone).values()), execution


def _counterfactual(case: Case) -> GatedBackbone:
    backbone = case.build()
    need({'masked', 'counterfactual'} <= set(backbone.train_executions), 'counterfactual execution')
    need(getattr(backbone, 'gate_gradient', 'output') == 'output', 'counterfactual gradient through the mask')
    backbone.counterfactual_share = 1.0
    return backbone


def _step(backbone: GatedBackbone, execution: str) -> tuple[list, dict]:
    """Features, and the gradients of the task and of the gate values."""
    features, choices = run(backbone, random_images(SIZE), None, execution, training=True)
    loss = task_loss(features) + gate_loss(choices)
    found = gradients(loss, backbone)
    if not isinstance(choices.gate_values, Mapping):
        maps = maps_of(choices.gate_values)
        gates = torch.autograd.grad(loss, maps, allow_unused=True)
        found |= {f'gate_values {i}': gradient for i, gradient in enumerate(gates)}
    return [x.detach() for x in tensors_of(features)], {name: x for name, x in found.items() if x is not None}
