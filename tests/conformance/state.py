"""Law 9: weights travel, copies are the same."""

import copy
import pickle
import re

from conformance.cases import ODD_SIZE, Case, close, is_equal, random_images, run, tensors_of

from msvit_mm.backbones import GatedBackbone
from msvit_mm.checkpoints import check_coverage
from msvit_mm.checkpoints.starting import check_start, needed_keys


def law_a_state_dict_makes_another_the_same(case: Case) -> None:
    """After loading, another instance has the same features and choices, whatever it kept of its own weights."""
    backbone, other = case.build(), case.backbone(**case.words()).double().eval()
    run(other, random_images(ODD_SIZE))
    other.load_state_dict(backbone.state_dict())
    _check_same(other, backbone)


def law_dense_weights_lack_the_additions_alone(case: Case) -> None:
    """The dense twin's weights load with nothing unexpected, and nothing missing but what ``additions`` names."""
    backbone = case.build()
    fresh, dense = case.backbone(**case.words()).double(), backbone.dense_twin(_laid_out_size(case)).state_dict()
    check_start(fresh, dense, 'the dense network')
    check_coverage(needed_keys(fresh), dense)
    missing, unexpected = fresh.load_state_dict(dense, strict=False)
    assert not unexpected
    for key in fresh.state_dict():
        assert (key in missing) == bool(re.fullmatch(backbone.additions, key)), key
    with backbone.configured(gate=fresh.gate):
        images = random_images(ODD_SIZE)
        decisions = backbone.dense_decisions(images)
        if decisions is not None:
            close(run(fresh, images, decisions)[0], run(backbone, images, decisions)[0])


def law_copies_are_the_same(case: Case) -> None:
    """``deepcopy`` and pickling change nothing, also after a pass that may have kept something."""
    backbone = case.build()
    run(backbone, random_images(ODD_SIZE))
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        _check_same(other, backbone)
        assert all(x is not y for x, y in zip(other.parameters(), backbone.parameters(), strict=True))


def law_modes_return_the_module(case: Case) -> None:
    """``train`` and ``eval`` set the mode and return the module, as torch does."""
    backbone = case.build()
    assert backbone.train() is backbone and backbone.training
    assert backbone.eval() is backbone and not backbone.training


def _laid_out_size(case: Case) -> tuple[int, int]:
    size = case.words().get('img_size', 224)
    return (size, size) if isinstance(size, int) else size


def _check_same(other: GatedBackbone, backbone: GatedBackbone) -> None:
    images = random_images(ODD_SIZE)
    (features, choices), (again, same) = (run(x, images) for x in (backbone, other))
    close(tensors_of(again), tensors_of(features), tolerance=0.0)
    assert is_equal(same.decisions, choices.decisions)
