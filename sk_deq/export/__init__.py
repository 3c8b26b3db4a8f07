"""Fitted estimators as files: to be computed elsewhere, and to be loaded without running code."""

from .files import load, save, trusted_types
from .onnx import to_onnx

__all__ = ["load", "save", "to_onnx", "trusted_types"]
