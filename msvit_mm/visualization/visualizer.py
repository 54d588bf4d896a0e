"""The visualizer that shows what a gate chose beside each segmentation."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmengine.dist import master_only
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization.utils import img_from_canvas
from mmseg.visualization import SegLocalVisualizer

from .choices import draw_choices, has_choices


@VISUALIZERS.register_module()
class GatedSegLocalVisualizer(SegLocalVisualizer):
    """mmseg's visualizer; beside each segmentation ``<name>`` of a gated model it adds ``<name>_gate``, the choices.

    mmseg's SegVisualizationHook calls it in validation and testing. Arguments: those of ``SegLocalVisualizer``.
    """

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
        out_file: str | None = None,
        step: int = 0,
        **kwargs,
    ) -> None:
        """Draw as mmseg does, then the gate's choices, unless all goes to the one ``out_file``."""
        super().add_datasample(name, image, data_sample, draw_gt, draw_pred, show, wait_time, out_file, step, **kwargs)
        gated = data_sample is not None and has_choices(data_sample)
        if not (gated and draw_pred) or out_file is not None:
            return
        choices = img_from_canvas(FigureCanvasAgg(draw_choices(image, data_sample, name)))
        if show:
            self.show(choices, win_name=f'{name}_gate', wait_time=wait_time)
        self.add_image(f'{name}_gate', choices, step)
