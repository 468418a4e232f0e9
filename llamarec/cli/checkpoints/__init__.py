"""`llamarec checkpoints VERB`: one module per verb, and what the verbs share.

command                         registers the verbs
listing, show, verify           lists, prints and verifies checkpoints
diff, weights                   differences between two checkpoints, and the distance between their weights
du, growth                      disk use, and the rate at which a run fills the disk
plan, prune, backup, restore    previews a resume; deletes; copies there and back
names                           the meaning of RUN and CKPT on the command line
"""
