"""Fair timing: all functions take turns, so that whatever else the machine does meets them alike."""

import json
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

Measure = Callable[[Callable[[], object]], float]
Key = TypeVar('Key', bound=Hashable)


def process_ms(function: Callable[[], object]) -> float:
    """Processor time of a call in milliseconds, summed over the threads of this process; other processes count not."""
    start = time.process_time()
    function()
    return 1000 * (time.process_time() - start)


def cuda_ms(function: Callable[[], object]) -> float:
    """Time of a call between two events on the current CUDA stream, in milliseconds."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def share_outside(function: Callable[[], object], first: nn.Module, last: nn.Module) -> float:
    """Share of a call's time before module ``first`` is called and after ``last`` has returned.

    Of one and the same call, so that it sees what is small against the noise between calls. Processor time, or CUDA
    events if ``first`` is on a GPU.
    """
    marks: list[Any] = []
    on_gpu = next(first.parameters()).is_cuda

    def mark(*args) -> None:
        if on_gpu:
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.process_time())

    with ExitStack() as hooks:
        hooks.callback(first.register_forward_pre_hook(mark).remove)
        hooks.callback(last.register_forward_hook(mark).remove)
        mark()
        function()
        mark()
    if on_gpu:
        torch.cuda.synchronize()
    inside, whole = (marks[i].elapsed_time(marks[j]) if on_gpu else marks[j] - marks[i] for i, j in ((1, 2), (0, 3)))
    return 1 - inside / whole


def cuda_peak_mib(function: Callable[[], object]) -> float:
    """Peak of the CUDA memory that a call needs beyond what was allocated before it (the weights), in MiB."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def cpu_peak_mib(function: Callable[[], object]) -> float:
    """Peak of the tensor memory on the CPU that a call needs beyond what was allocated before it, in MiB.

    From torch's profiler: scratch space that a kernel's library allocates by itself is not in it.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'trace.json')
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())['traceEvents']
    events = sorted((event for event in events if event['name'] == '[memory]'), key=lambda event: event['ts'])
    return max(np.cumsum([0] + [event['args']['Bytes'] for event in events])) / 2**20


def interleave(
    functions: Mapping[Key, Callable[[], object]],
    measure: Measure,
    repeats: int,
    warmup: int = 2,
    progress: Callable[[range], Iterable[int]] = iter,
) -> dict[Key, np.ndarray]:
    """Measure functions in turns: every round calls each once, and each round starts with the next one.

    Args:
        functions: What to call, by name.
        measure: Calls a function and returns what it cost.
        repeats: Rounds that count, at least 1.
        warmup: Rounds before them that do not.
        progress: Wraps the range of rounds, to show how far it is.

    Returns:
        Costs of each function by round, shape (repeats,).

    Raises:
        ValueError: If there is no round to measure.

    Example:
        >>> interleave({'a': lambda: 0, 'b': lambda: 0}, measure=lambda function: 1.0, repeats=3)['b']
        array([1., 1., 1.])
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f'wanted repeats >= 1 and warmup >= 0, got {repeats} and {warmup}')
    names = list(functions)
    costs: dict[Key, list[float]] = {name: [] for name in names}
    for i in progress(range(warmup + repeats)):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            cost = measure(functions[name])
            if i >= warmup:
                costs[name].append(cost)
    return {name: np.array(values) for name, values in costs.items()}


def quartiles(values: np.ndarray, name: str) -> dict[str, float]:
    """Median and quartiles of values, shape (n,), under ``name``, ``name_q1`` and ``name_q3``.

    Example:
        >>> quartiles(np.array([5.0, 1.0, 2.0, 3.0, 4.0]), 'time_ms')
        {'time_ms': 3.0, 'time_ms_q1': 2.0, 'time_ms_q3': 4.0}
    """
    q1, median, q3 = np.percentile(values, (25, 50, 75)).tolist()
    return {name: median, f'{name}_q1': q1, f'{name}_q3': q3}


def clock_of(device: str, threads: int) -> tuple[Measure, str]:
    """How to measure time on a device, and what to call that in a record."""
    return (cuda_ms, 'CUDA events') if device == 'cuda' else (process_ms, f'process time, {threads} thread(s)')


def compare(costs: np.ndarray, reference: np.ndarray, macs_ratio: float) -> dict[str, float]:
    """What a function costs against a reference of the same rounds.

    Args:
        costs: Milliseconds by round, shape (n,).
        reference: The same of the reference.
        macs_ratio: Multiply-adds of the function over those of the reference.

    Returns:
        Median and quartiles of ``time_ms``; of ``time_ratio``, function over reference round by round; and
        ``efficiency``, the part of the saved multiply-adds that became time:
        (time of the reference / time) / (multiply-adds of the reference / multiply-adds).

    Example:
        >>> compare(np.array([6.0, 4.0]), np.array([12.0, 8.0]), macs_ratio=0.4)['efficiency']
        0.8
    """
    ratio = quartiles(costs / reference, 'time_ratio')
    return quartiles(costs, 'time_ms') | ratio | dict(efficiency=macs_ratio / ratio['time_ratio'])


def compare_calls(
    calls: Mapping[Key, Callable[[], object]],
    gmacs: Mapping[Key, float],
    references: Mapping[Key, Key],
    measure: Measure,
    repeats: int,
    progress: Callable[[range], Iterable[int]] = iter,
) -> dict[Key, dict[str, float]]:
    """Time calls in turns, and compare each with the call that it refers to.

    Args:
        calls: What to call, by key.
        gmacs: Multiply-adds of each.
        references: The key of what each compares with.
        measure, repeats, progress: Of :func:`interleave`.

    Returns:
        What :func:`compare` says of each.
    """
    times = interleave(calls, measure, repeats, progress=progress)
    return {
        key: compare(times[key], times[reference], gmacs[key] / gmacs[reference])
        for key, reference in references.items()
    }
