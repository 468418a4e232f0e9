"""What is on disk: names, effects, manifests, retention, locks. Needs no torch.

layout          names of files and folders
entries         what has a name, without following links; the only way to open a file
durable         effects that survive a power loss: the only module that touches the bytes of a checkpoint
manifest        the file that makes a folder a checkpoint; docs/checkpoint-format.md specifies it
json_shapes     JSON from the disk, checked against the type that the program expects
publish         staging, then the manifest, then one rename; deleting
best_model      the best model in the run's folder itself
recovery        what killed saves and deletions left
file_formats    damage that a file's own format reveals
file_set        files of a folder that are published together, and verified by each reader
verification    whether a folder is a checkpoint that can be resumed
discovery       which checkpoints a run has, and which one the user means
summary         a checkpoint's description of itself
retention       which checkpoints to delete
restart         the run before a restart, which `latest` skips
failed_starts   starts that came to no checkpoint, and when there are too many
outcomes        exit codes of several processes, for `llamarec launch`
ownership       whether a folder is free for a training
lock            one run per folder
os_errors       advice for each kind of error of the operating system
space           how much a checkpoint takes, and how much is free
readable_units  sizes, durations and ages as people read them
"""
