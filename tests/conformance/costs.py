"""Law 5: costs in closed form are what is counted, and add up."""

import torch
from conformance.cases import (
    METRICS,
    RATIO,
    SIZES,
    Case,
    close,
    maps_of,
    need,
    of_image,
    random_images,
    run,
    varied_decisions,
)

from msvit_mm.backbones.base import Costs
from msvit_mm.ops.macs import count_macs

RELATIVE = 1e-9


def law_costs_are_what_is_counted(case: Case) -> None:
    """Closed-form costs of a pass in the cheapest execution are the multiply-adds that it dispatches."""
    backbone = case.build()
    for size, batch in zip(SIZES, (1, 7, 2), strict=True):
        images = random_images(size, batch)
        decisions = run(backbone, images, varied_decisions(backbone, images))[1].decisions
        costs = backbone.executed_costs(images, decisions)
        with backbone.configured(execution=backbone.test_executions[-1]), torch.no_grad():
            counted = count_macs(backbone, images, decisions)
        close(costs.total.sum().item(), float(counted), f'{size}', RELATIVE)


def law_a_pass_costs_what_its_decisions_cost(case: Case) -> None:
    """Costs beside the features, in training too, are those of the decisions that were executed."""
    backbone, images = case.build(), random_images(SIZES[1])
    passes = [run(backbone, images, None, execution) for execution in backbone.test_executions]
    passes += [run(backbone, images, None, execution, training=True) for execution in backbone.train_executions]
    for _, choices in passes:
        costs = Costs(*(x.detach() if torch.is_tensor(x) else x for x in choices.costs))
        close(tuple(costs), tuple(backbone.executed_costs(images, choices.decisions)), tolerance=RELATIVE)
        whole = backbone.costs_of(choices.decisions, SIZES[1])
        close(choices.num_tokens.double(), backbone.count_tokens(whole).double())
        assert bool(backbone.between) == (costs.num_tokens[-1] < whole.num_tokens[-1]).any().item()


def law_parts_sum_to_the_whole(case: Case) -> None:
    """Gate, embedding and encoder are the whole, and another gate changes the gate's part alone."""
    backbone, images = case.build(), random_images(SIZES[1])
    decisions = run(backbone, images, varied_decisions(backbone, images))[1].decisions
    costs = backbone.executed_costs(images, decisions)
    close(costs.total, costs.gate + costs.embedding + costs.encoder)
    close(costs.cost_ratio, costs.total / costs.reference)
    for config in backbone.stand_ins(METRICS).values():
        with backbone.configured(gate=config):
            other = backbone.executed_costs(images, decisions)
        close((other.embedding, other.encoder), (costs.embedding, costs.encoder), f'{config}')
    alone = backbone.layers_alone(images, decisions)
    if alone is not None:
        with torch.no_grad():
            close(costs.encoder.sum().item(), float(count_macs(alone)), 'layers', RELATIVE)


def law_the_dense_network_costs_what_is_counted(case: Case) -> None:
    """The reference is the dense twin's count without padding, and what the dense decisions cost beside the gate."""
    backbone = case.build()
    for size in SIZES:
        images, dense = random_images(size, 1), backbone.dense_costs(size)
        with torch.no_grad():
            counted = count_macs(backbone.dense_twin(size).eval(), images)
        assert dense.total.tolist() == [dense.reference] and not dense.gate.any()
        close(float(dense.reference + backbone.padding_macs(size)), float(counted), f'{size}', RELATIVE)
        decisions = backbone.dense_decisions(images)
        if decisions is not None:
            costs = backbone.costs_of(decisions, size)
            close((costs.embedding, costs.encoder), (dense.embedding, dense.encoder))
            assert costs.reference == dense.reference
            close(backbone.count_tokens(costs).double(), backbone.count_tokens(dense).double())


def law_costs_add_up_over_images(case: Case) -> None:
    """Costs of a batch are those of its images, and two passes cost their sum."""
    backbone, images = case.build(), random_images(SIZES[1], 7)
    decisions = varied_decisions(backbone, images)
    costs = backbone.executed_costs(images, decisions)
    for i in range(7):
        close(tuple(backbone.executed_costs(images[i : i + 1], of_image(decisions, i))), tuple(costs.of_image(i)))
    twice = costs.plus(costs)
    close((twice.total, twice.cost_ratio), (2 * costs.total, costs.cost_ratio))
    close(twice.num_tokens, 2 * costs.num_tokens)


def law_random_decisions_have_their_ratio(case: Case) -> None:
    """On average the named ratio is the wanted one, with a generator the same ones come again, and none is invented."""
    backbone, images = case.build(), random_images(batch=32)
    first, second = (backbone.random_decisions(RATIO, images, torch.Generator().manual_seed(s)) for s in (0, 1))
    ratios = []
    for decisions in (first, second):
        with backbone.configured(gate=backbone.state_decisions(decisions)):
            ratios.append(run(backbone, images)[1].statistics()[backbone.ratio_name].item())
    assert abs(sum(ratios) / 2 - RATIO) < 0.03, ratios
    again = backbone.random_decisions(RATIO, images, torch.Generator().manual_seed(0))
    for x, y in zip(maps_of(first), maps_of(again), strict=True):
        assert torch.equal(x, y)
    assert any(not torch.equal(x, y) for x, y in zip(maps_of(first), maps_of(second), strict=True))
    for ratio in (-0.1, 99.0):
        try:
            backbone.random_decisions(ratio, images)
        except ValueError as error:
            assert 'got' in str(error) and str(ratio) in str(error)
        else:
            raise AssertionError(f'no error of ratio {ratio}')


def law_stand_ins_are_gates_that_learn_nothing_new(case: Case) -> None:
    """Every stand-in is a config that the backbone builds and runs under."""
    backbone, images = case.build(), random_images()
    stand_ins = backbone.stand_ins(METRICS)
    need(stand_ins, 'stand-ins')
    for config in stand_ins.values():
        with backbone.configured(gate=config):
            _, choices = run(backbone, images)
        assert (choices.costs.total > 0).all()
