"""`llamarec checkpoints VERB`: one module per verb, registered in `command`.

names    the meaning of RUN and CKPT on the command line
growth   how fast a run fills the disk (du)
weights  the distance between the weights of two checkpoints (diff)
"""
