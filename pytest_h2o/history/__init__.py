"""What is kept of every run, so that a later one can be held against it: records, the history file, named baselines."""
