"""Visualizers that show what a gate chose beside each prediction."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmengine.dist import master_only
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization.utils import img_from_canvas
from mmseg.visualization import SegLocalVisualizer

from .choices import draw_choices, has_choices


def gated_visualizer(host: type, name: str) -> Any:
    """A host's visualizer that also shows what a gate chose, as a class.

    Beside each prediction ``<name>`` of a gated model it adds ``<name>_gate``. The host's visualization hook calls it
    in validation and testing.

    Args:
        host: A class whose ``add_datasample`` is that of mmseg's or mmdet's visualizers; of the same arguments.
        name: Of the class.

    Returns:
        The class, not registered.
    """

    class GatedVisualizer(host):
        @master_only
        def add_datasample(
            self,
            name: str,
            image: np.ndarray,
            data_sample: BaseDataElement | None = None,
            draw_gt: bool = True,
            draw_pred: bool = True,
            show: bool = False,
            wait_time: float = 0,
            *,
            out_file: str | None = None,
            step: int = 0,
            **kwargs: Any,
        ) -> None:
            """Draw as the host does, then the gate's choices, unless all goes to the one ``out_file``."""
            super().add_datasample(
                name, image, data_sample, draw_gt, draw_pred, show, wait_time, out_file=out_file, step=step, **kwargs
            )
            gated = data_sample is not None and has_choices(data_sample)
            if not (gated and draw_pred) or out_file is not None:
                return
            choices = img_from_canvas(FigureCanvasAgg(draw_choices(image, data_sample, name)))
            if show:
                self.show(choices, win_name=f'{name}_gate', wait_time=wait_time)
            self.add_image(f'{name}_gate', choices, step)

    GatedVisualizer.__name__ = GatedVisualizer.__qualname__ = name
    GatedVisualizer.__doc__ = f'{host.__name__} that shows what a gate chose, see :func:`gated_visualizer`.'
    return GatedVisualizer


GatedSegLocalVisualizer = VISUALIZERS.register_module(
    module=gated_visualizer(SegLocalVisualizer, 'GatedSegLocalVisualizer')
)
