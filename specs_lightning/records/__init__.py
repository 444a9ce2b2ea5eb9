"""The files of a run: of each its writer and its reader, in one place. Nothing here needs torch to be read."""
