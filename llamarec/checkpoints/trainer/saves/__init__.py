"""Saves: what is saved and when, and how it comes to the disk while training continues.

saver             a step's state copied at a boundary
state_files       states beside the weights, by file
snapshots         a checkpoint in memory
written_model     what a thread writes a model's files from
writer            written, verified and published in the background; retention, backup
best              the best model in the run's folder, and what is owed of it
read_back         a first checkpoint read back as a resume would
json_values       logs and callbacks' states in trainer_state.json
manifest_entries  figures and machine of a training
save_errors       faults of a save that pass, and those that come again
staged_files      files moved and copied into a checkpoint
callback_files    files that callbacks write into `checkpoint-N`
"""
