"""What the commands of `specs` do that has no room of its own."""
