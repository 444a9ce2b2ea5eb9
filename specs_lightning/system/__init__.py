"""Files, locks, ranks, random state, memory and progress: what knows nothing of models."""
