"""What a gate chose over one image, from the prediction that carries it, and the visualizer that shows it."""

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.dist import master_only
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization.utils import img_from_canvas
from mmseg.visualization import SegLocalVisualizer

from .routes import draw_routes, route_maps
from .scale_map import draw_scale_map


def draw_choices(image: np.ndarray, sample: BaseDataElement, name: str) -> Figure:
    """Draw the scale map of a prediction, or its routes and depths, over the image.

    Args:
        image: RGB of any size, uint8, shape (H, W, 3); drawn in the size that the backbone saw.
        sample: A prediction of a gated model.
        name: For the title.
    """
    height, width = sample.img_shape[:2]
    seen = cv2.resize(image, (width, height))
    if 'scale_map' not in sample:
        title = f'{name}: {sample.backbone_gmacs / sample.reference_gmacs:.2f} of the cost of PVTv2'
        return draw_routes(seen, route_maps(sample), sample.node_depths, title)
    scale_map = sample.scale_map.data[0].cpu().numpy()
    drawn = draw_scale_map(seen, scale_map, sample.coarse_patch_size, sample.patch_size)
    fig = Figure(figsize=(8, 8 * drawn.shape[0] / drawn.shape[1] + 0.5), layout='constrained')
    ax = fig.subplots()
    ax.imshow(drawn)
    ax.set_axis_off()
    ax.set_title(f'{name}: coarse ratio {scale_map.mean():.2f}, {sample.num_tokens} tokens')
    return fig


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
        gated = data_sample is not None and ('scale_map' in data_sample or 'reference_gmacs' in data_sample)
        if not (gated and draw_pred) or out_file is not None:
            return
        choices = img_from_canvas(FigureCanvasAgg(draw_choices(image, data_sample, name)))
        if show:
            self.show(choices, win_name=f'{name}_gate', wait_time=wait_time)
        self.add_image(f'{name}_gate', choices, step)
