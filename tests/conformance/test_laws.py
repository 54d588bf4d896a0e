"""Every law, on every example of every registered gated backbone and on every gate of its family.

A newcomer is found by the registry. Each law says in its docstring what holds.
"""

import types
from collections.abc import Callable

import pytest
from conformance import contract, costs, coverage, executions, gates, gradients, state
from conformance.cases import Case, all_cases, all_gate_cases, random_images, run

from msvit_mm.backbones import DynamicTokenRoutingTransformer


def laws_of(*modules: types.ModuleType) -> list[Callable]:
    return [law for module in modules for name, law in vars(module).items() if name.startswith('law_')]


LAWS = laws_of(coverage, executions, costs, gradients, state, contract)
GATE_LAWS = laws_of(gates)


def name_of(value: object) -> str:
    return value.__name__.removeprefix('law_')


def test_laws_have_cases_and_say_what_they_are():
    assert len(LAWS) > 30 and len(GATE_LAWS) > 5
    assert len({case.backbone for case in all_cases()}) >= 2 and len(all_gate_cases()) > 10
    assert all(law.__doc__ for law in LAWS + GATE_LAWS)


@pytest.mark.parametrize('case', all_cases(), ids=str)
@pytest.mark.parametrize('law', LAWS, ids=name_of)
def test_backbone(law, case):
    law(case)


@pytest.mark.parametrize('case', all_gate_cases(), ids=str)
@pytest.mark.parametrize('law', GATE_LAWS, ids=name_of)
def test_gate(law, case):
    law(case)


class PatchedCase(Case):
    """The first example of routes, whose tokens open and close in squares."""

    def words(self, **words):
        return super().words(**words) | dict(route_patch=4)


@pytest.mark.parametrize(
    'law', [x for x in LAWS if x is not coverage.law_zeros_beyond_the_image_change_nothing], ids=name_of
)
def test_routes_in_patches(law, monkeypatch):
    """The same laws at sizes that the squares divide."""
    for module in (coverage, executions, costs, gradients, state, contract):
        for name, value in dict(ODD_SIZE=(96, 64), SIZES=((64, 96), (96, 64), (64, 64))).items():
            monkeypatch.setattr(module, name, value, raising=False)
    law(PatchedCase(DynamicTokenRoutingTransformer, 'plain'))


@pytest.mark.parametrize('inner', [dict(type='RouteGate', initial_ratio=0.5), dict(type='FixedRoutes')], ids=str)
def test_a_gate_around_another(inner):
    """Shuffled routes need one: it decides how many tokens open, by image and edge, and its cost is theirs."""
    backbone, images = Case(DynamicTokenRoutingTransformer, 'plain').build(gate=inner), random_images()
    own, shuffled = backbone.gate, dict(type='ShuffledRoutes', gate=backbone.gate)
    wanted = backbone.costs_of(run(backbone, images)[1].decisions, images.shape[-2:])
    with backbone.configured(gate=shuffled):
        assert backbone.gate.learnable == own.learnable
        for execution in backbone.test_executions:
            _, choices = run(backbone, images, None, execution)
            assert choices.costs.gate.tolist() == wanted.gate.tolist()
            first = next(iter(choices.decisions))  # before which nothing was shuffled
            assert choices.num_tokens.min() > 0 and choices.decisions[first].shape[0] == 3
            assert choices.costs.num_tokens[0].tolist() == wanted.num_tokens[0].tolist()
    assert backbone.gate is own
