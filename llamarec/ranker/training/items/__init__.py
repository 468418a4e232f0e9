"""Training of `--readout items`.

build     samples, plan, model and Trainer of a run
trainer   the Trainer subclass
final     weights beside the first stage, and the test users' ranks
run       the steps of train_ranker.py
"""
