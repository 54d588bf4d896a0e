"""Laws 2, 3 and 4: the densest decisions are the dense network, executions agree, an image is alone."""

import torch
from conformance.cases import (
    ODD_SIZE,
    SIZES,
    Case,
    close,
    is_equal,
    maps_of,
    need,
    of_image,
    random_images,
    run,
    tensors_of,
    varied_decisions,
)


def law_the_dense_decisions_are_the_dense_network(case: Case) -> None:
    """Under them every execution has the features of the dense twin with the same weights, at any image size."""
    backbone = case.build()
    need(backbone.out_type == 'featmap', 'maps')
    for size in SIZES:
        images = random_images(size, 2)
        decisions = backbone.dense_decisions(images)
        need(decisions is not None, 'dense network among the decisions')
        twin = backbone.dense_twin(size).eval()
        with torch.no_grad():
            wanted = twin(images)
        for execution in backbone.test_executions:
            close(run(backbone, images, decisions, execution)[0], tuple(wanted), f'{execution} at {size}')


def law_executions_for_testing_agree(case: Case) -> None:
    """All have the same features and choices."""
    backbone = case.build()
    for size in SIZES:
        images = random_images(size, 7)
        decisions = varied_decisions(backbone, images)
        first, *others = backbone.test_executions
        features, choices = run(backbone, images, decisions, first)
        for execution in others:
            again, same = run(backbone, images, decisions, execution)
            close(tensors_of(again), tensors_of(features), f'{execution} at {size}')
            assert is_equal(same.decisions, choices.decisions)
            close(tuple(same.costs), tuple(choices.costs), execution)


def law_training_computes_what_inference_computes(case: Case) -> None:
    """Features in training, with the gate's noisy decisions, are those at prediction under these decisions."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    first = run(backbone, images, training=True)[1].decisions
    for execution in backbone.train_executions:
        features, choices = run(backbone, images, None, execution, training=True)
        assert is_equal(choices.decisions, first), f'{execution}: one seed, other decisions'
        for testing in backbone.test_executions:
            again, same = run(backbone, images, choices.decisions, testing)
            close(tensors_of(again), [x.detach() for x in tensors_of(features)], f'{execution} and {testing}')
            assert is_equal(same.decisions, choices.decisions)


def law_training_under_given_decisions_too(case: Case) -> None:
    """Decisions that are given are executed in training as at prediction."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    decisions = varied_decisions(backbone, images)
    wanted, choices = run(backbone, images, decisions)
    for execution in backbone.train_executions:
        features, same = run(backbone, images, decisions, execution, training=True)
        close([x.detach() for x in tensors_of(features)], tensors_of(wanted), execution)
        assert is_equal(same.decisions, choices.decisions)


def law_an_image_is_alone_in_its_batch(case: Case) -> None:
    """Features, decisions and cost of an image depend on no other, whether the gate decides or they are given."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    for given in (None, varied_decisions(backbone, images)):
        for execution in backbone.test_executions:
            features, choices = run(backbone, images, given, execution)
            assert len(set(choices.costs.total.tolist())) > 1 or given is None
            for i in range(len(images)):
                alone, own = run(backbone, images[i : i + 1], None if given is None else of_image(given, i), execution)
                assert is_equal(own.decisions, of_image(choices.decisions, i))
                close(tuple(own.costs), tuple(choices.costs.of_image(i)))
                if backbone.out_type != 'tokens':
                    close(alone, tuple(x[i : i + 1] for x in features), execution)


def law_executed_decisions_can_be_given(case: Case) -> None:
    """What a pass says that it executed, given to another, is executed as it is, with the same features."""
    backbone, images = case.build(), random_images(ODD_SIZE, 7)
    features, choices = run(backbone, images, varied_decisions(backbone, images))
    again, same = run(backbone, images, choices.decisions)
    assert is_equal(same.decisions, choices.decisions)
    close(tensors_of(again), tensors_of(features), tolerance=0.0)


def law_the_gate_decides_by_the_image(case: Case) -> None:
    """The gate of an example decides either way, and images of a batch differ; at prediction there is no noise."""
    backbone, images = case.build(), random_images(batch=8)
    _, choices = run(backbone, images)
    ratios = choices.costs.total / choices.costs.reference
    assert len(set(ratios.tolist())) > 1
    assert 0 < torch.cat([x.flatten() for x in maps_of(choices.decisions)]).mean() < 1
    torch.rand(1)
    with torch.no_grad():
        assert is_equal(backbone.forward_gated(images)[1].gate_values, choices.gate_values)
