"""Files of static networks compute what the eager network computes under the same budget, on images."""

from math import prod

import onnx
import pytest
import torch

from msvit_mm.export import export_graph, load_graph, make_engines
from msvit_mm.export.graphs import FORMATS, require

SIZE = (96, 128)  # 12 regions, 48 cells
PIXELS = dict(coarse_embedding='own', detail=dict(hidden_dims=8))
THREE = dict(patch_sizes=(8, 16, 32), **PIXELS)
BUDGETS = (12, 30, 48)
OLD = pytest.mark.skipif(torch.__version__ < '2.6', reason='export to ONNX needs torch >= 2.6')
FORMS = [pytest.param('onnx', marks=OLD), 'pt2']
DYNAMIC = {'NonZero', 'Loop', 'If', 'Scan', 'Compress', 'Unique'}


@pytest.fixture(scope='module')
def write(tmp_path_factory, make_segmentor, real_images):
    """Export a tiny segmentor once for each of these words; its path."""
    folder, written = tmp_path_factory.mktemp('graphs'), {}

    def export(kind, form, batch, budget):
        words = (kind, form, batch, budget)
        if words not in written:
            network = make_segmentor(kind).static(SIZE, budget)
            path = folder / f'{"-".join(map(str, words))}.{form}'
            path.write_bytes(export_graph(network, real_images('scenes')[:batch], form, ['scores']))
            written[words] = path
        return written[words]

    return export


def eager(model, images, budget):
    with torch.no_grad(), model.backbone.configured(token_budget=budget):
        return model.inference(images, [dict(img_shape=SIZE)] * len(images))


def graph_of(path):
    return onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).graph


def check_static(path):
    """Check that no operator and no shape of a file depends on values."""
    graph = graph_of(path)
    used = {node.op_type for node in graph.node}
    assert used and not used & DYNAMIC and not any('Sequence' in name for name in used)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        assert all(dim.HasField('dim_value') for dim in value.type.tensor_type.shape.dim), value.name


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize(
    ('kind', 'batch', 'budget', 'source'),
    [
        ('maps', 1, 12, 'scenes'),
        ('maps', 1, 30, 'scenes'),
        ('maps', 1, 48, 'scenes'),
        ('maps', 4, 30, 'scenes'),
        ('maps', 1, 30, 'camvid'),
        ('maps', 4, 30, 'camvid'),
        ('maps', 1, None, 'scenes'),
        ('tokens', 1, 30, 'scenes'),
        ('tokens', 4, 30, 'scenes'),
        ('detailed tokens', 1, 30, 'scenes'),
        ('detailed tokens', 4, None, 'scenes'),
    ],
)
def test_exported_is_eager(write, make_segmentor, real_images, form, kind, batch, budget, source):
    model, run = make_segmentor(kind), load_graph(write(kind, form, batch, budget), threads=1)
    images = real_images(source)
    assert len(images) == 20
    for some in images.split(batch):
        (scores,) = run(some)
        torch.testing.assert_close(scores, eager(model, some, budget), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('words', [dict(num_registers=2, rope=dict(temperature=100.0)), PIXELS, THREE], ids=str)
def test_equal_logits_go_in_raster_order(make_msvit, real_images, tmp_path, form, words):
    model = make_msvit(**words, gate=dict(type='FixedGate', scale='coarse'))
    images, path = real_images('scenes')[:1], tmp_path / f'tied.{form}'
    path.write_bytes(export_graph(model.static(SIZE, 24), images, form, ['features']))
    regions = torch.tensor([0.0] * 4 + [1.0] * 8).view(1, 3, 4)
    decisions = (regions, torch.ones(1, 6, 8)) if words is THREE else regions
    torch.testing.assert_close(load_graph(path)(images)[0], model(images, decisions)[0], atol=1e-4, rtol=1e-4)
    if form == 'onnx':
        check_static(path)


@OLD
@pytest.mark.parametrize(
    ('kind', 'budget'),
    [*(('maps', budget) for budget in [*BUDGETS, None]), ('tokens', 30), ('detailed tokens', 30)],
)
def test_nothing_in_the_graph_depends_on_values(write, kind, budget):
    check_static(write(kind, 'onnx', 1, budget))


def macs_of(graph):
    """Multiply-adds of the matrix products and convolutions of a graph."""
    values = [*graph.input, *graph.output, *graph.value_info]
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type == 'Conv':
            total += prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])  # kernel (C, C / groups, h, w)
        if node.op_type in ('MatMul', 'Gemm'):
            length = shapes[node.input[0]][0 if any(a.name == 'transA' and a.i for a in node.attribute) else -1]
            total += prod(shapes[node.output[0]]) * length
    return total


