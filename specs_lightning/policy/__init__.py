"""The policy: a model, what differs between families, and the log-probabilities of completions."""
