"""Your own models, data sets and tasks: one small example of each to start from (see README.md)."""
