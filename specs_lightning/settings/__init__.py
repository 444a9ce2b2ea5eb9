"""Settings files, functions as commands, and what a mistyped setting probably meant."""
