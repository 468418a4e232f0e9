"""Options of train_ranker.py, and where their values come from.

config            the ranker's own options
parser            all flags, the Trainer's included
flags             stored help, shown without loading torch
command_line      from a command line to options
readouts          what letters and items have of their own: defaults, flags, metrics
resume_defaults   which values a resume takes from its checkpoint
"""
