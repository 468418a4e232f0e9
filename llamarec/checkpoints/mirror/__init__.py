"""A copy of a run's checkpoints that outlives the machine: kept while training goes on, fetched on an empty disk.

A mirror is a folder or an address that fsspec reaches, with one run in it: `checkpoint-{step}` as `backup` writes them,
and restarted.json after a --restart. Needs no torch.

inventory  the checkpoints in a mirror, from their manifests
pauses     how long to wait between tries
keeper     the thread that copies and deletes there what is saved and deleted here
fetching   the newest good checkpoint, from the mirror to the run's folder
listing    a mirror's checkpoints as `llamarec checkpoints list` shows them
"""
