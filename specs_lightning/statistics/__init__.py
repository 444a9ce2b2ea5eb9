"""Intervals and tests of plain numbers, without torch."""