@pytest.mark.parametrize('budget', BUDGETS)
def test_multiply_adds_of_the_graph(make_msvit, real_images, tmp_path, budget):
    model, images = make_msvit(), real_images('scenes')[:1]
    (tmp_path / 'graph.onnx').write_bytes(export_graph(model.static(SIZE, budget), images, 'onnx', ['features']))
    with torch.no_grad(), model.configured(token_budget=budget):
        costs = model.forward_gated(images)[1].costs
    assert macs_of(graph_of(tmp_path / 'graph.onnx')) == costs.total.item()


@OLD
@pytest.mark.parametrize('budget', BUDGETS)
def test_multiply_adds_of_a_whole_segmentor(write, make_segmentor, real_images, budget):
    """Whose neck and head are convolutions."""
    model, images = make_segmentor('maps'), real_images('scenes')[:1]
    with torch.no_grad(), model.backbone.configured(token_budget=budget):
        _, _, costs, _, decoder = model.inference_gated(images, [dict(img_shape=SIZE)])
    assert decoder.item() > 0
    assert macs_of(graph_of(write('maps', 'onnx', 1, budget))) == costs.total.item() + decoder.item()


def test_the_gate_alone_counts_fine_regions(make_segmentor, real_images, tmp_path):
    model, images = make_segmentor(), real_images('scenes')[:4]
    *_, gate = make_engines(model, SIZE, [12, 30], with_gate=True)
    (tmp_path / 'gate.onnx').write_bytes(export_graph(gate.network, images, 'onnx', gate.outputs))
    gate_logits, num_fine = load_graph(tmp_path / 'gate.onnx')(images)
    with torch.no_grad():
        _, choices = model.backbone.forward_gated(images)
    torch.testing.assert_close(gate_logits, choices.gate_logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(num_fine, choices.decisions.eq(0).sum((1, 2)))
    check_static(tmp_path / 'gate.onnx')


@pytest.mark.parametrize('form', FORMS)
def test_a_ladder_of_three_scales(make_segmentor, real_images, tmp_path, form):
    """The gate counts the splits, and the file that it picks computes the eager network under its budget."""
    gate = dict(type='ScaleGate', initial_ratio=0.5, sample_size=8)
    model = make_segmentor(patch_sizes=(8, 16, 32), gate=gate)
    engines, runs = make_engines(model, SIZE, [39, 60], with_gate=True, backbone=True), []
    for engine in engines:
        path = tmp_path / f'{engine.name}.{form}'
        path.write_bytes(export_graph(engine.network, real_images('scenes')[:1], form, engine.outputs))
        runs.append(load_graph(path, threads=1))
    picked = []
    for image in real_images('scenes').split(1):
        *gate_logits, num_fine = runs[-1](image)
        picked.append(next(i for i, engine in enumerate(engines) if engine.num_fine >= num_fine))
        with torch.no_grad():
            _, choices = model.backbone.forward_gated(image)
            with model.backbone.configured(token_budget=engines[picked[-1]].num_tokens):
                wanted = model.backbone(image)
        assert choices.num_tokens == 12 + 3 * num_fine
        torch.testing.assert_close(tuple(gate_logits), choices.gate_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tuple(runs[picked[-1]](image)), wanted, atol=1e-4, rtol=1e-4)
    assert {*picked} == {0, 1}


def test_budgets_of_one_ladder_differ(make_segmentor):
    with pytest.raises(ValueError, match=r'another number of fine regions, got \[6, 6\] from \[30, 31\]'):
        make_engines(make_segmentor(), SIZE, [30, 31])


def test_a_gate_of_chance_is_refused(make_msvit, real_images):
    network = make_msvit(gate=dict(type='RandomGate')).static(SIZE, 24)
    with pytest.raises(ValueError, match='export: wanted a network whose shapes no value changes, got '):
        export_graph(network, real_images('scenes')[:1], 'onnx', ['features'])


def test_unknown_format(make_msvit, real_images):
    with pytest.raises(ValueError, match=r"format: wanted one of onnx, pt2, got 'trt'"):
        export_graph(make_msvit().static(SIZE, 24), real_images('scenes')[:1], 'trt', ['features'])


def test_a_missing_package_is_named(monkeypatch):
    def without(name, *args, **kwargs):
        raise ImportError(name)

    monkeypatch.setattr('importlib.import_module', without)
    with pytest.raises(ImportError, match=r'export to ONNX needs onnxruntime; install with `pip install msvit_mm\[exp'):
        require('onnxruntime')


def test_an_old_torch_is_named(monkeypatch):
    monkeypatch.setattr(torch, '__version__', torch.torch_version.TorchVersion('2.4.0'))
    with pytest.raises(ImportError, match=r'export to ONNX needs torch >= 2\.6, got 2\.4\.0; \.pt2 does not'):
        FORMATS['onnx'](None, [])
