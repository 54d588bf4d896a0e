"""Every law, on every example of every registered gated backbone and on every gate of its family.

A newcomer is found by the registry. Each law says in its docstring what holds.
"""

import types
from collections.abc import Callable

import pytest
from conformance import contract, costs, coverage, executions, gates, gradients, state
from conformance.cases import all_cases, all_gate_cases


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
