"""Saves: what is saved and when, and how it comes to the disk while training continues.

saver             a step's state copied at a boundary
writer            written, verified and published in the background; best model, retention, backup
read_back         a first checkpoint read back as a resume would
json_values       logs and callbacks' states in trainer_state.json
manifest_entries  figures and machine of a training
save_errors       faults of a save that pass, and those that come again
callback_files    files that callbacks write into `checkpoint-N`
"""
