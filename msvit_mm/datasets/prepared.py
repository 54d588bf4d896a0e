"""Images as they are predicted: prepared by a test pipeline, with their labels or without."""

from collections.abc import Sequence

from mmengine.dataset import Compose, pseudo_collate

from .configs import type_name
from .named import named_errors
from .transforms import LABEL_STEPS


class PreparedImages(Sequence):
    """Batches of one image each, as a test pipeline prepares them.

    Args:
        infos: What data sets know of the images: what the pipeline begins with.
        pipeline: Configs of its steps.
        with_labels: Whether to take its steps about labels, too.
    """

    def __init__(self, infos: Sequence[dict], pipeline: Sequence[dict], with_labels: bool = False) -> None:
        self.infos = infos
        self.pipeline = Compose([step for step in pipeline if with_labels or type_name(step) not in LABEL_STEPS])

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> dict:  # type: ignore[override]  # there are no slices
        """A batch of this one image, for the model's ``data_preprocessor``."""
        info = dict(self.infos[index])
        with named_errors(info):
            return pseudo_collate([self.pipeline(info)])


def space_evenly(length: int, count: int | None = None) -> list[int]:
    """Places of ``count`` samples, evenly spaced over a data set, or of all if there are not more.

    Raises:
        ValueError: If there is none.

    Example:
        >>> space_evenly(9, 3)
        [0, 3, 6]
    """
    wanted = length if count is None else min(count, length)
    if wanted < 1:
        raise ValueError(f'images: wanted at least one, got {wanted} of {length}.')
    return [i * length // wanted for i in range(wanted)]
