"""A ranker's training, from the options to the final test.

run            the steps of train_ranker.py
build          tokenizer, samples, plan, model and Trainer of a run
results        the files that a run leaves beside its checkpoints
apply_plan     what planning chose, put into the options
plan_cluster   the plan on several GPUs and machines, with a measured save
init_adapter   first weights from another run
lora_options   LoRA's rank, scale and layers, of an adapter and of a run
fingerprints   what identifies a run
adapter_trainer  what the Trainers of both readouts have in common
callbacks      what happens when training begins
trainer        the Trainer of letters
fusion_fit     the weights of the final score, fitted on validation users
final_test     the test users' ranks
items          the same of --readout items
"""
