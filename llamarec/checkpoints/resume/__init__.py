"""Decides what a resume keeps, applies and refuses. Loads no model.

decision         how training continues from a chosen checkpoint in this process
current_process  this process: its arguments, and its own optimizer and scheduler
compatibility    values that are kept, applied and refused
trainer_state    the content of trainer_state.json
progress         progress beyond the Trainer's own state
position         the position of a training in its data
schedule         the learning rate as a function of the share of the training that is done
learning_rate    the learning rate across a resume
plan             the resume plan, printed before the first step
plan_notes       the lines `note` of that plan
random_state_file  the form of rng_state.pth, and reading it without numpy's constructors
readable         whether the small files have the form that a resume needs
safe_load        reading the files of a checkpoint without executing anything in them
"""
