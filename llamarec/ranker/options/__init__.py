"""Options of train_ranker.py, and where their values come from.

config            the ranker's own options
parser            all flags, the Trainer's included
flags             stored help, shown without loading torch
command_line      from a command line to options
resume_defaults   which values a resume takes from its checkpoint
"""
