"""`llamarec checkpoints VERB`: one module per verb, registered in `command`.

names    what RUN and CKPT on the command line mean
facts    what a checkpoint says about itself, with a manifest or without
output   tables, wrapped lines and JSON
"""
