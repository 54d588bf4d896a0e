"""Open a page on trained networks: an image, a budget slider, what comes out, and its cost beside the dense network.

msvit demo CHECKPOINT --port 7860

Needs gradio: pip install 'msvit_mm[demo]'. Several checkpoints may be given, the page then offers each by its name.
"""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...checkpoints import use_safe_loader
from ...models import GatedEncoderDecoder
from ...studies.prediction import Panels, budget_range, predict_panels
from ..errors import one_line_errors
from ..models import load_trained_segmentor
from ..outputs import unique_names

TITLE = '# Mixed-scale vision transformer\nFewer tokens where little is to be seen. Move the budget and look.'
CHOICES = 'scale map: blue is coarse, orange fine'
HEIGHT = 300  # of the pictures, in pixels
TIMED = 'Times are medians of this machine, both networks in turns. One MAC is one multiply and one add.'


def describe(panels: Panels) -> str:
    """What an image cost, in Markdown.

    Args:
        panels: Of one image.
    """
    return (
        '| network | tokens | GMACs | milliseconds |\n|---|---|---|---|\n'
        f'| this one, {panels.words} | {panels.num_tokens:.0f} | {panels.gmacs:.4g} | {panels.time_ms:.1f} |\n'
        f'| dense, same weights | all | {panels.dense_gmacs:.4g} | {panels.dense_time_ms:.1f} |\n\n{TIMED}'
    )


def build_app(models: Mapping[str, GatedEncoderDecoder]) -> Any:
    """The page as ``gradio.Blocks``, not yet launched.

    Args:
        models: Gated segmentors by name, as :func:`msvit_mm.cli.models.load_trained_segmentor` returns them.

    Raises:
        ValueError: If gradio is absent, or there is no model.
    """
    try:
        import gradio as gr  # noqa: PLC0415  # optional dependency
    except ImportError:
        raise ValueError("demo: wanted gradio, got none; pip install 'msvit_mm[demo]'.") from None
    if not models:
        raise ValueError('demo: wanted at least one model, got none.')
    names = list(models)

    def fit(name: str, image: np.ndarray | None) -> Any:
        """The slider in the range of the image, in its middle."""
        if image is None:
            return gr.Slider()
        low, high = budget_range(models[name], image)
        return gr.Slider(minimum=low, maximum=high, value=(low + high) // 2, step=1)

    def show(name: str, image: np.ndarray | None, own: bool, budget: float) -> tuple:
        if image is None:
            raise gr.Error('Choose an image first.')
        try:
            panels = predict_panels(models[name], image, None if own else budget)
        except ValueError as error:
            raise gr.Error(str(error)) from None
        return panels.segmentation, panels.choices, describe(panels)

    with gr.Blocks(title='msvit_mm', analytics_enabled=False) as app:
        gr.Markdown(TITLE)
        with gr.Row():
            image = gr.Image(label='image', type='numpy', image_mode='RGB', height=HEIGHT)
            segmentation = gr.Image(label='segmentation', interactive=False, height=HEIGHT)
            choices = gr.Image(label=CHOICES, interactive=False, height=HEIGHT)
        with gr.Row():
            name = gr.Dropdown(names, value=names[0], label='network', visible=len(names) > 1)
            own = gr.Checkbox(False, label='let the gate decide')
            budget = gr.Slider(1, 1000, value=100, step=1, label='budget: tokens')
            run = gr.Button('Segment', variant='primary')
        costs = gr.Markdown()
        inputs, outputs = [name, image, own, budget], [segmentation, choices, costs]
        for changed in (image.change, name.change):
            changed(fit, [name, image], budget)
        run.click(show, inputs, outputs)
        budget.release(show, inputs, outputs)
    return app


def main(args: Namespace) -> None:
    use_safe_loader()
    with one_line_errors():
        names = unique_names([Path(path) for path in args.checkpoints])
        models = {
            name: load_trained_segmentor(path, device=args.device)
            for name, path in zip(names, args.checkpoints, strict=True)
        }
        app = build_app(models)
    with one_line_errors(OSError):
        app.launch(server_name=args.host, server_port=args.port)
