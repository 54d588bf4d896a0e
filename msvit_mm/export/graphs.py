"""One network as the content of a file, and a file as a function again."""

import importlib
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

INSTALL = 'install with `pip install msvit_mm[export]`'


def export_graph(network: nn.Module, images: Tensor, form: str, names: Sequence[str]) -> bytes:
    """The content of a file that holds a network with static shapes.

    Args:
        network: From images to a tensor, or to a tuple of them.
        images: Of the shape that all images will have, (B, 3, H, W).
        form: One of ``FORMATS``.
        names: Of the outputs.

    Raises:
        ValueError: If the form is unknown, or torch.export cannot follow the network.
        ImportError: If a package is missing, with the command that installs it.
    """
    if form not in FORMATS:
        raise ValueError(f'format: wanted one of {", ".join(FORMATS)}, got {form!r}')
    write = FORMATS[form]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of hosts and exporters, about their own words
        try:
            program = torch.export.export(network, (images,), strict=False)
        except (RuntimeError, ValueError) as error:  # torch's own are of many kinds below these
            reason = str(error).strip().splitlines() or [type(error).__name__]
            name = type(network).__name__
            raise ValueError(
                f'export: wanted a network whose shapes no value changes, got {name}: {reason[0]}'
            ) from error
        return write(program, names)


def load_graph(path: str | Path, threads: int | None = None) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What a file of :func:`export_graph` computes, on the CPU: from images to its outputs.

    Args:
        path: Its suffix tells the form.
        threads: Of onnxruntime, per call; by default its own choice.
    """
    path = Path(path)
    if path.suffix == '.pt2':
        module = torch.export.load(path).module()
        return lambda images: _as_tuple(module(images))
    runtime = require('onnxruntime')
    options = runtime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = runtime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    (images_name,) = (x.name for x in session.get_inputs())
    return lambda images: tuple(map(torch.from_numpy, session.run(None, {images_name: images.numpy()})))


def run_graph(content: bytes, form: str, images: Tensor) -> tuple[Tensor, ...]:
    """The outputs of the content of a file for these images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f'network.{form}')
        path.write_bytes(content)
        return load_graph(path)(images)


@torch.no_grad()
def differences(network: nn.Module, content: bytes, form: str, images: Tensor) -> list[Tensor]:
    """How far the outputs of a file's content are from those of the network."""
    wanted = _as_tuple(network(images))
    return [x - y for x, y in zip(run_graph(content, form, images), wanted, strict=True)]


def require(name: str) -> ModuleType:
    """A package that only exporting needs.

    Raises:
        ImportError: If it is not there, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'export to ONNX needs {name}; {INSTALL}.') from error


def _to_onnx(program: torch.export.ExportedProgram, names: Sequence[str]) -> bytes:
    if torch.__version__ < '2.6':
        raise ImportError(f'export to ONNX needs torch >= 2.6, got {torch.__version__}; .pt2 does not.')
    for package in ('onnx', 'onnxscript'):
        require(package)
    exported = torch.onnx.export(
        program, input_names=['images'], output_names=list(names), dynamo=True, external_data=False, verbose=False
    )
    assert exported is not None
    return exported.model_proto.SerializeToString()


def _to_pt2(program: torch.export.ExportedProgram, names: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


FORMATS: dict[str, Callable[[torch.export.ExportedProgram, Sequence[str]], bytes]] = {
    'onnx': _to_onnx,
    'pt2': _to_pt2,
}
