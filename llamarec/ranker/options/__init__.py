"""The options of the ranker's command line, and where their values come from.

config           options that are not the Trainer's own
parser           the parser, with grouped help
flags            the stored help, which is printed without loading the parser
command_line     from the arguments to four dataclasses
resume_defaults  values that a resume takes from its checkpoint
"""
