"""The toy: a data set of coloured shapes and a tiny Qwen2.5-VL that answers questions about them, badly."""

from specs_lightning.toy.resources import resolve

__all__ = ["resolve"]
