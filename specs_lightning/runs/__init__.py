"""A run: its stages, and runs beside each other."""
