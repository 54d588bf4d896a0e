import numpy as np
import pytest

from msvit_mm.visualization import depth_map, draw_route_summary, draw_routes

SIZE = (40, 56)
DEPTHS = {'0_0': 2, '0_1': 1, '1_1': 3}


@pytest.fixture
def maps():
    """Two rows of two stages; the finer one has ended after its first."""
    fine, coarse = np.zeros((2, 10, 14)), np.full((2, 5, 7), np.nan)
    fine[0, :, :4] = 1
    coarse[1] = np.eye(5, 7)
    return dict(routes_s4=fine, routes_s8=coarse, merges_s8=np.stack([coarse[0], coarse[0], coarse[1]]))


def test_depth_of_every_pixel(maps):
    depths = depth_map(maps, DEPTHS, (37, 53))
    assert depths.shape == (37, 53)
    for y, x in np.ndindex(37, 53):
        assert depths[y, x] == 2 * (x < 16) + 3 * (y // 8 == x // 8)


def test_panels_show_open_tokens_alone(maps):
    image = np.random.default_rng(0).integers(0, 150, (*SIZE, 3), dtype=np.uint8)
    fig = draw_routes(image, maps, DEPTHS, 'an image')
    panels = fig.axes[:8]
    first, ended = (panels[j].images[0].get_array() for j in (0, 1))
    side = first.shape[0] // 10
    centres = first[side // 2 :: side, side // 2 :: side]
    assert (centres[:, :4] < 200).all() and (centres[:, 4:] == 255).all()
    assert (ended[side // 2 :: side, side // 2 :: side] == 200).all()
    assert [ax.texts[0].get_text() for ax in panels if ax.texts] == ['29%', '0%', '14%']
    assert not panels[2].images and panels[2].patch.get_hatch()


def test_maps_of_another_image(maps):
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r'64x64 pixels has routes of shape \(16, 16\) at stride 4, got \(10, 14\)'):
        draw_routes(image, maps, DEPTHS)


def test_summary_is_of_all_images(maps):
    closed = {name: x * 0 for name, x in maps.items()}
    grid, histogram = draw_route_summary([maps, closed], [0.9, 0.5]).axes
    assert {'14%', '7%', '0%'} <= {text.get_text() for text in grid.texts}
    assert 'nan%' not in {text.get_text() for text in grid.texts}
    assert sum(patch.get_height() for patch in histogram.patches) == 2
    assert histogram.get_title() == 'mean 0.700, deviation 0.200'
