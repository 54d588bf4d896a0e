"""Timing by a clock that the test moves: who ran when, and what is made of the numbers."""

import numpy as np
import pytest
import torch
from torch import nn

from msvit_mm.studies import timing
from msvit_mm.studies.timing import compare, cpu_peak_mib, interleave, process_ms, quartiles, share_outside


def test_functions_take_turns_and_each_round_starts_with_the_next():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in 'abc'}
    interleave(functions, lambda function: function() or 0.0, repeats=3, warmup=1)
    assert ''.join(calls) == 'abcbcacababc'


def test_warmup_does_not_count_and_costs_stay_with_their_function():
    costs = {'slow': iter([900.0, 10.0, 30.0]), 'fast': iter([800.0, 1.0, 3.0])}
    functions = {name: lambda values=values: next(values) for name, values in costs.items()}
    measured = interleave(functions, lambda function: function(), repeats=2, warmup=1)
    assert {name: values.tolist() for name, values in measured.items()} == {'slow': [10.0, 30.0], 'fast': [1.0, 3.0]}


def test_progress_sees_every_round():
    seen = []

    def progress(rounds):
        seen.extend(rounds)
        return rounds

    interleave({'a': lambda: None}, lambda function: 0.0, repeats=3, warmup=2, progress=progress)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(('repeats', 'warmup'), [(0, 2), (1, -1)])
def test_no_round_is_refused(repeats, warmup):
    with pytest.raises(ValueError, match=f'wanted repeats >= 1 and warmup >= 0, got {repeats} and {warmup}'):
        interleave({'a': lambda: None}, process_ms, repeats, warmup)


def test_process_time_is_in_milliseconds(monkeypatch):
    now = [3.0]
    monkeypatch.setattr(timing.time, 'process_time', lambda: now[0])

    def work():
        now[0] += 0.25

    assert process_ms(work) == 250.0


def test_share_outside_two_modules(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, 'process_time', lambda: now[0])

    class Work(nn.Linear):
        def forward(self, seconds):
            now[0] += seconds

    first, last = Work(1, 1), Work(1, 1)

    def work():
        now[0] += 1
        first(4)
        now[0] += 2
        last(9)
        now[0] += 4

    assert share_outside(work, first, last) == 5 / 20
    assert not (first._forward_pre_hooks or last._forward_hooks)


def test_cpu_peak_is_of_the_call_and_not_the_sum_of_all_it_allocates():
    mib = 2**18  # floats
    kept = torch.ones(5 * mib)

    def work():
        doubled = 2 * kept  # 5 MiB
        small = doubled[:mib].clone()  # 6 MiB
        del doubled  # 1 MiB
        return small.repeat(4)  # 5 MiB

    assert cpu_peak_mib(work) == pytest.approx(6, abs=0.01)
    assert cpu_peak_mib(lambda: None) == 0


def test_quartiles():
    values = np.array([4.0, 0.0, 1.0, 3.0, 2.0])
    assert quartiles(values, 'x') == {'x': 2.0, 'x_q1': 1.0, 'x_q3': 3.0}


def test_ratios_are_taken_round_by_round():
    # the machine slows down fourfold, both alike: the ratio does not see it
    row = compare(np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0]), macs_ratio=0.25)
    assert (row['time_ms'], row['time_ms_q1'], row['time_ms_q3']) == (2.0, 1.5, 3.0)
    assert row['time_ratio'] == row['time_ratio_q1'] == row['time_ratio_q3'] == 0.5
    assert row['efficiency'] == 0.5  # a quarter of the work in half of the time


def test_the_reference_compares_to_itself_as_one():
    row = compare(np.array([5.0, 7.0]), np.array([5.0, 7.0]), macs_ratio=1.0)
    assert row['time_ratio'] == row['efficiency'] == 1.0
