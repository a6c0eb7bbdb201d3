"""Exports a model to graphs that ONNX Runtime runs without torch, see models/onnx.py and checkpoint/exported.py.

    Checkpoint -> graphs.py: Graph -> files.py: ONNX, perhaps int8 -> run.py: a folder with model.json and tokenizer.json
"""

from avsr.export.run import Exported, export

__all__ = ["Exported", "export"]
