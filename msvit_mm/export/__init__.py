"""Static networks as files: ONNX for other runtimes, torch.export's own for torch alone."""

from .graphs import FORMATS, differences, export_graph, load_graph, run_graph
from .ladder import Engine, GateAlone, describe_engine, list_engines, make_engines, output_names

__all__ = [
    'FORMATS',
    'Engine',
    'GateAlone',
    'describe_engine',
    'differences',
    'export_graph',
    'list_engines',
    'load_graph',
    'make_engines',
    'output_names',
    'run_graph',
]
