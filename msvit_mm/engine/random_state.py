"""Chance that goes on after a stop where it was: a resumed run equals the uninterrupted one bit for bit."""

import contextlib
import itertools
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Sampler

KEY = 'random_states'


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Keep the random states of every process in the checkpoint, and restore them on resuming.

    Augmentations draw from states of their own, set for each sample from the run's seed and the sample's place in the
    training, so that neither the number of workers nor what they fetched ahead matters. Validation leaves the states of
    training as they were.

    A resumed run then equals the uninterrupted one, on one machine with deterministic operations; it does not where
    gradients are accumulated over iterations and the stop falls between two steps of the optimizer.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._loaded = self._held = self._gathered = None

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        if place_samples(loop.dataloader, runner.seed, get_rank()) is None:
            runner.logger.warning('Random states of data loading are not resumed: the loader has no sampler to follow.')
        elif hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
        else:
            done = loop.iter - loop.epoch * len(loop.dataloader)
            loop.dataloader.batch_sampler.sampler.skip_next = max(done, 0) * (loop.dataloader.batch_size or 1)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self._loaded is not None:
            set_random_states(self._loaded)
            self._loaded = None

    def before_val(self, runner: Runner) -> None:
        self._held = get_random_states()

    def after_val(self, runner: Runner) -> None:
        set_random_states(self._held)
        self._held = None

    def before_checkpoint(self, runner: Runner) -> None:
        """Called in every process before the first one saves."""
        self._gathered = all_gather_object(self._current())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if 'optimizer' in checkpoint:
            checkpoint[KEY], self._gathered = self._gathered or [self._current()], None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if not getattr(runner, '_resume', False):
            return
        states = checkpoint.get(KEY)
        if states and len(states) == get_world_size():
            self._loaded = states[get_rank()]
        else:
            got = f'those of {len(states)} processes, not {get_world_size()}' if states else 'none'
            runner.logger.warning(
                f'The checkpoint keeps random states: wanted those of this run, got {got}; '
                'the run goes on, but not as the uninterrupted one would.'
            )

    def _current(self) -> dict[str, Any]:
        return self._held or self._loaded or get_random_states()


def get_random_states() -> dict[str, Any]:
    """The states of torch, numpy and python in this process, as tensors and numbers alone."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, python_gauss = random.getstate()
    return dict(
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        numpy=[torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        python=[version, torch.tensor(internal), python_gauss],
    )


def set_random_states(states: dict[str, Any]) -> None:
    """Set what :func:`get_random_states` returned.

    Example:
        >>> states = get_random_states()
        >>> first = random.random(), float(torch.rand(()))
        >>> set_random_states(states)
        >>> first == (random.random(), float(torch.rand(())))
        True
    """
    torch.set_rng_state(states['torch'].cpu())
    if states['cuda'] and torch.cuda.device_count() == len(states['cuda']):
        torch.cuda.set_rng_state_all([state.cpu() for state in states['cuda']])
    keys, *others = states['numpy']
    np.random.set_state(('MT19937', keys.cpu().numpy().astype(np.uint32), *others))
    version, internal, gauss = states['python']
    random.setstate((version, tuple(internal.tolist()), gauss))


def place_samples(loader: DataLoader, seed: int, rank: int) -> Sampler | None:
    """Let each sample of a loader be drawn from random states of its own.

    Returns:
        The sampler, which counts the samples from now on; none if the loader has none that can be followed.
    """
    owner = loader.batch_sampler
    if owner is None or not hasattr(owner, 'sampler'):
        return None
    if not isinstance(owner.sampler, PlacedSampler):
        placed = PlacedSampler(owner.sampler)
        # around DataLoader's guard against changes after the construction: no iterator has been made yet
        if loader.sampler is owner.sampler:
            object.__setattr__(loader, 'sampler', placed)
        owner.sampler = placed
        object.__setattr__(loader, 'dataset', SeededDataset(loader.dataset, seed, rank))
        loader.generator = torch.Generator().manual_seed(seed)
    return owner.sampler


class Place(int):
    """An index into a dataset that knows which sample of the training it is."""

    def __new__(cls, index: int, position: int) -> 'Place':
        place = super().__new__(cls, index)
        place.position = position
        return place

    def __reduce__(self) -> tuple:
        return Place, (int(self), self.position)


class PlacedSampler(Sampler):
    """A sampler that tells each index its place in the training.

    ``skip_next`` samples are left out of the next pass, one that goes on in the middle of an epoch.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.position = self.skip_next = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'sampler':
            raise AttributeError(name)
        value = getattr(self.sampler, name)
        return partial(self._skip, value) if name == 'skip' else value

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Place]:
        skipped, self.skip_next = self.skip_next, 0
        self.position += skipped
        for index in itertools.islice(self.sampler, skipped, None):
            yield Place(index, self.position)
            self.position += 1

    def set_epoch(self, epoch: int) -> None:
        self.position = epoch * len(self)
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def _skip(self, skip: Any, num_samples: int) -> None:
        skip(num_samples)
        self.position = num_samples


class SeededDataset:
    """A dataset whose samples at a `Place` are drawn from random states of their own; else it is what it wraps."""

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        vars(self).update(dataset=dataset, seed=seed, rank=rank)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name in ('dataset', 'seed', 'rank'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, Place):
            return self.dataset[index]
        with _own_states(self.seed, self.rank, index.position):
            return self.dataset[int(index)]


@contextlib.contextmanager
def _own_states(*entropy: int) -> Iterator[None]:
    """Draw from states made of numbers, on the CPU, and leave the others as they were."""
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second, third = (int(x) for x in np.random.SeedSequence(entropy).generate_state(3))
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)  # torch.manual_seed would seed the GPUs, too
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])
