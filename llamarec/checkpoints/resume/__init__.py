"""Decides what a resume keeps, applies and refuses. Loads no model.

decision       from a chosen checkpoint and this process to how training continues
process        this process: its arguments, and what the program made itself
compatibility  what is kept, applied and refused
trainer_state  the content of trainer_state.json
progress       what the Trainer's own state does not say about progress
position       where training is in its data
schedule       the learning rate as a function of the share of the training that is done
learning_rate  the learning rate across a resume
plan           the resume plan, printed before the first step
notes          remarks below that plan
safe_load      reading the files of a checkpoint without executing anything in them
"""
