"""`llamarec checkpoints VERB`: one module per verb, and what they share.

command                               registers the verbs
listing, show, verify, diff, weights  what is there, whether it is whole, what differs
du, growth                            how much of the disk is used, and how long the rest lasts
plan, prune, backup, restore          what a resume would do; deleting; copying there and back
names                                 what RUN and CKPT on the command line mean
"""
