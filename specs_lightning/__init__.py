"""SPECS on Lightning: preference-based cold start and GRPO for vision-language models."""

__version__ = "0.1.0"
