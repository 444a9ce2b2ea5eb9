"""From a question to chat messages, and from these to what a model takes."""
