"""Checkpoints of a run of which the newest complete one survives whatever happens, and no file of others is touched."""

import os
import re
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint

from .storage import AtomicLocalBackend, use_atomic_files


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, which removes an older checkpoint only once the newer one is complete.

    It removes files that this run wrote, by their names in its own folder: never a folder, and never what a checkpoint
    names elsewhere. A run that goes on from a checkpoint of another folder removes nothing it did not write itself.
    A run resumed where it broke off between a checkpoint and its validation validates first.

    Arguments are those of mmengine's ``CheckpointHook``.

    Attributes:
        finished: Path of the last checkpoint that is complete, saved or resumed from.
    """

    finished: str | None = None

    @classmethod
    def of(cls, hook: CheckpointHook) -> 'SafeCheckpointHook':
        """The safe hook with the settings of another one."""
        safe = cls.__new__(cls)
        vars(safe).update(vars(hook))
        return safe

    def before_train(self, runner: Runner) -> None:
        use_atomic_files()
        limit, self.max_keep_ckpts = self.max_keep_ckpts, -1  # mmengine would remove files on its own
        super().before_train(runner)
        self.max_keep_ckpts = limit
        if isinstance(self.file_backend, AtomicLocalBackend):
            os.makedirs(self.out_dir, exist_ok=True)
        self.keep_ckpt_ids = self._inherit(runner)
        self._validate_if_broken_off(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any]) -> None:
        runner.message_hub.update_info('validated_iter', runner.iter)
        super().after_val_epoch(runner, metrics)

    def save_now(self, runner: Runner, step: int) -> str:
        """Save a checkpoint of ``step`` finished iterations, outside the schedule, and return its path."""
        meta = dict(epoch=runner.epoch, iter=step)
        if not self.by_epoch:
            if not (self.last_ckpt and self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
                self._save_checkpoint_with_step(runner, step, meta)
        elif runner.message_hub.runtime_info.get('last_step') != step:
            self._write(runner, f'iter_{step}.pth', meta)
        return self.last_ckpt or runner.message_hub.get_info('last_ckpt')

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        ids = [*(kept for kept in self.keep_ckpt_ids if kept != step), step]
        count = self.max_keep_ckpts if self.max_keep_ckpts > 0 else len(ids)
        stale, self.keep_ckpt_ids = ids[:-count], ids[-count:]
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._write(runner, self.filename_tmpl.format(step), meta)
        for old in stale:
            self._remove(self.filename_tmpl.format(old))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        kept = self._best_paths()
        for key in kept:  # without a path, mmengine removes nothing
            self._set_best_path(key, None)
        super()._save_best_checkpoint(runner, metrics)
        for key, path in kept.items():
            new = self._best_paths().get(key)
            if new is None:
                self._set_best_path(key, path)
            elif path and Path(path).name != Path(new).name:
                self._remove(Path(path).name)
                runner.logger.info(f'The previous best checkpoint {path} is removed')

    def _write(self, runner: Runner, name: str, meta: dict[str, Any]) -> None:
        """Save the checkpoint, and only then point to it."""
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.message_hub.update_info('last_step', meta['iter'])
        runner.call_hook('before_checkpoint')  # on all ranks: the saving itself is that of the first alone
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self.finished = self.last_ckpt
        if is_main_process():
            AtomicLocalBackend().put_text(self.last_ckpt, Path(runner.work_dir) / 'last_checkpoint')

    def _inherit(self, runner: Runner) -> list[int]:
        """Steps whose checkpoints in this folder are the run's own; a best one elsewhere is forgotten."""
        info = runner.message_hub.runtime_info
        own = self._resumes_here(runner)
        for key, path in self._best_paths().items():
            name = Path(str(path)).name
            path = self.file_backend.join_path(self.out_dir, name)
            found = own and self._is_checkpoint(name) and self.file_backend.isfile(path)
            self._set_best_path(key, path if found else None)
            if not found and info.pop(f'best_ckpt{key}', None):
                info.pop(f'best_score{key}', None)
                runner.logger.info(f'No best checkpoint of this run in {self.out_dir}: the next validation sets one.')
        ids = info.get('keep_ckpt_ids') if own else []
        return [step for step in ids if type(step) is int and step >= 0] if isinstance(ids, list | tuple) else []

    def _resumes_here(self, runner: Runner) -> bool:
        """Whether the run continues from a checkpoint that lies in its own folder."""
        if not (runner.iter or runner.epoch):
            return False
        self.finished = getattr(runner, '_load_from', None) or find_latest_checkpoint(runner.work_dir)
        return bool(self.finished) and Path(self.finished).resolve().parent == Path(self.out_dir).resolve()

    def _validate_if_broken_off(self, runner: Runner) -> None:
        """Validate if the run ended after a checkpoint was due for validation, and before that was through."""
        loop = runner.train_loop
        by_iter = hasattr(loop, 'dataloader_iterator')
        step, last = (loop.iter, loop.max_iters) if by_iter else (loop.epoch, loop.max_epochs)
        done = runner.message_hub.runtime_info.get('validated_iter')
        due = step > 0 and step >= loop.val_begin and (step % loop.val_interval == 0 or step == last)
        mid_epoch = not by_iter and loop.iter != loop.epoch * len(loop.dataloader)
        if due and not mid_epoch and runner.val_loop is not None and done != loop.iter:
            runner.logger.info(f'Validating first: the run broke off before it was through at iteration {loop.iter}.')
            runner.val_loop.run()

    def _remove(self, name: str) -> None:
        if is_main_process() and self._is_checkpoint(name):
            path = self.file_backend.join_path(self.out_dir, name)
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _is_checkpoint(self, name: str) -> bool:
        """Whether a name is one that this hook gives: by its template, with the prefix of a best one or without."""
        begin, end = map(re.escape, self.filename_tmpl.split('{}'))
        return re.fullmatch(rf'(best_[^/]+_)?{begin}\d+{end}', name) is not None

    def _best_paths(self) -> dict[str, str | None]:
        """Of each best checkpoint, by the end of the keys under which mmengine keeps it."""
        if not self.save_best:
            return {}
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return {f'_{key}': self.best_ckpt_path_dict.get(key) for key in self.key_indicators}

    def _set_best_path(self, key: str, path: str | None) -> None:
        if key:
            self.best_ckpt_path_dict[key[1:]] = path
        else:
            self.best_ckpt_path = path
