"""Static networks as files: ONNX for other runtimes, torch.export's own for torch alone."""

from .graphs import FORMATS, export_graph, load_graph
from .ladder import Engine, GateAlone, describe_engines, make_engines

__all__ = ['FORMATS', 'Engine', 'GateAlone', 'describe_engines', 'export_graph', 'load_graph', 'make_engines']
