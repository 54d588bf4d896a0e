"""The laws of gates: over a backbone, whatever they say, all of the above holds."""

import torch
from conformance.cases import (
    ODD_SIZE,
    GateCase,
    close,
    gate_loss,
    gradients,
    is_equal,
    maps_of,
    of_image,
    random_images,
    run,
    task_loss,
    varied_decisions,
)

from msvit_mm.ops.macs import count_macs


def law_built_by_name(case: GateCase) -> None:
    """A backbone builds it from a config, and changes neither the config nor the images that the gate sees."""
    backbone, images = case.case.build(), random_images(ODD_SIZE)
    config = dict(type=case.gate.__name__, **case.words)
    before, same = dict(config), images.clone()
    with backbone.configured(gate=config):
        assert type(backbone.gate) is case.gate
        backbone.gate.double()
        run(backbone, images)
    assert config == before and torch.equal(images, same)


def law_what_it_decides_is_executed(case: GateCase) -> None:
    """Its decisions, given to the backbone, have the features that it has with this gate."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    for training in (False, True):
        features, choices = run(backbone, images, training=training)
        again, same = run(backbone, images, choices.decisions)
        assert is_equal(same.decisions, choices.decisions)
        close([x.detach() for x in features], list(again))


def law_its_cost_is_counted(case: GateCase) -> None:
    """Multiply-adds with this gate are those of the closed form."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    decisions = run(backbone, images, varied_decisions(backbone, images))[1].decisions
    with backbone.configured(execution=backbone.test_executions[-1]), torch.no_grad():
        counted = count_macs(backbone, images, decisions)
    close(backbone.costs_of(decisions, ODD_SIZE).total.sum().item(), float(counted))


def law_it_learns_or_says_that_it_cannot(case: GateCase) -> None:
    """Each parameter of a learnable gate learns from what it states; one that is not has no path from there."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    for execution in backbone.train_executions:
        features, choices = run(backbone, images, None, execution, training=True)
        stated = gate_loss(choices)
        if backbone.gate.learnable:
            found = gradients(stated + task_loss(features), backbone.gate)
            assert all(x is not None and x.isfinite().all() and x.any() for x in found.values()), execution
        else:
            assert not stated.requires_grad
        if backbone.gate.learnable:
            backbone.gate.requires_grad_(False)
            assert not backbone.gate.learnable
            backbone.gate.requires_grad_(True)


def law_an_image_alone_gets_the_same(case: GateCase) -> None:
    """A gate that says the same twice says the same of an image alone."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    with torch.no_grad():
        first, second = (backbone.forward_gated(images)[1] for _ in range(2))
        if not is_equal(first.gate_values, second.gate_values):
            return
        for i in range(3):
            alone = backbone.forward_gated(images[i : i + 1])[1]
            assert is_equal(alone.decisions, of_image(first.decisions, i))


def law_shifted_logits_shift(case: GateCase) -> None:
    """A gate whose logits can shift decides all alike after a large shift; another says that it cannot."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    try:
        backbone.gate.shift_logits(1e4)
    except ValueError as error:
        assert type(backbone.gate).__name__ in str(error)
    else:
        _, choices = run(backbone, images)
        assert all(x.all() for x in maps_of(choices.decisions))
