"""Self-distillation: preference pairs whose answers are both right and whose output format alone differs."""
