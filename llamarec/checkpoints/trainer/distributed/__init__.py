"""Several processes of one training: what they tell each other, and what they must have in common.

Every word goes through `channel.exchange`, which carries the name of the operation. Processes that have come to
different operations learn it there, with both names, instead of waiting for each other or taking a value for another.

channel         one named exchange between all processes, on a group of its own
agreement       values that are any process's, the first one's, everybody's, or must be equal
shared_folder   one run folder for all of them
same_settings   what they are started with, and the checkpoint to resume
same_weights    trained weights and moments
control         what callbacks ask for, and metrics
evaluated       the same evaluation in all of them, without what fills up its last batch
rounds          micro-batches and prediction steps, after each of which all processes learn whether to go on
endings         a process that ends in a training tells the others
sharded         passes of a model that FSDP2 shards, completed in every process
gradients       the mean over processes, once a step
"""
